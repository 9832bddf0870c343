"""Downloading, from a server on the loopback interface: whole, or not at all, and by anyone."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
from helpers.loopback import Server, cifar_files, cifar_set, idx_arrays, idx_set, tar, tree

from minivit.data import cache, cifar, download
from minivit.data.cifar import load_records
from minivit.data.mnist import FASHION, MNIST, NAMES, load_idx

CONTENT = np.random.default_rng(3).bytes(300_000)
FULL = Path("/dev/full")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    server = Server()
    yield server
    server.close()


@pytest.fixture
def published(server):
    return server.published("file.gz", CONTENT)


def get(published, root):
    """Download into the cache, under the file's own name."""
    with download.download(published, root, "do without") as came:
        os.replace(came, root / published.name)
    return (root / published.name).read_bytes()


def left(published):
    return f"{published.name}.{published.md5[:8]}.part"


# --- good transfers, and broken ones that end well -------------------------------------------


def test_a_file_comes_whole_and_nothing_else_stays(server, published, tmp_path):
    root = tmp_path / "some" / "cache"
    assert get(published, root) == CONTENT
    assert tree(root) == {"file.gz": CONTENT}
    assert server.asked == [("file.gz", "bytes=0-")]


def test_what_is_not_moved_away_is_gone(published, tmp_path):
    with download.download(published, tmp_path, "") as came:
        assert came.read_bytes() == CONTENT
        assert came.parent.parent == tmp_path
    assert tree(tmp_path) == {}


def test_others_may_read_the_file(published, tmp_path):
    get(published, tmp_path)
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "file.gz").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_broken_transfer_goes_on_where_it_broke(server, published, tmp_path):
    server.breaks = [100_000, 150_000]
    assert get(published, tmp_path) == CONTENT
    asked = [("file.gz", f"bytes={begun}-") for begun in (0, 100_000, 250_000)]
    assert server.asked == asked
    assert tree(tmp_path) == {"file.gz": CONTENT}


def test_a_server_without_ranges_is_asked_for_all_of_it_again(server, published, tmp_path):
    server.ranges, server.breaks = False, [100_000, 150_000]
    assert get(published, tmp_path) == CONTENT
    assert len(server.asked) == 3


def test_a_server_that_tells_no_length_is_believed_by_the_checksum(server, published, tmp_path):
    server.lengths = False
    assert get(published, tmp_path) == CONTENT


def test_what_breaks_off_and_told_no_length_is_gone_on_from(server, published, tmp_path):
    server.lengths, server.breaks = False, [100_000]
    assert get(published, tmp_path) == CONTENT
    assert [begun for _, begun in server.asked] == ["bytes=0-", "bytes=100000-"]


def test_from_https_nobody_leads_away(server, published, tmp_path, monkeypatch):
    def elsewhere(request, **options):
        return urlopen(Request(published.address, headers=request.headers), **options)

    monkeypatch.setattr(download, "urlopen", elsewhere)
    assert get(published, tmp_path) == CONTENT
    secure = published._replace(address="https://example.org/file.gz")
    with pytest.raises(ConnectionError, match="it leads away from HTTPS, to http://127"):
        get(secure, tmp_path / "other")
    assert tree(tmp_path / "other") == {}


