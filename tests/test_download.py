"""Resumable downloads, from a server on the loopback interface."""

import os
import resource
import signal
import sys
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
from helpers.files import read_tree, write_tree
from helpers.loopback import Server, cifar_files, make_tar, small_cifar, small_mnist
from platformdirs import user_cache_path
from tqdm import tqdm

from minivit import terminal
from minivit.data import cifar, download
from minivit.data.cifar import CIFAR10, CIFAR100, load_records
from minivit.data.download import open_cache
from minivit.data.mnist import FASHION, MNIST, NAMES, load_idx

CONTENT = np.random.default_rng(3).bytes(300_000)
UNPACKED = {CIFAR10.folder: None} | cifar_files()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    server = Server()
    yield server
    server.close()


@pytest.fixture
def remote(server):
    return server.publish("file.gz", CONTENT)


def get(remote, root):
    """Download a file into the cache and return its content."""
    with download.download(remote, root, "use another file") as path:
        os.replace(path, root / remote.name)
    return (root / remote.name).read_bytes()


def part(remote):
    """Return the name of the file with the first bytes of an incomplete download."""
    return f"{remote.name}.{remote.md5[:8]}.part"


def error_message(exception, function, *args):
    """Return the one-line message of an error."""
    with pytest.raises(exception) as error:
        function(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- successful downloads --------------------------------------------------------------------


def test_only_the_requested_file_remains_after_a_download(server, remote, tmp_path):
    root = tmp_path / "new" / "cache"
    assert get(remote, root) == CONTENT
    assert read_tree(root) == {"file.gz": CONTENT}
    assert server.requests == [("file.gz", "bytes=0-")]
    umask = os.umask(0)
    os.umask(umask)
    assert (root / "file.gz").stat().st_mode & 0o777 == 0o666 & ~umask
    with download.download(remote, tmp_path / "other", ""):  # the file is not moved
        pass
    assert read_tree(tmp_path / "other") == {}


@pytest.mark.parametrize(
    ("ranges", "lengths", "breaks", "starts"),
    [
        (True, True, [100_000, 150_000], [0, 100_000, 250_000]),
        (False, True, [100_000, 150_000], [0, 100_000, 150_000]),
        (True, False, [], [0]),
        (True, False, [100_000], [0, 100_000]),
    ],
)
def test_an_interrupted_transfer_is_resumed(
    server, remote, tmp_path, ranges, lengths, breaks, starts
):
    server.ranges, server.lengths, server.breaks = ranges, lengths, breaks
    assert get(remote, tmp_path) == CONTENT
    assert server.requests == [("file.gz", f"bytes={start}-") for start in starts]
    assert read_tree(tmp_path) == {"file.gz": CONTENT}


@pytest.mark.parametrize(
    ("existing", "starts"),
    [
        (CONTENT[:200_000], [200_000]),
        (CONTENT, []),
        (bytes(200_000), [200_000, 0]),  # of another file
        (bytes(300_000), [0]),
        (bytes(400_000), [0]),
    ],
)
def test_the_part_of_an_earlier_call_is_completed_or_replaced(
    server, remote, tmp_path, existing, starts
):
    (tmp_path / part(remote)).write_bytes(existing)
    assert get(remote, tmp_path) == CONTENT
    assert server.requests == [("file.gz", f"bytes={start}-") for start in starts]
    assert read_tree(tmp_path) == {"file.gz": CONTENT}


def test_folders_of_killed_processes_are_deleted_after_a_day(remote, tmp_path):
    for name, hours in (("downloading-old", 25), ("downloading-new", 23), ("other", 25)):
        file = write_tree(tmp_path, {f"{name}/file.gz": b"part"}) / name / "file.gz"
        for path in (file, file.parent):
            os.utime(path, (time.time() - 3600 * hours,) * 2)
    get(remote, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["downloading-new", "file.gz", "other"]


def test_the_progress_bar_starts_at_the_existing_bytes(server, remote, tmp_path, monkeypatch):
    bars = []

    class Bar(tqdm):
        def __init__(self, **options):
            super().__init__(**options | {"disable": False, "file": sys.stdout})
            bars.append((self, self.n))

    monkeypatch.setattr(terminal, "tqdm", Bar)
    server.breaks = [100_000]
    get(remote, tmp_path)
    assert [start for _, start in bars] == [0, 100_000]
    assert [(bar.n, bar.total) for bar, _ in bars] == [(100_000, 300_000), (300_000, 300_000)]


# --- network failures ------------------------------------------------------------------------


def test_a_connection_without_progress_ends_the_download_and_keeps_the_part(
    server, remote, tmp_path
):
    server.breaks = [100_000, 0]
    assert error_message(ConnectionError, get, remote, tmp_path) == (
        f"cannot download {remote.url}: the connection was closed too early (100,000 bytes are "
        f"kept in {tmp_path / part(remote)}); without a network, use another file"
    )
    assert read_tree(tmp_path) == {part(remote): CONTENT[:100_000]}
    assert get(remote, tmp_path) == CONTENT
    assert server.requests[-1] == ("file.gz", "bytes=100000-")
    server.ranges, server.breaks = False, [100_000] * 3
    error_message(ConnectionError, get, remote, tmp_path / "without ranges")
    assert len(server.requests) == 3 + 2


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("{}none.gz", "HTTP Error 404: Not Found;"),
        ("http://127.0.0.1:9/file.gz", "Connection refused;"),
        ("http://unknown.invalid/file.gz", ""),
    ],
)
def test_a_failed_request_is_reported_with_its_url(server, remote, tmp_path, url, reason):
    url = url.format(server.url)
    message = error_message(ConnectionError, get, remote._replace(url=url), tmp_path)
    assert message.startswith(f"cannot download {url}: {reason}")
    assert "urlopen" not in message
    assert read_tree(tmp_path) == {}


