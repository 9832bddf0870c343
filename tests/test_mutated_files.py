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
import warnings
import zipfile
import zlib
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
BOMB = 1_200_000_000  # bytes to which some files unpack
BLOCK = bytes(1 << 24)  # zeros


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


# --- mutations of bytes -----------------------------------------------------------------------
# A mutation has the arguments (rng, content, other), where `other` is a valid file of the same
# reader, and returns the mutated content.
INTEGERS = (
    0, 1, 2, 127, 128, 255, 256, 7_071, 32_767, 32_768, 65_535, 65_536, 50_000_000, 2**31 - 1,
    2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1,
)  # fmt: skip


def random_slice(rng, content):
    """Return the start and the end of a slice; short slices are more frequent."""
    length = int(len(content) ** rng.random())
    start = rng.randrange(len(content) - length + 1)
    return start, start + length


def flip_bits(rng, content, other):
    content = bytearray(content)
    for _ in range(min(rng.randint(1, 8), len(content))):
        content[rng.randrange(len(content))] ^= rng.choice((1, 2, 4, 16, 128, 255))
    return bytes(content)


def set_bytes(rng, content, other):
    content = bytearray(content)
    for _ in range(min(rng.randint(1, 8), len(content))):
        content[rng.randrange(len(content))] = rng.choice(b"\x00\xff0123456789'\"\\(-\n")
    return bytes(content)


def set_integer(rng, content, other):
    size, start = rng.choice((2, 4, 8)), rng.randrange(len(content) + 1)
    value = rng.choice(INTEGERS) % 256**size
    integer = value.to_bytes(size, rng.choice(("little", "big")))
    return content[:start] + integer + content[start + size :]


def truncate(rng, content, other):
    return content[: rng.randrange(len(content) + 1)]


def extend(rng, content, other):
    return content + rng.choice((rng.randbytes(rng.randint(1, 99)), bytes(99), content))


def delete_slice(rng, content, other):
    start, end = random_slice(rng, content)
    return content[:start] + content[end:]


def repeat_slice(rng, content, other):
    start, end = random_slice(rng, content)
    return content[:end] + content[start:end] * rng.choice((1, 1, 2, 50)) + content[end:]


def swap_slices(rng, content, other):
    (a, b), (c, d) = sorted(random_slice(rng, content) for _ in range(2))
    b, c = min(b, c), max(b, c)
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[max(c, d) :]


def splice(rng, content, other):
    return content[: random_slice(rng, content)[0]] + other[random_slice(rng, other)[0] :]


BYTES = (
    flip_bits, set_bytes, set_integer, truncate, extend, delete_slice, repeat_slice, swap_slices,
    splice,
)  # fmt: skip


def mutate_bytes(rng, content, other):
    return rng.choice(BYTES)(rng, content, other) if content else rng.randbytes(9)


# --- mutations of text and of JSON ------------------------------------------------------------
TOKENS = (
    b"'", b'"', b"\\", b"#", b"@file", b"\0", b"\x1b[2J", b"\r", b"\n", b",", b"=", b"--", b"-1",
    b"nan", b"1e999", b"9" * 5_000, b"\xff\xfe", b"\xed\xa0\x80", "\u2028\u202e\ufeff".encode(),
    "٣".encode(), b"a" * 200_000,
)  # fmt: skip
VALUES = (
    "null", "true", "-1", "0", "3", "1.5", "1e999", "NaN", "50000000", "9223372036854775808",
    "1" + "0" * 400, "9" * 5_000, '""', '"x"', "[]", "{}", "[1, 2]", "[[1, 2], [3]]",
    '[0.5, "x", null]', '["x", 200000000]', "[1" + "0" * 400 + ", 1, 1]", '{"a": {"a": 1}}',
    '"\\u001b[2J\\n\\u2028"', '"\\ud800"', '"{0} {} %s"', "[" * 100_000, "[" * 900 + "]" * 900,
    '{"a":' * 500 + "1" + "}" * 500, str([1] * 50_000), f'"{"x" * 50_000}"',
)  # fmt: skip
MARKER = '"a value to replace"'


def insert_token(rng, content, other):
    start = rng.randrange(len(content) + 1)
    return content[:start] + rng.choice(TOKENS) + content[start:]


