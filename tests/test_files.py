"""The files themselves: .npz and .safetensors, whole or refused, and no pickle is ever opened."""

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
from safetensors.numpy import load_file, save_file

from minivit import ViT, ViTConfig, flatten
from minivit.cli import main
from minivit.weights import CheckpointError, files
from minivit.weights.files import read_arrays, write_arrays

TINY = {
    "image_size": 4, "patch_size": 2, "channels": 2, "classes": 5,
    "width": 8, "depth": 1, "heads": 2, "mlp_width": 12,
}  # fmt: skip
ENDINGS = (".npz", ".safetensors")


def tiny(**fields):
    return ViT.create(ViTConfig(**TINY | fields))


def some_arrays():
    rng = np.random.default_rng(0)
    return {
        "a/kernel": rng.normal(size=(3, 4)).astype("f4"),
        "b": rng.normal(size=(2, 1, 5)).astype("f2"),
        "c": np.float64(rng.normal(size=7)),
        "nothing": np.zeros((0, 3), "f4"),
        "scalar": np.array(2.5, "f4"),
    }


def same(one, other):
    return one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype
        and one[n].shape == other[n].shape
        and one[n].tobytes() == other[n].tobytes()
        for n in one
    )


def refusal(path):
    """The message of a refusal: one line, and it names the file."""
    with pytest.raises(CheckpointError) as error:
        ViT.load(path)
    message = str(error.value)
    assert str(path) in message
    assert len(message.splitlines()) == 1
    return message


# --- what is written is what is read ---------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_arrays_and_a_text_come_back(tmp_path, ending):
    path = tmp_path / f"file{ending}"
    write_arrays(path, some_arrays(), '{"ünï": "✓"}')
    arrays, text = read_arrays(path)
    assert same(arrays, some_arrays())
    assert text == '{"ünï": "✓"}'
    assert read_arrays(str(path))[1] == text


@pytest.mark.parametrize("ending", ENDINGS)
def test_arrays_in_any_order_of_memory(tmp_path, ending):
    path = tmp_path / f"file{ending}"
    base = np.arange(24, dtype="f").reshape(4, 6)
    views = {"turned": base.T, "every second": base[::2, ::-1]}
    views["by column"] = np.asfortranarray(base)
    write_arrays(path, views, "")
    found, _ = read_arrays(path)
    assert all(np.array_equal(found[name], views[name]) for name in views)


def test_others_open_what_is_written(tmp_path):
    write_arrays(tmp_path / "file.safetensors", some_arrays(), "text")
    assert same(load_file(tmp_path / "file.safetensors"), some_arrays())
    with safetensors.safe_open(tmp_path / "file.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt", "config": "text"}  # others ask for a format
    write_arrays(tmp_path / "file.npz", some_arrays(), "text")
    with np.load(tmp_path / "file.npz", allow_pickle=False) as file:
        assert {*file.files} == {"config", *some_arrays()}


def test_what_others_have_written_has_no_configuration(tmp_path):
    save_file(some_arrays(), tmp_path / "file.safetensors")
    np.savez_compressed(tmp_path / "file.npz", **some_arrays())
    for ending in ENDINGS:
        arrays, text = read_arrays(tmp_path / f"file{ending}")
        assert same(arrays, some_arrays())
        assert text is None


def test_an_ending_in_another_case_is_the_same_ending(tmp_path):
    for name in ("model.PTH", "model.Bin"):
        (tmp_path / name).write_bytes(b"never opened")
        assert "is pickled" in refusal(tmp_path / name)


# --- bfloat16 --------------------------------------------------------------------------------

#          bits, value
BFLOAT16 = [
    (0x3F80, 1.0), (0xBF80, -1.0), (0x4049, 3.140625), (0x0000, 0.0), (0x8000, -0.0),
    (0x0001, 2.0**-133), (0x7F7F, 255 * 2.0**120), (0x3EAB, 171 / 512),
]  # fmt: skip


