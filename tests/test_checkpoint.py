"""minivit's checkpoints: bit-exact round trips, and a clear error for every damage."""

import dataclasses
import io
import json
import math
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import error_of
from helpers.models import same_bits, tiny_model
from helpers.refusals import refusal

from minivit import ViT, data, flatten, training
from minivit.weights import CheckpointError, load, load_training, read_progress, save

TINY = {
    "image_size": (4, 6), "patch_size": 2, "channels": 2, "classes": 5,
    "width": 8, "depth": 2, "heads": 2, "mlp_width": 40,
}  # fmt: skip
VERSION_0_1_0 = Path(__file__).parent / "fixtures" / "version_0_1_0"


def tiny(dtype="float32", **fields):
    return tiny_model(dtype, **TINY | fields)


@pytest.fixture
def path(tmp_path):
    """Save a checkpoint and return its path."""
    tiny().save(tmp_path / "model.npz")
    return tmp_path / "model.npz"


@pytest.fixture
def unpacked(monkeypatch):
    """Return a list to which the name of each array is appended when it is unpacked."""
    read, names = np.lib.npyio.NpzFile.__getitem__, []

    def read_and_record(file, name):
        names.append(name)
        return read(file, name)

    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", read_and_record)
    return names


# --- version 0.1.0 ----------------------------------------------------------------------------
def test_files_of_version_0_1_0(tmp_path):
    digits = data.load_digits(n=64)
    few = digits._replace(
        held_out_images=digits.held_out_images[:32],
        held_out_labels=digits.held_out_labels[:32],
        source="digits",
    )
    finished = ViT.load(VERSION_0_1_0 / "finished" / "model.npz")
    expected = np.load(VERSION_0_1_0 / "finished" / "logits.npy")
    logits = finished(digits.held_out_images[:4])
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-6)
    assert ViT.load(VERSION_0_1_0 / "model.safetensors").config.width == 8
    assert training.read_progress(VERSION_0_1_0 / "finished") is None

    folder = tmp_path / "unfinished"
    shutil.copytree(VERSION_0_1_0 / "unfinished", folder)
    progress = training.read_progress(folder)
    assert 0 < progress.epoch < progress.recipe.epochs
    training.resume(folder, ViT.load(folder / "model.npz"), few, threads=1)
    assert same_bits(ViT.load(folder / "model.npz").params, finished.params)
    progress = training.read_progress(folder)
    assert progress.complete
    assert progress.recipe.validation == 0  # all images were used for training
    score = training.evaluate(finished, few.held_out_images, few.held_out_labels)
    assert (progress.test_loss, progress.test_accuracy) == pytest.approx(score, rel=1e-5)
    before, *after = training.read_log(folder / "log.csv")
    assert 0 <= before["validation_accuracy"] <= 1  # version 0.1.0 evaluated the held-out images
    assert math.isnan(before["accuracy"])
    assert all(math.isnan(row["validation_accuracy"]) for row in after)
    assert all(0 <= row["accuracy"] <= 1 for row in after)


# --- round trips ------------------------------------------------------------------------------
@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    "fields",
    [
        {}, {"positions": "2d", "hidden_head": 3}, {"positions": "sincos2d", "norm_eps": 1e-5},
        {"positions": "relative", "pooling": "mean", "gelu": "erf", "dropout": 0.1},
        {"depth": 12, "image_size": 4},  # blocks/10 sorts before blocks/2
    ],
    ids=str,
)  # fmt: skip
def test_save_and_load_preserve_every_bit(tmp_path, ending, dtype, fields):
    model, path, again = tiny(dtype, **fields), tmp_path / f"a{ending}", tmp_path / f"b{ending}"
    model.save(path)
    loaded = ViT.load(str(path))
    loaded.save(str(again))
    assert loaded.config == model.config
    assert same_bits(loaded.params, model.params)
    assert {leaf.dtype for leaf in flatten(loaded.params).values()} == {np.dtype(dtype)}
    if ending == ".npz":  # the order of metadata in a .safetensors file varies
        assert again.read_bytes() == path.read_bytes()
    for leaf in flatten(loaded.params).values():
        leaf += 1  # writable


def test_a_checkpoint_contains_named_arrays_without_pickles(path):
    with np.load(path, allow_pickle=False) as file:
        names = set(file.files)
        fields = json.loads(str(file["config"]))
        assert {file[name].dtype.kind for name in names} == {"f", "U"}
    assert names == {"config"} | {f"params/{name}" for name in flatten(tiny().params)}
    assert "params/blocks/1/attention/qkv/kernel" in names
    assert fields == dataclasses.asdict(tiny().config) | {"image_size": [4, 6]}


