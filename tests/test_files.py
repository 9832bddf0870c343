"""Files of arrays: .npz and .safetensors are read as a whole or refused, and pickles never run."""

import errno
import io
import json
import mmap
import os
import pickle
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors
from helpers.models import same_bits, tiny_model
from helpers.refusals import refusal
from safetensors.numpy import load_file, save_file

from minivit import ViT, flatten
from minivit.weights import LAYOUTS, CheckpointError, files
from minivit.weights.files import read_arrays, write_arrays

ENDINGS = (".npz", ".safetensors")


def tiny(**fields):
    return tiny_model("float32", **fields)


def some_arrays():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(3, 4)).astype("f4")
    return {
        "a/kernel": base,
        "half": rng.normal(size=(1, 3)).astype("f2"),
        "double": rng.normal(size=7),
        "empty": np.zeros((0, 3), "f4"),
        "scalar": np.array(2.5, "f4"),
        "transposed": base.T,
        "strided": base[::2, ::-1],
        "Fortran order": np.asfortranarray(base),
    }


def same(one, other):
    return one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype and np.array_equal(one[n], other[n]) for n in one
    )


# --- round trips ------------------------------------------------------------------------------
@pytest.mark.parametrize("ending", ENDINGS)
def test_arrays_and_text_round_trip(tmp_path, ending):
    path = tmp_path / f"file{ending}"
    write_arrays(path, some_arrays(), '{"ünï": "✓"}')
    for name in (path, str(path)):
        arrays, text = read_arrays(name)
        assert same(arrays, some_arrays())
        assert text == '{"ünï": "✓"}'
        if ending == ".safetensors":  # written aligned, therefore not copied
            assert all(is_mapped(array) for array in arrays.values() if array.size)


def test_files_are_exchanged_with_other_programs(tmp_path):
    tensors, archive = tmp_path / "file.safetensors", tmp_path / "file.npz"
    write_arrays(tensors, some_arrays(), "text")
    assert same(load_file(tensors), some_arrays())
    with safetensors.safe_open(tensors, framework="numpy") as file:
        assert file.metadata() == {"format": "pt", "config": "text"}
    write_arrays(archive, some_arrays(), "text")
    with np.load(archive, allow_pickle=False) as file:
        assert {*file.files} == {"config", *some_arrays()}

    compact = {name: np.asarray(array, order="C") for name, array in some_arrays().items()}
    save_file(compact, tensors)
    np.savez_compressed(archive, **some_arrays())
    for path in (tensors, archive):
        arrays, text = read_arrays(path)
        assert same(arrays, some_arrays())
        assert text is None


def test_bfloat16_becomes_float32(tmp_path):
    values = {
        0x3F80: 1.0, 0xBF80: -1.0, 0x4049: 3.140625, 0x0000: 0.0, 0x8000: -0.0,
        0x0001: 2.0**-133, 0x7F7F: 255 * 2.0**120, 0x3EAB: 171 / 512,
    }  # fmt: skip
    bits = np.array(list(values), "<u2").reshape(2, 4)
    np.savez(tmp_path / "file.npz", half=bits.view("V2"))
    header = {"half": {"dtype": "BF16", "shape": [2, 4], "data_offsets": [0, 16]}}
    write_raw(tmp_path / "file.safetensors", header, bits.tobytes())
    for ending in ENDINGS:
        half = read_arrays(tmp_path / f"file{ending}")[0]["half"]
        assert half.dtype == np.float32
        assert half.tobytes() == np.array(list(values.values()), "f4").tobytes()


# --- memory mapping ---------------------------------------------------------------------------
def is_mapped(array):
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return isinstance(array, mmap.mmap)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_kernels_of_safetensors_are_mapped_and_writable(tmp_path, layout):
    path, model = tmp_path / "model.safetensors", tiny(channels=2)
    model.save(path, layout)
    before = path.read_bytes()
    loaded = ViT.load(path)
    flat = flatten(loaded.params)
    patches = {"patch_embedding/kernel"}  # its transposed axes cannot be merged without a copy
    qkv = {f"blocks/0/attention/qkv/{leaf}" for leaf in ("kernel", "bias")}  # joined thirds
    copied = {"minivit": set(), "timm": patches, "google": qkv, "huggingface": qkv | patches}
    assert {name for name, leaf in flat.items() if not is_mapped(leaf)} == copied[layout]
    loaded.save(path, layout)  # over the file that is mapped
    assert same_bits(ViT.load(path).params, model.params)
    tiny(depth=2).save(path)
    assert same_bits(loaded.params, model.params)  # the mapping keeps the old content
    path.write_bytes(before)
    for leaf in flatten(ViT.load(path).params).values():
        leaf += 1
    assert path.read_bytes() == before


