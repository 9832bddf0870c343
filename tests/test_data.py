"""The bundled digits, images in memory, image files, and files of class names."""

import io
import re
import struct
import subprocess
from zlib import crc32

import numpy as np
import pytest
from helpers.models import Unreadable
from PIL import Image

from minivit import data
from minivit.data import ByteImages, load_digits, read_image, read_labels, sample_photograph
from minivit.data.dataset import fingerprint, read, take
from minivit.files import FileError


def close(actual, expected, atol=1e-6):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


# --- digits -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def d():
    return load_digits()


def test_the_digits_are_those_of_the_source(d):
    assert d.images.shape == (1437, 8, 8, 1)
    assert (d.images.dtype, d.labels.dtype) == (np.float32, np.int64)
    assert (d.name, d.classes) == ("digits", tuple("0123456789"))
    published = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    counts = np.bincount(np.concatenate([d.labels, d.held_out_labels]))
    assert counts.tolist() == published
    assert len({*map(bytes, d.images), *map(bytes, d.held_out_images)}) == 1437 + 360
    assert np.unique(d.images).tolist() == [ink / 8 - 1 for ink in range(17)]
    checksums = [crc32(x.tobytes()) for x in d[1:5]]
    assert checksums == [4046196496, 3972081874, 3859729409, 2251727272]


def test_fewer_training_digits_are_the_first_ones(d):
    parts = zip(load_digits(n=5)[1:5], (5, 5, 360, 360), d[1:5], strict=True)
    assert all(np.array_equal(part, complete[:n]) for part, n, complete in parts)


def test_a_fingerprint_depends_on_the_classes_and_on_the_order_of_all_labels(d):
    labels, held_out_labels = np.roll(d.labels, 1), np.roll(d.held_out_labels, 1)
    others = {"classes": tuple("abcdefghij"), "labels": labels, "held_out_labels": held_out_labels}
    fingerprints = {fingerprint(d._replace(**{name: value})) for name, value in others.items()}
    assert len(fingerprints | {fingerprint(d)}) == 4
    labels, held_out_labels = d.labels.astype(np.uint8), d.held_out_labels.astype(np.uint8)
    same = d._replace(labels=labels, held_out_labels=held_out_labels)
    assert fingerprint(same) == fingerprint(d)


# --- images in memory -------------------------------------------------------------------------


@pytest.mark.parametrize("indices", [slice(1, 4), np.array([5, 0]), [3, 3]])
def test_take_indexes_arrays(indices):
    images, labels = np.arange(12.0).reshape(6, 2), np.arange(6)
    batch, batch_labels = take(images, labels, indices)
    assert np.array_equal(batch, images[indices])
    assert np.array_equal(batch_labels, labels[indices])
    assert read(images, indices)[1].tolist() == [True] * len(batch)


PIXELS = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)


@pytest.mark.parametrize("indices", [slice(None), np.array([3, 0, 3]), np.array([], int), 2])
def test_byte_images_become_floats_when_they_are_indexed(indices):
    pixels = PIXELS.copy()
    byte_images = ByteImages(pixels)
    assert (len(byte_images), byte_images.shape) == (4, (4, 8, 8, 1))
    images = byte_images[indices]
    assert images.dtype == np.float32
    assert np.array_equal(images, pixels[indices].astype(np.float32) / 127.5 - 1)
    images[...] = 0
    assert np.array_equal(pixels, PIXELS)


# --- image files ------------------------------------------------------------------------------

RAMP = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)  # 64 levels of grey
COLOURS = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=2)


def values(pixels):
    """Return the image (H, W, C) of pixels from 0 to 255."""
    return np.atleast_3d(pixels) / 127.5 - 1


def filled(mode, colour):
    return Image.new(mode, (8, 8), colour)


def transparent_drawing():
    """An opaque black rectangle on transparent black."""
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[2:6, 3:5, 3] = 255
    return Image.fromarray(pixels)


def palette_picture():
    """Blue above red."""
    picture = filled("P", 0)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.paste(1, (0, 0, 8, 4))
    return picture