def test_bfloat16_in_both_kinds_of_file(tmp_path):
    bits = np.array([bits for bits, _ in BFLOAT16], "<u2").reshape(2, 4)
    values = np.array([value for _, value in BFLOAT16], "f4").reshape(2, 4)
    np.savez(tmp_path / "file.npz", half=bits.view("V2"))
    header = {"half": {"dtype": "BF16", "shape": [2, 4], "data_offsets": [0, 16]}}
    raw_file(tmp_path / "file.safetensors", header, bits.tobytes())
    for ending in ENDINGS:
        half = read_arrays(tmp_path / f"file{ending}")[0]["half"]
        assert half.dtype == np.float32
        assert half.tobytes() == values.tobytes()


def test_the_other_byte_order_is_turned_into_this_machines(tmp_path):
    np.savez(tmp_path / "file.npz", a=np.arange(3, dtype=">f4"), b=np.arange(3, dtype=">f8"))
    arrays, _ = read_arrays(tmp_path / "file.npz")
    assert {name: array.dtype.str for name, array in arrays.items()} == {"a": "<f4", "b": "<f8"}
    assert all(np.array_equal(array, [0, 1, 2]) for array in arrays.values())


# --- no copies -------------------------------------------------------------------------------


def root_of(array):
    """What an array is in the end a view of."""
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return array


def test_the_arrays_of_safetensors_are_the_file_in_memory(tmp_path):
    path = tmp_path / "file.safetensors"
    save_file({n: a for n, a in some_arrays().items() if a.size}, path)
    arrays, _ = read_arrays(path)
    roots = [root_of(array) for array in arrays.values()]
    assert all(isinstance(root, mmap.mmap) for root in roots)
    assert all(root is roots[0] for root in roots)


@pytest.mark.parametrize("layout", ["minivit", "google", "timm", "huggingface"])
def test_the_kernels_of_a_model_are_the_file_in_memory(tmp_path, layout):
    path = tmp_path / "model.safetensors"
    tiny().save(path, layout)
    before = path.read_bytes()
    flat = flatten(ViT.load(path).params)
    mapped = {name for name, leaf in flat.items() if isinstance(root_of(leaf), mmap.mmap)}
    copied = {
        "minivit": set(),
        "timm": {"patch_embedding/kernel"},  # other order of four axes
        "google": {f"blocks/0/attention/qkv/{leaf}" for leaf in ("kernel", "bias")},
        "huggingface": {f"blocks/0/attention/qkv/{leaf}" for leaf in ("kernel", "bias")}
        | {"patch_embedding/kernel"},
    }[layout]
    assert flat.keys() - mapped == copied
    for leaf in flat.values():
        leaf += 1  # it can be written into
    assert path.read_bytes() == before
    assert not np.array_equal(flat["norm/bias"], flatten(ViT.load(path).params)["norm/bias"])


def test_arrays_at_odd_places_are_aligned(tmp_path):
    header = {
        "a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [2, 10]},
        "c": {"dtype": "F64", "shape": [1], "data_offsets": [10, 18]},
    }
    data = np.float16([1]).tobytes() + np.float32([2, 3]).tobytes() + np.float64([4]).tobytes()
    raw_file(tmp_path / "file.safetensors", header, data)
    arrays, _ = read_arrays(tmp_path / "file.safetensors")
    found = {name: array.tolist() for name, array in arrays.items()}
    assert found == {"a": [1], "b": [2, 3], "c": [4]}
    assert all(array.flags.aligned for array in arrays.values())


# --- damaged .safetensors --------------------------------------------------------------------