def test_arrays_at_odd_offsets_are_aligned(tmp_path):
    header = {"a": tensor([1], [0, 2], "F16"), "b": tensor([2], [2, 10])}
    header["c"] = tensor([1], [10, 18], "F64")
    data = np.float16([1]).tobytes() + np.float32([2, 3]).tobytes() + np.float64([4]).tobytes()
    write_raw(tmp_path / "file.safetensors", header, data)
    arrays, _ = read_arrays(tmp_path / "file.safetensors")
    assert {n: array.tolist() for n, array in arrays.items()} == {"a": [1], "b": [2, 3], "c": [4]}
    assert all(array.flags.aligned for array in arrays.values())


# --- damaged .safetensors files ---------------------------------------------------------------
def write_raw(path, header, data=b"", length=None):
    """Write a .safetensors file; `length` is what it states about its header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def tensor(shape, offsets, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


ONE = tensor([1], [0, 4])


@pytest.mark.parametrize(
    ("header", "data", "length", "message"),
    [
        *((header, b"", None, "is damaged") for header in (
            b"", b"{garbage", b"\xff\xfe", [1], b"[" * 100_000,
        )),
        *(({}, b"", length, "is damaged") for length in (10**6, 10**8 + 1, 2**63, 2**64 - 1)),
        ({}, b"", None, "contains no arrays"),
        ({"__metadata__": {"format": "pt"}}, b"", None, "contains no arrays"),
        ({"__metadata__": {"a": 1}, "a": ONE}, b"1234", None, "is damaged"),
        ({"x": tensor([4], [0, 16])}, b"1234", None, "'x' needs 16 bytes; its range is 0 to 16"),
        ({"x": tensor([1], [4, 0])}, b"1234", None, "'x' needs 4 bytes; its range is 4 to 0 of 4"),
        ({"x": tensor([3], [0, 4])}, b"1234", None, "'x' needs 12 bytes; its range is 0 to 4 of 4"),
        ({"x": tensor([-1], [0, 4])}, b"1234", None, "'x' needs -4 bytes"),
        ({"x": tensor([1.5], [0, 6])}, b"123456", None, "is damaged: "),
        ({"x": tensor([2**40, 2**40], [0, 4])}, b"1234", None, "'x' needs 48357"),
        ({"x": tensor([1] * 70, [0, 4])}, b"1234", None, "is damaged: 'x': "),
        ({"x": tensor([0, 2**63], [0, 0])}, b"", None, "is damaged: 'x': "),
        ({"x": ONE, "y": tensor([1], [2, 6])}, b"123456", None, "tensor `y`"),
        ({"x": ONE, "y": ONE}, b"1234", None, "tensor `"),
        ({"x": ONE, "y": tensor([1], [8, 12])}, b"1" * 12, None, "tensor `y`"),
        ({"x": tensor([1], [4, 8])}, b"1" * 8, None, "tensor `x`"),
        ({"x": ONE}, b"1" * 5, None, "is damaged: "),
        ({"x": {"dtype": "F32", "shape": [1]}}, b"1234", None, "is damaged"),
        ({"x": {"dtype": "F32", "data_offsets": [0, 4]}}, b"1234", None, "is damaged: "),
        ({"x": tensor("one", [0, 4])}, b"1234", None, "is damaged: "),
        ({"x": tensor([1], ["a", 4])}, b"1234", None, "is damaged"),
        ({"x": tensor([1], [0, 4, 8])}, b"1234", None, "is damaged"),
        ({"x": tensor([1], [0, 4], "F99")}, b"1234", None, "F99"),
        ({"x": tensor([1], [0, 1], "BOOL")}, b"1", None, "'x' has dtype BOOL, expected floats"),
        ({"x": tensor([1], [0, 8], "I64")}, b"1" * 8, None, "'x' has dtype I64, expected floats"),
        ({"x": tensor([4], [0, 4], "F8_E4M3")}, b"1234", None, "'x' has dtype F8_E4M3"),
        ({"x": ONE}, b"1234", None, "is not a Vision Transformer: it contains x"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_an_invalid_safetensors_file_is_refused(tmp_path, header, data, length, message):
    path = tmp_path / "file.safetensors"
    write_raw(path, header, data, length)
    assert message in refusal(path)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    "content",
    [
        b"", b"hello", b"1234567", bytes(8), b"\xff" * 8, b"\xff" * 99, bytes(1000), b"PK",
        b"PK\x05\x06", pickle.dumps([1, 2, 3]), b"\x93NUMPY\x01\x00",
    ],
)  # fmt: skip
def test_a_file_of_something_else_is_refused(tmp_path, ending, content):
    path = tmp_path / f"file{ending}"
    path.write_bytes(content)
    assert ("is damaged" if ending == ".safetensors" else "not a complete .npz") in refusal(path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_truncated_safetensors_file_is_refused(tmp_path, layout):
    path = tmp_path / "model.safetensors"
    tiny().save(path, layout)
    whole = path.read_bytes()
    data = 8 + int.from_bytes(whole[:8], "little")
    edges = [0, 1, 7, 8, 9, data - 1, data, data + 1, len(whole) - 4, len(whole) - 1]
    for end in [*edges, *range(10, len(whole), 199)]:
        path.write_bytes(whole[:end])
        message = refusal(path)
        assert "is damaged" in message
        assert ("' needs " in message) == (end >= data)  # the header is complete: it is named
    path.write_bytes(whole + b"\0")
    assert "is damaged" in refusal(path)


def test_a_flipped_bit_in_a_header_is_refused_or_harmless(tmp_path):
    path, model = tmp_path / "model.safetensors", tiny()
    model.save(path, "timm")
    whole = path.read_bytes()
    places = np.random.default_rng(5).integers(0, 8 + int.from_bytes(whole[:8], "little"), 150)
    harmless = 0
    for place in map(int, places):
        for mask in (0x01, 0x80):
            damaged = bytearray(whole)
            damaged[place] ^= mask
            path.write_bytes(damaged)
            try:
                found = ViT.load(path)
            except CheckpointError:
                refusal(path)
                continue
            harmless += 1
            # The format has no checksum: two arrays of one shape can swap their names.
            sizes = [sum(a.size for a in flatten(m.params).values()) for m in (found, model)]
            assert sizes[0] == sizes[1]
    assert harmless < 60


# --- damaged .npz files -----------------------------------------------------------------------
def test_a_truncated_archive_is_refused(tmp_path):
    path = tmp_path / "model.npz"
    tiny().save(path)
    whole = path.read_bytes()
    for end in [*range(0, len(whole), 99), len(whole) - 1]:
        path.write_bytes(whole[:end])
        assert "is not a complete .npz file" in refusal(path)


@pytest.mark.parametrize(
    ("descr", "shape"),
    [
        ("<f4", (10**14,)), ("<f4", (2**62, 4)), ("<f4", (5,)), ("<f4", (-1,)), ("<f4", (1,) * 70),
        ("|O", (1,)), ("nonsense", (1,)),
    ],
    ids=str,
)  # fmt: skip
def test_an_entry_with_a_wrong_header_is_refused(tmp_path, descr, shape):
    path, entry = tmp_path / "model.npz", io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(entry, header)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cls.npy", entry.getvalue() + bytes(16))
    refusal(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name_are_refused(tmp_path):
    path = tmp_path / "model.npz"
    tiny().save(path, "google")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("cls.npy", archive.read("cls.npy"))
    assert "it contains 'cls' twice" in refusal(path)


# --- missing and unreadable files -------------------------------------------------------------
@pytest.mark.parametrize("name", ["none.npz", "none.safetensors", "none.pth", "none"])
def test_a_missing_file_or_a_folder_is_named(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(FileNotFoundError, match=f"^there is no file {path}$"):
        ViT.load(path)
    path.mkdir()
    with pytest.raises(
        FileNotFoundError, match=rf"^there is no model\.safetensors or model\.npz in {path}$"
    ):
        ViT.load(path)
    with pytest.raises((OSError, ValueError), match=rf"{path}|{path.suffix} is for pickled"):
        tiny().save(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def public_folder():
    """Create a folder that all users can read, and restore the user after the test."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)
        if os.getuid() == 0:
            os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="this system has no user ids")