DRAWING = 255 - 255 * np.pad(np.ones((4, 2)), ((2, 2), (3, 3)))
GREY3 = RAMP[..., None].repeat(3, axis=2)
RAMP16 = RAMP.astype(np.uint16) * 257
RED = np.full((4, 8, 3), (255, 0, 0))
PRIMARY = np.full((8, 3, 3), np.diag([255] * 3)).astype(np.uint8)  # red, green and blue columns
FRAMES = {"save_all": True, "append_images": [filled("L", 102), filled("L", 255)]}
PICTURES = {  # picture, suffix, options of Pillow, expected pixels
    **{f"grey {suffix}": (RAMP, suffix, {}, RAMP) for suffix in ("png", "bmp", "tiff", "gif")},
    "grey PGM": (RAMP, "pgm", {}, RAMP),
    "grey for a colour model": (RAMP, "png", {}, GREY3),
    "colour": (COLOURS, "png", {}, COLOURS),
    "colours for a grey model": (PRIMARY, "png", {}, np.full((8, 3), [76, 150, 29])),
    "opaque": (np.dstack([COLOURS, np.full_like(RAMP, 255)]), "png", {}, COLOURS),
    "transparent RGBA": (transparent_drawing(), "png", {}, DRAWING),
    "transparent LA": (transparent_drawing().convert("LA"), "png", {}, DRAWING),
    "transparent P": (transparent_drawing().convert("P"), "png", {}, DRAWING),
    "half transparent": (filled("RGBA", (0, 0, 0, 127)), "png", {}, np.full((8, 8), 128)),
    "palette": (palette_picture(), "png", {}, np.concatenate([RED[..., ::-1], RED])),
    "transparent palette": (
        palette_picture(), "png", {"transparency": 1}, np.concatenate([RED | 255, RED])
    ),
    "palette with alpha": (
        palette_picture(), "png", {"transparency": b"\xff\0"}, np.concatenate([RED | 255, RED])
    ),
    "black and white": (Image.fromarray(RAMP > 100), "png", {}, 255 * (RAMP > 100)),
    "16 bits": (RAMP16, "png", {}, RAMP),
    "16 bits, big-endian": (RAMP16.astype(">u2"), "tiff", {}, GREY3),
    "animated GIF": (filled("L", 51), "gif", FRAMES, np.full((8, 8), 51)),
    "animated PNG": (filled("L", 51), "png", FRAMES, np.full((8, 8), 51)),
    "animated WebP": (filled("L", 51), "webp", FRAMES | {"lossless": True}, np.full((8, 8), 51)),
}  # fmt: skip


@pytest.fixture
def save(tmp_path):
    """Save a picture and return its path."""

    def save(picture, name="picture.png", **options):
        if not isinstance(picture, Image.Image):
            picture = Image.fromarray(picture)
        picture.save(tmp_path / name, **options)
        return tmp_path / name

    return save


@pytest.mark.parametrize(
    ("picture", "suffix", "options", "pixels"), PICTURES.values(), ids=PICTURES
)
def test_every_format_is_read_as_floats_from_minus_one_to_one(
    save, picture, suffix, options, pixels
):
    expected = values(pixels)
    path = str(save(picture, f"x.{suffix}", **options))
    image = read_image(path, expected.shape[:2], expected.shape[2])
    assert image.dtype == np.float32
    close(image, expected)


EXIF_ORIENTATIONS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("orientation", EXIF_ORIENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_exif_orientation_is_applied(save, orientation, channels):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = COLOURS[:6, :4]
    path = save(pixels if channels == 3 else pixels[..., 0], exif=exif)
    expected = values(EXIF_ORIENTATIONS[orientation](pixels[..., :channels]))
    close(read_image(path, expected.shape[:2], channels), expected)


@pytest.mark.parametrize("exif", [b"Exif\0\0no metadata", b"Exif\0\0II*\0" + b"\xff" * 40])
def test_damaged_exif_metadata_is_ignored(save, exif):
    path = save(COLOURS, "x.webp", lossless=True, exif=exif)
    close(read_image(path, (8, 8), 3), COLOURS / 127.5 - 1)


def test_sizes_are_height_and_width(save):
    white_above_black = np.zeros((40, 20), np.uint8)
    white_above_black[:20] = 255
    image = read_image(save(white_above_black), (8, 2), 1)
    assert image.shape == (8, 2, 1)
    assert (image[:3] == 1).all()
    assert (image[5:] == -1).all()
    close(read_image(save(np.full((1, 1), 51, np.uint8)), (3, 5), 1), np.full((3, 5, 1), -0.6))


def encode(format, pixels=RAMP):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


NOISE = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
UNREADABLE = {
    "empty": b"",
    "text": b"hello, world\n" * 20,
    "only a PNG signature": b"\x89PNG\r\n\x1a\n",
    "only a GIF signature": b"GIF89a",
    "truncated PNG": encode("png", NOISE)[:2000],
    "damaged TIFF": encode("tiff")[:150],
    "no width": b"P6 0 4 255\n",
    "no height": b"P5 4 0 255\n",
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_the_error_for_an_unreadable_file_is_one_line_with_its_name(tmp_path, content):
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"picture\.png cannot be read as an image: .") as error:
        read_image(path, (8, 8), 3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [KeyError, RuntimeError, NotImplementedError, struct.error])
def test_every_exception_of_a_decoder_becomes_a_value_error(save, monkeypatch, kind):
    # Pillow's AVIF and BLP decoders raise such exceptions for damaged files.
    def fail(path, formats):
        raise kind("the decoder's message")

    path = save(RAMP)
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ValueError, match=r"picture\.png cannot be read .*the decoder's message"):
        read_image(path, (8, 8), 1)


