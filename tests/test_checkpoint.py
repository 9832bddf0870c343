"""Checkpoints: the same bits back, every damage refused in words, and never half a file."""

import dataclasses
import errno
import io
import json
import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from minivit import ViT, ViTConfig, flatten
from minivit.weights import CheckpointError, load, load_training, save

TINY = {
    "image_size": (4, 6), "patch_size": 2, "channels": 2, "classes": 5,
    "width": 8, "depth": 2, "heads": 2, "mlp_width": 40,
}  # fmt: skip


def tiny(dtype="float32", **fields):
    return ViT.create(ViTConfig(**TINY | fields), dtype=dtype)


def same_bits(one, other):
    one, other = flatten(one), flatten(other)
    return one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype and one[n].tobytes() == other[n].tobytes() for n in one
    )


@pytest.fixture
def path(tmp_path):
    """A checkpoint, alone in its folder."""
    tiny().save(tmp_path / "model.npz")
    return tmp_path / "model.npz"


# --- there and back --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"positions": "2d", "hidden_head": 3},
        {"positions": "relative", "pooling": "mean", "gelu": "erf", "dropout": 0.1},
        {"positions": "sincos2d", "norm_eps": 1e-5},
        {"depth": 12, "image_size": 4},  # blocks/10 comes before blocks/2 in the alphabet
    ],
    ids=str,
)
def test_what_is_loaded_is_what_was_saved(tmp_path, dtype, fields):
    model = tiny(dtype, **fields)
    flatten(model.params)["norm/bias"][:] = np.pi
    model.save(tmp_path / "model.npz")
    loaded = ViT.load(tmp_path / "model.npz")
    assert loaded.config == model.config
    assert same_bits(loaded.params, model.params)
    images = np.ones((1, *model.config.image_size, 2), dtype)
    assert np.array_equal(loaded(images), model(images))


def test_a_saved_model_saved_again_is_the_same_file(path, tmp_path):
    ViT.load(str(path)).save(str(tmp_path / "again.npz"))
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()


def test_a_checkpoint_is_plain_arrays_under_their_names(path):
    with np.load(path, allow_pickle=False) as file:
        names = set(file.files)
        fields = json.loads(str(file["config"]))
    assert names == {"config"} | {f"params/{name}" for name in flatten(tiny().params)}
    assert "params/blocks/1/attention/qkv/kernel" in names
    assert fields == dataclasses.asdict(tiny().config) | {"image_size": [4, 6]}


def test_what_a_training_leaves_comes_back_and_is_no_parameter(path):
    model = tiny()
    training = {"m": np.arange(3.0), "progress": np.array("{}")}
    save(path, model.config, model.params, training)
    found = load_training(path)
    assert found.keys() == training.keys()
    assert np.array_equal(found["m"], training["m"])
    assert same_bits(load(path)[1], model.params)
    model.save(path)
    assert load_training(path) == {}


def test_a_loaded_model_can_be_written_into(path):
    model = ViT.load(path)
    for leaf in flatten(model.params).values():
        leaf += 1


# --- damage ----------------------------------------------------------------------------------


def refusal(path):
    """The message of the one error that a damaged file gives: one line that names the file."""
    with pytest.raises(CheckpointError) as error:
        ViT.load(path)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("share", np.linspace(0, 0.999, 40))
def test_a_truncated_file_is_refused(path, share):
    raw = path.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])
    assert "no .npz file, or only the beginning of one" in refusal(path)


def loads_as_if_nothing_had_happened(path):
    """Or else it is refused: there is no third."""
    try:
        config, params = load(path)
    except CheckpointError:
        refusal(path)
        return False
    assert config == tiny().config
    assert same_bits(params, tiny().params)
    return True


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80, 0xFF])
def test_a_flipped_byte_is_refused_or_without_consequence(path, mask):
    raw = path.read_bytes()
    places = np.random.default_rng(mask).integers(0, len(raw), 60)
    harmless = 0
    for place in map(int, places):
        damaged = bytearray(raw)
        damaged[place] ^= mask
        path.write_bytes(damaged)
        harmless += loads_as_if_nothing_had_happened(path)
    assert harmless < 30  # times and version numbers of the archive, that nobody reads


def test_a_bit_that_says_encrypted_is_refused(path):
    raw = bytearray(path.read_bytes())
    entry = raw.index(b"PK\x01\x02")  # in the archive's list, at the end
    raw[entry + 8] ^= 1
    path.write_bytes(raw)
    assert "encrypted" in refusal(path)


@pytest.mark.parametrize(
    "text", [b"", b"hello", b"PK", b"PK\x05\x06", pickle.dumps([1, 2, 3]), b"\x93NUMPY\x01\x00"]
)
def test_what_is_no_archive_is_refused(path, text):
    path.write_bytes(text)
    assert "no .npz file" in refusal(path)