@pytest.mark.parametrize("name", ["model.npz", "model.safetensors", "folder"])
def test_a_path_without_permission_is_named(public_folder, name):
    path, new = public_folder / name, public_folder / f"new {name}"
    layout = "huggingface" if name == "folder" else "minivit"
    tiny().save(path, layout)
    file = path / "model.safetensors" if name == "folder" else path
    file.chmod(0)
    public_folder.chmod(0o555)
    if os.getuid() == 0:
        os.seteuid(65534)  # a user without rights
    with pytest.raises(PermissionError) as error:
        ViT.load(path)
    assert error.value.filename == str(file)
    with pytest.raises(PermissionError) as error:
        tiny().save(new, layout)
    assert error.value.filename == str(new)


# --- pickles ----------------------------------------------------------------------------------


class Bomb:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.fixture
def bomb(tmp_path):
    """Return a bomb that works, and the file that it creates."""
    target = tmp_path / "exploded"
    pickle.loads(pickle.dumps(Bomb(target)))
    assert target.exists()
    target.unlink()
    yield Bomb(target)
    assert not target.exists()


@pytest.mark.parametrize("ending", [".pth", ".pt", ".bin", ".ckpt", ".pkl", ".PTH", *ENDINGS])
def test_a_pickled_file_is_refused_and_not_loaded(tmp_path, bomb, ending):
    path = tmp_path / f"model{ending}"
    path.write_bytes(pickle.dumps(bomb))
    refusal(path)
    with zipfile.ZipFile(path, "w") as archive:  # as PyTorch writes it
        archive.writestr("archive/data.pkl", pickle.dumps(bomb))
    message = refusal(path)
    if ending not in ENDINGS:
        assert message.startswith(f"{path} is pickled, and loading it could run code. Convert it")
        assert f"torch.load('{path}', weights_only=True)" in message
        assert f"s.save_file(t.get('model', t), '{path.with_suffix('.safetensors')}')" in message