def test_floating_point_pixels_are_rejected(save):
    path = save(np.full((3, 3), 0.5, np.float32), "x.tiff")
    with pytest.raises(ValueError, match=r"x\.tiff cannot be read as an image: its pixels are fl"):
        read_image(path, (3, 3), 1)


@pytest.mark.parametrize(
    ("shape", "limit", "message"),
    [
        ((30, 31), 929, "it has 30 x 31 pixels. The limits are 929 pixels in total "
            "(--max-pixels) and 65,535 per side"),
        ((1, 65_536), 50_000_000, "it has 1 x 65,536 pixels. The limits are 50,000,000 pixels"),
    ],
)  # fmt: skip
def test_a_picture_that_is_too_large_is_rejected_before_it_is_decoded(
    save, monkeypatch, shape, limit, message
):
    path = save(np.zeros(shape, np.uint8))
    monkeypatch.setattr(Image.Image, "load", None)
    with pytest.raises(FileError, match=re.escape(f"{path} cannot be read as an image: {message}")):
        read_image(path, (4, 4), 3, max_pixels=limit)


def test_the_default_limit_is_50_megapixels(save):
    content = save(np.zeros((1, 1), np.uint8)).read_bytes()
    header = b"IHDR" + (10_000).to_bytes(4, "big") + (5_001).to_bytes(4, "big") + content[24:29]
    path = save(np.zeros((1, 1), np.uint8))
    path.write_bytes(content[:12] + header + crc32(header).to_bytes(4, "big") + content[33:])
    with pytest.raises(
        FileError, match=r"5,001 x 10,000 pixels\. The limits are 50,000,000 pixels"
    ):
        read_image(path, (4, 4), 3)


