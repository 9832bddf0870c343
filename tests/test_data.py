"""The digits, image files, and moving images about."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from minivit.data import load_digits, read_image
from minivit.data.augment import random_shift
from minivit.data.dataset import fingerprint

# --- the digits ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def d():
    return load_digits()


def test_the_digits_come_in_two_parts(d):
    assert d.images.shape == (1437, 8, 8, 1)
    assert d.labels.shape == (1437,)
    assert d.held_out_images.shape == (360, 8, 8, 1)
    assert d.held_out_labels.shape == (360,)
    assert (d.images.dtype, d.labels.dtype) == (np.float32, np.int64)
    assert d.classes == tuple("0123456789")
    assert d.name == "digits"


def test_fewer_may_be_asked_for_to_train_on(d):
    few = load_digits(n=5)
    assert np.array_equal(few.images, d.images[:5])
    assert np.array_equal(few.labels, d.labels[:5])
    assert np.array_equal(few.held_out_images, d.held_out_images)


def test_a_fingerprint_is_of_the_classes_and_of_all_labels_in_their_order(d):
    def other(labels):
        return np.roll(labels, 1)

    changes = [
        {},
        {"classes": tuple("abcdefghij")},
        {"labels": other(d.labels)},
        {"held_out_labels": other(d.held_out_labels)},
    ]
    prints = [fingerprint(d._replace(**fields)) for fields in changes]
    assert len(set(prints)) == 4
    narrow = d.labels.astype(np.uint8), d.held_out_labels.astype(np.uint8)
    assert fingerprint(d._replace(labels=narrow[0], held_out_labels=narrow[1])) == prints[0]


def test_each_class_is_counted(d):
    train = [139, 145, 130, 155, 139, 150, 144, 152, 144, 139]
    held_out = [39, 37, 47, 28, 42, 32, 37, 27, 30, 41]
    assert np.bincount(d.labels).tolist() == train
    assert np.bincount(d.held_out_labels).tolist() == held_out
    # Together they are the whole test set of the source, as its description counts it.
    source = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert [a + b for a, b in zip(train, held_out, strict=True)] == source


def test_pixels_are_seventeen_shades_from_minus_one_to_one(d):
    for images in (d.images, d.held_out_images):
        assert np.unique(images).tolist() == [ink / 8 - 1 for ink in range(17)]


def test_no_two_images_are_the_same(d):
    train = set(map(bytes, d.images))
    held_out = set(map(bytes, d.held_out_images))
    assert len(train) == 1437
    assert len(held_out) == 360
    assert not train & held_out


def test_images_and_labels_belong_together(d):
    """The mean image of each class is most like the mean image of the same held-out class."""
    means = [
        np.stack([images[labels == c].mean(0).ravel() for c in range(10)])
        for images, labels in ((d.images, d.labels), (d.held_out_images, d.held_out_labels))
    ]
    distance = ((means[0][:, None] - means[1]) ** 2).sum(-1)
    assert distance.argmin(1).tolist() == list(range(10))


def test_the_first_digit_stands_upright(d):
    seven = d.held_out_images[d.held_out_labels == 7].mean(0)[..., 0]
    assert seven[:3].mean() > seven[5:].mean() + 0.1  # its bar is at the top
    assert d.images.mean() < -0.3  # light ink on dark paper


def test_every_call_gives_new_arrays(d):
    again = load_digits()
    assert np.array_equal(again.images, d.images)
    assert not np.shares_memory(again.images, d.images)


# --- read_image ------------------------------------------------------------------------------


@pytest.fixture
def save(tmp_path):
    """Write a picture and give its path."""

    def saved(picture, name="picture.png", **options):
        if not isinstance(picture, Image.Image):
            picture = Image.fromarray(np.asarray(picture))
        picture.save(tmp_path / name, **options)
        return tmp_path / name

    return saved


RAMP = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)  # 64 shades of grey


def as_pixels(grey):
    """What read_image should make of bytes."""
    return (np.asarray(grey, dtype=np.float64) / 127.5 - 1)[..., None]


def test_grey_bytes_become_floats_from_minus_one_to_one(save):
    image = read_image(save(np.array([[0, 255], [127, 128]], np.uint8)), (2, 2), 1)
    assert image.shape == (2, 2, 1)
    assert image.dtype == np.float32
    expected = [[-1, 1], [-1 / 255, 1 / 255]]
    np.testing.assert_allclose(image[..., 0], expected, atol=1e-7)


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.tiff", "x.gif", "x.pgm"])
def test_grey_pictures_of_several_formats_are_the_same(save, name):
    np.testing.assert_allclose(read_image(save(RAMP, name), (8, 8), 1), as_pixels(RAMP), atol=1e-6)


def test_a_grey_picture_for_a_colour_model_has_three_equal_channels(save):
    image = read_image(save(RAMP), (8, 8), 3)
    assert image.shape == (8, 8, 3)
    np.testing.assert_allclose(image, as_pixels(RAMP).repeat(3, axis=2), atol=1e-6)


def test_a_colour_picture_keeps_its_colours(save):
    colours = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=2)
    image = read_image(save(colours), (8, 8), 3)
    np.testing.assert_allclose(image, colours / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize(
    ("colour", "grey"), [((255, 0, 0), 0.299), ((0, 255, 0), 0.587), ((0, 0, 255), 0.114)]
)
def test_a_colour_picture_for_a_grey_model_is_its_brightness(save, colour, grey):
    image = read_image(save(np.full((2, 2, 3), colour, np.uint8)), (2, 2), 1)
    np.testing.assert_allclose(image, 2 * grey - 1, atol=0.01)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_opaque_alpha_channel_changes_nothing(save, channels):
    colours = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=2)
    opaque = np.concatenate([colours, np.full((8, 8, 1), 255, np.uint8)], axis=2)
    plain = read_image(save(colours, "plain.png"), (8, 8), channels)
    assert np.array_equal(read_image(save(opaque, "opaque.png"), (8, 8), channels), plain)


def transparent_drawing():
    """Black ink on nothing: under what is transparent lies black, as most programs leave it."""
    picture = np.zeros((8, 8, 4), np.uint8)
    picture[2:6, 3:5, 3] = 255
    paper = np.full((8, 8), 255)
    paper[2:6, 3:5] = 0
    return Image.fromarray(picture), as_pixels(paper)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white_paper(save, mode):
    picture, expected = transparent_drawing()
    image = read_image(save(picture.convert(mode)), (8, 8), 1)
    np.testing.assert_allclose(image, expected, atol=1e-6)


def test_what_is_half_transparent_is_half_paper(save):
    picture = np.zeros((2, 2, 4), np.uint8)
    picture[..., 3] = 127
    np.testing.assert_allclose(read_image(save(picture), (2, 2), 1), 0, atol=0.01)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_palette_stands_for_its_colours(save, channels):
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((1, 0), 1)
    image = read_image(save(picture), (1, 2), channels)
    expected = [[[1, -1, -1], [-1, -1, 1]]] if channels == 3 else [[[2 * 0.299 - 1], [-0.772]]]
    np.testing.assert_allclose(image, expected, atol=0.01)


def test_black_and_white_is_black_and_white(save):
    picture = Image.fromarray(RAMP > 100).convert("1")
    image = read_image(save(picture), (8, 8), 1)
    assert np.array_equal(image[..., 0], np.where(RAMP > 100, 1, -1))


@pytest.mark.parametrize("kind", ["<u2", ">u2"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_have_the_same_shades_as_eight(save, kind, channels):
    deep = (RAMP.astype(np.uint16) * 257).astype(kind)
    image = read_image(save(deep, "deep.tiff" if kind == ">u2" else "deep.png"), (8, 8), channels)
    np.testing.assert_allclose(image, as_pixels(RAMP).repeat(channels, axis=2), atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (3, 5)])
def test_one_pixel_fills_any_size(save, size):
    image = read_image(save(np.full((1, 1), 51, np.uint8)), size, 1)
    assert image.shape == (*size, 1)
    np.testing.assert_allclose(image, 51 / 127.5 - 1, atol=1e-6)


def test_sizes_are_height_then_width(save):
    top_half = np.zeros((40, 20), np.uint8)
    top_half[:20] = 255
    image = read_image(save(top_half), (8, 2), 1)
    assert image.shape == (8, 2, 1)
    assert (image[:3] == 1).all()
    assert (image[5:] == -1).all()


def test_making_it_smaller_takes_all_pixels_into_account(save):
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    image = read_image(save(stripes), (8, 8), 1)
    np.testing.assert_allclose(image[2:6, 2:6], 0, atol=0.05)  # picking pixels gives -1 or 1


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_a_path_may_be_a_string(save, kind):
    assert read_image(kind(save(RAMP)), (8, 8), 1).shape == (8, 8, 1)


def truncated():
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)).save(
        file, "png"
    )
    return file.getvalue()[:2000]


def damaged_tiff():
    file = io.BytesIO()
    Image.fromarray(RAMP).save(file, "tiff")
    return file.getvalue()[:150]


@pytest.mark.parametrize(
    "content",
    [b"", b"hello, world\n" * 20, b"\x89PNG\r\n\x1a\n", b"GIF89a", truncated(), damaged_tiff()],
    ids=["empty", "text", "the signature of a PNG", "of a GIF", "truncated PNG", "damaged TIFF"],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_no_picture_is_refused_by_its_name(tmp_path, content, channels):
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"picture\.png cannot be read as an image: .") as error:
        read_image(path, (8, 8), channels)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [KeyError, RuntimeError, NotImplementedError, struct.error])
def test_whatever_a_reader_of_pillow_raises_is_a_refusal(save, monkeypatch, kind):
    # Those of AVIF and BLP do raise such errors on damaged files, against Pillow's own rules.
    def raises(path):
        raise kind("what the reader says")

    path = save(RAMP)
    monkeypatch.setattr(Image, "open", raises)
    with pytest.raises(ValueError, match=r"picture\.png cannot be read .*what the reader says"):
        read_image(path, (8, 8), 1)


@pytest.mark.parametrize("place", ["none.png", ".", "picture.png/below"])
def test_a_missing_file_is_refused_by_its_name(save, place):
    path = save(RAMP).parent / place
    with pytest.raises(FileNotFoundError) as error:
        read_image(path, (8, 8), 1)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_a_model_of_other_channels_cannot_take_a_picture(save, channels):
    with pytest.raises(ValueError, match="1 or 3 channels, the model takes") as error:
        read_image(save(RAMP), (8, 8), channels)
    assert "picture.png" in str(error.value)


# --- shift -----------------------------------------------------------------------------------


def moved(image, down, right):
    """One image moved, pixel by pixel."""
    H, W, _ = image.shape
    result = np.full_like(image, -1)
    for i in range(H):
        for j in range(W):
            if 0 <= i - down < H and 0 <= j - right < W:
                result[i, j] = image[i - down, j - right]
    return result


def some_images(count=40, shape=(5, 4, 2)):
    return np.random.default_rng(1).uniform(-1, 1, (count, *shape)).astype(np.float32)


@pytest.mark.parametrize("pixels", [0, 1, 2])
def test_each_image_is_moved_by_at_most_so_many_pixels(pixels):
    images = some_images()
    before = images.copy()
    after = random_shift(images, pixels, np.random.default_rng(0))
    assert after.shape == images.shape
    assert after.dtype == np.float32
    steps = range(-pixels, pixels + 1)
    places = [(down, right) for down in steps for right in steps]
    used = set()
    for image, result in zip(images, after, strict=True):
        fits = [place for place in places if np.array_equal(moved(image, *place), result)]
        assert len(fits) == 1  # one of the (2n + 1)² moves, and it alone
        used |= set(fits)
    assert len(used) > 0.7 * len(places)  # each image has a move of its own
    assert np.array_equal(images, before)


def test_every_move_is_as_likely_as_any_other():
    image = np.zeros((1, 3, 3, 1), np.float32)
    image[0, 1, 1] = 1
    after = random_shift(image.repeat(9000, axis=0), 1, np.random.default_rng(0))
    share = (after == 1).mean(axis=0)
    np.testing.assert_allclose(share, 1 / 9, atol=0.015)


def test_the_generator_decides_the_moves():
    images = some_images()
    one, same, other = (random_shift(images, 2, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_move_larger_than_the_image_leaves_nothing_but_the_border_value():
    after = random_shift(some_images(200), 50, np.random.default_rng(0))
    assert (after == -1).all(axis=(1, 2, 3)).mean() > 0.5
