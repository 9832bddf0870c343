"""Readers of mutated files return a valid result or raise FileError, within 5 s and 1 GB per file.

A file is determined by its reader and its index. It is mutated in a random way that depends on
both, and read in a process of which time and memory are limited. This command reads one file again:

    python tests/test_mutated_files.py READER INDEX
"""

import contextlib
import dataclasses
import gzip
import io
import itertools
import json
import math
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from helpers.files import write_tree
from helpers.loopback import cifar_files, idx_arrays, make_records, make_tar, small_cifar, to_idx
from helpers.models import tiny_model
from helpers.mutations import join_tensors, mutate
from PIL import Image, features

from minivit import ViT, data, flatten, training, weights
from minivit.cli.option_file import read_tokens
from minivit.data import FolderImages, read_image, read_labels
from minivit.data.cifar import CIFAR10, CIFAR100, load_records, unpack
from minivit.data.dataset import fingerprint
from minivit.data.mnist import read_idx
from minivit.files import FileError
from minivit.terminal import UNSAFE
from minivit.training.log import COLUMNS, repair_log
from minivit.training.progress import Progress
from minivit.training.run import create_run, restore_run
from minivit.weights import export, google, huggingface

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux"),
]

ROOT = Path(__file__).parents[1]
SECONDS = 5  # of CPU time per file
HANGING = 60  # seconds after which a process that does not return to Python is killed
MEMORY = 10**9  # bytes of address space per file
CHUNK, WORKERS = 500, 2  # files per process, and processes at a time
MAX_FAILURES = 10  # per chunk
MAX_MESSAGE = 10_000  # characters; an array name in a message may be long
PRINTED = "warning: ", "note: ", "skipped: "  # start of each line that a reader prints to stderr


class Seed(NamedTuple):
    """A valid input: the files {name: content} of a folder, and options for the reader.

    mutable: the names of the files that may be mutated, by default all of them.
    """

    name: str
    files: dict[str, bytes]
    options: dict = {}  # noqa: RUF012, not changed
    mutable: tuple[str, ...] = ()


class Reader(NamedTuple):
    """A reader, and the number of mutated files.

    read(folder, seed, rng) reads the files of a folder and checks the result.
    """

    count: int
    make_seeds: Callable[[], list[Seed]]
    read: Callable[[Path, Seed, random.Random], None]


class TimeLimit(BaseException):
    """A file took too long. Readers do not catch this exception."""


# --- models -----------------------------------------------------------------------------------
MODELS = {
    "plain": {}, "2d": {"positions": "2d", "depth": 2}, "sincos2d": {"positions": "sincos2d"},
    "relative": {"positions": "relative", "pooling": "mean"}, "mean": {"pooling": "mean"},
    "no positions": {"positions": "none", "image_size": (8, 4)},
    "hidden": {"hidden_head": 6, "qkv_bias": False}, "headless": {"classes": None},
    "root": {"stem": (), "stem_width": 32, "patch_size": 2, "image_size": 16},
    "hybrid": {"stem": (1,), "stem_width": 32, "patch_size": 2, "image_size": 16},
}  # fmt: skip
FOREIGN = "plain", "mean", "sincos2d", "hidden", "headless", "root", "hybrid"
EPOCH = {**dict.fromkeys(COLUMNS, 0.5), "epoch": 1, "step": 3}


def make_npz(arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def make_tensors(arrays, config=None):
    """Return a .safetensors file. Unlike the library, it sorts the metadata."""
    header, parts, end = {}, [], 0
    for name, array in arrays.items():
        parts.append(array.tobytes())
        start, end = end, end + array.nbytes
        dtype = {"<f2": "F16", "<f4": "F32", "<f8": "F64"}[array.dtype.str]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [start, end]}
    if config is not None:
        header["__metadata__"] = {"config": config, "format": "pt"}
    return join_tensors(header, b"".join(parts))


def make_configuration(config):
    return json.dumps(dataclasses.asdict(config))


def scan(arrays):
    """Return the authors' arrays as big_vision stores them: one array for all blocks."""
    scanned = {}
    for name, array in arrays.items():
        before, _, after = name.partition("encoderblock_0/")
        if name == google.POSITIONS:
            first = int("cls" in arrays)  # there is no position of the class token
            scanned["params/pos_embedding"] = array[:, first:]
        elif after:
            scanned[f"params/{before}encoderblock/{after}"] = array[None]
        else:
            scanned[f"params/{name}"] = array
    return scanned


