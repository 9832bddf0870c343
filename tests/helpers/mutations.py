"""Random mutations of files: of their bytes, and of the structures of each format."""

import gzip
import io
import json
import re
import tarfile
import warnings
import zipfile
import zlib
from functools import cache, partial

import numpy as np

BOMB = 1_200_000_000  # bytes to which some files unpack
BLOCK = bytes(1 << 24)  # zeros


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
