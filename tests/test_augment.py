"""Augmentation: every operation against Pillow or by hand, its draws, and what it must not do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from minivit.data import randaugment as operations
from minivit.data.augment import augment, mix, random_erase, random_flip, random_shift
from minivit.data.randaugment import LEVELS, OPERATIONS, apply_randaugment

LEVEL = 2 / (LEVELS - 1)  # from one level to the next, in values
SIZES = [(32, 32, 3), (28, 28, 1), (9, 14, 3)]


def pictures(B, H, W, C, seed=0):
    """Levels (B, H, W, C): noise over all of them, then over ever fewer, then smooth slopes."""
    rng = np.random.default_rng(seed)
    low, high = np.sort(rng.integers(0, 256, size=(2, B, 1, 1, C)), axis=0)
    low[0], high[0] = 0, 255
    levels = rng.integers(low, high + 1, size=(B, H, W, C))
    slope = np.add.outer(np.arange(H) * 3, np.arange(W) * 2)[..., None] + 20 * np.arange(C)
    levels[B // 2 :] = (levels[B // 2 :] // 8 + slope).clip(0, 255)
    return levels.astype(np.uint8)


def values(levels):
    return (np.asarray(levels) / 127.5 - 1).astype(np.float32)


def by_pillow(function, levels):
    """The function of a Pillow image, applied to each of the batch; values."""
    results = [function(Image.fromarray(x.squeeze())) for x in levels]
    return values(results).reshape(levels.shape)


def strengths(m, B):
    return np.full((B, 1, 1, 1), m, np.float32)


def close(actual, expected, levels):
    assert actual.shape == expected.shape
    assert actual.dtype == np.float32
    assert abs(actual - expected).max() <= (levels + 1e-4) * LEVEL


def some_values(B=6, H=8, W=7, C=3, seed=0):
    x = np.random.default_rng(seed).uniform(-1, 1, (B, H, W, C)).astype(np.float32)
    x.flags.writeable = False
    return x


# --- RandAugment's operations are Pillow's ----------------------------------------------------

size = pytest.mark.parametrize("shape", SIZES, ids=str)
strength = pytest.mark.parametrize("m", [-1.0, -0.9, -0.35, 0.0, 0.2, 0.5, 0.9, 1.0])


@size
def test_equalise_is_pillows_to_the_bit(shape):
    levels = pictures(40, *shape)
    result = operations.equalise(values(levels), strengths(0.9, 40))
    assert np.array_equal(result, by_pillow(ImageOps.equalize, levels))


def test_equalise_spreads_the_levels_of_a_large_image_evenly():
    x = np.random.default_rng(0).normal(-0.3, 0.2, (1, 256, 256, 3)).clip(-1, 1)
    result = operations.equalise(x.astype(np.float32), strengths(1, 1))
    assert abs(np.quantile(result, [0, 0.25, 0.5, 0.75, 1]) - [-1, -0.5, 0, 0.5, 1]).max() < 0.03


@size
def test_autocontrast_is_pillows_but_for_its_rounding_down(shape):
    levels = pictures(40, *shape)
    result = operations.autocontrast(values(levels), strengths(0.9, 40))
    close(result, by_pillow(ImageOps.autocontrast, levels), 1)


def test_autocontrast_by_hand():
    x = np.array([[-0.5, 0.0], [0.25, 0.5]], np.float32).reshape(1, 2, 2, 1)
    x = np.concatenate([x, x / 1000, -x], axis=-1)
    result = operations.autocontrast(x, strengths(1, 1))
    assert np.array_equal(result[0, ..., 0].ravel(), [-1, 0, 0.5, 1])
    assert np.array_equal(result[..., 1], x[..., 1])  # all within half a level
    assert np.array_equal(result[..., 2], -result[..., 0])  # each channel by itself


def test_autocontrast_ends_at_the_ends_whatever_the_rounding():
    x = np.random.default_rng(0).uniform(-1, 1, (2000, 2, 2, 1)).astype(np.float32)
    result = operations.autocontrast(x, strengths(1, 2000))
    assert abs(result).max() == 1
    assert abs(result.max(axis=(1, 2)) - 1).max() < 3e-7
    assert (result.min(axis=(1, 2)) == -1).all()


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("operation", [operations.autocontrast, operations.equalise])
def test_a_channel_of_one_tone_keeps_it(operation, level):
    x = values(np.full((1, 6, 6, 3), level))
    assert np.array_equal(operation(x, strengths(1, 1)), x)


@size
@strength
def test_posterise_is_pillows_to_the_bit(shape, m):
    levels = pictures(10, *shape)
    bits = 8 - round(4 * abs(m))
    expected = by_pillow(lambda image: ImageOps.posterize(image, bits), levels)
    assert np.array_equal(operations.posterise(values(levels), strengths(m, 10)), expected)


@size
@strength
def test_solarise_is_pillows(shape, m):
    levels = pictures(10, *shape)
    threshold = round(256 * (1 - abs(m)))
    expected = by_pillow(lambda image: ImageOps.solarize(image, threshold), levels)
    close(operations.solarise(values(levels), strengths(m, 10)), expected, 0)


@size
@strength
@pytest.mark.parametrize(
    ("operation", "enhance"),
    [
        (operations.brightness, ImageEnhance.Brightness),
        (operations.contrast, ImageEnhance.Contrast),
        (operations.colour, ImageEnhance.Color),
        (operations.sharpness, ImageEnhance.Sharpness),
    ],
)
def test_enhancements_are_pillows_but_for_its_rounding(operation, enhance, shape, m):
    # Pillow rounds the poor version to a level, weighed by 0.9 at most, and the result down.
    levels = pictures(10, *shape)
    expected = by_pillow(lambda image: enhance(image).enhance(1 + 0.9 * m), levels)
    # the mean of an image that is itself rounded: half a level more
    doubly = operation in (operations.contrast, operations.sharpness)
    close(operation(values(levels), strengths(m, 10)), expected, 1 + 0.9 * (1 if doubly else 0.5))


def test_enhancements_by_hand():
    x = np.zeros((1, 3, 3, 3), np.float32)
    x[0, 1, 1] = 0.8, -0.4, 0.0
    luma = 0.299 * 0.8 - 0.587 * 0.4
    poor = {
        operations.brightness: [-1, -1, -1],
        operations.contrast: [luma / 9] * 3,
        operations.colour: [luma] * 3,
        operations.sharpness: [5 / 13 * 0.8, 5 / 13 * -0.4, 0],
    }
    for operation, pixel in poor.items():
        less = operation(x, strengths(-1, 1))[0, 1, 1]
        more = operation(x, strengths(1, 1))[0, 1, 1]
        assert abs(less - (0.1 * x[0, 1, 1] + 0.9 * np.array(pixel))).max() < 2e-7
        expected = (1.9 * x[0, 1, 1] - 0.9 * np.array(pixel)).clip(-1, 1)
        assert abs(more - expected).max() < 3e-7


def test_a_sharpened_image_keeps_its_border():
    x = some_values()
    result = operations.sharpness(x, strengths(-1, 6))
    changed = (result != x).all(axis=(0, 3))
    assert changed[1:-1, 1:-1].all()
    inner = np.zeros_like(changed)
    inner[1:-1, 1:-1] = True
    assert abs(result - x)[:, ~inner].max() < 2e-7


def by_pillow_in_floats(function, x):
    """The same for values, channel by channel, where Pillow rounds to no level."""
    channels = np.moveaxis(x, -1, 1)
    results = [[function(Image.fromarray(plane)) for plane in planes] for planes in channels]
    results = [[np.asarray(image) for image in images] for images in results]
    return np.moveaxis(np.array(results), 1, -1)


@size
@strength
def test_rotation_is_pillows(shape, m):
    x = values(pictures(10, *shape))
    how = Image.Resampling.BILINEAR
    expected = by_pillow_in_floats(lambda image: image.rotate(30 * m, how, fillcolor=0), x)
    close(operations.rotate(x, strengths(m, 10)), expected, 0.002)


# from a place in the result to one in the image, as Pillow wants it
AFFINE = {
    "shear_x": lambda m, H, W: (1, 0.3 * m, -0.3 * m * H / 2, 0, 1, 0),
    "shear_y": lambda m, H, W: (1, 0, 0, 0.3 * m, 1, -0.3 * m * W / 2),
    "translate_x": lambda m, H, W: (1, 0, round(m * W * 10 / 32), 0, 1, 0),
    "translate_y": lambda m, H, W: (1, 0, 0, 0, 1, round(m * H * 10 / 32)),
}


@size
@strength
@pytest.mark.parametrize("name", AFFINE)
def test_shears_and_translations_are_pillows(name, shape, m):
    x = values(pictures(10, *shape))
    H, W, _ = shape
    matrix = AFFINE[name](m, H, W)

    def moved(image):
        kind, how = Image.Transform.AFFINE, Image.Resampling.BILINEAR
        return image.transform(image.size, kind, matrix, how, fillcolor=0)

    result = getattr(operations, name)(x, strengths(m, 10))
    close(result, by_pillow_in_floats(moved, x), 0.002)


@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"])
def test_no_movement_and_no_blur_at_magnitude_zero(name):
    x = some_values()
    assert np.array_equal(getattr(operations, name)(x, strengths(0, 6)), x)


def test_translations_move_whole_pixels_and_leave_grey():
    x = some_values(H=32, W=16)
    down = operations.translate_y(x, strengths(-0.9, 6))
    assert np.array_equal(down[:, 9:], x[:, :-9])
    assert not down[:, :9].any()
    left = operations.translate_x(x, strengths(1.0, 6))
    assert np.array_equal(left[:, :, :-5], x[:, :, 5:])
    assert not left[:, :, -5:].any()


def test_each_image_has_its_own_strength():
    x = some_values()
    m = np.linspace(-1, 1, 6, dtype=np.float32).reshape(6, 1, 1, 1)
    for operation in OPERATIONS:
        one_by_one = [operation(x[i : i + 1], m[i : i + 1]) for i in range(6)]
        assert abs(operation(x, m) - np.concatenate(one_by_one)).max() < 3e-7, operation.__name__


@strength
def test_colour_leaves_grey_images_alone(m):
    x = some_values(C=1)
    assert np.array_equal(operations.colour(x, strengths(m, 6)), x)


# --- RandAugment's draws ----------------------------------------------------------------------


def test_the_fourteen_operations_of_the_paper():
    names = [operation.__name__ for operation in OPERATIONS]
    assert names == [
        "identity",
        "autocontrast",
        "equalise",
        "rotate",
        "shear_x",
        "shear_y",
        "translate_x",
        "translate_y",
        "posterise",
        "solarise",
        "brightness",
        "contrast",
        "colour",
        "sharpness",
    ]


def counting(monkeypatch, count, magnitude, B):
    """Run with operations that add 100 to their place of the last axis, and their strength m."""

    def mark(number):
        def operation(x, m):
            x[..., number] += 100 + m[..., 0]
            return x

        return operation

    marks = tuple(map(mark, range(14)))
    monkeypatch.setattr(operations, "OPERATIONS", marks)
    x = apply_randaugment(np.zeros((B, 1, 1, 14)), count, magnitude, np.random.default_rng(3))
    return x.reshape(B, 14)


def test_each_operation_is_drawn_as_often_and_each_sign(monkeypatch):
    marks = counting(monkeypatch, 1, 7.0, 28000)
    assert set(marks.ravel().round(9)) == {0, 100.7, 99.3}
    assert ((marks > 0).sum(axis=1) == 1).all()
    spread = np.sqrt(28000 * 13) / 14  # 43 around 2000
    assert abs((marks > 0).sum(axis=0) - 2000).max() < 4.5 * spread
    up = np.array([(marks[:, i] > 100).sum() / (marks[:, i] > 0).sum() for i in range(14)])
    assert abs(up - 0.5).max() < 4.5 * 0.5 / np.sqrt(1800)


def test_draws_are_with_replacement_and_independent(monkeypatch):
    marks = counting(monkeypatch, 2, 10.0, 14000)
    times = (marks / 100).round()
    assert (times.sum(axis=1) == 2).all()
    twice = (times == 2).any(axis=1)
    assert abs(twice.sum() - 1000) < 4.5 * np.sqrt(1000 * 13 / 14)
    cancelled = (marks[twice].max(axis=1) == 200).mean()  # one with +, one with -
    assert abs(cancelled - 0.5) < 4.5 * 0.5 / np.sqrt(900)


def test_one_operation_changes_each_image_as_itself():
    x = some_values(B=64, H=9, W=9)
    result = apply_randaugment(x, 1, 8, np.random.default_rng(5))
    seen = set()
    for i in range(64):
        candidates = {
            (operation.__name__, sign)
            for operation in OPERATIONS
            for sign in (-0.8, 0.8)
            if abs(operation(x[i : i + 1], strengths(sign, 1)) - result[i]).max() < 1e-6
        }
        assert candidates, i
        seen |= candidates
    assert len({name for name, _ in seen}) == 14


# --- shift and flip ---------------------------------------------------------------------------


def test_a_shift_is_the_random_crop_from_a_padded_image():
    x = some_values(B=50, H=5, W=6)
    result = random_shift(x, 2, np.random.default_rng(0))
    places = set()
    for image, moved in zip(x, result, strict=True):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), constant_values=-1)
        crops = {(r, c): padded[r : r + 5, c : c + 6] for r in range(5) for c in range(5)}
        found = [place for place, crop in crops.items() if np.array_equal(crop, moved)]
        assert found
        places.update(found)
    assert len(places) > 15  # of 25


def test_a_border_may_have_a_colour():
    x = some_values(B=50, H=5, W=6)
    colour = np.linspace(-2.5, -2, x.shape[-1])
    result = random_shift(x, 2, np.random.default_rng(0), colour)
    expected = np.where(random_shift(x * 0, 2, np.random.default_rng(0)) == -1, colour, result)
    assert result.dtype == x.dtype
    np.testing.assert_array_equal(result, expected.astype(x.dtype))
    assert (result == colour.astype(x.dtype)).any()


def test_flip_mirrors_every_other_image():
    x = some_values(B=4000, H=2, W=3, C=1)
    result = random_flip(x, np.random.default_rng(0))
    same = (result == x).all(axis=(1, 2, 3))
    mirrored = (result == x[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 4.5 * 0.5 / np.sqrt(4000)


# --- random erasing ---------------------------------------------------------------------------


def boxes_of(lost):
    """Top, left, height and width of what is lost in each image, which must be a whole box."""
    boxes = []
    for mask in lost:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        top, left = rows[0], columns[0]
        height, width = rows[-1] - top + 1, columns[-1] - left + 1
        assert mask.sum() == height * width
        boxes.append((top, left, height, width))
    return np.array(boxes).T


def test_what_is_erased_is_a_box_of_the_papers_size_anywhere():
    x = np.full((3000, 60, 80, 1), 5, np.float32)
    result = random_erase(x, 1.0, np.random.default_rng(0))
    top, left, height, width = boxes_of((result != 5)[..., 0])
    area = height * width / 4800
    half_a_pixel = (height + width) / 2 / 4800  # lengths are rounded
    assert (area > 0.02 - half_a_pixel).all()
    assert (area < 0.33 + half_a_pixel).all()
    assert abs(area.mean() - 0.175) < 4.5 * 0.31 / np.sqrt(12 * 3000) + 0.001
    assert area.min() < 0.025
    assert area.max() > 0.32
    whole = height < 60  # not cut to the side of the image
    assert whole.mean() > 0.9
    aspect = (height / width)[whole & (height > 12) & (width > 12)]
    assert aspect.min() > 0.27
    assert aspect.max() < 3.5
    assert aspect.min() < 0.4
    assert aspect.max() > 3
    for start, length, side in ((top, height, 60), (left, width, 80)):
        room = side - length
        place = start[room > 20] / room[room > 20]  # evenly from 0 to 1
        assert place.min() == 0
        assert place.max() == 1
        assert abs(place.mean() - 0.5) < 4.5 / np.sqrt(12 * place.size) + 0.002


def test_as_many_images_are_erased_as_the_chance_says():
    x = np.full((4000, 6, 6, 1), 5, np.float32)
    result = random_erase(x, 0.25, np.random.default_rng(0))
    hit = (result != x).any(axis=(1, 2, 3))
    assert abs(hit.mean() - 0.25) < 4.5 * np.sqrt(0.25 * 0.75 / 4000)
    assert not np.array_equal(
        hit, (random_erase(x, 0.25, np.random.default_rng(1)) != x).any((1, 2, 3))
    )


def test_the_box_is_full_of_even_noise_in_every_channel():
    x = np.full((200, 32, 32, 3), 5, np.float32)
    result = random_erase(x, 1.0, np.random.default_rng(0))
    noise = result[(result != 5).all(axis=-1)]  # (pixels, 3)
    assert (result != 5).sum() == noise.size
    assert noise.min() < -0.999
    assert noise.max() > 0.999
    assert abs(noise).max() <= 1
    assert abs(np.quantile(noise, [0.25, 0.5, 0.75]) - [-0.5, 0, 0.5]).max() < 0.02
    assert abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.03
    assert abs(np.corrcoef(noise[:-1, 0], noise[1:, 0])[0, 1]) < 0.03


# --- all of them, in their order --------------------------------------------------------------


def test_augment_with_everything_off_returns_its_input():
    x = some_values()
    generator = np.random.default_rng(0)
    assert augment(x, generator) is x
    assert generator.random() == np.random.default_rng(0).random()


def test_augment_is_shift_then_flip_then_randaugment_then_erasing():
    x = some_values(B=30)
    generator = np.random.default_rng(4)
    expected = random_shift(x, 2, generator)
    expected = random_flip(expected, generator)
    expected = apply_randaugment(expected, 2, 6.0, generator)
    expected = random_erase(expected, 0.5, generator)
    on = {"shift": 2, "flip": True, "randaugment": 2, "magnitude": 6.0, "erase": 0.5}
    assert np.array_equal(augment(x, np.random.default_rng(4), **on), expected)


@pytest.mark.parametrize("name", ["shift", "flip", "randaugment", "erase"])
def test_each_setting_alone_changes_something(name):
    x = some_values(B=20)
    assert not np.array_equal(augment(x, np.random.default_rng(0), **{name: 1}), x)


SETTINGS = st.fixed_dictionaries(
    {
        "shift": st.integers(0, 9),
        "flip": st.booleans(),
        "randaugment": st.integers(0, 4),
        "magnitude": st.floats(0, 10),
        "erase": st.floats(0, 1),
    }
)
SIDES = st.integers(1, 9)
SHAPES = st.tuples(st.integers(0, 12), SIDES, SIDES, st.sampled_from([1, 3]))


def extreme_values(shape, seed):
    """Values of which many are at the ends and some a rounding apart."""
    rng = np.random.default_rng(seed)
    x = rng.choice([-1, 1, 0, np.nextafter(1, 0), 0.3, *rng.uniform(-1, 1, 3)], size=shape)
    x = x.astype(np.float32)
    x.flags.writeable = False
    return x


@settings(max_examples=120, deadline=None)
@given(shape=SHAPES, on=SETTINGS, seed=st.integers(0, 99))
def test_augment_keeps_shape_type_range_and_input_and_repeats(shape, on, seed):
    x = extreme_values(shape, seed)  # not to be written into
    before = x.copy()
    result = augment(x, np.random.default_rng(seed), **on)
    assert result.shape == shape
    assert result.dtype == np.float32
    assert np.array_equal(x, before)
    assert not result.size or abs(result).max() <= 1
    assert np.array_equal(result, augment(x, np.random.default_rng(seed), **on))


def test_another_seed_gives_another_batch():
    x = some_values()
    on = {"shift": 2, "flip": True, "randaugment": 2, "erase": 0.5}
    one, other = (augment(x, np.random.default_rng(seed), **on) for seed in (1, 2))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"shift": -1}, "from 0 up: not -1 and 0"),
        ({"randaugment": -2}, "from 0 up: not 0 and -2"),
        ({"randaugment": 1, "magnitude": 11}, "magnitude goes from 0 to 10, not 11"),
        ({"randaugment": 1, "magnitude": -0.5}, "magnitude goes from 0 to 10, not -0.5"),
        ({"randaugment": 1, "magnitude": np.nan}, "magnitude goes from 0 to 10, not nan"),
        ({"erase": 1.5}, "erase is a chance from 0 to 1, not 1.5"),
        ({"erase": -0.1}, "erase is a chance from 0 to 1, not -0.1"),
    ],
)
def test_a_setting_out_of_range_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        augment(some_values(), np.random.default_rng(0), **setting)


# --- mixup and cutmix -------------------------------------------------------------------------


def marked(B, H=8, W=10, C=3):
    """Image i has the value i everywhere, and the label i."""
    x = np.broadcast_to(np.arange(B, dtype=np.float32)[:, None, None, None], (B, H, W, C))
    return x, np.arange(B)


def own_shares(targets):
    """How much of each image's own label is left, with nothing but the partner's beside it."""
    B = len(targets)
    own, partner = targets[np.arange(B), np.arange(B)], targets[np.arange(B), np.arange(B) - 1]
    assert np.count_nonzero(targets) == np.count_nonzero(own) + np.count_nonzero(partner)
    assert abs(own + partner - 1).max() < 1e-7
    return own


@pytest.mark.parametrize("beta", [0.2, 0.8, 5.0])
def test_mixup_mixes_images_and_labels_by_one_share(beta):
    x, labels = marked(5)
    for seed in range(20):
        mixed, targets = mix(x, labels, 5, np.random.default_rng(seed), mixup=beta)
        share = own_shares(targets)
        assert len(set(share)) == 1
        assert 0.5 <= share[0] <= 1
        expected = share[0] * np.arange(5.0) + (1 - share[0]) * np.array([4, 0, 1, 2, 3])
        assert abs(mixed - expected[:, None, None, None]).max() < 1e-6


@pytest.mark.parametrize(("beta", "mean"), [(1.0, 0.75), (2.0, 0.6875), (0.5, 0.5 + 1 / np.pi)])
def test_mixups_share_is_the_larger_part_of_a_beta_draw(beta, mean):
    # E max(λ, 1-λ) = 1/2 + E|λ - 1/2|; for 1 uniform, for 2 density 6λ(1-λ), for 1/2 the arcsine
    x, labels = marked(2, 1, 1, 1)
    rng = np.random.default_rng(0)
    shares = [mix(x, labels, 2, rng, mixup=beta)[1][0, 0] for _ in range(3000)]
    assert abs(np.mean(shares) - mean) < 4.5 * np.std(shares) / np.sqrt(3000)


def test_cutmix_pastes_a_box_of_the_image_before_and_counts_its_pixels():
    x, labels = marked(6, 32, 24)
    for seed in range(100):
        mixed, targets = mix(x, labels, 6, np.random.default_rng(seed), cutmix=1.0)
        kept = mixed == x
        before = np.roll(x, 1, axis=0)
        assert np.array_equal(mixed, np.where(kept, x, before))
        assert (kept == kept[:1, :, :, :1]).all()  # one box for all images, and all channels
        share = own_shares(targets)
        assert (share == np.float32(kept[0].mean(dtype=float))).all()
        if not kept.all():
            boxes_of(~kept[:1, :, :, 0])


def test_cutmix_takes_the_area_that_beta_says_and_centres_it_anywhere():
    # A box of side s around a centre drawn evenly keeps s - s²/4 of its length. With s² = 1 - λ
    # and λ even, the mean of the area (s - s²/4)² is 1/2 - 1/5 + 1/48.
    x, labels = marked(2, 100, 150, 1)
    rng = np.random.default_rng(1)
    shares = [mix(x, labels, 2, rng, cutmix=1.0)[1][0, 0] for _ in range(1500)]
    expected = 1 - (1 / 2 - 1 / 5 + 1 / 48)
    assert abs(np.mean(shares) - expected) < 4.5 * np.std(shares) / np.sqrt(1500) + 0.003
    assert min(shares) < 0.1  # λ stays what it is, even below one half


def test_the_cut_box_has_the_form_of_the_image():
    x, labels = marked(2, 60, 120, 1)
    rng = np.random.default_rng(2)
    ratios, middles = [], []
    for _ in range(600):
        mixed, _ = mix(x, labels, 2, rng, cutmix=1.0)
        lost = (mixed != x)[:1, :, :, 0]
        if lost.any():
            top, left, height, width = (entry[0] for entry in boxes_of(lost))
            if top > 0 and left > 0 and top + height < 60 and left + width < 120 and height > 9:
                ratios.append(width / height)
                middles.append((top + height / 2, left + width / 2))
    assert len(ratios) > 50
    assert 1.85 < min(ratios) <= max(ratios) < 2.15
    assert abs(np.mean(middles, axis=0) - [30, 60]).max() < 6


def test_a_fair_coin_chooses_between_the_two():
    x, labels = marked(3, 12, 12)
    rng = np.random.default_rng(0)
    by_mixup = 0
    for _ in range(1000):
        mixed, _ = mix(x, labels, 3, rng, mixup=5.0, cutmix=1.0)
        by_mixup += mixed[1].min() not in (0.0, 1.0)  # a value that no image has
    assert abs(by_mixup - 500) < 4.5 * np.sqrt(250)


def test_without_mixing_labels_become_one_hot_and_images_stay():
    x = some_values()
    labels = np.array([2, 0, 1, 1, 3, 2])
    generator = np.random.default_rng(0)
    same, targets = mix(x, labels, 4, generator)
    assert same is x
    assert targets.dtype == np.float32
    assert np.array_equal(targets, np.eye(4)[labels])
    assert generator.random() == np.random.default_rng(0).random()


@settings(max_examples=80, deadline=None)
@given(
    shape=SHAPES,
    mixup=st.sampled_from([0, 1e-3, 0.2, 1.0, 30.0]),
    cutmix=st.sampled_from([0, 1e-3, 0.2, 1.0, 30.0]),
    K=st.integers(1, 5),
    soft=st.booleans(),
    seed=st.integers(0, 99),
)
def test_mixing_conserves_labels_range_and_input_and_repeats(shape, mixup, cutmix, K, soft, seed):
    x = extreme_values(shape, seed)
    rng = np.random.default_rng(seed)
    labels = rng.integers(K, size=len(x))
    labels = rng.dirichlet(np.ones(K), size=len(x)) if soft else labels
    labels.flags.writeable = False
    result, targets = mix(x, labels, K, np.random.default_rng(seed), mixup=mixup, cutmix=cutmix)
    again = mix(x, labels, K, np.random.default_rng(seed), mixup=mixup, cutmix=cutmix)
    assert np.array_equal(result, again[0])
    assert np.array_equal(targets, again[1])
    assert (result.shape, result.dtype) == (shape, np.float32)
    assert (targets.shape, targets.dtype) == ((len(x), K), np.float32)
    assert not result.size or abs(result).max() <= 1
    assert not targets.size or targets.min() >= 0
    assert np.allclose(targets.sum(axis=1), 1, rtol=0, atol=3e-7)
    before = labels if soft else labels[:, None] == np.arange(K)
    assert np.allclose(targets.sum(axis=0), before.sum(axis=0), rtol=0, atol=5e-6)


def test_soft_labels_are_mixed_like_any_others():
    x, labels = marked(4)
    soft = np.full((4, 4), 0.1 / 3, np.float32)
    soft[labels, labels] = 0.9
    _, targets = mix(x, soft, 4, np.random.default_rng(0), mixup=0.8)
    _, hard = mix(x, labels, 4, np.random.default_rng(0), mixup=0.8)
    assert abs(targets - hard @ soft).max() < 1e-7


@pytest.mark.parametrize(
    ("labels", "settings", "error", "message"),
    [
        ([0, 1, 2], {}, ValueError, r"label 2 is out of range: with 2 classes"),
        ([0, -1, 1], {"mixup": 1.0}, ValueError, r"label -1 is out of range"),
        ([0, 1], {}, ValueError, r"labels of shape \(2,\) for 3 images of 2 classes"),
        (np.ones((3, 4)), {}, ValueError, r"labels of shape \(3, 4\) for 3 images of 2 classes"),
        ([0.5, 1.0, 0.0], {}, TypeError, r"labels are class numbers"),
        ([0, 1, 1], {"mixup": -1}, ValueError, r"mixup is a parameter .* not -1"),
        ([0, 1, 1], {"cutmix": np.nan}, ValueError, r"cutmix is a parameter .* not nan"),
        ([0, 1, 1], {"cutmix": np.inf}, ValueError, r"cutmix is a parameter .* not inf"),
    ],
)
def test_labels_and_parameters_that_do_not_fit_are_refused(labels, settings, error, message):
    x, _ = marked(3)
    with pytest.raises(error, match=message):
        mix(x, np.array(labels), 2, np.random.default_rng(0), **settings)
