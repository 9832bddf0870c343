"""Published data sets in the cache: reading, rejected files, and the real data sets."""

import doctest
import gzip
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import error_of, save_model
from helpers.files import read_tree, write_tree
from helpers.loopback import cifar_files, idx_arrays, make_records, small_cifar, small_mnist, to_idx
from PIL import Image

import minivit
from minivit import data
from minivit.data.cifar import CIFAR10, CIFAR100, load_records
from minivit.data.mnist import FASHION, MNIST, NAMES, load_idx

FOLDER = os.environ.get("MINIVIT_TEST_DATA")
needs_data = pytest.mark.skipif(not FOLDER, reason="MINIVIT_TEST_DATA is not set")
RAW = "MNIST/raw"


@pytest.fixture
def mnist(tmp_path):
    """Write a small MNIST to the cache, and return its description."""
    files, spec = small_mnist()
    write_tree(tmp_path / RAW, files)
    return spec


@pytest.fixture
def cifar(tmp_path):
    """Write a small CIFAR-10 to the cache, and return its description."""
    write_tree(tmp_path, cifar_files())
    return small_cifar()[1]


# --- reading ---------------------------------------------------------------------------------


def test_idx_files_are_read_with_and_without_compression(mnist, tmp_path):
    for path in [tmp_path / RAW / name for name in NAMES[1:3]]:  # torchvision unpacks them
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    before = read_tree(tmp_path)
    dataset = load_idx(mnist, 20, tmp_path)
    train, labels, test, test_labels = idx_arrays()
    assert np.array_equal(dataset.images[:], train[..., None] / np.float32(127.5) - 1)
    assert np.array_equal(dataset.held_out_images.pixels, test[..., None])
    assert np.array_equal(dataset.labels, labels)
    assert np.array_equal(dataset.held_out_labels, test_labels)
    assert dataset.labels.dtype == dataset.held_out_labels.dtype == np.int64
    assert (dataset.name, dataset.classes) == ("MNIST digits", tuple("0123456789"))
    assert read_tree(tmp_path) == before


def test_records_are_read_from_a_read_only_cache(cifar, tmp_path):
    table = bytearray(make_records(4))
    table[1 + 5] = 77  # red, first row, sixth column
    (tmp_path / CIFAR10.folder / "data_batch_1.bin").write_bytes(table)
    before = read_tree(tmp_path)
    for path in (tmp_path / CIFAR10.folder, tmp_path):
        path.chmod(0o555)
    try:
        dataset = load_records(cifar, 9, tmp_path)
        assert read_tree(tmp_path) == before  # nothing is written, even by an administrator
    finally:
        for path in (tmp_path, tmp_path / CIFAR10.folder):
            path.chmod(0o755)
    pixels = dataset.images.pixels
    assert (pixels.shape, pixels.flags.c_contiguous) == ((9, 32, 32, 3), True)
    assert pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]  # file after file
    assert pixels[0, 0, 5, 0] == 77
    assert (pixels[..., 1:] == [100, 0]).all()
    assert dataset.labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert dataset.held_out_labels.tolist() == [0, 1, 2]
    assert dataset.classes == ("airplane", "automobile", "bird", "cat")


def test_the_second_of_two_label_bytes_is_the_class(tmp_path):
    spec = CIFAR100._replace(train={"train.bin": 4}, test={"test.bin": 2}, K=4)
    files = {"train.bin": make_records(4, 2), "test.bin": make_records(2, 2)}
    write_tree(tmp_path / spec.folder, files | {spec.names: b"a\nb\nc\nd\n"})
    dataset = load_records(spec, 4, tmp_path)
    assert dataset.labels.tolist() == [0, 1, 2, 3]
    assert dataset.images.pixels[:, 0, 0].tolist() == [[n, 100, 0] for n in range(4)]


# --- rejected files --------------------------------------------------------------------------


def error_message(load, spec, root):
    """Return the one-line message of an error that leaves the cache unchanged."""
    before = read_tree(root)
    with pytest.raises((ValueError, OSError)) as error:
        load(spec, 10, root)
    assert read_tree(root) == before
    assert "\n" not in str(error.value)
    return str(error.value)