@pytest.mark.parametrize("name", ["config", "params/norm/bias", "training/m", "extra"])
def test_a_pickled_object_in_an_archive_is_refused_and_not_loaded(tmp_path, bomb, name):
    path, array = tmp_path / "model.npz", np.empty(1, dtype=object)
    array[0] = bomb
    tiny().save(path)
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file) | {name: array}
    np.savez(path, **arrays)
    assert "contains pickled objects, which are never loaded" in refusal(path)
    whole = path.read_bytes()
    for content in (pickle.dumps(array), pickle.dumps(array) + whole):
        path.write_bytes(content)
        refusal(path)
    with path.open("wb") as file:
        np.save(file, array)
    refusal(path)


@pytest.mark.parametrize("name", ["model.pth", "model.pt", "model.bin", "model.PTH"])
@pytest.mark.parametrize("layout", ["minivit", "timm"])
def test_no_file_is_saved_with_the_ending_of_a_pickle(tmp_path, name, layout):
    with pytest.raises(ValueError, match=r"is for pickled files: use \.npz or \.safetensors"):
        tiny().save(tmp_path / name, layout)
    assert not list(tmp_path.iterdir())


# --- atomic writing ---------------------------------------------------------------------------
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failed_save_leaves_the_old_file_alone(
    tmp_path, monkeypatch, layout, ending, failing, error
):
    def failure(*args, **kwargs):
        raise error(errno.ENOSPC, "No space left on device")

    path = tmp_path / f"model{ending}"
    tiny().save(path, layout)
    old = path.read_bytes()
    with monkeypatch.context() as patch:
        if failing == "write":
            tensors = ending == ".safetensors"
            module, name = (files, "save_file") if tensors else (np, "savez")
            patch.setattr(module, name, failure)
        else:
            patch.setattr(os, failing, failure)
        for target in (path, tmp_path / f"new{ending}"):
            with pytest.raises(error) as caught:
                tiny(depth=2).save(target, layout)
            if error is OSError and failing != "write":
                assert "No space left on device" in str(caught.value)
                assert caught.value.filename == str(target)
                assert ".tmp" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == old


def test_a_file_is_complete_before_the_rename_and_after_an_interrupt(tmp_path, monkeypatch):
    path, replace = tmp_path / "model.npz", os.replace

    def replace_and_interrupt(source, target):
        assert ViT.load(source).config.depth == 3
        assert Path(source).parent == Path(target).parent  # otherwise a rename is a copy
        replace(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        tiny(depth=3).save(path)
    assert list(tmp_path.iterdir()) == [path]
    assert same_bits(ViT.load(path).params, tiny(depth=3).params)


@pytest.mark.parametrize("place", ["missing/model.npz", "model.npz/below", "."])
def test_a_place_that_cannot_be_written_is_named(tmp_path, place):
    tiny().save(tmp_path / "model.npz")
    with pytest.raises(OSError) as error:  # noqa: PT011, the message is checked below
        tiny().save(tmp_path / place)
    assert str(tmp_path / place) in str(error.value)
    assert ".tmp" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model.npz"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_mode_of_a_file_follows_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        tiny().save(tmp_path / "model.npz")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert (tmp_path / "model.npz").stat().st_mode & 0o777 == mode
