"""The data sets that are downloaded, once they are there: what is read, and what is refused."""

import gzip
import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.loopback import BLUE, GREEN, cifar_files, cifar_set, idx, idx_arrays, idx_set, records, tree

from minivit import cli, data
from minivit.data import ByteImages
from minivit.data.cifar import CIFAR10, CIFAR100, load_records
from minivit.data.download import compute_md5
from minivit.data.mnist import FASHION, MNIST, NAMES, load_idx

FOLDER = os.environ.get("MINIVIT_TEST_DATA")
needs_data = pytest.mark.skipif(
    not FOLDER, reason="MINIVIT_TEST_DATA does not name the folder of test data"
)


# --- Pixels ----------------------------------------------------------------------------------


@pytest.fixture
def colours():
    return np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)


@pytest.mark.parametrize(
    "chosen", [slice(None), slice(1, 3), np.array([3, 0, 3]), np.array([], int), 2]
)
def test_pixels_are_floats_when_they_are_read(colours, chosen):
    images = ByteImages(colours)[chosen]
    assert images.dtype == np.float32
    assert np.array_equal(images, colours[chosen].astype(np.float32) / 127.5 - 1)


def test_black_is_minus_one_and_white_is_one(colours):
    images = ByteImages(colours)[:]
    assert (images.min(), images.max()) == (-1, 1)
    assert len(np.unique(images)) == 256


def test_pixels_know_their_number_and_shape_and_stay_as_they_are(colours):
    pixels = ByteImages(colours)
    assert (len(pixels), pixels.shape) == (4, (4, 8, 8, 1))
    pixels[:][...] = 0
    assert np.array_equal(colours.ravel(), np.arange(256))


def test_pixels_are_fitted_as_arrays_are(colours):
    plain = data.Dataset(
        "x", ByteImages(colours)[:], np.zeros(4), ByteImages(colours)[:], np.zeros(4), ()
    )
    kept = plain._replace(images=ByteImages(colours), held_out_images=ByteImages(colours))
    some = np.array([1, 3])
    for size, channels in (((8, 8), 1), ((16, 16), 3), ((4, 4), 1)):
        a, b = (
            data.resize_dataset(dataset, size, channels).images[some] for dataset in (plain, kept)
        )
        assert a.shape == (2, *size, channels)
        assert np.array_equal(a, b)


# --- small sets: what is read ----------------------------------------------------------------