def test_a_postscript_file_does_not_start_another_program(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(path, "EPS")
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(FileError, match=r"picture\.png cannot be read .*: unknown file format"):
        read_image(path, (8, 8), 3)


TIFF_KINDS = {  # dtype -> the white value, or the reason why it is rejected
    "uint16": 65535,
    ">u2": 65535,
    "int32": "its pixels are 32-bit or signed integers, so their white level is unknown",
    "float32": "its pixels are floats, so their white level is unknown",
}


@pytest.mark.parametrize("dtype", TIFF_KINDS)
def test_grey_tiff_files_are_scaled_correctly_or_rejected(save, dtype):
    white = TIFF_KINDS[dtype]
    if isinstance(white, int):
        pixels = np.array([[0, white // 2, white]], dtype)
        close(read_image(save(pixels, "x.tiff"), (1, 3), 1), [[[-1], [-0.004], [1]]], atol=0.01)
        return
    path = save(np.array([[0, 1, 2**31 - 1]], dtype), "x.tiff")
    with pytest.raises(FileError, match=re.escape(white)):
        read_image(path, (1, 3), 1)


def test_a_large_file_is_read_without_a_warning_and_a_huge_one_is_rejected(save, monkeypatch):
    path = save(np.zeros((30, 30), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # Pillow warns above it
    assert read_image(path, (4, 4), 3).shape == (4, 4, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 449)  # and refuses above twice as many
    with pytest.raises(ValueError, match=r"picture\.png cannot be .* \(900 pixels\) exceeds"):
        read_image(path, (4, 4), 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.png", "there is no file .*none.png"),
        (".", "is a folder, not a file"),
        ("picture.png/below", "there is no file .*below"),
    ],
)
def test_the_error_for_a_missing_file_contains_its_name(save, name, message):
    with pytest.raises(FileNotFoundError, match=message):
        read_image(save(RAMP).parent / name, (8, 8), 1)


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_an_unsupported_number_of_channels_is_rejected(save, channels):
    with pytest.raises(ValueError, match=rf"picture\.png: .* but the model takes {channels}"):
        read_image(save(RAMP), (8, 8), channels)


def test_the_sample_photograph_is_a_portrait():
    image = read_image(sample_photograph(), (224, 224), 3, "timm")
    blue, face = image[20, 215], image[105, 105]  # the background, and a cheek
    assert blue[2] > blue[0] + 0.3
    assert face[0] > face[2] + 0.3


# --- class names ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    ["tench\ngreat white shark\n고양이", "tench\r\ngreat white shark \r\n고양이\r\n\r\n",
     "\ufefftench\ngreat white shark\n고양이\n"],
    ids=["plain", "CRLF", "byte order mark"],
)  # fmt: skip
def test_labels_are_read_line_by_line(tmp_path, content):
    path = tmp_path / "labels.txt"
    path.write_bytes(content.encode())
    assert read_labels(path, 3) == ["tench", "great white shark", "고양이"]
    path.write_text("a\u2028b\n", encoding="utf-8")  # a line separator that does not end a line
    assert read_labels(path, 1) == ["a\u2028b"]


@pytest.mark.parametrize(
    ("classes", "content", "message"),
    [
        (3, b"a\nb\n", r"labels\.txt has 2 lines, but the model has 3 classes"),
        (2, b"a\n", r"labels\.txt has 1 line, but the model has 2 classes"),
        (2, b"", r"labels\.txt has 0 lines, but the model has 2 classes"),
        (2, b"\xff\xfe\x80", r"labels\.txt is not a text file"),
    ],
)
def test_invalid_files_of_labels_are_rejected(tmp_path, classes, content, message):
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_labels(tmp_path / "labels.txt", classes)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.txt"):
        read_labels(tmp_path / "none.txt", classes)


# --- validation images ------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.99])
def test_a_share_of_each_class_is_set_aside_for_validation(share):
    d = load_digits()
    rest, images, labels = data.split_validation(d, share)
    assert len(rest.images) + len(images) == 1437
    for c in range(10):
        n = (d.labels == c).sum()
        assert (labels == c).sum() == min(n - 1, max(1, round(share * n)))
    both = np.concatenate([rest.images[:], images[:]])
    assert {x.tobytes() for x in both} == {x.tobytes() for x in d.images}
    for part, part_labels in ((rest.images, rest.labels), (images, labels)):
        found = [np.flatnonzero((d.images == image).all((1, 2, 3)))[0] for image in part[:20]]
        assert found == sorted(found)
        assert np.array_equal(d.labels[found], part_labels[:20])
    assert rest.held_out_images is d.held_out_images
    again = data.split_validation(d, share)[2]
    assert np.array_equal(again, labels)


def test_the_boxes_and_the_preprocessing_belong_to_the_images():
    d = data.load_scattered(n=60, held_out=5)
    rest, images, _ = data.split_validation(d, 0.2)
    for box, image in zip(rest.boxes, rest.images[:], strict=True):
        (i,) = np.flatnonzero((d.images == image).all((1, 2, 3)))
        assert np.array_equal(d.boxes[i], box)
    resized = data.resize_dataset(d, (32, 32), 3, "imagenet")
    rest, images, _ = data.split_validation(resized, 0.2)
    assert rest.images.shape == (len(rest.labels), 32, 32, 3)
    assert rest.images.preprocessing is resized.images.preprocessing
    assert images[np.array([0, 2])].shape == (2, 32, 32, 3)
    assert images[3].shape == (32, 32, 3)


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_an_invalid_share_of_validation_images_is_rejected(share):
    with pytest.raises(ValueError, match=r"must be in \(0, 1\)"):
        data.split_validation(load_digits(), share)


def test_a_class_with_one_image_keeps_it():
    d = load_digits()._replace(images=load_digits().images[:3], labels=np.array([0, 1, 2]))
    rest, images, labels = data.split_validation(d, 0.5)
    assert (len(rest.images), len(images), len(labels)) == (3, 0, 0)


def test_unreadable_images_of_a_part_are_skipped():
    d = load_digits()
    rest, *_ = data.split_validation(
        d._replace(images=Unreadable(d.images, np.arange(0, 1437, 2))), 0.1
    )
    batch, batch_labels = data.take(rest.images, rest.labels, np.arange(40))
    assert 5 < len(batch) == len(batch_labels) < 35
    expected, _, _ = data.split_validation(d, 0.1)
    kept = expected.images.indices[:40] % 2 == 1
    np.testing.assert_array_equal(batch, expected.images[np.arange(40)][kept])
