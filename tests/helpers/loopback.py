"""Small data sets, and a server on the loopback interface that fails on request."""

import gzip
import hashlib
import io
import tarfile
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from minivit.data.cifar import CIFAR10
from minivit.data.download import RemoteFile
from minivit.data.mnist import MNIST, NAMES

SHAPES = ((20, 28, 28), (20,), (10, 28, 28), (10,))
TRAIN, TEST = {f"data_batch_{i}.bin": 4 for i in range(1, 4)}, {"test_batch.bin": 3}


class Server:
    """Serve `files`, {name: bytes}, and record (name, range) of each request in `requests`.

    ranges, lengths: whether the server supports ranges and sends Content-Length. breaks: lengths to
    which the next responses are truncated. before, sending: functions that the server calls before
    a response and after its first 100,000 bytes.
    """

    def __init__(self):
        self.files, self.requests, self.breaks = {}, [], []
        self.ranges = self.lengths = True
        self.before = self.sending = lambda: None
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                with suppress(ConnectionError):  # the client may close the connection
                    server.respond(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/"

    def respond(self, request):
        name, requested = request.path.strip("/"), request.headers["Range"]
        self.requests.append((name, requested))
        self.before()
        if name not in self.files:
            return request.send_error(404)
        content = self.files[name]
        start = int(requested.removeprefix("bytes=").rstrip("-")) if self.ranges else 0
        if start >= len(content):
            return request.send_error(416)
        request.send_response(206 if self.ranges else 200)
        if self.lengths:
            request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        content = content[start:][: self.breaks.pop(0) if self.breaks else None]
        request.wfile.write(content[:100_000])
        self.sending()
        request.wfile.write(content[100_000:])

    def publish(self, name, content):
        self.files[name] = content
        return remote_file(self.url + name, content)

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def remote_file(url, content):
    return RemoteFile(url, len(content), hashlib.md5(content).hexdigest())


def publish_offline(name, content):
    """Describe a file at a URL without a server."""
    return remote_file("http://127.0.0.1:9/" + name, content)


def to_idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def idx_arrays():
    """Return 20 training images, their labels, 10 held-out images and their labels."""
    rng = np.random.default_rng(5)
    train, test = (rng.integers(256, size=SHAPES[i], dtype=np.uint8) for i in (0, 2))
    return train, np.arange(20, dtype=np.uint8) % 10, test, np.arange(10, dtype=np.uint8)


def small_mnist(publish=publish_offline):
    """Return the files {name: content} of a small MNIST, and its description."""
    contents = [gzip.compress(to_idx(array), mtime=0) for array in idx_arrays()]
    files = dict(zip(NAMES, contents, strict=True))
    remote = tuple(publish(name, content) for name, content in files.items())
    return files, MNIST._replace(files=remote, shapes=SHAPES)


def make_records(n, label_bytes=1):
    """Return n records of the colour (200, 100, 0). The first red value of record i is i.

    Its label bytes are 99, except the last, which is i.
    """
    table = np.full((n, label_bytes + 3072), 99, np.uint8)
    table[:, label_bytes:] = np.repeat([200, 100, 0], 1024)
    table[:, label_bytes - 1] = table[:, label_bytes] = np.arange(n)
    return table.tobytes()


def cifar_files():
    """Return the files {name: content} in the archive of a small CIFAR-10."""
    files = {name: make_records(n) for name, n in (TRAIN | TEST).items()}
    files["batches.meta.txt"] = b"airplane\nautomobile\nbird\ncat\n\n"
    return {f"{CIFAR10.folder}/{name}": content for name, content in files.items()}


def small_cifar(publish=publish_offline, archive=None):
    """Return the archive of a small CIFAR-10, and its description."""
    archive = make_tar(cifar_files()) if archive is None else archive
    remote = publish(CIFAR10.archive.name, archive)
    return archive, CIFAR10._replace(archive=remote, train=TRAIN, test=TEST, K=4)


def make_tar(files, *entries):
    """Return a .tar.gz with these entries (TarInfo), followed by the files {name: content}."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for entry in entries:
            archive.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(out.getvalue(), mtime=0)