TRAIN, LABELS, TEST, _ = map(to_idx, idx_arrays())
PACKED = gzip.compress(TRAIN)
AGAIN = "delete it to download it again"


@pytest.mark.parametrize(
    "content",
    [PACKED[:1000], PACKED[:-4], PACKED[:5], b"<html>" * 50,
     PACKED[:500] + bytes([PACKED[500] ^ 255]) + PACKED[501:]],
    ids=["truncated", "truncated at the end", "truncated header", "not gzip", "a changed byte"],
)  # fmt: skip
def test_a_damaged_gzip_file_is_rejected(mnist, tmp_path, content):
    path = tmp_path / RAW / NAMES[0]
    path.write_bytes(content)
    message = error_message(load_idx, mnist, tmp_path)
    assert message.startswith(f"{path} is damaged or truncated (")
    assert message.endswith(f"): {AGAIN}")


RESHAPED = to_idx(idx_arrays()[0].reshape(28, 20, 28))
FLOATS = bytes([0, 0, 13, 3]) + TRAIN[4:]
WRONG_IDX = [TRAIN[:-1], TRAIN + b"?", b"", TRAIN[:7], FLOATS, LABELS, TEST, RESHAPED]


@pytest.mark.parametrize("content", WRONG_IDX, ids=lambda content: str(content[:8]))
@pytest.mark.parametrize("packed", [True, False])
def test_an_idx_file_of_another_shape_or_type_is_rejected(mnist, tmp_path, content, packed):
    path = tmp_path / RAW / NAMES[0]
    path.unlink()
    path = path if packed else path.with_suffix("")
    path.write_bytes(gzip.compress(content) if packed else content)
    expected = f"{path} is not an idx file of bytes with shape (20, 28, 28): {AGAIN}"
    assert error_message(load_idx, mnist, tmp_path) == expected


@pytest.mark.parametrize("file", [1, 3])
def test_a_label_out_of_range_is_rejected(mnist, tmp_path, file):
    labels = idx_arrays()[file].copy()
    labels[3] = 10
    path = tmp_path / RAW / NAMES[file]
    path.write_bytes(gzip.compress(to_idx(labels)))
    assert (
        error_message(load_idx, mnist, tmp_path)
        == f"{path} contains label 10; labels must be below 10: {AGAIN}"
    )


BATCH, META = "data_batch_2.bin", "batches.meta.txt"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (BATCH, make_records(4)[:-1], "has 12,291 bytes, not 12,292"),
        (BATCH, make_records(5), "has 15,365 bytes, not 12,292"),
        (BATCH, b"", "has 0 bytes, not 12,292"),
        (BATCH, b"\4" + make_records(4)[1:], "contains label 4; labels must be below 4"),
        (META, b"a\nb\nc", "has 3 names, not 4"),
        (META, b"", "has 0 names, not 4"),
        (META, b"a\nb\nc\n\xff\nd", "has 5 names, not 4"),
    ],
)
def test_invalid_records_and_class_names_are_rejected(cifar, tmp_path, name, content, message):
    path = tmp_path / CIFAR10.folder / name
    path.write_bytes(content)
    assert error_message(load_records, cifar, tmp_path) == f"{path} {message}: {AGAIN}"


def test_a_folder_in_place_of_a_file_is_rejected(mnist, cifar, tmp_path):
    records = (load_records, cifar, f"{CIFAR10.folder}/{BATCH}")
    for load, spec, name in ((load_idx, mnist, f"{RAW}/{NAMES[0]}"), records):
        path = tmp_path / name
        path.unlink()
        path.mkdir()
        assert error_message(load, spec, tmp_path) == f"{path} is a folder, not a file"


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_damaged_file_gives_a_one_line_error_on_the_command_line(
    tmp_path, monkeypatch, name, command
):
    specs = {"mnist": MNIST, "fashion-mnist": FASHION, "cifar10": CIFAR10, "cifar100": CIFAR100}
    files = [*specs[name].sizes, specs[name].names] if "cifar" in name else NAMES
    write_tree(tmp_path / specs[name].folder, dict.fromkeys(files, PACKED[:-4]))
    save_model(tmp_path / "model.npz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIVIT_DATA", str(tmp_path))
    weights = ["--weights", "model.npz"] if command == "evaluate" else []
    message = error_of(command, "--data", name, *weights)
    assert message.startswith(f"{tmp_path / specs[name].folder / files[0]} ")
    assert message.endswith(f": {AGAIN}")


