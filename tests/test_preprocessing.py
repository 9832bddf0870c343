"""How photographs are brought to a model: the rules of each family, pixel by pixel."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from minivit.data import (
    Preprocessing,
    get_preprocessing,
    read_image,
    read_labels,
    sample_photograph,
)
from minivit.data.preprocessing import preprocess, size_before_crop
from minivit.models.config import PREPROCESSINGS


def close(a, b, tolerance=1e-6):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def noise(height, width, channels=3):
    shape = (height, width, channels)
    pixels = np.random.default_rng(5).integers(0, 256, shape).astype(np.uint8)
    return pixels, Image.fromarray(pixels.squeeze())


# --- which rules -----------------------------------------------------------------------------


def test_every_family_that_a_configuration_names_has_rules():
    for family in PREPROCESSINGS:
        assert isinstance(get_preprocessing(family, (224, 224)), Preprocessing)
    with pytest.raises(ValueError, match="unknown preprocessing 'keras': choose minivit, google"):
        get_preprocessing("keras", (224, 224))


SHORT_SIDES = {
    "minivit": [None, None, None],
    "google": [None, None, None],
    "huggingface": [None, None, None],
    "timm": [177, 248, 384],
    "imagenet": [None, None, None],
    "dino": [182, 256, 438],
    "big_vision": [182, 256, 448],
}


@pytest.mark.parametrize("family", SHORT_SIDES)
def test_what_is_cropped_depends_on_the_size(family):
    found = [get_preprocessing(family, (side, side)).short_side for side in (160, 224, 384)]
    assert found == SHORT_SIDES[family]
    assert get_preprocessing(family, (300, 224)).short_side == SHORT_SIDES[family][1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"filter": "lanczos"}, "'lanczos': choose bilinear, bicubic, area"),
        ({"short_side": 0}, "1 pixel or more, not 0"),
    ],
)
def test_rules_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(get_preprocessing("timm", (224, 224)), **fields)


# --- colours ---------------------------------------------------------------------------------

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.mark.parametrize("family", PREPROCESSINGS)
def test_black_and_white_are_shifted_and_scaled(family):
    how = get_preprocessing(family, (4, 4))
    own = family in ("dino", "imagenet")
    mean, deviation = np.array(IMAGENET if own else ([0.5] * 3, [0.5] * 3))
    for value in (0, 51, 255):
        image = preprocess(Image.new("RGB", (9, 7), (value, value, value)), (4, 4), how)
        assert image.shape == (4, 4, 3)
        assert image.dtype == np.float32
        close(image, np.broadcast_to((value / 255 - mean) / deviation, (4, 4, 3)))


@pytest.mark.parametrize("family", PREPROCESSINGS)
def test_colours_are_found_again_and_the_negative_is_theirs(family):
    pixels, picture = noise(6, 6)
    how = dataclasses.replace(get_preprocessing(family, (6, 6)), short_side=None)
    image = preprocess(picture, (6, 6), how)
    close(how.denormalise(image), pixels / 127.5 - 1)
    close(how.denormalise(how.invert(image)), 1 - pixels / 127.5)
    assert how.denormalise(image).dtype == how.invert(image).dtype == np.float32


def test_from_minus_one_to_one_nothing_is_rounded_on_the_way_back():
    how = Preprocessing()
    image = preprocess(noise(16, 16)[1], (16, 16), how)
    assert np.array_equal(how.denormalise(image), image)
    assert np.array_equal(how.invert(image), -image)


def test_grey_has_the_average_of_the_three():
    how = get_preprocessing("dino", (4, 4))
    white = preprocess(Image.new("L", (9, 9), 255), (4, 4), how)
    assert white.shape == (4, 4, 1)
    close(white, (1 - np.mean(IMAGENET[0])) / np.mean(IMAGENET[1]))
    close(how.denormalise(white), 1)


# --- sizes -----------------------------------------------------------------------------------

#      picture (width, height), image (H, W), short side -> by Pillow, by area
COVERING = [
    ((500, 333), (224, 224), 248, (248, 372), (248, 372)),  # 372.4
    ((640, 427), (224, 224), 248, (248, 371), (248, 372)),  # 371.7
    ((427, 640), (224, 224), 248, (371, 248), (372, 248)),
    ((100, 100), (224, 224), 256, (256, 256), (256, 256)),
    ((500, 500), (224, 224), 500, (500, 500), (500, 500)),
    ((300, 100), (20, 40), 25, (25, 75), (25, 75)),  # flatter than the image: H decides
    ((100, 300), (20, 40), 25, (150, 50), (150, 50)),
    ((100, 60), (20, 40), 25, (30, 50), (30, 50)),  # flat, but less so
    ((60, 100), (40, 20), 25, (50, 30), (50, 30)),
]


@pytest.mark.parametrize(("picture", "size", "short_side", "by_pillow", "by_area"), COVERING)
def test_a_picture_keeps_its_shape_and_covers_the_image(
    picture, size, short_side, by_pillow, by_area
):
    picture = Image.new("L", picture)
    assert size_before_crop(picture, size, Preprocessing(short_side, "bicubic")) == by_pillow
    assert size_before_crop(picture, size, Preprocessing(short_side, "area")) == by_area
    image = preprocess(picture, size, Preprocessing(short_side, "bicubic"))
    assert image.shape == (*size, 1)


@pytest.mark.parametrize(
    ("filter_", "width", "left"),
    [("bicubic", 29, 6), ("bicubic", 27, 4), ("bicubic", 26, 4), ("area", 29, 5), ("area", 27, 4)],
)
def test_the_crop_is_the_middle_and_where_there_is_none_as_others_round(filter_, width, left):
    pixels, picture = noise(20, width)
    image = preprocess(picture, (18, 18), Preprocessing(20, filter_))
    close(image, pixels[1:19, left : left + 18] / 127.5 - 1)
    pixels, picture = pixels.swapaxes(0, 1), Image.fromarray(pixels.swapaxes(0, 1))
    image = preprocess(picture, (18, 18), Preprocessing(20, filter_))
    close(image, pixels[left : left + 18, 1:19] / 127.5 - 1)


def test_without_a_short_side_everything_is_squashed_into_the_image():
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :20] = 255  # the first quarter is white
    for antialias in (True, False):
        image = preprocess(Image.fromarray(pixels), (8, 8), Preprocessing(antialias=antialias))
        close(image[:, 0], 1)
        close(image[:, 3:], -1)


def test_an_image_larger_than_its_short_side_is_refused():
    with pytest.raises(ValueError, match=r"no image of 8 x 9 pixels can be cut from .* has 7"):
        preprocess(Image.new("L", (20, 20)), (8, 9), Preprocessing(7))


def test_a_picture_that_would_become_too_long_is_refused():
    with pytest.raises(ValueError, match=r"short side of 248 .* has 1 x 60000, would be too long"):
        preprocess(Image.new("L", (60000, 1)), (224, 224), get_preprocessing("timm", (224, 224)))


# --- filters ---------------------------------------------------------------------------------


def test_tensorflow_reads_the_nearest_pixels_alone_and_rounds_nothing():
    pixels, picture = noise(32, 16)
    image = preprocess(picture, (8, 4), get_preprocessing("google", (8, 4)))
    nearest = pixels.reshape(8, 4, 4, 4, 3)[:, 1:3, :, 1:3]  # the middle two of each four
    close(image, nearest.mean((1, 3)) / 127.5 - 1)


def test_area_is_the_mean_cut_off_to_bytes():
    pixels, picture = noise(32, 32)
    image = preprocess(picture, (8, 8), Preprocessing(8, "area"))
    mean = pixels.reshape(8, 4, 8, 4, 3).mean((1, 3))
    assert (mean % 1 > 0.6).any()
    close(image, np.floor(mean) / 127.5 - 1)


@pytest.mark.parametrize(("family", "filter_"), [("huggingface", 2), ("minivit", 2), ("timm", 3)])
def test_the_others_are_resized_by_pillow(family, filter_):
    _, picture = noise(64, 48)
    how = dataclasses.replace(get_preprocessing(family, (8, 8)), short_side=None)
    expected = np.asarray(picture.resize((8, 8), filter_)) / 127.5 - 1
    close(preprocess(picture, (8, 8), how), expected)


# Three pixels, in bytes, of x[i, j, c] = (7 i + 5 j + 60 c) mod 256, 53 x 71, after torchvision's
# Resize(20, bicubic) and CenterCrop(18).
BY_TORCHVISION = {(0, 0): [83, 143, 203], (9, 17): [232, 27, 90], (17, 4): [198, 114, 62]}


def test_a_short_side_and_a_crop_give_the_pixels_that_torchvision_gives():
    i, j, c = np.ogrid[:53, :71, :3]
    picture = Image.fromarray(((7 * i + 5 * j + 60 * c) % 256).astype(np.uint8))
    image = preprocess(picture, (18, 18), get_preprocessing("timm", (18, 18)))
    for place, expected in BY_TORCHVISION.items():
        close(image[place], np.array(expected) / 127.5 - 1)


def test_reading_a_file_applies_the_rules(tmp_path):
    pixels, picture = noise(20, 29)
    picture.save(tmp_path / "noise.png")
    image = read_image(tmp_path / "noise.png", (18, 18), 3, "timm")
    close(image, pixels[1:19, 6:24] / 127.5 - 1)
    own = Preprocessing(20, "bicubic", mean=(0.0,) * 3, std=(1.0,) * 3)
    image = read_image(tmp_path / "noise.png", (18, 18), 3, own)
    close(image, pixels[1:19, 6:24] / 255)


def test_a_file_that_the_rules_refuse_is_named(tmp_path):
    noise(20, 29)[1].save(tmp_path / "noise.png")
    with pytest.raises(ValueError, match=r"noise\.png: no image of 18 x 18"):
        read_image(tmp_path / "noise.png", (18, 18), 3, Preprocessing(17))
    with pytest.raises(ValueError, match="unknown preprocessing 'none'"):
        read_image(tmp_path / "noise.png", (18, 18), 3, "none")


# --- files of all kinds ----------------------------------------------------------------------

#   the turns that undo what the camera noted (the EXIF tag 274)
TURNED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_camera_that_was_held_upright_is_believed(tmp_path, orientation, channels):
    pixels, picture = noise(6, 4, channels)
    exif = Image.Exif()
    exif[274] = orientation
    picture.save(tmp_path / "photo.png", exif=exif)
    expected = TURNED[orientation](pixels) / 127.5 - 1
    close(read_image(tmp_path / "photo.png", expected.shape[:2], channels), expected)


@pytest.mark.parametrize("notes", [b"Exif\0\0no notes", b"Exif\0\0II*\0" + b"\xff" * 40])
def test_damaged_notes_of_a_camera_do_no_harm(tmp_path, notes):
    pixels, picture = noise(6, 4)
    picture.save(tmp_path / "photo.webp", lossless=True, exif=notes)
    close(read_image(tmp_path / "photo.webp", (6, 4), 3), pixels / 127.5 - 1)


@pytest.mark.parametrize("name", ["x.gif", "x.png", "x.webp"])
def test_of_an_animation_the_first_picture_is_taken(tmp_path, name):
    frames = [Image.new("L", (5, 5), grey) for grey in (51, 102, 255)]
    options = {"lossless": True} if name == "x.webp" else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
    close(read_image(tmp_path / name, (5, 5), 1), 51 / 127.5 - 1)


@pytest.mark.parametrize("transparency", [1, bytes([255, 0])])
def test_a_transparent_colour_of_a_palette_is_white_paper(tmp_path, transparency):
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.paste(1, (0, 0, 4, 2))
    picture.save(tmp_path / "x.png", transparency=transparency)
    image = read_image(tmp_path / "x.png", (4, 4), 3)
    close(image[:2], 1)
    close(image[2:], np.broadcast_to([1, -1, -1], (2, 4, 3)))


REFUSED = {
    "no width": (b"P6 0 4 255\n", "cannot identify"),
    "no height": (b"P5 4 0 255\n", "cannot identify"),
}


@pytest.mark.parametrize(("content", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_picture_without_pixels_is_refused(tmp_path, content, reason):
    (tmp_path / "x.ppm").write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.ppm cannot be read as an image: .*{reason}"):
        read_image(tmp_path / "x.ppm", (4, 4), 3)


def test_a_picture_of_floats_is_refused(tmp_path):
    Image.fromarray(np.full((3, 3), 0.5, np.float32)).save(tmp_path / "x.tiff")
    with pytest.raises(ValueError, match=r"x\.tiff cannot be read as an image: its pixels are fl"):
        read_image(tmp_path / "x.tiff", (3, 3), 1)


def test_a_picture_too_large_for_any_memory_is_refused(tmp_path, monkeypatch):
    noise(30, 30)[1].save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 449)
    with pytest.raises(ValueError, match=r"x\.png cannot be .* \(900 pixels\) exceeds") as error:
        read_image(tmp_path / "x.png", (4, 4), 3)
    assert "\n" not in str(error.value)


def test_a_large_picture_is_read_without_a_warning(tmp_path, monkeypatch):
    noise(30, 30)[1].save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # a warning from here, twice that no
    assert read_image(tmp_path / "x.png", (4, 4), 3).shape == (4, 4, 3)


def test_the_portrait_is_a_photograph_that_is_always_there():
    image = read_image(sample_photograph(), (224, 224), 3, "timm")
    assert image.shape == (224, 224, 3)
    blue, face = image[20, 215], image[105, 105]  # the background, and a cheek
    assert blue[2] > blue[0] + 0.3
    assert face[0] > face[2] + 0.3


# --- the names of classes --------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    ["tench\ngreat white shark\ncrane", "tench\r\ngreat white shark \r\ncrane\r\n\r\n",
     "\ufefftench\ngreat white shark\ncrane\n"],
    ids=["as it is", "of another system", "with a mark"],
)  # fmt: skip
def test_labels_are_one_on_each_line(tmp_path, content):
    (tmp_path / "labels.txt").write_bytes(content.encode())
    assert read_labels(tmp_path / "labels.txt", 3) == ["tench", "great white shark", "crane"]


def test_letters_of_any_language_may_be_in_a_label(tmp_path):
    (tmp_path / "labels.txt").write_text("고양이\nПёс\na\u2028b\n", encoding="utf-8")
    assert read_labels(tmp_path / "labels.txt", 3) == ["고양이", "Пёс", "a\u2028b"]


@pytest.mark.parametrize(("classes", "content"), [(3, "a\nb\n"), (1, "a\nb\n"), (2, "")])
def test_another_number_of_labels_is_refused(tmp_path, classes, content):
    (tmp_path / "labels.txt").write_text(content)
    lines = content.count("\n")
    message = rf"labels\.txt has {lines} lines, but the model knows {classes} classes"
    with pytest.raises(ValueError, match=message):
        read_labels(tmp_path / "labels.txt", classes)


def test_labels_that_are_no_text_or_not_there_are_named(tmp_path):
    (tmp_path / "labels.txt").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(ValueError, match=r"labels\.txt is not a text file"):
        read_labels(tmp_path / "labels.txt", 2)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.txt"):
        read_labels(tmp_path / "none.txt", 2)