def make_model_seeds():
    seeds = []
    for kind, fields in MODELS.items():
        model = tiny_model("float16" if kind == "hidden" else "float32", **fields)
        arrays = {f"params/{name}": leaf for name, leaf in flatten(model.params).items()}
        text = make_configuration(model.config)
        npz = make_npz({"config": np.array(text)} | arrays)
        seeds.append(Seed(f"minivit {kind} npz", {"model.npz": npz}))
        tensors = make_tensors(arrays, text)
        seeds.append(Seed(f"minivit {kind} tensors", {"model.safetensors": tensors}))
    for layout, kind in itertools.product(("google", "timm", "huggingface"), FOREIGN):
        model = tiny_model("float32", **MODELS[kind])
        c = model.config
        params, stored = model.params, c
        if c.positions != "1d":  # the layout has no name for a missing table
            stored = dataclasses.replace(c, positions="none", pooling=c.pooling)
        arrays, text = export(params, stored, layout), make_configuration(stored)
        fields = {"heads": c.heads, "gelu": c.gelu, "norm_eps": c.norm_eps}
        fields |= {"positions": stored.positions, "image_size": c.image_size}
        if stored is c:
            npz = make_npz({"config": np.array(text)} | arrays)
            seeds.append(Seed(f"{layout} {kind} npz", {"model.npz": npz}))
        seeds.append(Seed(f"{layout} {kind} bare npz", {"model.npz": make_npz(arrays)}, fields))
        tensors = make_tensors(arrays)
        seeds.append(Seed(f"{layout} {kind} tensors", {"model.safetensors": tensors}, fields))
        if layout == "google":
            for name, content in (
                ("model.npz", make_npz(scan(arrays))),
                ("model.safetensors", make_tensors(scan(arrays))),
            ):
                seeds.append(Seed(f"big_vision {kind}", {name: content}, fields))
    return seeds


def make_folder_seeds():
    seeds = []
    for kind in ("plain", "headless", "hidden", "hybrid"):
        fields = MODELS[kind] | {"channels": 3, "norm_eps": 1e-5}
        model = tiny_model("float32", **{"classes": 2} | fields)
        c = model.config
        arrays = export(model.params, c, "huggingface")
        for config in (None, make_configuration(c)):
            files = {
                "config.json": json.dumps(huggingface.make_config(c)).encode(),
                "preprocessor_config.json": json.dumps(huggingface.make_processor(c)).encode(),
                "model.safetensors": make_tensors(arrays, config),
            }
            mutable = "config.json", "config.json", "preprocessor_config.json", "model.safetensors"
            seeds.append(Seed(kind, files, mutable=mutable))
    return seeds


def check_model(model):
    """Check that the parameters are finite and that the model can be evaluated."""
    assert all(np.isfinite(leaf).all() for leaf in flatten(model.params).values())
    shape = 1, *model.config.image_size, model.config.channels
    if model.config.tokens <= 1_000 and np.prod(shape) <= 10**6:
        with np.errstate(all="ignore"):  # finite parameters may be large
            output = model(np.zeros(shape, np.float32))
        assert len(output) == 1


def read_model(folder, seed, rng):
    (name,) = seed.files
    check_model(ViT.load(folder / name, **seed.options))


def read_model_folder(folder, seed, rng):
    check_model(ViT.load(folder))


