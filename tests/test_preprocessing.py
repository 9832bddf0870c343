"""Preprocessing of photographs: sizes, crops, filters and colours of each family."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from minivit.data import Preprocessing, get_preprocessing, read_image
from minivit.data.preprocessing import preprocess, size_before_crop
from minivit.models.config import PREPROCESSINGS


def close(a, b, tolerance=1e-6):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def noise(height, width):
    pixels = np.random.default_rng(5).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return pixels, Image.fromarray(pixels)


# --- families --------------------------------------------------------------------------------

SHORT_SIDES = {  # for images of 160, 224 and 384 pixels
    "minivit": [None, None, None],
    "google": [None, None, None],
    "huggingface": [None, None, None],
    "timm": [177, 248, 384],
    "imagenet": [None, None, None],
    "dino": [182, 256, 438],
    "big_vision": [182, 256, 448],
    "cropped": [160, 224, 384],
}


def test_every_family_in_the_configuration_has_rules():
    assert sorted(SHORT_SIDES) == sorted(PREPROCESSINGS)
    for family, expected in SHORT_SIDES.items():
        sides = [get_preprocessing(family, (side, side)).short_side for side in (160, 224, 384)]
        assert sides == expected
        assert get_preprocessing(family, (300, 224)).short_side == expected[1]


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: get_preprocessing("keras", (8, 8)), "preprocessing 'keras': choose minivit, goog"),
        (lambda: Preprocessing(filter="lanczos"), "'lanczos': choose bilinear, bicubic, area"),
        (lambda: Preprocessing(0), "short_side must be at least 1 pixel, not 0"),
    ],
)
def test_invalid_rules_are_rejected(create, message):
    with pytest.raises(ValueError, match=message):
        create()


# --- colours ---------------------------------------------------------------------------------

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.mark.parametrize("family", PREPROCESSINGS)
def test_colours_are_normalised_by_mean_and_std(family):
    preprocessing = get_preprocessing(family, (4, 4))
    mean, std = np.array(IMAGENET if family in ("dino", "imagenet") else ([0.5] * 3, [0.5] * 3))
    for value in (0, 51, 255):
        image = preprocess(Image.new("RGB", (9, 7), (value,) * 3), (4, 4), preprocessing)
        assert (image.shape, image.dtype) == ((4, 4, 3), np.float32)
        close(image, np.broadcast_to((value / 255 - mean) / std, (4, 4, 3)))


@pytest.mark.parametrize("family", PREPROCESSINGS)
def test_denormalise_and_invert(family):
    pixels, picture = noise(6, 6)
    preprocessing = dataclasses.replace(get_preprocessing(family, (6, 6)), short_side=None)
    image = preprocess(picture, (6, 6), preprocessing)
    colours, negative = preprocessing.denormalise(image), preprocessing.invert(image)
    close(colours, pixels / 127.5 - 1)
    close(preprocessing.denormalise(negative), 1 - pixels / 127.5)
    assert colours.dtype == negative.dtype == np.float32
    if preprocessing.mean == (0.5, 0.5, 0.5):
        assert np.array_equal(colours, image)
        assert np.array_equal(negative, -image)


def test_a_grey_image_has_the_averages_of_mean_and_std():
    preprocessing = get_preprocessing("dino", (4, 4))
    white = preprocess(Image.new("L", (9, 9), 255), (4, 4), preprocessing)
    assert white.shape == (4, 4, 1)
    close(white, (1 - np.mean(IMAGENET[0])) / np.mean(IMAGENET[1]))
    close(preprocessing.denormalise(white), 1)


# --- sizes -----------------------------------------------------------------------------------

#    picture (width, height), image (H, W), short side -> size before the crop by Pillow, by area
SIZES = [
    ((500, 333), (224, 224), 248, (248, 372), (248, 372)),  # 372.4
    ((640, 427), (224, 224), 248, (248, 371), (248, 372)),  # 371.7
    ((427, 640), (224, 224), 248, (371, 248), (372, 248)),
    ((100, 100), (224, 224), 256, (256, 256), (256, 256)),
    ((500, 500), (224, 224), 500, (500, 500), (500, 500)),
    ((300, 100), (20, 40), 25, (25, 75), (25, 75)),  # relatively wider than the image
    ((100, 300), (20, 40), 25, (150, 50), (150, 50)),
    ((100, 60), (20, 40), 25, (30, 50), (30, 50)),  # wide, but relatively taller than the image
    ((60, 100), (40, 20), 25, (50, 30), (50, 30)),
]


@pytest.mark.parametrize(("picture", "size", "short_side", "by_pillow", "by_area"), SIZES)
def test_a_resized_picture_keeps_its_aspect_ratio_and_covers_the_image(
    picture, size, short_side, by_pillow, by_area
):
    picture = Image.new("L", picture)
    for filter_, expected in (("bicubic", by_pillow), ("area", by_area)):
        preprocessing = Preprocessing(short_side, filter_)
        assert size_before_crop(picture, size, preprocessing) == expected
        assert preprocess(picture, size, preprocessing).shape == (*size, 1)


@pytest.mark.parametrize(
    ("filter_", "width", "left"),
    [("bicubic", 29, 6), ("bicubic", 27, 4), ("bicubic", 26, 4), ("area", 29, 5), ("area", 27, 4)],
)
def test_the_crop_is_central_and_rounded_as_in_the_reference_implementation(filter_, width, left):
    pixels, _ = noise(20, width)
    for x in (pixels, pixels.swapaxes(0, 1)):
        image = preprocess(Image.fromarray(x), (18, 18), Preprocessing(20, filter_))
        rows, columns = slice(1, 19), slice(left, left + 18)
        expected = x[rows, columns] if x is pixels else x[columns, rows]
        close(image, expected / 127.5 - 1)


@pytest.mark.parametrize(
    ("picture", "size", "short_side", "message"),
    [
        ((20, 20), (8, 9), 7, "cannot crop 8 x 9 pixels from a picture with a short side of 7"),
        ((60000, 1), (224, 224), 248, "of 1 x 60000 pixels would become too large with a .* 248"),
    ],
)
def test_too_large_crops_and_resized_pictures_are_rejected(
    tmp_path, picture, size, short_side, message
):
    Image.new("L", picture).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match=rf"x\.png: .*{message}"):
        read_image(tmp_path / "x.png", size, 1, Preprocessing(short_side))


# --- filters ---------------------------------------------------------------------------------


def test_google_interpolates_the_nearest_pixels_without_rounding_or_a_crop():
    pixels, picture = noise(32, 16)
    image = preprocess(picture, (8, 8), get_preprocessing("google", (8, 8)))
    nearest = pixels.reshape(8, 4, 8, 2, 3)[:, 1:3]  # the middle two of four rows, both columns
    close(image, nearest.mean((1, 3)) / 127.5 - 1)


def test_area_is_the_mean_truncated_to_bytes():
    pixels, picture = noise(32, 32)
    image = preprocess(picture, (8, 8), Preprocessing(8, "area"))
    mean = pixels.reshape(8, 4, 8, 4, 3).mean((1, 3))
    assert (mean % 1 > 0.6).any()
    close(image, np.floor(mean) / 127.5 - 1)


@pytest.mark.parametrize(("family", "filter_"), [("huggingface", 2), ("minivit", 2), ("timm", 3)])
def test_other_families_are_resized_like_pillow(family, filter_):
    _, picture = noise(64, 48)
    preprocessing = dataclasses.replace(get_preprocessing(family, (8, 8)), short_side=None)
    expected = np.asarray(picture.resize((8, 8), filter_)) / 127.5 - 1
    close(preprocess(picture, (8, 8), preprocessing), expected)


# Three pixels of x[i, j, c] = (7 i + 5 j + 60 c) mod 256, 53 x 71, after torchvision's
# Resize(20, bicubic) and CenterCrop(18).
BY_TORCHVISION = {(0, 0): [83, 143, 203], (9, 17): [232, 27, 90], (17, 4): [198, 114, 62]}


def test_resize_and_crop_match_torchvision():
    i, j, c = np.ogrid[:53, :71, :3]
    picture = Image.fromarray(((7 * i + 5 * j + 60 * c) % 256).astype(np.uint8))
    image = preprocess(picture, (18, 18), get_preprocessing("timm", (18, 18)))
    for place, expected in BY_TORCHVISION.items():
        close(image[place], np.array(expected) / 127.5 - 1)


def test_read_image_takes_a_family_or_rules(tmp_path):
    pixels, picture = noise(20, 29)
    picture.save(path := tmp_path / "noise.png")
    close(read_image(path, (18, 18), 3, "timm"), pixels[1:19, 6:24] / 127.5 - 1)
    custom = Preprocessing(20, "bicubic", mean=(0.0,) * 3, std=(1.0,) * 3)
    close(read_image(path, (18, 18), 3, custom), pixels[1:19, 6:24] / 255)
    with pytest.raises(ValueError, match="unknown preprocessing 'none'"):
        read_image(path, (18, 18), 3, "none")