def lay_out(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture
def digits(tmp_path):
    """Small idx files in a cache, and what describes them."""
    files, small = idx_set()
    lay_out(tmp_path / "MNIST" / "raw", files)
    return small


@pytest.fixture
def photos(tmp_path):
    """Small files of records in a cache, and what describes them."""
    lay_out(tmp_path, cifar_files())
    return cifar_set()[1]


def test_idx_files_are_read_packed_or_unpacked(digits, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    for name in NAMES[1:3]:  # as torchvision leaves them
        (raw / name.removesuffix(".gz")).write_bytes(gzip.decompress((raw / name).read_bytes()))
        (raw / name).unlink()
    before = tree(tmp_path)
    dataset = load_idx(digits, 20, tmp_path)
    train, labels, test, test_labels = idx_arrays()
    assert np.array_equal(dataset.images[:], train[..., None] / np.float32(127.5) - 1)
    assert np.array_equal(dataset.held_out_images.colours, test[..., None])
    assert np.array_equal(dataset.labels, labels)
    assert np.array_equal(dataset.held_out_labels, test_labels)
    assert dataset.labels.dtype == dataset.held_out_labels.dtype == np.int64
    assert (dataset.name, dataset.classes) == ("small digits", tuple("0123456789"))
    assert tree(tmp_path) == before


def test_records_are_read_plane_by_plane(photos, tmp_path):
    before = tree(tmp_path)
    dataset = load_records(photos, 9, tmp_path)
    colours = dataset.images.colours
    assert colours.flags.c_contiguous
    assert colours.shape == (9, 32, 32, 3)
    assert colours[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]  # file after file
    assert dataset.labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert (colours[..., 1] == GREEN).all()
    assert (colours[..., 2] == BLUE).all()
    assert dataset.held_out_labels.tolist() == [0, 1, 2]
    assert dataset.classes == ("airplane", "automobile", "bird", "cat")
    assert tree(tmp_path) == before


def test_rows_are_rows(photos, tmp_path):
    table = bytearray(records(4))
    table[1 + 5] = 77  # red, first row, sixth column
    (tmp_path / "cifar-10-batches-bin" / "data_batch_1.bin").write_bytes(table)
    assert load_records(photos, 12, tmp_path).images.colours[0, 0, 5, 0] == 77


def test_of_two_label_bytes_the_second_is_the_class(tmp_path):
    fine = CIFAR100._replace(train={"train.bin": 4}, test={"test.bin": 2}, K=4)
    files = {"train.bin": records(4, 2), "test.bin": records(2, 2), fine.names: b"a\nb\nc\nd\n"}
    lay_out(tmp_path / "cifar-100-binary", files)
    dataset = load_records(fine, 4, tmp_path)
    assert dataset.labels.tolist() == [0, 1, 2, 3]
    assert dataset.images.colours[:, 0, 0].tolist() == [[n, GREEN, BLUE] for n in range(4)]


def test_a_cache_that_is_only_read_is_not_written(photos, tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    before = tree(tmp_path)
    for path in (folder, tmp_path):
        path.chmod(0o555)
    try:
        assert len(load_records(photos, 12, tmp_path).images) == 12
        assert tree(tmp_path) == before  # to the administrator nothing is forbidden
    finally:
        for path in (tmp_path, folder):
            path.chmod(0o755)


# --- small sets: what is refused -------------------------------------------------------------


def refused(load, small, root):
    """The one line of a refusal, which changes nothing."""
    before = tree(root)
    with pytest.raises((ValueError, OSError)) as caught:
        load(small, 10, root)
    assert tree(root) == before
    line = str(caught.value)
    assert "\n" not in line
    return line


PACKED = gzip.compress(idx(idx_arrays()[0]))
BAD_GZIP = {
    "truncated": PACKED[:1000],
    "truncated at the end": PACKED[:-4],
    "truncated in its head": PACKED[:5],
    "no gzip": b"<html>" * 50,
    "a wrong byte": PACKED[:500] + bytes([PACKED[500] ^ 255]) + PACKED[501:],
}


@pytest.mark.parametrize("content", BAD_GZIP.values(), ids=BAD_GZIP)
def test_a_damaged_gzip_file_is_refused(digits, tmp_path, content):
    path = tmp_path / "MNIST" / "raw" / NAMES[0]
    path.write_bytes(content)
    line = refused(load_idx, digits, tmp_path)
    assert line.startswith(f"{path} is damaged or truncated (")
    assert line.endswith("): remove it to have it downloaded again")


WHOLE = idx(idx_arrays()[0])
BAD_IDX = {
    "a byte less": WHOLE[:-1],
    "a byte more": WHOLE + b"?",
    "nothing": b"",
    "half a head": WHOLE[:7],
    "another type": bytes([0, 0, 13, 3]) + WHOLE[4:],
    "labels": idx(idx_arrays()[1]),
    "of the other part": idx(idx_arrays()[2]),
    "turned": idx(idx_arrays()[0].reshape(28, 20, 28)),
}


@pytest.mark.parametrize("content", BAD_IDX.values(), ids=BAD_IDX)
@pytest.mark.parametrize("packed", [True, False])
def test_another_idx_file_is_refused(digits, tmp_path, content, packed):
    path = tmp_path / "MNIST" / "raw" / NAMES[0]
    path.unlink()
    path = path if packed else path.with_name(NAMES[0].removesuffix(".gz"))
    path.write_bytes(gzip.compress(content) if packed else content)
    assert refused(load_idx, digits, tmp_path) == (
        f"{path} does not hold (20, 28, 28) bytes in the idx format: "
        "remove it to have it downloaded again"
    )


@pytest.mark.parametrize("which", [1, 3])
def test_a_label_of_no_class_is_refused(digits, tmp_path, which):
    labels = idx_arrays()[which].copy()
    labels[3] = 10
    path = tmp_path / "MNIST" / "raw" / NAMES[which]
    path.write_bytes(gzip.compress(idx(labels)))
    assert refused(load_idx, digits, tmp_path).startswith(f"{path} has a label 10, of 10: ")


def test_a_folder_where_a_file_should_be_is_refused(digits, photos, tmp_path):
    path = tmp_path / "MNIST" / "raw" / NAMES[0]
    path.unlink()
    path.mkdir()
    assert refused(load_idx, digits, tmp_path) == f"{path} is a folder: a file is wanted"
    path = tmp_path / "cifar-10-batches-bin" / "data_batch_1.bin"
    path.unlink()
    path.mkdir()
    assert refused(load_records, photos, tmp_path) == f"{path} is a folder: a file is wanted"


BAD_RECORDS = {
    "a byte less": (records(4)[:-1], "has 12,291 bytes, not 12,292: remove"),
    "a record less": (records(3), "has 9,219 bytes, not 12,292: remove"),
    "a record more": (records(5), "has 15,365 bytes, not 12,292: remove"),
    "nothing": (b"", "has 0 bytes, not 12,292: remove"),
    "a wrong label": (b"\4" + records(4)[1:], "has a label 4, of 4: remove"),
}


@pytest.mark.parametrize(("content", "said"), BAD_RECORDS.values(), ids=BAD_RECORDS)
def test_another_file_of_records_is_refused(photos, tmp_path, content, said):
    path = tmp_path / "cifar-10-batches-bin" / "data_batch_2.bin"
    path.write_bytes(content)
    assert refused(load_records, photos, tmp_path).startswith(f"{path} {said}")


@pytest.mark.parametrize(("text", "n"), [(b"a\nb\nc", 3), (b"", 0), (b"a\nb\nc\n\xff\nd", 5)])
def test_another_number_of_names_is_refused(photos, tmp_path, text, n):
    path = tmp_path / "cifar-10-batches-bin" / "batches.meta.txt"
    path.write_bytes(text)
    assert refused(load_records, photos, tmp_path).startswith(f"{path} has {n} names, not 4: ")


def test_the_command_line_says_it_in_one_line(tmp_path, monkeypatch, capsys):
    raw = tmp_path / "cache" / "MNIST" / "raw"
    lay_out(raw, dict.fromkeys(NAMES, PACKED[:1000]))
    monkeypatch.setenv("MINIVIT_DATA", str(tmp_path / "cache"))
    out = tmp_path / "run"
    assert cli.main(["train", "--data", "mnist", "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"minivit: error: {raw / NAMES[0]} is damaged or truncated (")
    assert said.err.count("\n") == 1
    assert not out.exists()


# --- the real ones ---------------------------------------------------------------------------


def test_all_of_them_have_a_name():
    named = ["digits", "scattered", "mnist", "fashion-mnist", "cifar10", "cifar100"]
    assert list(data.DATASETS) == named


def test_what_is_said_of_their_sizes():
    for idx_files in (MNIST, FASHION):
        assert idx_files.shapes == ((60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,))
    for published in (CIFAR10, CIFAR100):
        assert sum(published.train.values()) == 50_000
        assert sum(published.test.values()) == 10_000
    assert CIFAR10.bytes_of(10_000) == 30_730_000
    assert CIFAR100.bytes_of(1) == 3074


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory):
    """The cache that the test data makes."""
    source = Path(FOLDER) / "unpack.py"
    spec = importlib.util.spec_from_file_location("unpack", source)
    unpack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpack)
    root = tmp_path_factory.mktemp("cache")
    unpack.main(root)
    yield root
    shutil.rmtree(root)  # 184 MB


def mean_colours(pixels):
    """The mean of each channel, from 0 to 255."""
    n, H, W, C = pixels.shape
    planes = pixels.colours.reshape(n, -1)
    return planes.sum(0, dtype=np.int64).reshape(H * W, C).sum(0) / (n * H * W)


@needs_data
def test_the_sizes_and_checksums_are_those_of_the_files(laid_out):
    for idx_files in (MNIST, FASHION):
        for published in idx_files.files:
            path = laid_out / idx_files.folder / published.name
            assert (path.stat().st_size, compute_md5(path)) == (published.size, published.md5)


@needs_data
def test_mnist(laid_out):
    mnist = data.load_mnist(root=laid_out)
    assert mnist.images.shape == (60_000, 28, 28, 1)
    assert mnist.held_out_images.shape == (10_000, 28, 28, 1)
    train = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    test = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(mnist.labels).tolist() == train
    assert np.bincount(mnist.held_out_labels).tolist() == test
    assert mean_colours(mnist.images) == pytest.approx(33.318421, abs=1e-6)
    assert mnist.labels[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert mnist.classes == tuple("0123456789")


@needs_data
def test_fashion_mnist_by_its_name(laid_out, monkeypatch):
    monkeypatch.setenv("MINIVIT_DATA", str(laid_out))
    fashion = data.DATASETS["fashion-mnist"]()
    assert fashion.images.shape == (60_000, 28, 28, 1)
    assert np.bincount(fashion.held_out_labels).tolist() == [1000] * 10
    assert mean_colours(fashion.images) == pytest.approx(72.940352, abs=1e-6)
    assert fashion.classes[fashion.labels[0]] == "Ankle boot"
    assert fashion.classes[fashion.held_out_labels[1]] == "Pullover"


@needs_data
def test_cifar10(laid_out):
    cifar = data.load_cifar10(root=laid_out)
    assert cifar.images.shape == (50_000, 32, 32, 3)
    assert cifar.held_out_images.shape == (10_000, 32, 32, 3)
    assert np.bincount(cifar.labels).tolist() == [5000] * 10
    assert np.bincount(cifar.held_out_labels).tolist() == [1000] * 10
    means = mean_colours(cifar.images) / 255
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)
    assert cifar.classes[:3] == ("airplane", "automobile", "bird")
    # labels and images belong together, and red comes before blue
    for name, bluer in (("ship", True), ("airplane", True), ("frog", False), ("deer", False)):
        some = cifar.labels[:2000] == cifar.classes.index(name)
        red, _, blue = cifar.images[:2000][some].mean((0, 1, 2))
        assert (blue > red) == bluer