def raw_file(path, header, data=b"", length=None):
    """A .safetensors file of these parts; `length` is what it says of its header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def tensor(shape, offsets, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "data", "length", "words"),
    [
        (b"", b"", None, "is damaged"),
        (b"{garbage", b"", None, "is damaged"),
        (b"\xff\xfe", b"", None, "is damaged"),
        ([1], b"", None, "is damaged"),
        (b"[" * 100_000, b"", None, "is damaged"),
        ({}, b"", None, "holds no arrays"),
        ({"__metadata__": {"format": "pt"}}, b"", None, "holds no arrays"),
        ({"__metadata__": {"a": 1}, "a": tensor([1], [0, 4])}, b"1234", None, "is damaged"),
        ({}, b"", 1_000_000, "is damaged"),
        ({}, b"", 100_000_001, "is damaged"),
        ({}, b"", 2**63, "is damaged"),
        ({}, b"", 2**64 - 1, "is damaged"),
        ({"x": tensor([4], [0, 16])}, b"1234", None, "'x' ends at byte 16 of the data"),
        ({"x": tensor([1], [4, 0])}, b"1234", None, "'x'"),
        ({"x": tensor([3], [0, 4])}, b"1234", None, "'x' of shape (3,) lies in 4 bytes"),
        ({"x": tensor([-1], [0, 4])}, b"1234", None, "'x' of shape (-1,)"),
        ({"x": tensor([1.5], [0, 4])}, b"1234", None, "'x' of shape (1.5,)"),
        ({"x": tensor([2**40, 2**40], [0, 4])}, b"1234", None, "'x' of shape"),
        ({"x": tensor([1] * 70, [0, 4])}, b"1234", None, "'x' is no array here"),
        ({"x": tensor([0, 2**63], [0, 0])}, b"", None, "'x' is no array here"),
        ({"x": tensor([1], [0, 4]), "y": tensor([1], [2, 6])}, b"123456", None, "`y`"),
        ({"x": tensor([1], [0, 4]), "y": tensor([1], [0, 4])}, b"1234", None, "tensor `"),
        ({"x": tensor([1], [0, 4]), "y": tensor([1], [8, 12])}, b"1" * 12, None, "`y`"),
        ({"x": tensor([1], [4, 8])}, b"1" * 8, None, "`x`"),
        ({"x": tensor([1], [0, 4])}, b"1" * 5, None, "not fully covered"),
        ({"x": {"dtype": "F32", "shape": [1]}}, b"1234", None, "is damaged"),
        ({"x": tensor("one", [0, 4])}, b"1234", None, "is damaged"),
        ({"x": tensor([1], [0, 4], "F99")}, b"1234", None, "is damaged"),
        ({"x": tensor([1], [0, 1], "BOOL")}, b"1", None, "'x' is BOOL, expected floats"),
        ({"x": tensor([1], [0, 8], "I64")}, b"1" * 8, None, "'x' is I64, expected floats"),
        ({"x": tensor([4], [0, 4], "F8_E4M3")}, b"1234", None, "'x' is F8_E4M3, expected floats"),
        ({"x": tensor([1], [0, 4])}, b"1234", None, "has no names of a Vision Transformer: x"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_safetensors_file_that_is_not_right(tmp_path, header, data, length, words):
    path = tmp_path / "file.safetensors"
    raw_file(path, header, data, length)
    assert words in refusal(path)


@pytest.mark.parametrize("content", [b"", b"1234567", b"\0" * 8, b"\xff" * 8, b"\xff" * 99])
def test_a_safetensors_file_that_is_hardly_one(tmp_path, content):
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)
    assert "is damaged" in refusal(path)


@pytest.mark.parametrize("layout", ["minivit", "google", "timm", "huggingface"])
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path, layout):
    path = tmp_path / "model.safetensors"
    tiny().save(path, layout)
    whole = path.read_bytes()
    data = 8 + int.from_bytes(whole[:8], "little")
    edges = [0, 1, 7, 8, 9, data - 1, data, data + 1, len(whole) - 4, len(whole) - 1]
    for end in [*edges, *range(10, len(whole), 199)]:
        path.write_bytes(whole[:end])
        message = refusal(path)
        assert "is damaged" in message
        assert ("' ends at byte " in message) == (end >= data)  # it is named, once it can be
    path.write_bytes(whole + b"\0")
    assert "is damaged" in refusal(path)


def test_a_flipped_bit_of_a_header_is_refused_or_without_consequence(tmp_path):
    path = tmp_path / "model.safetensors"
    model = tiny()
    model.save(path, "timm")
    whole = path.read_bytes()
    places = np.random.default_rng(5).integers(0, 8 + int.from_bytes(whole[:8], "little"), 150)
    unharmed = 0
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
            unharmed += 1
            assert found.params.keys() == model.params.keys()
            # What can be exchanged unseen is two arrays of one shape, by their names: no checksum
            assert sum(leaf.size for leaf in flatten(found.params).values()) == sum(
                leaf.size for leaf in flatten(model.params).values()
            )
    assert unharmed < 60


# --- damaged .npz ----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["google", "timm", "huggingface"])
def test_a_truncated_archive_is_refused(tmp_path, layout):
    path = tmp_path / "model.npz"
    tiny().save(path, layout)
    whole = path.read_bytes()
    for end in [*range(0, len(whole), 499), len(whole) - 1]:
        path.write_bytes(whole[:end])
        assert "is no .npz file, or only the beginning of one" in refusal(path)


def npy(header, data=b""):
    """An entry of an archive, with a header that may lie."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue() + data