# --- training runs ----------------------------------------------------------------------------
def make_run_seeds():
    """Return interrupted and complete runs. Only the checkpoint is mutated."""
    seeds, d = [], small_digits()
    for optimiser, ema in (("adamw", 0.9), ("sgd", 0)):
        model = tiny_model("float32")
        recipe = training.Recipe(epochs=4, optimiser=optimiser, ema=ema, freeze=True)
        run = create_run(model, d, recipe, Path(), 1)
        progress = Progress(1, 3, recipe, d.name, None, fingerprint(d), 1, 20, 2.5, 9.0)
        text = json.dumps(progress._asdict() | {"recipe": recipe.to_dict()})
        done = progress._asdict() | {"epoch": 4, "test_loss": 0.5, "test_accuracy": 0.75}
        done = json.dumps(done | {"recipe": recipe.to_dict()})
        arrays = {"config": np.array(make_configuration(model.config))}
        arrays |= {f"params/{name}": leaf for name, leaf in flatten(model.params).items()}
        log = {"training/log": np.array([list(EPOCH.values())])}
        vectors = {f"training/{name}": vector for name, vector in run.state.items()}
        interrupted = arrays | {"training/progress": np.array(text)} | log | vectors
        complete = arrays | {"training/progress": np.array(done)} | log
        kinds = {"interrupted": interrupted, "complete": complete, "version 0.1.0": arrays | log}
        for kind, checkpoint in kinds.items():
            for epochs in (0, 1):  # of the log file; a missing one is restored
                files = {"model.npz": make_npz(checkpoint), "log.csv": make_log(epochs)}
                seeds.append(Seed(f"{kind} {optimiser}", files, mutable=("model.npz",)))
    return seeds


@cache
def small_digits():
    return data.load_digits(n=20)


def make_log(epochs):
    rows = [[*COLUMNS], *([i + 1, 3 * i, *[0.25] * 6] for i in range(epochs))]
    return "".join(",".join(map(str, row)) + "\r\n" for row in rows).encode()


def read_run(folder, seed, rng):
    """Read a run. Restore an interrupted one as `resume` does."""
    arrays = weights.load_training(folder / "model.npz")
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
    progress = training.read_progress(folder)
    if progress is None or progress.complete:
        repair_log(folder)
    else:
        restore(folder, progress)


def restore(folder, progress):
    assert 0 <= progress.epoch < progress.recipe.epochs
    assert all(isinstance(n, int) for n in (*progress[:2], *progress[6:8]))
    for number in (progress.loss, progress.seconds):
        assert isinstance(number, (int, float)), f"{number!r:.99} is not a number"
        assert math.isfinite(number)
    run = create_run(ViT.load(folder / "model.npz"), small_digits(), progress.recipe, folder, 1)
    try:
        restore_run(run, progress)
    except FileError:
        raise
    except ValueError as error:  # the run used another data set
        if not re.search("was trained on|have changed since", str(error)):
            raise
        raise FileError(str(error)) from None
    assert all(np.isfinite(vector).all() for vector in run.state.values())


def make_log_seeds():
    names = "epoch,step,rate,loss,held_out_loss,held_out_accuracy,seconds\n"
    old = names.encode() + b"".join(b"%d,%d,0.1,0.5,0.5,0.75,2.5\n" % (i, 3 * i) for i in (1, 2, 3))
    return [Seed("log", {"log.csv": make_log(3)}), Seed("version 0.1.0", {"log.csv": old})]


def read_log_file(folder, seed, rng):
    rows = training.read_log(folder / "log.csv")
    for row in rows:
        assert {name: type(value) for name, value in row.items()} == COLUMNS


# --- data sets --------------------------------------------------------------------------------
def make_idx_seeds():
    images, labels, *_ = idx_arrays()
    arrays = {"images": images[:3], "labels": labels}
    return [
        Seed(kind, {f"{kind}{suffix}": pack(to_idx(array))}, {"shape": array.shape})
        for kind, array in arrays.items()
        for suffix, pack in (("", bytes), (".gz", partial(gzip.compress, mtime=0)))
    ]


def read_idx_file(folder, seed, rng):
    (name,), shape = seed.files, seed.options["shape"]
    array = read_idx(folder / name, shape, 10)
    if seed.name == "images":
        assert (array.shape, array.dtype) == ((*shape, 1), np.uint8)
    else:
        assert (array.shape, array.dtype) == (shape, np.int64)
        assert array.min() >= 0
        assert array.max() < 10


CIFAR100_SMALL = CIFAR100._replace(train={"train.bin": 3}, test={"test.bin": 2}, K=3)


def make_cifar_seeds():
    names = {f"{CIFAR100.folder}/fine_label_names.txt": b"apple\nbee\ncan\n"}
    files = {f"{CIFAR100.folder}/{n}.bin": make_records(k, 2) for n, k in CIFAR100_SIZES}
    return [
        Seed("CIFAR-10", cifar_files(), {"spec": small_cifar()[1]}),
        Seed("CIFAR-100", files | names, {"spec": CIFAR100_SMALL}),
    ]