def replace_number(rng, content, other):
    numbers = list(re.finditer(rb"\d+", content))
    if not numbers:
        return insert_token(rng, content, other)
    start, end = rng.choice(numbers).span()
    return content[:start] + rng.choice(TOKENS) + content[end:]


def repeat_lines(rng, content, other):
    lines = content.splitlines(keepends=True) or [b"\n"]
    lines.insert(rng.randrange(len(lines)), rng.choice(TOKENS[:4]))
    return content + b"".join(lines) * rng.choice((1, 10, 100_000 // (len(content) + 1)))


def change_encoding(rng, content, other):
    encodings = "utf-8-sig", "utf-16", "utf-32"
    return content.decode(errors="replace").encode(rng.choice(encodings))


def open_quotation(rng, content, other):
    """Add a quotation that is not closed, with many lines."""
    return content + rng.choice((b"'", b'"', b"\\")) + b"a\n" * rng.choice((1, 100, 20_000))


TEXT = insert_token, replace_number, repeat_lines, open_quotation, change_encoding


def places(tree):
    """Yield (container, key or index) of each value in a JSON tree."""
    pairs = {dict: lambda: list(tree.items()), list: lambda: list(enumerate(tree))}
    for key, value in pairs.get(type(tree), list)():
        yield tree, key
        yield from places(value)


def change_json(rng, content, other):
    """Replace, remove, rename or repeat a value."""
    tree = json.loads(content)
    found = list(places(tree))
    if not found or rng.random() < 0.03:
        return rng.choice(VALUES).encode()
    container, key = rng.choice(found)
    change = rng.choice((*["replace"] * 6, "remove", "rename", "insert", "copy"))
    value = rng.choice(VALUES)
    if change == "remove":
        del container[key]
    elif change == "copy":
        source, name = rng.choice(found)
        container[key] = json.loads(json.dumps(source[name]))
    elif change in ("insert", "rename") and isinstance(container, list):
        container.insert(key, MARKER)
    elif change == "insert":
        container[rng.choice(("x", "\x1b", "0"))] = MARKER
    elif change == "rename":
        container[rng.choice(("", "x", key.upper(), key + "\n\u2028"))] = container.pop(key)
    else:
        container[key] = MARKER
    return json.dumps(tree).replace(json.dumps(MARKER), value).encode()


# --- mutations of .npz files ------------------------------------------------------------------
DESCRIPTIONS = (
    "'<f2'", "'>f4'", "'<f4'", "'<f8'", "'<f16'", "'<i4'", "'<c8'", "'|b1'", "'|V2'", "'|V4'",
    "'|S4'", "'<U1'", "'<U8'", "'|O'", "'<M8[s]'", "'<U400000000'", "'>U400000000'",
    "'|V2000000000'", "'|V0'", "'|S0'", "''", "'x'", "[('a', '<f4')]", "[('a', '|O')]",
    "('<f4', (2,))", "[]", "None", "3", "'\\x1b[2J'",
)  # fmt: skip
SHAPES = (
    "()", "(0,)", "(1,)", "(-1,)", "(8,)", "(2147483648, 0)", "(0, 9223372036854775807)",
    "(100000, 0)", "(4611686018427387904, 4)", "(4611686018427387904, 0)", "(100000000000000,)",
    f"({'1, ' * 70})", "(1.5,)", "(True,)", "('8',)", "[8]", "8", "None", f"({'9' * 5_000},)",
    "(" * 300 + ")" * 300, "((8,),)",
)  # fmt: skip
NAMES = (
    "", ".npy", "config.npy", "params/.npy", "params/blocks/99999999999/norm1/scale.npy",
    "params/blocks/-1/norm1/scale.npy", "params/blocks/٣/x.npy", "../x.npy", "x\x1b[2J\u2028.npy",
    "{}{0}.npy", "x" * 60_000, "params/blocks/0.npy", "training/log.npy", "training/progress.npy",
    "Transformer/encoderblock/LayerNorm_0/scale.npy", "blocks.0.attn.qkv.weight.npy", "readme.txt",
)  # fmt: skip


def read_entries(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def write_entries(entries, method=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about two entries of one name
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return file.getvalue()


def choose_entry(rng, entries):
    """Return the index of an entry. Those of a training run are more frequent."""
    indices = [i for i, (name, _) in enumerate(entries) if name.startswith("training/")]
    return rng.choice(indices) if indices and rng.random() < 0.6 else rng.randrange(len(entries))


def split_npy(content):
    """Return the header of an .npy file as text, and its data."""
    end = 10 + int.from_bytes(content[8:10], "little")
    return content[10:end].decode("latin-1"), content[end:]


def join_npy(header, content, version=b"\x01\x00"):
    header = header.encode()
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + content


def change_npy_header(rng, content, other):
    entries = read_entries(content)
    i = choose_entry(rng, entries)
    header, values = split_npy(entries[i][1])
    if rng.random() < 0.5:
        header = re.sub(r"'descr': [^,]+", lambda _: f"'descr': {rng.choice(DESCRIPTIONS)}", header)
    if rng.random() < 0.6:
        header = re.sub(r"\([^)]*\)", lambda _: rng.choice(SHAPES), header)
    if rng.random() < 0.2:
        header = header.replace("False", rng.choice(("True", "0", "None", "L")))
    version = rng.choice((b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x09"))
    values = rng.choice((values, values, b"", values[: len(values) // 2], values * 2))
    entries[i] = entries[i][0], join_npy(header, values, version)
    return write_entries(entries)


def change_npy_layout(rng, content, other):
    """Replace the shape or the dtype of an array by another one of the same size."""
    entries = read_entries(content)
    i = choose_entry(rng, entries)
    header, values = split_npy(entries[i][1])
    if rng.random() < 0.5:
        size = 8 if "8'" in header[:20] else 4
        kind = rng.choice("fiucVSUmMb")
        descr = f"{rng.choice('<>')}{kind}{size // 4 if kind == 'U' else size}"
        new = f"'descr': {rng.choice((descr, [('a', descr)]))!r}"
        header = re.sub("'descr': '[^']*'", new, header)
    else:
        shape = [int(n) for n in re.findall(r"\d+", re.search(r"\(.*\)", header)[0])]
        n = int(np.prod(shape))
        shapes = (*shape, 1), (1, *shape), (n,), (n, 1, 1), shape[::-1], (2, n // 2), (n // 2, 2)
        new = "(" + "".join(f"{side}, " for side in rng.choice(shapes)) + ")"
        header = re.sub(r"\(.*\)", new, header)
    entries[i] = entries[i][0], join_npy(header, values)
    return write_entries(entries)


def change_npy_values(rng, content, other):
    """Fill an array with the bytes of NaN, infinity, large numbers or characters."""
    entries = read_entries(content)
    i = choose_entry(rng, entries)
    header, values = split_npy(entries[i][1])
    pattern = rng.choice((b"\xff", b"\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\x1b\0\0\0", b"\0"))
    start = rng.choice((0, len(values) // 8 * 4))
    values = values[:start] + (pattern * len(values))[: len(values) - start]
    entries[i] = entries[i][0], join_npy(header, values)
    return write_entries(entries)


def change_npy_text(rng, content, other):
    """Change the JSON in an array of text, such as the configuration."""
    entries = read_entries(content)
    texts = [i for i, (_, entry) in enumerate(entries) if b"'descr': '<U" in entry[:100]]
    if not texts:
        return change_npy_header(rng, content, other)
    i = rng.choice(texts)
    text = str(np.load(io.BytesIO(entries[i][1])))
    file = io.BytesIO()
    changed = change_json(rng, text, other).decode()
    np.save(file, rng.choice((np.array, np.array, lambda x: np.array([x])))(changed))
    entries[i] = entries[i][0], file.getvalue()
    return write_entries(entries)


def change_entry(rng, content, other):
    """Mutate the bytes of an entry, with the correct checksum."""
    entries = read_entries(content)
    i = choose_entry(rng, entries)
    entries[i] = entries[i][0], mutate_bytes(rng, entries[i][1], entries[0][1])
    return write_entries(entries)


def change_names(rng, content, other):
    """Remove, repeat, exchange or rename entries."""
    entries = read_entries(content)
    i, j = (rng.randrange(len(entries)) for _ in range(2))
    change = rng.randrange(4)
    if change == 0:
        del entries[i]
    elif change == 1:
        entries.append(entries[i])
    elif change == 2:
        entries[i], entries[j] = (entries[i][0], entries[j][1]), (entries[j][0], entries[i][1])
    else:
        entries[i] = rng.choice(NAMES), entries[i][1]
    return write_entries(entries)


def numbered(rng, name, n):
    """Return n names, the given one and others that differ in one number."""
    numbers = list(re.finditer(r"\d+", name))
    start, end = rng.choice((*numbers[:1], *numbers)).span() if numbers else (0, 0)
    first = rng.choice((1, 1000))
    return [name, *(f"{name[:start]}{first + i}{name[end:]}" for i in range(n - 1))]


def add_entries(rng, content, other):
    entries = read_entries(content)
    name, entry = rng.choice(entries)
    names = numbered(rng, name, rng.choice((1, 10, 3000)))
    entry = rng.choice((entry, join_npy(split_npy(entry)[0], b""), b""))
    return write_entries(entries + [(name, entry) for name in names])


def change_compression(rng, content, other):
    methods = zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA
    return write_entries(read_entries(content), rng.choice(methods))


@cache
def deflated_zeros():
    """Return a deflate stream of BOMB zeros, and their CRC-32."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = compressor.compress(BLOCK) + compressor.flush(zlib.Z_FULL_FLUSH)
    n, crc = BOMB // len(BLOCK), 0
    for _ in range(n):
        crc = zlib.crc32(BLOCK, crc)
    return block * n + compressor.flush(), crc


def bomb_zip(rng, content, other):
    """Replace an entry by one that unpacks to more than 1 GB, in half of the cases undeclared."""
    entries = read_entries(content)
    stream, crc = deflated_zeros()
    name, entry = entries.pop(rng.randrange(len(entries)))
    file = io.BytesIO(write_entries(entries))
    with zipfile.ZipFile(file, "a") as archive:
        info = zipfile.ZipInfo(name)
        archive.writestr(info, stream)
        info.compress_type, info.CRC = zipfile.ZIP_DEFLATED, crc
        info.file_size = rng.choice((BOMB, len(entry), 60_000_000))
    return file.getvalue()


ARCHIVE = (
    change_npy_header, change_npy_header, change_npy_layout, change_npy_layout, change_npy_values,
    change_npy_text, change_npy_text, change_npy_text, change_entry, change_names, add_entries,
    change_compression, bomb_zip,
)  # fmt: skip


# --- mutations of .safetensors files ----------------------------------------------------------
ADDED = (  # names in the layouts
    "params/stem/stages/0/0/norm1/bias", "block1/unit1/gn1/bias",
    "patch_embed.backbone.stages.0.blocks.0.norm1.bias",
    "embeddings.patch_embeddings.backbone.bit.encoder.stages.0.layers.0.norm1.bias",
    "pos_embedding", "Transformer/encoderblock/LayerNorm_0/bias",
)  # fmt: skip


def split_tensors(content):
    end = 8 + int.from_bytes(content[:8], "little")
    return content[8:end], content[end:]


def join_tensors(header, values):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(header).to_bytes(8, "little") + header + values


def change_header(rng, content, other):
    header, values = split_tensors(content)
    return join_tensors(change_json(rng, header, other), values)


def change_header_bytes(rng, content, other):
    header, values = split_tensors(content)
    return join_tensors(mutate_bytes(rng, header, split_tensors(other)[0]), values)


def change_header_length(rng, content, other):
    return rng.choice(INTEGERS).to_bytes(8, "little") + content[8:]


def change_metadata(rng, content, other):
    header, values = split_tensors(content)
    header = json.loads(header)
    config = header.get("__metadata__", {}).get("config", "{}")
    header["__metadata__"] = {"config": change_json(rng, config, other).decode()}
    return join_tensors(header, values)


def change_tensor(rng, content, other):
    """Change the dtype, the shape or the values of an array, so that the sizes are consistent."""
    header, values = split_tensors(content)
    header = json.loads(header)
    entry = header[rng.choice([name for name in header if name != "__metadata__"])]
    first, last = entry["data_offsets"]
    size = last - first
    if rng.random() < 0.5:
        dtype, width = rng.choice((("F16", 2), ("BF16", 2), ("F64", 8), ("I32", 4), ("U8", 1)))
        entry |= {"dtype": dtype, "shape": [size // width]}
    elif rng.random() < 0.5:
        n = size // 4
        entry["shape"] = rng.choice(([n, 1], [1, n], [n], [2, n // 2], entry["shape"][::-1]))
    else:
        pattern = rng.choice((b"\xff", b"\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff"))
        values = values[:first] + (pattern * size)[:size] + values[last:]
    return join_tensors(header, values)


def add_tensors(rng, content, other):
    """Add arrays without entries, of which the names differ in one number."""
    header, values = split_tensors(content)
    header = json.loads(header)
    name = rng.choice([name for name in header if name != "__metadata__"])
    name = rng.choice((name, name, *ADDED))
    shape = rng.choice(([0], [2**31, 0], [100_000, 0, 8], [2**31, 0, 8], [0, 2**63 - 1]))
    for other_name in numbered(rng, name, rng.choice((1, 10, 30_000))):
        header[other_name] = {
            "dtype": "F32", "shape": shape, "data_offsets": [len(values), len(values)]
        }  # fmt: skip
    return join_tensors(header, values)


def empty_tensor(rng, content, other):
    """Replace an array by one without entries, with axes that may be long."""
    header, values = split_tensors(content)
    header = json.loads(header)
    name = rng.choice([name for name in header if name != "__metadata__"])
    first, last = header[name]["data_offsets"]
    axes = len(header[name]["shape"]) or 1
    shape = [rng.choice((0, 1, 8, 2**31 - 1)) for _ in range(axes)]
    shape[rng.randrange(axes)] = 0
    header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [first, first]}
    for entry in header.values():
        if entry.get("data_offsets", [0])[0] >= last:
            entry["data_offsets"] = [offset - last + first for offset in entry["data_offsets"]]
    return join_tensors(header, values[:first] + values[last:])


TENSORS = (
    change_header, change_header, change_header_bytes, change_header_length, change_metadata,
    change_metadata, change_tensor, add_tensors, empty_tensor,
)  # fmt: skip


# --- mutations of compressed files and of archives --------------------------------------------
def change_unpacked(rng, content, other):
    """Mutate the unpacked content."""
    content, other = gzip.decompress(content), gzip.decompress(other)
    return gzip.compress(mutate_bytes(rng, content, other), 1, mtime=0)


def bomb_gzip(rng, content, other):
    """Append more than 1 GB of zeros, in an entry of an archive or without a header."""
    start = gzip.decompress(content)
    if start[257:262] == b"ustar":
        kind = rng.choice((tarfile.REGTYPE, tarfile.REGTYPE, tarfile.XHDTYPE, b"L", b"K", b"g"))
        entry = tarfile.TarInfo(rng.choice((start[:100].rstrip(b"\0").decode(), "other")))
        entry.type, entry.size = kind, BOMB
        start = rng.choice((b"", start[:512])) + entry.tobuf(tarfile.GNU_FORMAT)
    return gzip.compress(start, mtime=0) + zeros_gzip() * (BOMB // len(BLOCK) + 1)


@cache
def zeros_gzip():
    return gzip.compress(BLOCK, mtime=0)


TAR_FIELDS = {  # offset and size
    "name": (0, 100), "mode": (100, 8), "uid": (108, 8), "size": (124, 12), "mtime": (136, 12),
    "type": (156, 1), "link": (157, 100), "magic": (257, 8), "owner": (265, 32),
    "device": (329, 8), "prefix": (345, 155), "sparse": (386, 96), "real size": (483, 12),
}  # fmt: skip
TAR_VALUES = (
    b"", b"\0", b"0", b"1", b"2", b"5", b"7", b"L", b"K", b"S", b"x", b"g", b"77777777777",
    b"\x80\0\0\0\0\0\0\0\x7f\xff\xff\xff", b"\x80" + b"\xff" * 11, b"\xff" * 12,
    b"\xff" * 10 + b"\xfe\0", b"-1", b" 12 ", b"9", b"/etc/x", b"../x", b"a\x1b[2J\n",
    "\u2028\u202e".encode(), b"\xff\xfe",
)  # fmt: skip


def change_tar_header(rng, content, other):
    """Change a field of an entry's header, with the correct checksum."""
    content = bytearray(gzip.decompress(content))
    starts = [i for i in range(0, len(content), 512) if content[i + 257 : i + 262] == b"ustar"]
    i = rng.choice(starts)
    for _ in range(rng.choice((1, 1, 2))):
        offset, size = rng.choice(list(TAR_FIELDS.values()))
        value = rng.choice(TAR_VALUES)[:size].ljust(size, b"\0")
        content[i + offset : i + offset + size] = value
    content[i + 148 : i + 156] = b" " * 8
    content[i + 148 : i + 156] = b"%06o\0 " % sum(content[i : i + 512])
    return gzip.compress(bytes(content), 1, mtime=0)


# --- mutations of images ----------------------------------------------------------------------
FIELDS = {  # suffix: patterns, byte order, and the offsets and sizes of integers after the pattern
    "png": [(rb"IHDR", "big", "4:4 8:4 12:1 13:1 14:1 15:1 16:1"), (rb"[af]cTL", "big", "4:4 8:4")],
    "gif": [
        (rb"GIF8", "little", "6:2 8:2 10:1 11:1"),
        (rb"\x2c\0\0\0\0", "little", "1:2 3:2 5:2 7:2 9:1 10:1"),
    ],
    "bmp": [(rb"^BM", "little", "2:4 10:4 14:4 18:4 22:4 26:2 28:2 30:4 34:4 46:4")],
    "jpg": [
        (rb"\xff[\xc0-\xc2]\0", "big", "2:2 4:1 5:2 7:2 9:1 10:1 11:1"),
        (rb"\xff[\xc4\xda\xdb\xdd\xe0-\xe2]", "big", "2:2 4:1"),
    ],
    "tiff": [
        (rb"^(II|MM)", "little", "4:4"),
        (rb"([\xfe\xff]\0|[\0-\x53]\x01)[\x01-\x12]\0", "little", "0:2 2:2 4:4 8:2 8:4 4:8 12:8"),
    ],
    "webp": [
        (rb"RIFF", "little", "4:4"), (rb"VP8X", "little", "8:1 12:3 15:3"),
        (rb"VP8L", "little", "4:4 9:4"), (rb"VP8 ", "little", "4:4 14:2 16:2"),
    ],
    "jp2": [
        (rb"ihdr", "big", "4:4 8:4 12:2 14:1 15:1"),
        (rb"\xff\x51\0", "big", "2:2 6:4 10:4 14:4 18:4 22:4 26:4 30:4 34:4 38:2 40:1 41:1 42:1"),
        (rb"\xff\x52\0", "big", "4:1 5:1 6:2 8:1 9:1 10:1 11:1 12:1 13:1"),
    ],
    "avif": [(rb"ispe", "big", "8:4 12:4"), (rb"iloc|meta|mdat|iprp|ipma", "big", "-4:4 4:4 8:4")],
}  # fmt: skip
CHUNKS = {  # additional chunks of a PNG file
    b"tEXt": b"a\0" + b"x" * 2_000_000, b"tRNS": bytes(300), b"eXIf": b"II*\0" + b"\xff" * 40,
    b"acTL": b"\xff" * 8, b"fcTL": b"\0\0\0\1" * 7, b"fdAT": bytes(9), b"PLTE": b"\1" * 769,
    b"gAMA": bytes(4), b"pHYs": bytes(9), b"cHRM": bytes(3), b"sRGB": b"", b"IEND": b"",
}  # fmt: skip


def change_field(suffix, rng, content, other):
    """Change one or two integers of a header, such as the width."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 2))):
        pattern, order, fields = rng.choice(FIELDS[suffix])
        matches = list(re.finditer(pattern, content, re.DOTALL))
        if matches:
            offset, size = map(int, rng.choice(fields.split()).split(":"))
            start = rng.choice(matches).start() + offset
            value = rng.choice((*INTEGERS, 4, 8, 16, 24)) % 256**size
            content[start : start + size] = value.to_bytes(size, order)
    if suffix == "png":
        return join_png(split_png(bytes(content)))  # with the correct checksum
    return bytes(content)


def split_png(content):
    """Return a list of [type, data] of the chunks of a PNG file."""
    chunks, start = [], 8
    while start < len(content):
        length = int.from_bytes(content[start : start + 4], "big")
        chunks.append([content[start + 4 : start + 8], content[start + 8 : start + 8 + length]])
        start += 12 + length
    return chunks


def join_png(chunks):
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, values in chunks:
        crc = zlib.crc32(kind + values)
        parts += [len(values).to_bytes(4, "big"), kind, values, crc.to_bytes(4, "big")]
    return b"".join(parts)


def change_chunks(rng, content, other):
    """Mutate, remove, repeat, insert or enlarge chunks of a PNG file."""
    chunks = split_png(content)
    i, change = rng.randrange(len(chunks)), rng.randrange(7)
    if change == 6:
        start = len(join_png(chunks[:i]))
        length = rng.choice((50_000_000, 2**31 - 1, 2**32 - 1)).to_bytes(4, "big")
        return content[:start] + length + content[start + 4 :]
    if change == 0:
        del chunks[i]
    elif change == 1:
        chunks.insert(i, chunks[rng.randrange(len(chunks))])
    elif change == 2:
        kind = rng.choice(list(CHUNKS))
        chunks.insert(i, [kind, CHUNKS[kind]])
    elif change == 3:
        kind = rng.choice((b"zTXt", b"iCCP", b"iTXt"))
        start = b"a\0\1\0a\0a\0" if kind == b"iTXt" else b"a\0\0"
        chunks.insert(i, [kind, start + deflated_text()])
    else:
        chunks[i] = [chunks[i][0], mutate_bytes(rng, chunks[i][1], content)]
    return join_png(chunks)


@cache
def deflated_text():
    return zlib.compress(BLOCK * 16)


def change_scanlines(rng, content, other):
    """Mutate the unpacked scanlines of a PNG file, or pack other ones."""
    chunks = split_png(content)
    for chunk in chunks:
        if chunk[0] == b"IDAT":
            values = mutate_bytes(rng, zlib.decompress(chunk[1]), content)
            chunk[1] = rng.choice((zlib.compress(values), zlib.compress(values), deflated_text()))
    return join_png(chunks)


def mutations_of(name):
    """Return the mutations that are specific to the format of a file."""
    suffix = name.partition(".")[2]
    if suffix == "png":
        return (partial(change_field, suffix), change_chunks, change_scanlines)
    if suffix in FIELDS:
        return (partial(change_field, suffix),)
    return {
        "npz": ARCHIVE, "safetensors": TENSORS, "json": (change_json,),
        "tgz": (*[change_unpacked] * 5, *[change_tar_header] * 15, bomb_gzip),
        "gz": (change_unpacked, bomb_gzip),
        "txt": TEXT, "csv": TEXT, "ppm": (replace_number,),
    }.get(suffix, ())  # fmt: skip


def mutate(rng, seed, seeds):
    """Return the name of a mutated file, its content, and the names of the mutations."""
    name = rng.choice(seed.mutable or list(seed.files))
    content, suffix = seed.files[name], name.rpartition(".")[2]
    others = [s.files[n] for s in seeds for n in s.files if n.endswith(suffix)]
    specific = mutations_of(name)
    steps = [rng.choice(specific)] if specific and rng.random() < 0.75 else []
    while not steps or rng.random() < 0.2:
        steps.append(mutate_bytes)
    other = rng.choice(others)
    for step in steps:
        content = step(rng, content, other)
    names = [getattr(step, "func", step).__name__.replace("_", " ") for step in steps]
    return name, content, f"{name}: {', '.join(names)}"


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
        arrays = {"config": np.array(make_configuration(model.config))}
        arrays |= {f"params/{name}": leaf for name, leaf in flatten(model.params).items()}
        log = {"training/log": np.array([list(EPOCH.values())])}
        vectors = {f"training/{name}": vector for name, vector in run.state.items()}
        interrupted = arrays | {"training/progress": np.array(text)} | log | vectors
        for kind, checkpoint in {"interrupted": interrupted, "complete": arrays | log}.items():
            for epochs in (0, 1):  # of the log file; a missing one is restored
                files = {"model.npz": make_npz(checkpoint), "log.csv": make_log(epochs)}
                seeds.append(Seed(f"{kind} {optimiser}", files, mutable=("model.npz",)))
    return seeds


@cache
def small_digits():
    return data.load_digits(n=20)


def make_log(epochs):
    rows = [[*COLUMNS], *([i + 1, 3 * i, *[0.25] * 5] for i in range(epochs))]
    return "".join(",".join(map(str, row)) + "\r\n" for row in rows).encode()


def read_run(folder, seed, rng):
    """Read a run. Restore an interrupted one as `resume` does."""
    arrays = weights.load_training(folder / "model.npz")
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
    progress = training.read_progress(folder)
    if progress is None:
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
    old = make_log(3).replace(b"learning_rate", b"rate").replace(b"\r", b"")
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