@pytest.mark.parametrize(
    "header",
    [
        {"descr": "<f4", "fortran_order": False, "shape": (10**14,)},
        {"descr": "<f4", "fortran_order": False, "shape": (2**62, 4)},
        {"descr": "<f4", "fortran_order": False, "shape": (5,)},
        {"descr": "<f4", "fortran_order": False, "shape": (-1,)},
        {"descr": "<f4", "fortran_order": False, "shape": (1,) * 70},
        {"descr": "|O", "fortran_order": False, "shape": (1,)},
        {"descr": "nonsense", "fortran_order": False, "shape": (1,)},
    ],
    ids=str,
)
def test_an_entry_whose_header_lies_is_refused(tmp_path, header):
    path = tmp_path / "model.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cls.npy", npy(header, bytes(16)))
    refusal(path)


def test_an_entry_of_much_nothing_is_read_and_refused_for_its_shape(tmp_path):
    path = tmp_path / "model.npz"
    model = tiny()
    model.save(path, "google")
    with np.load(path) as file:
        arrays = dict(file)
    np.savez_compressed(path, **arrays | {"head/bias": np.zeros(20_000_000, "f")})
    assert path.stat().st_size < 200_000
    assert "'head/bias' is (20000000,), expected (5,)" in refusal(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name_are_refused(tmp_path):
    path = tmp_path / "model.npz"
    tiny().save(path, "google")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("cls.npy", archive.read("cls.npy"))
    assert "'cls' twice" in refusal(path)


def test_an_empty_file_and_one_of_something_else(tmp_path):
    for ending in ENDINGS:
        for content in (b"", b"hello", bytes(1000)):
            path = tmp_path / f"model{ending}"
            path.write_bytes(content)
            refusal(path)


# --- places ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_folder_with_the_name_of_a_file(tmp_path, ending):
    path = tmp_path / f"model{ending}"
    path.mkdir()
    with pytest.raises(FileNotFoundError, match=r"there is no model.safetensors in .*model"):
        ViT.load(path)
    with pytest.raises(OSError, match=str(path)):
        tiny().save(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["none.npz", "none.safetensors", "none.pth", "none"])
def test_a_file_that_is_not_there(tmp_path, name):
    with pytest.raises(FileNotFoundError) as error:
        ViT.load(tmp_path / name)
    assert str(error.value) == f"there is no file {tmp_path / name}"


@pytest.fixture
def as_nobody():
    """A folder that all may read, and a user who is not its owner, even where root runs this."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)
        if os.getuid() == 0:
            os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="there are no such users here")
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_may_not_be_read_is_named(as_nobody, capsys, ending):
    path = as_nobody / f"model{ending}"
    tiny().save(path)
    path.chmod(0)
    if os.getuid() == 0:
        os.seteuid(65534)
    with pytest.raises(PermissionError) as error:
        ViT.load(path)
    assert error.value.filename == str(path)
    assert main(["attention", "--weights", str(path)]) == 1
    assert capsys.readouterr().err == f"minivit: error: {path}: Permission denied\n"


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="there are no such users here")
@pytest.mark.parametrize("layout", ["minivit", "huggingface"])
def test_a_folder_that_may_not_be_written_is_named(as_nobody, layout):
    as_nobody.chmod(0o555)
    if os.getuid() == 0:
        os.seteuid(65534)
    with pytest.raises(PermissionError) as error:
        tiny().save(as_nobody / "model", layout)
    assert error.value.filename == str(as_nobody / "model")


# --- pickles are never opened ----------------------------------------------------------------


class Bomb:
    """To unpickle it is to create a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("ending", [".pth", ".pt", ".bin", ".ckpt", ".pkl", ".npz", ".safetensors"])
def test_a_pickle_is_refused_and_not_run(tmp_path, ending):
    target = tmp_path / "exploded"
    raw = pickle.dumps(Bomb(target))
    pickle.loads(raw)
    assert target.exists(), "the bomb is none"
    target.unlink()
    path = tmp_path / f"model{ending}"
    path.write_bytes(raw)
    refusal(path)
    with zipfile.ZipFile(path, "w") as archive:  # as PyTorch writes it today
        archive.writestr("archive/data.pkl", raw)
    message = refusal(path)
    assert not target.exists()
    if ending not in ENDINGS:
        assert f"torch.load('{path}', weights_only=True)" in message
        assert f"s.save_file(t.get('model', t), '{path.with_suffix('.safetensors')}')" in message
        assert message.startswith(f"{path} is pickled, and so can run code: convert it where")


@pytest.mark.parametrize("name", ["model.pth", "model.pt", "model.bin", "model.PTH"])
@pytest.mark.parametrize("layout", ["minivit", "google", "timm"])
def test_nothing_is_saved_under_the_name_of_a_pickle(tmp_path, name, layout):
    with pytest.raises(ValueError, match="is a name for pickles"):
        tiny().save(tmp_path / name, layout)
    assert not list(tmp_path.iterdir())


# --- saving: whole, or not at all ------------------------------------------------------------


def disk_is_full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def library_finds_the_disk_full(arrays, name, metadata):
    Path(name).write_bytes(b"the beginning")
    raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")


def stopped(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize("layout", ["minivit", "google", "timm", "huggingface"])
@pytest.mark.parametrize(
    ("module", "name", "failure", "error"),
    [
        (files, "save_file", library_finds_the_disk_full, OSError),
        (files, "save_file", stopped, KeyboardInterrupt),
        (os, "fsync", disk_is_full, OSError),
        (os, "replace", disk_is_full, OSError),
        (os, "replace", stopped, KeyboardInterrupt),
    ],
)
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch, layout, module, name, failure, error
):
    path = tmp_path / "model.safetensors"
    tiny().save(path, layout)
    old = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(module, name, failure)
        for target in (path, tmp_path / "new.safetensors"):
            with pytest.raises(error) as caught:
                tiny(depth=2).save(target, layout)
            if error is OSError:
                assert "No space left on device" in str(caught.value)
                assert caught.value.filename == str(target)
                assert ".tmp" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == old


def test_a_mapped_file_can_be_replaced_by_what_was_read_from_it(tmp_path):
    path = tmp_path / "model.safetensors"
    first = tiny()
    first.save(path)
    mapped = ViT.load(path)
    mapped.save(path)
    tiny(depth=2).save(path)  # and then by something else
    assert same(flatten(mapped.params), flatten(first.params))
    assert ViT.load(path).config.depth == 2