def test_the_vectors_of_a_training_are_not_parameters(path):
    model = tiny()
    vectors = {"m": np.arange(3.0), "progress": np.array('{"epoch": 3}')}
    save(path, model.config, model.params, vectors)
    found = load_training(path)
    assert found.keys() == vectors.keys()
    assert np.array_equal(found["m"], vectors["m"])
    assert read_progress(path) == {"epoch": 3}
    assert same_bits(load(path)[1], model.params)
    model.save(path)
    assert load_training(path) == {}
    assert read_progress(path) is None


def test_read_progress_reads_no_other_array(path, unpacked):
    model = tiny()
    save(path, model.config, model.params, {"progress": np.array("{}"), "m": np.zeros(3)})
    assert read_progress(path) == {}
    assert unpacked == ["config", "training/progress"]


@pytest.mark.parametrize("text", ["", "[", "3", "null", "[1]", "[" * 100_000])
def test_invalid_progress_is_refused(path, text):
    model = tiny()
    save(path, model.config, model.params, {"progress": np.array(text)})
    with pytest.raises(CheckpointError, match="'training/progress' is not a JSON object"):
        read_progress(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="is not a complete"):
        read_progress(path)


# --- damage -----------------------------------------------------------------------------------
def loads_unchanged(path):
    """Return whether a checkpoint loads with every bit unchanged. Otherwise it is refused."""
    try:
        config, params = load(path)
    except CheckpointError:
        refusal(path)
        return False
    assert config == tiny().config
    assert same_bits(params, tiny().params)
    return True


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80, 0xFF])
def test_a_flipped_byte_is_refused_or_harmless(path, mask):
    whole, harmless = path.read_bytes(), 0
    for place in map(int, np.random.default_rng(mask).integers(0, len(whole), 60)):
        damaged = bytearray(whole)
        damaged[place] ^= mask
        path.write_bytes(damaged)
        harmless += loads_unchanged(path)
    assert harmless < 30  # times and version numbers in the archive, which are not used


def test_an_entry_marked_as_encrypted_is_refused(path):
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] ^= 1  # in the archive's directory
    path.write_bytes(raw)
    assert "encrypted" in refusal(path)