def test_a_response_that_is_not_http_is_reported(server, remote, tmp_path):
    server.respond = lambda request: request.wfile.write(b"hello\r\n\r\n")
    assert ": hello; without" in error_message(ConnectionError, get, remote, tmp_path)


def test_a_server_that_does_not_respond_is_reported(server, remote, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    done = threading.Event()
    server.before = done.wait
    assert ": timed out; without" in error_message(ConnectionError, get, remote, tmp_path)
    done.set()
    assert read_tree(tmp_path) == {}


def test_a_redirection_from_https_to_http_is_rejected(remote, tmp_path, monkeypatch):
    def redirect(request, **options):
        return urlopen(Request(remote.url, headers=request.headers), **options)

    monkeypatch.setattr(download, "urlopen", redirect)
    assert get(remote, tmp_path) == CONTENT
    secure = remote._replace(url="https://example.org/file.gz")
    message = error_message(ConnectionError, get, secure, tmp_path / "other")
    assert "it redirects from HTTPS to http://127" in message
    assert read_tree(tmp_path / "other") == {}


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("existing", [b"", CONTENT[:2000]])
@pytest.mark.parametrize(
    "wrong",
    [CONTENT[:-1] + b"?", CONTENT[:1000], CONTENT + b"more", bytes(900_000), b""],
    ids=["one byte", "truncated", "longer", "much longer", "empty"],
)
def test_other_content_is_rejected_and_not_kept(server, remote, tmp_path, wrong, existing, ranges):
    server.ranges = ranges
    server.files["file.gz"] = wrong
    (tmp_path / part(remote)).write_bytes(existing)
    assert error_message(ValueError, get, remote, tmp_path) == (
        f"{remote.url} is not the published file of 300,000 bytes with MD5 {remote.md5}; nothing "
        "was kept"
    )
    assert read_tree(tmp_path) == {}


# --- the disk --------------------------------------------------------------------------------


@pytest.fixture
def limit_file_size():
    """Limit the size of files, which simulates a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_reported_with_the_required_space(remote, tmp_path, limit_file_size):
    (tmp_path / part(remote)).write_bytes(CONTENT[:100_000])
    limit_file_size(200_000)
    assert error_message(OSError, get, remote, tmp_path) == (
        f"cannot write file.gz to {tmp_path}: File too large (300,000 bytes are needed)"
    )
    assert read_tree(tmp_path) == {}


def test_a_full_disk_while_an_archive_is_unpacked(server, tmp_path, limit_file_size):
    archive, spec = small_cifar(server.publish)
    assert len(archive) < 9_000  # only the files in the archive exceed the limit
    limit_file_size(9_000)
    message = error_message(OSError, load_records, spec, 12, tmp_path)
    assert message.startswith(f"cannot write cifar-10-binary.tar.gz to {tmp_path}: ")
    assert f"({15 * 3073:,} bytes are needed)" in message
    assert read_tree(tmp_path) == {}


def test_an_endless_file_does_not_fill_the_disk(server, remote, tmp_path, limit_file_size):
    server.files["file.gz"] = bytes(10_000_000)
    limit_file_size(1_000_000)
    assert "is not the published file" in error_message(ValueError, get, remote, tmp_path)


def test_a_cache_that_is_not_writable_is_reported(remote):
    assert error_message(OSError, get, remote, Path("/proc/minivit")) == (
        "cannot write to the cache /proc/minivit (No such file or directory): set MINIVIT_DATA to "
        "another cache folder"
    )


@pytest.mark.parametrize("name", ["", "MNIST", "MNIST/raw", CIFAR10.folder])
def test_a_file_in_place_of_a_folder_is_reported(server, tmp_path, name):
    path = write_tree(tmp_path, {f"cache/{name}".rstrip("/"): b"a file"}) / "cache" / name
    load, make = (load_records, small_cifar) if "cifar" in name else (load_idx, small_mnist)
    spec = make(server.publish)[1]
    assert error_message(NotADirectoryError, load, spec, 10, tmp_path / "cache") == (
        f"{path} is not a folder: move it, or set MINIVIT_DATA to another cache folder"
    )
    assert server.requests == []


# --- Ctrl-C and concurrent downloads ----------------------------------------------------------


def test_ctrl_c_keeps_the_part(server, remote, tmp_path, capsys):
    interrupted = threading.Event()

    def interrupt():
        while not any(path.stat().st_size for path in tmp_path.glob("downloading-*/file.gz")):
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)
        interrupted.wait(60)

    server.sending = interrupt
    with pytest.raises(KeyboardInterrupt):
        get(remote, tmp_path)
    interrupted.set()
    path = tmp_path / part(remote)
    n = path.stat().st_size
    assert 0 < n < 300_000
    assert read_tree(tmp_path) == {path.name: CONTENT[:n]}
    expected = f"file.gz: interrupted ({n:,} bytes are kept in {path})"
    assert capsys.readouterr().err.strip() == expected
    server.sending = lambda: None
    assert get(remote, tmp_path) == CONTENT
    assert server.requests[-1] == ("file.gz", f"bytes={n}-")


def test_ctrl_c_while_unpacking_keeps_the_archive(server, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    archive, spec = small_cifar(server.publish)
    with monkeypatch.context() as patch:
        patch.setattr(cifar, "unpack", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load_records(spec, 12, tmp_path)
    assert read_tree(tmp_path) == {part(spec.archive): archive}
    assert len(load_records(spec, 12, tmp_path).images) == 12
    assert len(server.requests) == 1


def test_two_downloads_of_the_same_files_at_the_same_time_succeed(server, tmp_path):
    files, mnist = small_mnist(server.publish)
    _, cifar10 = small_cifar(server.publish)
    first = mnist.files[0]
    (tmp_path / part(first)).write_bytes(files[first.name][:1000])  # used by one of them
    barrier = threading.Barrier(2, action=lambda: setattr(server, "before", lambda: None))
    server.before = barrier.wait

    def load(_):
        datasets = load_idx(mnist, 20, tmp_path), load_records(cifar10, 12, tmp_path)
        return [len(dataset.images) for dataset in datasets]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(load, range(2))) == [[20, 12]] * 2
    requests = [requested for name, requested in server.requests if name == first.name]
    assert sorted(requests) == ["bytes=0-", "bytes=1000-"]
    paths = {"MNIST", "MNIST/raw", *(f"MNIST/raw/{name}" for name in files), *UNPACKED}
    assert set(read_tree(tmp_path)) == paths


# --- data sets -------------------------------------------------------------------------------


def test_mnist_is_downloaded_once_and_only_missing_files_again(server, tmp_path):
    files, spec = small_mnist(server.publish)
    dataset = load_idx(spec, 15, tmp_path)
    assert [len(part) for part in dataset[1:5]] == [15, 15, 10, 10]
    assert read_tree(tmp_path / "MNIST" / "raw") == files
    assert [name for name, _ in server.requests] == list(NAMES)
    server.requests.clear()
    (tmp_path / "MNIST" / "raw" / NAMES[2]).unlink()
    for _ in range(2):
        assert len(load_idx(spec, 20, tmp_path).images) == 20
    assert [name for name, _ in server.requests] == [NAMES[2]]
    assert read_tree(tmp_path / "MNIST" / "raw") == files


def test_cifar_is_downloaded_once_and_unpacked(server, tmp_path):
    folder = tarfile.TarInfo(CIFAR10.folder)
    folder.type = tarfile.DIRTYPE
    entries = {f"./{name}": content for name, content in cifar_files().items()}
    extra = {f"{CIFAR10.folder}/readme.html": b"<html>", "elsewhere.txt": b"text"}  # not extracted
    _, spec = small_cifar(server.publish, make_tar(entries | extra, folder))
    for _ in range(2):
        assert load_records(spec, 12, tmp_path).images.shape == (12, 32, 32, 3)
        assert read_tree(tmp_path) == UNPACKED
    assert len(server.requests) == 1


def test_files_of_an_older_layout_are_all_replaced_even_after_ctrl_c(server, tmp_path, monkeypatch):
    _, spec = small_cifar(server.publish)
    folder, moved, replace = tmp_path / CIFAR10.folder, [], os.replace
    names = [*list(spec.sizes)[1:], spec.names]
    old = {f"{CIFAR10.folder}/{name}": bytes(4 * 3073) for name in names}
    other = {f"{CIFAR10.folder}/other.txt": b"kept"}
    write_tree(tmp_path, old | other)

    def interrupt(source, target):
        if Path(target).parent == folder:
            moved.append(target)
            if len(moved) == 2:
                raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load_records(spec, 12, tmp_path)
    load_records(spec, 12, tmp_path)
    assert read_tree(tmp_path) == UNPACKED | other


def entry(name, kind=tarfile.REGTYPE, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


FIRST = f"{CIFAR10.folder}/data_batch_1.bin"
UNSAFE = [
    (entry("../evil"), "the path '../evil' leaves the extraction folder"),
    (
        entry(f"{CIFAR10.folder}/../../evil"),
        f"the path '{CIFAR10.folder}/../../evil' leaves the extraction folder",
    ),
    (entry("/tmp/evil"), "the path '/tmp/evil' leaves the extraction folder"),
    (entry("..\\evil"), "the path '..\\\\evil' leaves the extraction folder"),
    (entry(FIRST, tarfile.SYMTYPE, "/etc/passwd"), f"'{FIRST}' is a link or a special file"),
    (entry(CIFAR10.folder, tarfile.SYMTYPE, ".."), f"'{CIFAR10.folder}' is a link or a special f"),
    (entry(FIRST, tarfile.LNKTYPE, "/etc/passwd"), f"'{FIRST}' is a link or a special file"),
    (entry(FIRST, tarfile.FIFOTYPE), f"'{FIRST}' is a link or a special file"),
]


@pytest.mark.parametrize(("unsafe", "reason"), UNSAFE)
def test_an_archive_with_an_unsafe_entry_is_rejected(server, tmp_path, unsafe, reason):
    _, spec = small_cifar(server.publish, make_tar(cifar_files(), unsafe))
    message = error_message(ValueError, load_records, spec, 12, tmp_path / "cache")
    assert message.startswith(f"cifar-10-binary.tar.gz is unsafe: {reason}")
    assert read_tree(tmp_path) == {"cache": None}


ARCHIVE = make_tar(cifar_files())
WITHOUT_FIRST = {name: content for name, content in cifar_files().items() if name != FIRST}
DAMAGED = {
    "truncated": (ARCHIVE[:-100], " is damaged or truncated"),
    "truncated header": (ARCHIVE[:5], " is damaged or truncated"),
    "one byte": (b"\x1f", " is damaged or truncated"),
    "not an archive": (b"<html>" * 100, " is damaged or truncated"),
    "a changed byte": (ARCHIVE[:200] + b"?" + ARCHIVE[201:], " is "),  # damaged, or incomplete
    "a missing file": (make_tar(WITHOUT_FIRST), f" is incomplete: it lacks {FIRST}"),
}


@pytest.mark.parametrize(("archive", "reason"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_archive_is_rejected_and_leaves_the_cache_unchanged(
    server, tmp_path, archive, reason
):
    _, spec = small_cifar(server.publish, archive)
    message = error_message(ValueError, load_records, spec, 12, tmp_path)
    assert message.startswith(f"cifar-10-binary.tar.gz{reason}")
    assert read_tree(tmp_path) == {}


def test_without_a_network_the_message_lists_the_missing_files(tmp_path):
    files, spec = small_mnist()
    raw, urls = tmp_path / "MNIST" / "raw", [file.url for file in spec.files]
    assert error_message(ConnectionError, load_idx, spec, 20, tmp_path) == (
        f"cannot download {urls[0]}: Connection refused; without a network, place these files in "
        f"{raw}: {' '.join(urls)}"
    )
    assert read_tree(tmp_path) == {}
    write_tree(raw, {NAMES[0]: files[NAMES[0]]})
    message = error_message(ConnectionError, load_idx, spec, 20, tmp_path)
    assert message.endswith(f"{raw}: {' '.join(urls[1:])}")


def test_an_archive_in_the_cache_is_unpacked_if_it_is_the_published_one(tmp_path):
    archive, spec = small_cifar()
    message = error_message(ConnectionError, load_records, spec, 12, tmp_path)
    assert message.endswith(f"without a network, place this file in {tmp_path}: {spec.archive.url}")
    path = tmp_path / spec.archive.name
    for wrong in (archive[:-1], archive[:-1] + b"?"):
        path.write_bytes(wrong)
        message = error_message(ValueError, load_records, spec, 12, tmp_path)
        assert message.startswith(f"{path} is not the complete file published at ")
        assert message.endswith(": delete it to download it again")
        assert read_tree(tmp_path) == {path.name: wrong}
    path.write_bytes(archive)
    assert len(load_records(spec, 12, tmp_path).images) == 12
    assert path.read_bytes() == archive


def test_published_files_have_https_urls_and_distinct_parts():
    files = [*MNIST.files, *FASHION.files, CIFAR10.archive, CIFAR100.archive]
    assert all(file.url.startswith("https://") for file in files)
    assert len({bytes.fromhex(file.md5) for file in files}) == 10
    assert len({part(file) for file in files}) == 10


def test_the_cache_folder_is_an_argument_or_a_variable_or_the_default(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIVIT_DATA", "~/images")
    assert open_cache(tmp_path, "a") == (tmp_path, tmp_path / "a")
    assert open_cache(None, "a") == (Path.home() / "images", Path.home() / "images" / "a")
    monkeypatch.setenv("MINIVIT_DATA", "")
    assert open_cache(None, "a")[0] == user_cache_path("minivit", appauthor=False)
    assert read_tree(tmp_path) == {}


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "link to nothing", "folder link"])
def test_a_link_in_a_shared_cache_is_not_followed(server, remote, tmp_path, kind):
    cache, victim = tmp_path / "cache", tmp_path / "victim"
    cache.mkdir()
    if kind == "folder link":
        victim.mkdir()
    elif kind != "link to nothing":
        victim.write_bytes(b"precious")
    partial = cache / part(remote)
    if kind == "hard link":
        partial.hardlink_to(victim)
    else:
        partial.symlink_to(victim)
    assert get(remote, cache) == CONTENT
    if kind == "link to nothing":
        assert not victim.exists()
    elif kind != "folder link":
        assert victim.read_bytes() == b"precious"