def test_what_a_killed_process_left_goes_after_a_day(published, tmp_path):
    for name, hours in (("downloading-old", 25), ("downloading-new", 23), ("mine", 25)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file.gz").write_bytes(b"part")
        for path in (tmp_path / name / "file.gz", tmp_path / name):
            os.utime(path, (time.time() - 3600 * hours,) * 2)
    assert get(published, tmp_path) == CONTENT
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["downloading-new", "file.gz", "mine"]


def test_what_an_earlier_call_left_is_gone_on_from(server, published, tmp_path):
    (tmp_path / left(published)).write_bytes(CONTENT[:200_000])
    assert get(published, tmp_path) == CONTENT
    assert server.asked == [("file.gz", "bytes=200000-")]
    assert tree(tmp_path) == {"file.gz": CONTENT}


def test_what_is_left_and_whole_is_not_asked_for(server, published, tmp_path):
    (tmp_path / left(published)).write_bytes(CONTENT)
    assert get(published, tmp_path) == CONTENT
    assert server.asked == []


@pytest.mark.parametrize("size", [10, 200_000, 300_000, 400_000])
def test_what_is_left_of_another_file_is_thrown_away(server, published, tmp_path, size):
    (tmp_path / left(published)).write_bytes(bytes(size))
    assert get(published, tmp_path) == CONTENT
    assert server.asked[-1] == ("file.gz", "bytes=0-")
    assert tree(tmp_path) == {"file.gz": CONTENT}


def test_progress_is_shown_from_what_there_was_on(server, published, tmp_path, monkeypatch):
    bars = []

    class Bar(download.tqdm):
        def __init__(self, **options):
            super().__init__(**options | {"disable": False, "file": open(os.devnull, "w")})  # noqa: SIM115
            bars.append((self, self.n))

        def close(self):
            super().close()
            self.fp.close() if not self.fp.closed else None

    monkeypatch.setattr(download, "tqdm", Bar)
    server.breaks = [100_000]
    get(published, tmp_path)
    assert [begun for _, begun in bars] == [0, 100_000]
    assert [bar.n for bar, _ in bars] == [100_000, 300_000]
    assert {bar.total for bar, _ in bars} == {300_000}


# --- those that do not -----------------------------------------------------------------------


def fails(published, root, kind=ConnectionError):
    """The one line that a download ends with."""
    with pytest.raises(kind) as caught:
        get(published, root)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_transfer_that_brings_no_more_is_given_up_and_its_part_kept(server, published, tmp_path):
    server.breaks = [100_000, 0]
    line = fails(published, tmp_path)
    kept = tmp_path / left(published)
    assert line == (
        f"{published.address} cannot be downloaded: the connection broke off, {kept} keeps "
        "100,000 bytes to go on from; do without"
    )
    assert tree(tmp_path) == {left(published): CONTENT[:100_000]}
    assert get(published, tmp_path) == CONTENT
    assert server.asked[-1] == ("file.gz", "bytes=100000-")


def test_the_same_place_twice_without_ranges_is_given_up(server, published, tmp_path):
    server.ranges, server.breaks = False, [100_000, 100_000, 100_000]
    fails(published, tmp_path)
    assert len(server.asked) == 2


def test_a_server_that_falls_silent_is_given_up(server, published, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    server.before = lambda: time.sleep(0.4)
    assert "cannot be downloaded: timed out; do without" in fails(published, tmp_path)
    assert tree(tmp_path) == {}


def test_what_nobody_serves(server, published, tmp_path):
    server.files.clear()
    line = fails(published, tmp_path)
    said = "HTTP Error 404: Not Found; do without"
    assert line == f"{published.address} cannot be downloaded: {said}"
    assert tree(tmp_path) == {}


def test_where_nobody_listens(server, published, tmp_path):
    address = "http://127.0.0.1:9/file.gz"
    line = fails(published._replace(address=address), tmp_path)
    assert line == f"{address} cannot be downloaded: Connection refused; do without"
    assert tree(tmp_path) == {}


def test_a_name_that_nobody_knows(published, tmp_path):
    line = fails(published._replace(address="http://nowhere.invalid/file.gz"), tmp_path)
    assert line.startswith("http://nowhere.invalid/file.gz cannot be downloaded: ")
    assert "urlopen" not in line


def test_an_answer_that_is_no_http(server, published, tmp_path):
    server.answer = lambda request: request.wfile.write(b"hello\r\n\r\n")
    assert "cannot be downloaded: hello; do" in fails(published, tmp_path)


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize(
    "wrong",
    [CONTENT[:-1] + b"?", CONTENT[:1000], CONTENT + b"more", bytes(900_000), b""],
    ids=["one byte", "truncated", "longer", "much longer", "empty"],
)
def test_another_file_than_was_published(server, published, tmp_path, wrong, ranges):
    server.ranges = ranges
    (tmp_path / "other").write_text("stays")
    server.files["file.gz"] = wrong
    line = fails(published, tmp_path, ValueError)
    assert line == (
        f"{published.address} is not the file that was published: its size or its MD5 is another "
        f"than 300,000 bytes, {published.md5}; nothing was kept"
    )
    assert tree(tmp_path) == {"other": b"stays"}


def test_a_part_does_not_outlive_a_wrong_file(server, published, tmp_path):
    server.files["file.gz"] = CONTENT[:1000]
    (tmp_path / left(published)).write_bytes(CONTENT[:2000])
    fails(published, tmp_path, ValueError)
    assert tree(tmp_path) == {}


# --- the disk --------------------------------------------------------------------------------


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_full_disk(published, tmp_path):
    (tmp_path / left(published)).symlink_to(FULL)
    line = fails(published, tmp_path, OSError)
    assert line == (
        f"file.gz cannot be written to {tmp_path}: No space left on device (it needs 300,000 bytes)"
    )
    assert tree(tmp_path) == {}


@pytest.fixture
def limited():
    """No file may grow larger: the next best thing to a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_much_too_long_does_not_fill_the_disk(server, published, tmp_path, limited):
    server.files["file.gz"] = bytes(10_000_000)
    limited(1_000_000)
    assert "is not the file that was published" in fails(published, tmp_path, ValueError)


def test_what_was_there_before_the_disk_was_full_goes_too(published, tmp_path, limited):
    (tmp_path / left(published)).write_bytes(CONTENT[:100_000])
    limited(200_000)
    line = fails(published, tmp_path, OSError)
    assert "file.gz cannot be written" in line
    assert "(it needs 300,000 bytes)" in line
    assert tree(tmp_path) == {}


def test_a_disk_that_is_full_when_an_archive_is_unpacked(server, tmp_path, limited):
    archive, small = cifar_set(server)
    assert len(archive) < 9_000  # less than any of its files of images
    limited(9_000)
    with pytest.raises(OSError, match="cannot be written") as caught:
        load_records(small, 12, tmp_path)
    line = str(caught.value)
    assert line.startswith(f"cifar-10-binary.tar.gz cannot be written to {tmp_path}: ")
    assert f"(it needs {15 * 3073:,} bytes)" in line
    assert tree(tmp_path) == {}


def test_a_cache_that_cannot_be_written(published):
    line = fails(published, Path("/proc/minivit"), OSError)
    assert line == (
        "the cache /proc/minivit cannot be written (No such file or directory): name another "
        "with MINIVIT_DATA"
    )


@pytest.mark.parametrize("name", ["", "MNIST", "MNIST/raw", "cifar-10-batches-bin"])
def test_a_file_where_a_folder_should_be(server, tmp_path, name):
    root = tmp_path / "cache"
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("in the way")
    of_cifar = name.startswith("cifar")
    load, small = (load_records, cifar_set) if of_cifar else (load_idx, idx_set)
    with pytest.raises(NotADirectoryError) as caught:
        load(small(server)[1], 10, root)
    assert str(caught.value) == (
        f"{root / name} is no folder: move it away, or name another cache with MINIVIT_DATA"
    )
    assert server.asked == []
    assert (root / name).read_text() == "in the way"


# --- Ctrl-C, and two at once -----------------------------------------------------------------


def test_ctrl_c_keeps_what_has_come(server, published, tmp_path, capsys):
    def interrupt():
        time.sleep(0.05)  # the first piece is being read
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)

    server.sending = interrupt
    with pytest.raises(KeyboardInterrupt):
        get(published, tmp_path)
    (kept,) = tree(tmp_path).values()
    assert 0 < len(kept) < 300_000
    assert CONTENT.startswith(kept)
    path = tmp_path / left(published)
    said = f"file.gz: interrupted, {path} keeps {len(kept):,} bytes to go on from"
    assert capsys.readouterr().err.strip() == said
    server.sending = lambda: None
    assert get(published, tmp_path) == CONTENT
    assert server.asked[-1] == ("file.gz", f"bytes={len(kept)}-")


def test_ctrl_c_while_unpacking_keeps_the_archive(server, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    archive, small = cifar_set(server)
    with monkeypatch.context() as patch:
        patch.setattr(cifar, "unpack", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_records(small, 12, tmp_path)
    assert tree(tmp_path) == {left(small.archive): archive}
    assert len(load_records(small, 12, tmp_path).images) == 12
    assert len(server.asked) == 1


TOGETHER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from helpers.loopback import cifar_set, idx_set, nowhere
from minivit.data.cifar import load_records
from minivit.data.mnist import load_idx

class There:
    def published(self, name, content):
        return nowhere(name, content)._replace(address={address!r} + name)

root = Path({root!r})
a = load_idx(idx_set(There())[1], 20, root)
b = load_records(cifar_set(There())[1], 12, root)
print(len(a.images), len(b.images))
"""


def test_two_processes_at_once_do_not_hurt_each_other(server, tmp_path):
    files, _ = idx_set(server)
    cifar_set(server)
    first = idx_set(server)[1].files[0]
    (tmp_path / left(first)).write_bytes(files[first.name][:1000])  # one of the two gets it

    def slowly():  # until the other process has asked for the same file, or has it
        name, until = server.asked[-1][0], time.monotonic() + 1
        while [n for n, _ in server.asked].count(name) < 2 and time.monotonic() < until:
            time.sleep(0.005)

    server.before = slowly
    tests = str(Path(__file__).parent)
    code = TOGETHER.format(tests=tests, address=server.address, root=str(tmp_path))
    both = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=60) for process in both]
    assert said == [("20 12\n", "")] * 2
    names = [name for name, _ in server.asked]
    assert names.count(first.name) == 2
    assert {asked for name, asked in server.asked if name == first.name} == {
        "bytes=0-",
        "bytes=1000-",
    }
    expected = {"MNIST", "MNIST/raw", "cifar-10-batches-bin"}
    expected |= {f"MNIST/raw/{name}" for name in files} | set(cifar_files())
    assert set(tree(tmp_path)) == expected