def read_entries(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_entries(path, entries):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def test_other_archives(path):
    entries = read_entries(path)
    write_entries(path, dict(reversed(entries.items())))
    assert same_bits(load(path)[1], tiny().params)
    for content in (b"", b"hello", b"\x93NUMPY"):
        write_entries(path, entries | {"params/norm/bias.npy": content})
        refusal(path)
    for entries in ({"hello.txt": b"world"}, {}):
        write_entries(path, entries)
        assert ("hello" in refusal(path)) == bool(entries)
    tiny().save(path)
    path.write_bytes(b"hello" + path.read_bytes())
    refusal(path)


@pytest.mark.parametrize("name", ["config.npy", "params/head/kernel.npy"])
@pytest.mark.parametrize("byte", list(b"(9'\x00\xff"))
def test_an_entry_with_a_damaged_header_is_refused_or_harmless(path, name, byte):
    entries = read_entries(path)
    for place in range(0, 128, 5):
        damaged = bytearray(entries[name])
        damaged[place] = byte
        write_entries(path, entries | {name: bytes(damaged)})  # with a correct checksum
        loads_unchanged(path)


def as_text(value):
    return np.array(value if isinstance(value, str) else json.dumps(value))


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("params/norm/bias", None, "the array 'params/norm/bias' is missing"),
        ("params/blocks/1/norm1/scale", None, "the array '.*/blocks/1/norm1/scale' is missing"),
        ("params/norm/size", np.zeros(8), "the array 'params/norm/size' is unknown"),
        ("params/blocks/2/norm1/scale", np.zeros(8), "'.*/blocks/2/norm1/scale' is unknown"),
        ("params/norm", np.zeros(8), "the array 'params/norm' is unknown"),
        ("params/", np.zeros(8), "the array 'params/' is unknown"),
        ("params/norm/bias", np.zeros(9, "f"), r"/bias' has shape \(9,\), expected \(8,\)"),
        ("params/norm/bias", np.zeros((8, 1), "f"), r"/bias' has shape \(8, 1\), expected \(8,\)"),
        ("params/norm/bias", np.float32(0), r"/bias' has shape \(\), expected \(8,\)"),
        ("params/norm/bias", np.zeros(8, "i4"), "/bias' has dtype int32, expected floats of one"),
        ("params/norm/bias", np.zeros(8, "f8"), "/bias' has dtype float64, expected floats of one"),
        ("params/norm/bias", np.zeros(8, "c8"), "/bias' has dtype complex64, expected floats"),
        ("params/norm/bias", np.array(["x"] * 8), "/bias' has dtype <U1, expected floats"),
        ("params/norm/bias", np.full(8, np.nan, "f"), "/norm/bias' contains NaN or infinity"),
        ("params/norm/bias", np.float32([0] * 7 + [np.inf]), "/bias' contains NaN or infinity"),
        ("params/norm/bias", np.float32([np.inf, -np.inf] * 4), "contains NaN or infinity"),
        ("config", None, "the 'config' of this minivit checkpoint is missing"),
        *(
            ("config", as_text(value), "its 'config' is not valid")
            for value in ("", '{"width": 8', None, [4], "[" * 100_000, {"colour": 3})
        ),
        ("config", np.zeros(3), "its 'config' is not valid"),
        ("config", as_text({"dropout": "much"}), "its 'config' is not valid"),
        ("config", as_text({"width": 8, "heads": 3}), "width 8 is not a multiple of 3 heads"),
        ("config", as_text(TINY | {"depth": 3}), "blocks/2/.*' is missing"),
        ("config", as_text(TINY | {"depth": 1}), "blocks/1/.*' is unknown"),
        ("config", as_text(TINY | {"classes": 6}), "'params/head/.*' has shape .*5.*, expected"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_the_error_names_the_invalid_entry(path, name, array, message):
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file) | {name: array}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    assert re.search(message, refusal(path))


def test_integers_in_all_arrays_are_refused(path):
    with np.load(path) as file:
        arrays = {n: file[n] if n == "config" else file[n].astype("i4") for n in file.files}
    np.savez(path, **arrays)
    assert "has dtype int32, expected floats" in refusal(path)


# --- checks before unpacking ---------------------------------------------------------------------


def npy(shape, dtype="<f4", size=None):
    """Return an .npy file with this header and `size` zero bytes, by default as the shape needs."""
    file = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    size = math.prod(shape) * np.dtype(dtype).itemsize if size is None else size
    return file.getvalue() + bytes(size)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"params/bomb.npy": npy((100_000_000,), "u1")}, "its {} bytes would unpack to 10{}, more "
            "than 20 times as many"),
        ({"params/norm/bias.npy": npy((9,), size=32)}, "'params/norm/bias' is not a valid array: "
            "it has 32 bytes, but shape (9,) and dtype float32 need 36"),
        ({"params/norm/bias.npy": npy((7,), size=32)}, "has 32 bytes, but shape (7,)"),
        ({"params/norm/bias.npy": npy((10**12,), size=32)}, "has 32 bytes, but shape (100000"),
        ({"params/norm/bias.npy": npy((-1, -8), size=32)}, "'params/norm/bias' is not a valid"),
        ({"params/norm/bias.npy": npy((1,), "|O", size=8)}, "'params/norm/bias' is not a valid "
            "array: it contains pickled objects, which are never loaded"),
        ({"evil.npy": npy((2,))}, "the array 'evil' is unknown"),
        ({"training/evil.npy": npy((2,))}, "the array 'training/evil' is unknown"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_names_and_headers_are_checked_before_any_array_is_unpacked(
    path, unpacked, entries, message
):
    entries = read_entries(path) | entries
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    pattern = re.escape(message).replace(r"\{\}", r"[\d,]+")
    assert re.search(pattern, refusal(path))
    assert unpacked in ([], ["config"])


def test_an_unsupported_compression_method_is_rejected(path):
    entries = read_entries(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    assert "uses a compression method that NumPy does not write" in refusal(path)


def test_a_compressed_file_is_read(path):
    model = ViT.load(path)
    with np.load(path) as file:
        np.savez_compressed(path, **file)
    assert same_bits(ViT.load(path).params, model.params)


def test_running_out_of_memory_is_not_reported_as_a_damaged_file(path, monkeypatch):
    def exhaust(file, name):
        raise MemoryError

    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", exhaust)
    with pytest.raises(MemoryError):
        load(path)
    advice = "Pass fewer images or a smaller --image-size"
    assert error_of("predict", "--weights", path, "x.png") == f"out of memory. {advice}"


def test_only_the_arrays_of_the_model_are_unpacked(path, unpacked):
    model = tiny()
    save(path, model.config, model.params, {"progress": np.array("{}"), "m": np.zeros(3)})
    load(path)
    assert unpacked
    assert not [name for name in unpacked if name.startswith("training/")]