# --- the real data sets -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Return a cache with MNIST, Fashion-MNIST and CIFAR-10."""
    root = tmp_path_factory.mktemp("cache")
    subprocess.run([sys.executable, Path(FOLDER, "unpack.py"), root], check=True)
    yield root
    shutil.rmtree(root)  # 184 MB


def channel_means(images):
    n, H, W, C = images.shape
    totals = images.pixels.reshape(n, -1).sum(0, dtype=np.int64)
    return totals.reshape(H * W, C).sum(0) / (n * H * W)


@needs_data
@pytest.mark.parametrize("spec", [MNIST, FASHION], ids=["mnist", "fashion-mnist"])
def test_sizes_and_checksums_are_those_of_the_published_files(cache, spec):
    assert spec.shapes == ((60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,))
    for file in spec.files:
        path = cache / spec.folder / file.name
        assert path.stat().st_size == file.size
        assert file.matches(path)


@needs_data
def test_mnist(cache):
    mnist = data.load_mnist(root=cache)
    assert mnist.images.shape == (60_000, 28, 28, 1)
    assert mnist.held_out_images.shape == (10_000, 28, 28, 1)
    train = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    test = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(mnist.labels).tolist() == train
    assert np.bincount(mnist.held_out_labels).tolist() == test
    assert channel_means(mnist.images) == pytest.approx(33.318421, abs=1e-6)
    assert mnist.labels[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert mnist.classes == tuple("0123456789")


@needs_data
def test_fashion_mnist(cache, monkeypatch):
    monkeypatch.setenv("MINIVIT_DATA", str(cache))
    fashion = data.DATASETS["fashion-mnist"]()
    assert fashion.images.shape == (60_000, 28, 28, 1)
    assert np.bincount(fashion.held_out_labels).tolist() == [1000] * 10
    assert channel_means(fashion.images) == pytest.approx(72.940352, abs=1e-6)
    assert fashion.classes[fashion.labels[0]] == "Ankle boot"
    assert fashion.classes[fashion.held_out_labels[1]] == "Pullover"


@needs_data
def test_cifar10(cache):
    cifar = data.load_cifar10(root=cache)
    assert cifar.images.shape == (50_000, 32, 32, 3)
    assert np.bincount(cifar.labels).tolist() == [5000] * 10
    assert np.bincount(cifar.held_out_labels).tolist() == [1000] * 10
    assert channel_means(cifar.images) / 255 == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)
    # labels belong to their images, and red comes before blue
    for name, bluer in (("ship", True), ("airplane", True), ("frog", False), ("deer", False)):
        images = cifar.images[:2000][cifar.labels[:2000] == cifar.classes.index(name)]
        red, _, blue = images.mean((0, 1, 2))
        assert (blue > red) == bluer


def test_sizes_of_cifar():
    for spec, record in ((CIFAR10, 3073), (CIFAR100, 3074)):
        assert (sum(spec.train.values()), sum(spec.test.values())) == (50_000, 10_000)
        assert sum(spec.sizes.values()) == 60_000 * record


# --- examples --------------------------------------------------------------------------------


def run_examples(module):
    """Run the examples of a module, even those marked SKIP because they need files."""
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder().find(module, extraglobs={"minivit": minivit}):
        for example in test.examples:
            example.options.clear()
        runner.run(test)
    assert runner.failures == 0
    assert runner.tries > 0


@needs_data
@pytest.mark.parametrize("name", ["mnist", "cifar"])
def test_the_examples_that_need_published_data_are_correct(cache, monkeypatch, name):
    monkeypatch.setenv("MINIVIT_DATA", str(cache))
    run_examples(importlib.import_module(f"minivit.data.{name}"))


def test_the_example_that_needs_a_folder_of_images_is_correct(tmp_path, monkeypatch):
    for path in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
        write_tree(tmp_path / "pets", {path: b""})
        Image.new("L", (9, 9)).save(tmp_path / "pets" / path)
    monkeypatch.chdir(tmp_path)
    run_examples(data.folder)