CIFAR100_SIZES = ("train", 3), ("test", 2)


def read_cifar(folder, seed, rng):
    spec = seed.options["spec"]
    dataset = load_records(spec, 3, folder)
    assert dataset.images[:].shape == (3, 32, 32, 3)
    assert len(dataset.classes) == spec.K
    for labels in (dataset.labels, dataset.held_out_labels):
        assert labels.max() < spec.K


def make_archive_seeds():
    files = cifar_files()
    long = tarfile.TarInfo(f"{CIFAR10.folder}/{'x' * 200}")
    pax = tarfile.TarInfo(f"{CIFAR10.folder}/x")
    pax.pax_headers = {"mtime": "1.5", "comment": "ü" * 50}
    return [
        Seed("plain", {"cifar.tgz": make_tar(files)}),
        Seed("with long names", {"cifar.tgz": make_tar(files, long, pax)}),
    ]


def read_archive(folder, seed, rng):
    names, target = list(cifar_files()), folder / "unpacked"
    target.mkdir()
    unpack(folder / "cifar.tgz", names, target)
    assert sorted(os.listdir(target)) == sorted(Path(name).name for name in names)


def make_label_seeds():
    texts = ["cat\ndog\ngreat white shark\n", "\ufeff고양이\r\n개\r\n물고기"]
    return [Seed("labels", {"labels.txt": text.encode()}) for text in texts]


def read_label_file(folder, seed, rng):
    labels = read_labels(folder / "labels.txt", 3)
    assert len(labels) == 3
    assert all(isinstance(label, str) and "\n" not in label for label in labels)


OPTIONS = """\
# a recipe
--epochs 3 --batch-size=20
--out 'runs/two words' "--data=a
b"
--lr 1e-3  # peak
"""


def make_option_seeds():
    texts = OPTIONS, "--epochs=3\n--lr\n0.001\n", "--out\truns\\ 1\n'" + "#\n" * 20 + "'\n"
    return [Seed("options", {"options.txt": text.encode()}) for text in texts]


def read_option_file(folder, seed, rng):
    for line, token in list(read_tokens(str(folder / "options.txt"))):
        assert line >= 1
        assert not token.startswith("@")
        assert "\0" not in token


# --- images -----------------------------------------------------------------------------------
FAMILIES = "minivit", "google", "timm", "big_vision", "cropped"
SIZES = (8, 8), (12, 5), (32, 32)
NOISE = np.random.default_rng(3).integers(0, 256, (16, 12, 4), dtype=np.uint8)
RAMP = np.arange(192, dtype=np.uint16).reshape(16, 12)


def picture(mode):
    if mode == "I;16":
        return Image.fromarray(RAMP * 340)
    if mode in ("I", "F"):
        return Image.fromarray((RAMP * 340).astype(np.int32 if mode == "I" else np.float32))
    return Image.fromarray(NOISE).convert(mode)


def frames(mode):
    return {"save_all": True, "append_images": [picture(mode).rotate(180), picture(mode)]}


def exif():
    tags = Image.Exif()
    tags[0x0112] = 6  # the orientation
    return tags


