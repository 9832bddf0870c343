"""Small data sets, and a server on the loopback interface that gives them out, well or badly."""

import gzip
import hashlib
import io
import tarfile
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from minivit.data.cifar import Records
from minivit.data.download import Published
from minivit.data.mnist import NAMES, IdxFiles

SHAPES = ((20, 28, 28), (20,), (10, 28, 28), (10,))
TRAIN, TEST = {f"data_batch_{i}.bin": 4 for i in range(1, 4)}, {"test_batch.bin": 3}
RED, GREEN, BLUE = 200, 100, 0


class Server:
    """Gives out `files`, {name: bytes}, and notes in `asked` the (name, range) of each request.

    ranges: whether it knows them. breaks: the bytes after which the next answers break off.
    lengths: whether it says how long they are. sending: called when a first piece has gone out.
    """

    def __init__(self):
        self.files, self.asked, self.breaks = {}, [], []
        self.ranges = self.lengths = True
        self.before = self.sending = lambda: None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                with suppress(ConnectionError):  # the client has heard enough
                    outer.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}/"

    def answer(self, request):
        name, asked = request.path.strip("/"), request.headers["Range"]
        self.asked.append((name, asked))
        self.before()
        if name not in self.files:
            request.send_error(404)
            return
        content = self.files[name]
        begun = int(asked.removeprefix("bytes=").rstrip("-")) if self.ranges else 0
        if begun >= len(content):
            request.send_error(416)
            return
        request.send_response(206 if self.ranges else 200)
        if self.lengths:
            request.send_header("Content-Length", str(len(content) - begun))
        request.end_headers()
        content = content[begun:][: self.breaks.pop(0) if self.breaks else None]
        request.wfile.write(content[:100_000])
        self.sending()
        request.wfile.write(content[100_000:])

    def published(self, name, content):
        """Give it out, and say so as its publisher would."""
        self.files[name] = content
        digest = hashlib.md5(content).hexdigest()
        return Published(self.address + name, len(content), digest)

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def idx(array):
    """An array of bytes as an idx file."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def idx_arrays():
    """Twenty images and labels, and ten."""
    generator = np.random.default_rng(5)
    train, test = (generator.integers(256, size=SHAPES[i], dtype=np.uint8) for i in (0, 2))
    return train, np.arange(20, dtype=np.uint8) % 10, test, np.arange(10, dtype=np.uint8)


def idx_set(server=None):
    """A data set such as MNIST; the files as (name, content), and what describes them."""
    contents = [gzip.compress(idx(array), mtime=0) for array in idx_arrays()]
    files = dict(zip(NAMES, contents, strict=True))
    publish = server.published if server else nowhere
    published = tuple(publish(name, content) for name, content in files.items())
    return files, IdxFiles("small digits", "MNIST/raw", published, tuple("0123456789"), SHAPES)


def records(n, label_bytes=1):
    """Records with red, green and blue planes; all labels but the last of a record are 99."""
    table = np.full((n, label_bytes + 3072), 99, np.uint8)
    table[:, label_bytes - 1] = np.arange(n)
    table[:, label_bytes:] = np.repeat([RED, GREEN, BLUE], 1024)
    table[:, label_bytes] = np.arange(n)  # its first red tells which it is
    return table.tobytes()


def cifar_files():
    """The files of a small CIFAR-10, as the archive names them."""
    folder = "cifar-10-batches-bin/"
    files = {folder + name: records(n) for name, n in (TRAIN | TEST).items()}
    return files | {folder + "batches.meta.txt": b"airplane\nautomobile\nbird\ncat\n\n"}


def cifar_set(server=None, archive=None):
    """A data set such as CIFAR-10: the archive, and what describes it."""
    archive = tar(cifar_files()) if archive is None else archive
    publish = server.published if server else nowhere
    published = publish("cifar-10-binary.tar.gz", archive)
    return archive, Records(
        "small images", "cifar-10-batches-bin", published, TRAIN, TEST, "batches.meta.txt", 1, 4
    )


def nowhere(name, content):
    """Published where nobody answers."""
    return Published("http://127.0.0.1:9/" + name, len(content), hashlib.md5(content).hexdigest())


def tar(files, *others):
    """A .tar.gz of {name: content}, with other entries (TarInfo) before them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for entry in others:
            archive.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(out.getvalue(), mtime=0)


def tree(folder):
    """What a folder holds: every path, and the bytes of files."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