# --- data sets -------------------------------------------------------------------------------


def test_four_files_are_downloaded_once(server, tmp_path):
    files, small = idx_set(server)
    dataset = load_idx(small, 15, tmp_path)
    train, labels, test, test_labels = idx_arrays()
    assert np.array_equal(dataset.images.colours, train[:15, :, :, None])
    assert np.array_equal(dataset.labels, labels[:15])
    assert np.array_equal(dataset.held_out_images.colours, test[..., None])
    assert np.array_equal(dataset.held_out_labels, test_labels)
    assert tree(tmp_path / "MNIST" / "raw") == files
    assert {path.name for path in tmp_path.iterdir()} == {"MNIST"}
    assert len(server.asked) == 4
    server.files.clear()
    again = load_idx(small, 20, tmp_path)
    assert len(again.images) == 20
    assert len(server.asked) == 4


def test_only_what_lacks_is_downloaded(server, tmp_path):
    files, small = idx_set(server)
    load_idx(small, 20, tmp_path)
    name = small.files[2].name
    (tmp_path / "MNIST" / "raw" / name).unlink()
    server.asked.clear()
    load_idx(small, 20, tmp_path)
    assert server.asked == [(name, "bytes=0-")]
    assert tree(tmp_path / "MNIST" / "raw") == files