def image_files():
    """Yield the name, suffix, picture and options of Pillow for each kind of image."""
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        yield f"PNG {mode}", "png", picture(mode), {}
    yield "PNG animated", "png", picture("RGBA"), frames("RGBA")
    yield "PNG EXIF", "png", picture("P"), {"exif": exif(), "transparency": 3, "bits": 8}
    for mode in ("L", "RGB", "CMYK"):
        yield f"JPEG {mode}", "jpg", picture(mode), {}
    yield "JPEG EXIF", "jpg", picture("RGB"), {"exif": exif(), "progressive": True}
    yield "MPO", "jpg", picture("RGB"), {"format": "MPO", **frames("RGB")}
    yield "GIF", "gif", picture("P"), {}
    yield "GIF animated", "gif", picture("RGBA"), {**frames("RGBA"), "disposal": 2}
    for mode in ("1", "P", "RGB", "RGBA"):
        yield f"BMP {mode}", "bmp", picture(mode), {}
    yield "DIB", "bmp", picture("RGB"), {"format": "DIB"}
    for mode in ("L", "P", "RGBA", "CMYK", "LAB", "I;16", "I", "F"):  # the last two are refused
        yield f"TIFF {mode}", "tiff", picture(mode), {}
    for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield f"TIFF {name}", "tiff", picture("RGB"), {"compression": name}
    yield "TIFF fax", "tiff", picture("1"), {"compression": "group4"}
    yield "TIFF big", "tiff", picture("RGB"), {"big_tiff": True, "exif": exif()}
    yield "TIFF frames", "tiff", picture("RGB"), frames("RGB")
    yield "TIFF 16 bits", "tiff", picture("I;16"), {"compression": "tiff_adobe_deflate"}
    for mode, suffix in {"1": "pbm", "L": "pgm", "RGB": "ppm", "I;16": "pgm", "F": "pfm"}.items():
        yield f"PPM {mode}", "ppm", picture(mode), {"format": "PPM"} if suffix != "pfm" else {}
    if features.check("webp"):
        yield "WebP", "webp", picture("RGB"), {}
        yield "WebP lossless", "webp", picture("RGBA"), {"lossless": True, "exif": exif()}
        yield "WebP animated", "webp", picture("RGBA"), frames("RGBA")
    if features.check("avif"):
        yield "AVIF", "avif", picture("RGB"), {"exif": exif()}
        yield "AVIF animated", "avif", picture("RGBA"), frames("RGBA")
    if features.check("jpg_2000"):
        for mode in ("L", "RGBA", "I;16"):
            yield f"JPEG 2000 {mode}", "jp2", picture(mode), {}
        yield "JPEG 2000 stream", "jp2", picture("RGB"), {"no_jp2": True}


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


def make_image_seeds():
    seeds = []
    for name, suffix, image, options in image_files():
        file = io.BytesIO()
        image.save(file, **{"format": Image.registered_extensions()[f".{suffix}"]} | options)
        refused = {"refused": True} if image.mode in ("I", "F") else {}
        seeds.append(Seed(name, {f"image.{suffix}": file.getvalue()}, refused))
    text = b"P3\n# a comment\n4 2\n255\n" + b"0 9 255 " * 8
    seeds.append(Seed("PPM text", {"image.ppm": text}))
    seeds.append(Seed("EPS", {"image.eps.png": POSTSCRIPT}, {"refused": True}))
    for suffix in ("ico", "tga", "pcx"):  # formats that are not supported
        file = io.BytesIO()
        picture("RGB").save(file, suffix)
        seeds.append(Seed(suffix, {f"image.{suffix}.png": file.getvalue()}, {"refused": True}))
    return seeds


def check_image(image, shape):
    assert (image.shape, image.dtype) == (shape, np.float32)
    assert np.isfinite(image).all()
    assert abs(image).max(initial=0) <= 1 + 1e-5


def read_image_file(folder, seed, rng):
    (name,), size, channels = seed.files, rng.choice(SIZES), rng.choice((1, 3))
    image = read_image(folder / name, size, channels, rng.choice(FAMILIES))
    check_image(image, (*size, channels))


@cache
def valid_image():
    file = io.BytesIO()
    picture("RGB").save(file, "PNG")
    return file.getvalue()


def read_image_folder(folder, seed, rng):
    """Read a data set with a valid image and a mutated one, which is skipped if it is damaged."""
    (name,), size, channels = seed.files, rng.choice(SIZES), rng.choice((1, 3))
    (folder / "valid.png").write_bytes(valid_image())
    files = [str(folder / "valid.png"), str(folder / name)]
    images = FolderImages(files, size, channels, rng.choice(FAMILIES), threads=1)
    batch, labels = data.take(images, np.arange(2), slice(None))
    assert labels.tolist() in ([0], [0, 1])
    assert images.unreadable == set(files[len(labels) :])
    check_image(batch, (len(labels), *size, channels))
    if len(labels) == 1:
        raise FileError("skipped")