def test_an_archive_of_something_else_is_refused(path):
    write_entries(path, {"hello.txt": b"world"})
    assert "hello" in refusal(path)


def test_an_empty_archive_is_refused(path):
    write_entries(path, {})
    refusal(path)


def test_an_archive_behind_other_bytes_is_refused(path):
    raw = path.read_bytes()
    path.write_bytes(b"hello" + raw)
    refusal(path)


def entries_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_entries(path, entries):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def test_the_order_in_the_archive_does_not_matter(path):
    write_entries(path, dict(reversed(entries_of(path).items())))
    assert same_bits(load(path)[1], tiny().params)


@pytest.mark.parametrize("name", ["config.npy", "params/head/kernel.npy"])
@pytest.mark.parametrize("byte", list(b"(9'\x00\xff"))
def test_an_entry_whose_head_is_damaged_is_refused(path, name, byte):
    # Its checksum is right, as it is when the damage is older than the archive.
    entries = entries_of(path)
    for place in range(0, 128, 5):
        damaged = bytearray(entries[name])
        damaged[place] = byte
        write_entries(path, entries | {name: bytes(damaged)})
        loads_as_if_nothing_had_happened(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY"])
def test_an_entry_that_is_no_array_is_refused(path, content):
    write_entries(path, entries_of(path) | {"params/norm/bias.npy": content})
    refusal(path)


def rewrite(path, **changes):
    """Save the arrays again, some replaced; None takes one away. Names with __ for /."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    arrays |= {name.replace("__", "/"): array for name, array in changes.items()}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"params__norm__bias": None}, "the array 'norm/bias' is missing"),
        ({"params__blocks__1__norm1__scale": None}, "the array 'blocks/1/norm1/scale' is missing"),
        ({"params__norm__size": np.zeros(8)}, "the array 'norm/size' is unknown"),
        ({"params__blocks__2__norm1__scale": np.zeros(8)}, "'blocks/2/norm1/scale' is unknown"),
        ({"params__norm": np.zeros(8)}, "the array 'norm' is unknown"),
        ({"params__": np.zeros(8)}, "the array '' is unknown"),
        ({"params__norm__bias": np.zeros(9, "f")}, r"'norm/bias' is \(9,\), expected \(8,\)"),
        ({"params__norm__bias": np.zeros((8, 1), "f")}, r"'norm/bias' is \(8, 1\), expected"),
        ({"params__norm__bias": np.float32(0)}, r"'norm/bias' is \(\), expected \(8,\)"),
        ({"params__norm__bias": np.zeros(8, "i4")}, "not all floats of one kind"),
        ({"params__norm__bias": np.zeros(8, "f8")}, "not all floats of one kind"),
        ({"params__norm__bias": np.zeros(8, "c8")}, "not all floats of one kind"),
        ({"params__norm__bias": np.array(["x"] * 8)}, "not all floats of one kind"),
        ({"params__norm__bias": np.full(8, np.nan, "f")}, "'norm/bias' has entries that are NaN"),
        ({"params__norm__bias": np.float32([0] * 7 + [np.inf])}, "NaN or infinite"),
        (
            {"params__norm__bias": np.float32([np.inf, -np.inf] * 4)},  # their sum is NaN
            "'norm/bias' has entries that are NaN or infinite",
        ),
        ({"config": None}, "is no minivit checkpoint: it has no 'config'"),
        ({"config": np.array("")}, "its 'config' cannot be used"),
        ({"config": np.array('{"width": 8')}, "its 'config' cannot be used"),
        ({"config": np.array("null")}, "its 'config' cannot be used"),
        ({"config": np.array("[4]")}, "its 'config' cannot be used"),
        ({"config": np.array("[" * 100_000)}, "its 'config' cannot be used"),
        ({"config": np.zeros(3)}, "its 'config' cannot be used"),
        ({"config": np.array('{"colour": 3}')}, "its 'config' cannot be used"),
        ({"config": np.array('{"width": 8, "heads": 3}')}, "cannot be shared among 3 heads"),
        ({"config": np.array('{"dropout": "much"}')}, "its 'config' cannot be used"),
        ({"config": np.array(json.dumps(TINY | {"depth": 3}))}, "blocks/2/.*' is missing"),
        ({"config": np.array(json.dumps(TINY | {"depth": 1}))}, "blocks/1/.*' is unknown"),
        ({"config": np.array(json.dumps(TINY | {"classes": 6}))}, "'head/.*' is .*5.*, expected"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_an_archive_that_is_no_whole_model_is_refused(path, changes, message):
    rewrite(path, **changes)
    assert re.search(message, refusal(path))


def test_all_arrays_of_a_kind_that_is_no_float_are_refused(path):
    with np.load(path) as file:
        names = [name for name in file.files if name != "config"]
        whole = {name.replace("/", "__"): file[name].astype("i4") for name in names}
    rewrite(path, **whole)
    assert "not all floats of one kind" in refusal(path)


def test_a_missing_file_is_named(tmp_path):
    for place in (tmp_path / "none.npz", tmp_path):  # a folder is no file
        with pytest.raises(FileNotFoundError) as error:
            ViT.load(place)
        assert str(place) in str(error.value)


# --- pickles are never run -------------------------------------------------------------------


class Bomb:
    """To unpickle it is to create a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.fixture
def bomb(tmp_path):
    """An array with a live bomb in it, and the file that it creates."""
    target = tmp_path / "exploded"
    array = np.empty(1, dtype=object)
    array[0] = Bomb(target)
    pickle.loads(pickle.dumps(array))
    assert target.exists(), "the bomb is none"
    target.unlink()
    return array, target


@pytest.mark.parametrize("name", ["config", "params__norm__bias", "training__m", "extra"])
def test_a_pickled_object_inside_is_refused_and_not_run(path, bomb, name):
    array, target = bomb
    rewrite(path, **{name: array})
    assert "pickled objects" in refusal(path)
    with pytest.raises(CheckpointError):
        load_training(path)
    assert not target.exists()


def test_a_pickled_array_with_the_name_of_an_archive_is_refused_and_not_run(path, bomb):
    array, target = bomb
    with path.open("wb") as file:
        np.save(file, array)
    refusal(path)
    path.write_bytes(pickle.dumps(array))
    refusal(path)
    assert not target.exists()


def test_a_pickle_in_front_of_an_archive_is_refused_and_not_run(path, bomb):
    array, target = bomb
    path.write_bytes(pickle.dumps(array) + path.read_bytes())
    refusal(path)
    assert not target.exists()


# --- saving: whole, or not at all ------------------------------------------------------------


def half_an_archive(file, **arrays):
    file.write(b"PK\x03\x04 and so on")
    raise OSError(errno.ENOSPC, "No space left on device")


def stopped(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("module", "name", "failure", "error"),
    [
        (np, "savez", half_an_archive, OSError),
        (np, "savez", stopped, KeyboardInterrupt),
        (os, "fsync", stopped, KeyboardInterrupt),
        (os, "replace", stopped, KeyboardInterrupt),
        (os, "replace", lambda *args: os.stat("/nowhere/at/all"), OSError),
    ],
)
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(
    path, monkeypatch, module, name, failure, error
):
    old = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(module, name, failure)
        with pytest.raises(error):
            tiny(depth=1).save(path)
        with pytest.raises(error):
            tiny().save(path.with_name("new.npz"))
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == old


def test_an_interruption_just_after_the_renaming_is_still_an_interruption(path, monkeypatch):
    real = os.replace

    def replace_and_stop(*args):
        real(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace_and_stop)
    with pytest.raises(KeyboardInterrupt):
        tiny(depth=1).save(path)
    assert list(path.parent.iterdir()) == [path]
    assert ViT.load(path).config.depth == 1


def test_a_file_is_only_ever_replaced_by_a_whole_one(path, monkeypatch):
    real, seen = os.replace, []

    def replace(source, target):
        seen.append(ViT.load(source).config.depth)  # whole before it has the name
        assert Path(source).parent == Path(target).parent  # else a renaming is a copy
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    tiny(depth=1).save(path)
    assert seen == [1]


@pytest.mark.parametrize("place", ["nowhere/model.npz", "model.npz/below", "."])
def test_a_place_that_cannot_be_written_is_an_error_that_names_it(path, place):
    target = path.parent / place
    before = sorted(path.parent.iterdir())
    with pytest.raises(OSError) as error:  # noqa: PT011, the message is looked at below
        tiny().save(target)
    assert str(target) in str(error.value)
    assert ".tmp" not in str(error.value)
    assert sorted(path.parent.iterdir()) == before


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_file_has_the_mode_that_the_umask_asks_for(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        tiny().save(tmp_path / "model.npz")
        assert os.umask(mask) == mask  # and saving has left the mask as it was
    finally:
        os.umask(before)
    assert (tmp_path / "model.npz").stat().st_mode & 0o777 == mode


def test_the_bytes_of_a_checkpoint_hold_no_pickle(path):
    for name, content in entries_of(path).items():
        array = np.load(io.BytesIO(content), allow_pickle=False)
        assert array.dtype.kind in "fU", name