def test_an_archive_is_downloaded_unpacked_and_thrown_away(server, tmp_path):
    _, small = cifar_set(server)
    dataset = load_records(small, 12, tmp_path)
    assert dataset.images.shape == (12, 32, 32, 3)
    files = cifar_files()
    assert tree(tmp_path) == {"cifar-10-batches-bin": None} | files
    server.files.clear()
    load_records(small, 12, tmp_path)
    assert len(server.asked) == 1


def test_files_of_an_older_layout_are_all_replaced(server, tmp_path):
    _, small = cifar_set(server)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "data_batch_1.bin").write_bytes(bytes(4 * 3073))
    (folder / "mine.txt").write_text("stays")
    load_records(small, 12, tmp_path)
    files = cifar_files() | {"cifar-10-batches-bin/mine.txt": b"stays"}
    assert tree(tmp_path) == {"cifar-10-batches-bin": None} | files


def test_old_and_new_files_are_not_taken_for_one_set(server, tmp_path, monkeypatch):
    _, small = cifar_set(server)
    folder, moved, replace = tmp_path / "cifar-10-batches-bin", [], os.replace
    folder.mkdir()
    for name in list(cifar.file_sizes(small))[1:]:  # all but the first
        (folder / name).write_bytes(bytes(4 * 3073))

    def killed(source, target):
        if Path(target).parent == folder:
            moved.append(target)
            if len(moved) == 2:
                raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            load_records(small, 12, tmp_path)
    load_records(small, 12, tmp_path)
    assert tree(tmp_path) == {"cifar-10-batches-bin": None} | cifar_files()