LARGE = [  # format, mode, and options of Pillow
    ("PNG", "1", {}), ("PNG", "P", {"transparency": 1}), ("PNG", "L", {}), ("PNG", "LA", {}),
    ("PNG", "RGB", {}), ("PNG", "RGBA", {}), ("PNG", "I;16", {}), ("GIF", "P", {}),
    ("TIFF", "CMYK", {"compression": "tiff_adobe_deflate"}),
    ("TIFF", "I;16", {"compression": "tiff_lzw"}), ("JPEG", "RGB", {}), ("JPEG", "CMYK", {}),
]  # fmt: skip
SIDES = (7_071, 7_071), (65_500, 763), (763, 65_500)  # 65,500 is the limit of libjpeg


def make_large_seeds():
    """Return small images in which `enlarge` changes the size."""
    seeds = []
    for format, mode, options in LARGE:
        for sides, family in zip(SIDES, ("google", "minivit", "cropped"), strict=True):
            fields = {"mode": mode, "options": options, "sides": sides, "family": family}
            content = encode(format, mode, (9, 9), options)
            seeds.append(Seed(f"{format} {mode} {family}", {f"image.{format}": content}, fields))
    return seeds


def encode(format, mode, sides, options):
    file = io.BytesIO()
    Image.new(mode, sides).save(file, format, **options)
    return file.getvalue()


def enlarge(rng, seed, seeds):
    """Encode a black image with almost as many pixels as a file may have."""
    (name,), fields = seed.files, seed.options
    format, sides = name.partition(".")[2], fields["sides"]
    content = encode(format, fields["mode"], sides, fields["options"])
    return name, content, f"{seed.name}: {sides[0]} x {sides[1]} pixels"


def read_large_image(folder, seed, rng):
    (name,) = seed.files
    image = read_image(folder / name, (224, 224), 3, seed.options["family"])
    check_image(image, (224, 224, 3))


READERS = {
    "models": Reader(4_500, make_model_seeds, read_model),
    "model-folders": Reader(3_500, make_folder_seeds, read_model_folder),
    "images": Reader(5_000, make_image_seeds, read_image_file),
    "image-folders": Reader(900, make_image_seeds, read_image_folder),
    "large-images": Reader(len(LARGE) * len(SIDES), make_large_seeds, read_large_image),
    "idx": Reader(700, make_idx_seeds, read_idx_file),
    "cifar": Reader(500, make_cifar_seeds, read_cifar),
    "archives": Reader(900, make_archive_seeds, read_archive),
    "labels": Reader(400, make_label_seeds, read_label_file),
    "logs": Reader(600, make_log_seeds, read_log_file),
    "runs": Reader(2_400, make_run_seeds, read_run),
    "options": Reader(564, make_option_seeds, read_option_file),
}


# --- the process that reads files -------------------------------------------------------------
def check_message(message):
    assert message.strip(), "the message is empty"
    assert len(message) <= MAX_MESSAGE, f"the message has {len(message):,} characters"
    assert len(message.splitlines()) == 1, f"the message has several lines: {message!r}"
    assert not UNSAFE.search(message), f"the message has control characters: {message!r}"


def address_space(field="VmSize"):
    """Return the size of this process, or its maximum ("VmPeak"), in bytes."""
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) << 10


def raise_time_limit(*_):
    raise TimeLimit(f"more than {SECONDS} s of CPU time")


@contextlib.contextmanager
def write_files(parent, files):
    """Write files to a new folder, which is deleted at the end of the block."""
    with tempfile.TemporaryDirectory(dir=parent) as name:
        yield write_tree(Path(name), files)


def examine(reader, folder, seed, rng):
    """Read the files of a folder. Return "read", "refused" or "failed", and a message."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS, 1)
    signal.alarm(HANGING)
    outcome, text = "read", ""
    try:
        with contextlib.redirect_stderr(io.StringIO()) as err:
            try:
                reader.read(folder, seed, rng)
            except FileError as error:
                outcome, text = "refused", str(error)
                check_message(text)
        for line in err.getvalue().split("\n")[:-1]:
            assert line.startswith(PRINTED), f"stderr contains {line!r:.200}"
            check_message(line)
        return outcome, text
    except (Exception, TimeLimit) as error:
        return "failed", describe_error(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)


def describe_error(error):
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((f for f in reversed(frames) if "/minivit/" in f.filename), frames[-1])
    text = f"{type(error).__name__}: {error}"
    return f"{text:.300} ({Path(frame.filename).name}, line {frame.lineno})"


def make_file(name, index, seeds):
    """Return the seed, the file's name and content, the mutations, and the random generator."""
    rng = random.Random(f"{name} {index}")
    seed = seeds[index % len(seeds)]
    return seed, *(enlarge if name == "large-images" else mutate)(rng, seed, seeds), rng


def read_files(name, first, last, path):
    """Mutate and read files in this process. Append one line of JSON to the report for each.

    The function returns early after too much memory, because the maximum cannot be reset, and after
    MAX_FAILURES failures.
    """
    reader = READERS[name]
    seeds = reader.make_seeds()
    for seed in seeds:  # also imports all modules
        with write_files(path.parent, seed.files) as folder:
            outcome, text = examine(reader, folder, seed, random.Random(0))
        assert outcome == ("refused" if "refused" in seed.options else "read"), (seed.name, text)
    start, failures = address_space(), 0
    resource.setrlimit(resource.RLIMIT_AS, (start + 3 * MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEMORY // 4,) * 2)
    for index in range(first, last):
        seed, file, content, mutations, rng = make_file(name, index, seeds)
        with write_files(path.parent, seed.files | {file: content}) as folder:
            began = time.process_time()
            outcome, text = examine(reader, folder, seed, rng)
            seconds, memory = time.process_time() - began, address_space("VmPeak") - start
        if outcome != "failed" and (seconds > SECONDS or memory > MEMORY):
            text = f"{seconds:.1f} s, {memory:,} bytes, {outcome} {text:.100}"
            outcome = "failed"
        line = [index, f"{seed.name}, {mutations}", outcome, text, seconds, memory]
        with open(path, "a", encoding="utf-8") as report:
            print(json.dumps(line), file=report)
        failures += outcome == "failed"
        if memory > MEMORY or failures == MAX_FAILURES:
            return


def main(name, first, last=None, path=None):
    """Read some files. Without a path, read one and print the report."""
    signal.signal(signal.SIGPROF, raise_time_limit)
    if path is not None:
        return read_files(name, int(first), int(last), Path(path))
    with tempfile.TemporaryDirectory() as folder:
        read_files(name, int(first), int(first) + 1, Path(folder) / "report")
        print((Path(folder) / "report").read_text(encoding="utf-8"), end="")


# --- the test ---------------------------------------------------------------------------------
def run_chunk(name, first, folder):
    """Read a chunk of files in other processes. Return the lines of the report."""
    last, path, lines = min(first + CHUNK, READERS[name].count), folder / f"{name}-{first}", []
    path.touch()
    variables = {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-X", "faulthandler", __file__, name]
    while first < last and [line[2] for line in lines].count("failed") < MAX_FAILURES:
        process = subprocess.run(
            [*command, str(first), str(last), str(path)], env=os.environ | variables,
            stderr=subprocess.PIPE, text=True, errors="replace",
        )  # fmt: skip
        lines = read_lines(path)
        first = lines[-1][0] + 1 if lines else first
        if process.returncode:
            seed, *_, mutations, _ = make_file(name, first, READERS[name].make_seeds())
            text = f"the process ended with status {process.returncode}: {process.stderr[-3000:]}"
            lines.append([first, f"{seed.name}, {mutations}", "failed", text, 0, 0])
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
            first += 1
    return lines


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", READERS)
def test_a_mutated_file_is_read_or_refused(name, tmp_path):
    starts = range(0, READERS[name].count, CHUNK)
    with ThreadPoolExecutor(WORKERS) as pool:
        chunks = list(pool.map(lambda first: run_chunk(name, first, tmp_path), starts))
    lines = [line for chunk in chunks for line in chunk]
    failed = [f"{name} {i} ({what}): {text}" for i, what, how, text, *_ in lines if how == "failed"]
    assert not failed, f"{len(failed)} files\n" + "\n".join(failed)
    assert [line[0] for line in lines] == list(range(READERS[name].count))
    outcomes = [line[2] for line in lines]
    assert outcomes.count("read") >= 0.01 * len(lines)
    assert outcomes.count("refused") >= 0.1 * len(lines) or name == "large-images"


if __name__ == "__main__":
    main(*sys.argv[1:])