def test_other_plain_files_of_an_archive_are_left_in_it(server, tmp_path):
    folder = tarfile.TarInfo("cifar-10-batches-bin")
    folder.type = tarfile.DIRTYPE
    extra = {"cifar-10-batches-bin/readme.html": b"<html>", "elsewhere.txt": b"text"}
    archive = tar(cifar_files() | extra, folder)
    load_records(cifar_set(server, archive)[1], 12, tmp_path)
    assert tree(tmp_path) == {"cifar-10-batches-bin": None} | cifar_files()


def test_names_with_a_dot_before_them_are_the_same(server, tmp_path):
    archive = tar({f"./{name}": content for name, content in cifar_files().items()})
    load_records(cifar_set(server, archive)[1], 12, tmp_path)
    assert tree(tmp_path) == {"cifar-10-batches-bin": None} | cifar_files()


def entry(name, kind=tarfile.REGTYPE, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


WOULD_LEAVE = "'{}' would leave the folder"
FIRST = "cifar-10-batches-bin/data_batch_1.bin"
HOSTILE = {
    "up": (entry("../evil"), WOULD_LEAVE.format("../evil")),
    "up from inside": (
        entry("cifar-10-batches-bin/../../evil"),
        WOULD_LEAVE.format("cifar-10-batches-bin/../../evil"),
    ),
    "absolute": (entry("/tmp/evil"), WOULD_LEAVE.format("/tmp/evil")),
    "backslashes": (entry("..\\evil"), WOULD_LEAVE.format("..\\\\evil")),
    "a link": (entry(FIRST, tarfile.SYMTYPE, "/etc/passwd"), f"'{FIRST}' is a link"),
    "a link to a folder": (
        entry("cifar-10-batches-bin", tarfile.SYMTYPE, ".."),
        "'cifar-10-batches-bin' is a link",
    ),
    "a hard link": (entry(FIRST, tarfile.LNKTYPE, "/etc/passwd"), f"'{FIRST}' is a link"),
    "a pipe": (entry(FIRST, tarfile.FIFOTYPE), f"'{FIRST}' is neither file nor folder"),
    "a device": (entry(FIRST, tarfile.CHRTYPE), f"'{FIRST}' is neither file nor folder"),
}


@pytest.mark.parametrize(("evil", "said"), HOSTILE.values(), ids=HOSTILE)
def test_an_archive_that_reaches_outside_is_not_unpacked(server, tmp_path, evil, said):
    root = tmp_path / "cache"
    _, small = cifar_set(server, tar(cifar_files(), evil))
    with pytest.raises(ValueError, match="is not unpacked") as caught:
        load_records(small, 12, root)
    assert str(caught.value) == f"cifar-10-binary.tar.gz is not unpacked: {said}"
    assert tree(tmp_path) == {"cache": None}


def whole():
    return tar(cifar_files())


BAD = {
    "truncated": (lambda: whole()[:-100], "is damaged or truncated"),
    "truncated to nothing": (lambda: whole()[:5], "is damaged or truncated"),
    "empty": (lambda: b"\x1f", "is damaged or truncated"),
    "no archive": (lambda: b"<html>" * 100, "is damaged or truncated"),
    "one byte": (lambda: whole()[:200] + b"?" + whole()[201:], " is "),  # how bad, depends
    "a file less": (
        lambda: tar({name: file for name, file in cifar_files().items() if name != FIRST}),
        f"is not whole: it lacks {FIRST}",
    ),
    "a shorter file": (
        lambda: tar(cifar_files() | {FIRST: bytes(3073)}),
        f": {FIRST} has 3,073 bytes, not 12,292",
    ),
}


@pytest.mark.parametrize(("archive", "said"), BAD.values(), ids=BAD)
def test_a_bad_archive_leaves_the_cache_as_it_was(server, tmp_path, archive, said):
    (tmp_path / "MNIST").mkdir()
    _, small = cifar_set(server, archive())
    with pytest.raises(ValueError, match="cifar-10-binary") as caught:
        load_records(small, 12, tmp_path)
    line = str(caught.value)
    assert line.startswith("cifar-10-binary.tar.gz")
    assert said in line
    assert "\n" not in line
    assert tree(tmp_path) == {"MNIST": None}


def test_without_a_network_it_is_said_where_to_put_which_files(tmp_path):
    files, small = idx_set()
    raw = tmp_path / "MNIST" / "raw"
    with pytest.raises(ConnectionError) as caught:
        load_idx(small, 20, tmp_path)
    addresses = [file.address for file in small.files]
    assert str(caught.value) == (
        f"{addresses[0]} cannot be downloaded: Connection refused; without a network, put into "
        f"{raw} what lies at {' '.join(addresses)}"
    )
    assert tree(tmp_path) == {}
    raw.mkdir(parents=True)
    (raw / NAMES[0]).write_bytes(files[NAMES[0]])
    with pytest.raises(ConnectionError) as caught:
        load_idx(small, 20, tmp_path)
    assert str(caught.value).endswith(f"what lies at {' '.join(addresses[1:])}")
    shutil.rmtree(tmp_path / "MNIST")
    _, small = cifar_set()
    with pytest.raises(ConnectionError) as caught:
        load_records(small, 12, tmp_path)
    assert str(caught.value).endswith(
        f"; without a network, put into {tmp_path} what lies at {small.archive.address}"
    )
    assert tree(tmp_path) == {}


def test_files_put_there_by_hand_are_taken(tmp_path):
    files, small = idx_set()
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in files.items():
        (raw / name).write_bytes(content)
    assert len(load_idx(small, 20, tmp_path).images) == 20
    archive, small = cifar_set()
    (tmp_path / small.archive.name).write_bytes(archive)
    assert len(load_records(small, 12, tmp_path).images) == 12
    assert (tmp_path / small.archive.name).read_bytes() == archive


@pytest.mark.parametrize("change", [lambda a: a[:-1], lambda a: a[:-1] + b"?"])
def test_an_archive_put_there_by_hand_must_be_the_published_one(tmp_path, change):
    archive, small = cifar_set()
    path = tmp_path / small.archive.name
    path.write_bytes(change(archive))
    before = tree(tmp_path)
    with pytest.raises(ValueError, match="remove it to have it downloaded again") as caught:
        load_records(small, 12, tmp_path)
    assert str(caught.value).startswith(f"{path} is not the file published at ")
    assert tree(tmp_path) == before


# --- the addresses ---------------------------------------------------------------------------

EVERY = [*MNIST.files, *FASHION.files, cifar.CIFAR10.archive, cifar.CIFAR100.archive]


@pytest.mark.parametrize("published", EVERY, ids=lambda published: published.address)
def test_the_addresses_are_of_https(published):
    assert published.address.startswith("https://")
    assert len(bytes.fromhex(published.md5)) == 16


def test_no_two_files_share_what_is_left_of_them():
    assert len({left(published) for published in EVERY}) == 10


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIVIT_DATA", str(tmp_path))
    assert cache.cache_folder() == tmp_path
    monkeypatch.setenv("MINIVIT_DATA", "~/images")
    assert cache.cache_folder() == Path.home() / "images"


@pytest.mark.skipif(sys.platform != "linux", reason="each platform has its own")
def test_else_it_is_the_platforms_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("", None):
        monkeypatch.delenv("MINIVIT_DATA", raising=False)
        if name is not None:
            monkeypatch.setenv("MINIVIT_DATA", name)
        assert cache.cache_folder() == tmp_path / "minivit"
    assert tree(tmp_path) == {}
