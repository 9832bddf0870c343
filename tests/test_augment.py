"""Augmentation: the operations compared with Pillow, their random draws, and their invariants."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from minivit.data import randaugment as operations
from minivit.data.augment import augment, mix, random_erase, random_flip, random_shift
from minivit.data.randaugment import LEVELS, OPERATIONS, apply_randaugment

LEVEL = 2 / (LEVELS - 1)  # the difference of two adjacent levels


def pictures(B, H, W, C):
    """Return levels (B, H, W, C): uniform noise, or smooth gradients in the second half."""
    rng = np.random.default_rng(0)
    low, high = np.sort(rng.integers(0, 256, size=(2, B, 1, 1, C)), axis=0)
    low[0], high[0] = 0, 255
    levels = rng.integers(low, high + 1, size=(B, H, W, C))
    slope = np.add.outer(np.arange(H) * 3, np.arange(W) * 2)[..., None] + 20 * np.arange(C)
    levels[B // 2 :] = (levels[B // 2 :] // 8 + slope).clip(0, 255)
    return levels.astype(np.uint8)


def values(levels):
    return (np.asarray(levels) / 127.5 - 1).astype(np.float32)


def by_pillow(function, levels):
    """Apply a function of a Pillow image to each image of a batch."""
    return values([function(Image.fromarray(x.squeeze())) for x in levels]).reshape(levels.shape)


def by_pillow_in_floats(function, x):
    """Apply a function to each channel of values, because Pillow does not round floats."""
    planes = np.moveaxis(x, -1, 1).reshape(-1, *x.shape[1:3])
    results = np.array([np.asarray(function(Image.fromarray(plane))) for plane in planes])
    return np.moveaxis(results.reshape(len(x), -1, *x.shape[1:3]), 1, -1)


def strengths(m, B):
    return np.full((B, 1, 1, 1), m, np.float32)


def close(actual, expected, levels):
    assert actual.shape == expected.shape
    assert actual.dtype == np.float32
    assert abs(actual - expected).max() <= (levels + 1e-4) * LEVEL


def draw(B=6, H=8, W=7, C=3):
    x = np.random.default_rng(0).uniform(-1, 1, (B, H, W, C)).astype(np.float32)
    x.flags.writeable = False
    return x


def rng(seed=0):
    return np.random.default_rng(seed)


# --- RandAugment: operations -----------------------------------------------------------------

shapes = pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1), (9, 14, 3)], ids=str)
magnitudes = pytest.mark.parametrize("m", [-1.0, -0.9, -0.35, 0.0, 0.2, 0.5, 0.9, 1.0])


@shapes
def test_equalise_and_autocontrast_match_pillow(shape):
    levels = pictures(40, *shape)
    equalised = operations.equalise(values(levels), strengths(0.9, 40))
    assert np.array_equal(equalised, by_pillow(ImageOps.equalize, levels))
    stretched = operations.autocontrast(values(levels), strengths(0.9, 40))
    close(stretched, by_pillow(ImageOps.autocontrast, levels), 1)  # Pillow rounds down


def test_autocontrast_never_exceeds_the_range():
    x = rng().uniform(-1, 1, (2000, 2, 2, 1)).astype(np.float32)
    result = operations.autocontrast(x, strengths(1, 2000))
    assert abs(result).max() == 1
    assert abs(result.max(axis=(1, 2)) - 1).max() < 3e-7
    assert (result.min(axis=(1, 2)) == -1).all()


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("operation", [operations.autocontrast, operations.equalise])
def test_a_constant_channel_is_unchanged(operation, level):
    x = values(np.full((1, 6, 6, 3), level))
    assert np.array_equal(operation(x, strengths(1, 1)), x)


@shapes
@magnitudes
def test_posterise_and_solarise_match_pillow(shape, m):
    levels = pictures(10, *shape)
    bits, threshold = 8 - round(4 * abs(m)), round(256 * (1 - abs(m)))
    expected = by_pillow(lambda image: ImageOps.posterize(image, bits), levels)
    assert np.array_equal(operations.posterise(values(levels), strengths(m, 10)), expected)
    expected = by_pillow(lambda image: ImageOps.solarize(image, threshold), levels)
    close(operations.solarise(values(levels), strengths(m, 10)), expected, 0)


# Rounding errors of Pillow's degenerate image in levels, which are multiplied by up to 0.9. Pillow
# also rounds the result down.
ENHANCEMENTS = [
    (operations.brightness, ImageEnhance.Brightness, 0.5),
    (operations.contrast, ImageEnhance.Contrast, 1),
    (operations.colour, ImageEnhance.Color, 0.5),
    (operations.sharpness, ImageEnhance.Sharpness, 1),
]


@shapes
@magnitudes
@pytest.mark.parametrize(("operation", "enhance", "rounding"), ENHANCEMENTS)
def test_enhancements_match_pillow_up_to_rounding(operation, enhance, rounding, shape, m):
    levels = pictures(10, *shape)
    expected = by_pillow(lambda image: enhance(image).enhance(1 + 0.9 * m), levels)
    close(operation(values(levels), strengths(m, 10)), expected, 1 + 0.9 * rounding)


# Pillow's coefficients of the map from a position in the result to a position in the image.
AFFINE = {
    "shear_x": lambda m, H, W: (1, 0.3 * m, -0.3 * m * H / 2, 0, 1, 0),
    "shear_y": lambda m, H, W: (1, 0, 0, 0.3 * m, 1, -0.3 * m * W / 2),
    "translate_x": lambda m, H, W: (1, 0, round(m * W * 10 / 32), 0, 1, 0),
    "translate_y": lambda m, H, W: (1, 0, 0, 0, 1, round(m * H * 10 / 32)),
}


@shapes
@magnitudes
@pytest.mark.parametrize("name", ["rotate", *AFFINE])
def test_geometric_operations_match_pillow(name, shape, m):
    x = values(pictures(10, *shape))
    H, W, _ = shape
    bilinear = Image.Resampling.BILINEAR

    def expected(image):
        if name == "rotate":
            return image.rotate(30 * m, bilinear, fillcolor=0)
        matrix = AFFINE[name](m, H, W)
        return image.transform(image.size, Image.Transform.AFFINE, matrix, bilinear, fillcolor=0)

    result = getattr(operations, name)(x, strengths(m, 10))
    close(result, by_pillow_in_floats(expected, x), 0.002)
    if m == 0:
        assert np.array_equal(result, x)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_each_image_has_its_own_strength(operation):
    x = draw()
    m = np.linspace(-1, 1, 6, dtype=np.float32).reshape(6, 1, 1, 1)
    one_by_one = [operation(x[i : i + 1], m[i : i + 1]) for i in range(6)]
    assert abs(operation(x, m) - np.concatenate(one_by_one)).max() < 3e-7


# --- RandAugment: random draws ---------------------------------------------------------------


def test_the_operations_are_those_of_the_paper_in_a_fixed_order():
    names = " ".join(operation.__name__ for operation in OPERATIONS)
    assert names == (
        "identity autocontrast equalise rotate shear_x shear_y translate_x translate_y "
        "posterise solarise brightness contrast colour sharpness"
    )


def test_each_image_gets_its_own_random_operations_and_signs(monkeypatch):
    markers = tuple(lambda x, m, k=k: 100 * x + k + m for k in range(14))
    monkeypatch.setattr(operations, "OPERATIONS", markers)
    result = apply_randaugment(np.zeros((500, 1, 1, 1)), 2, 5.0, rng(3))
    generator = rng(3)
    choices = generator.integers(14, size=(2, 500))
    signs = generator.choice((-1, 1), size=(2, 500))
    first, second = choices + 0.5 * signs
    assert np.array_equal(result.ravel(), 100 * first + second)


# --- shift and flip --------------------------------------------------------------------------


@pytest.mark.parametrize("border", [-1.0, np.float32([-2.5, -2, 0])], ids=str)
@pytest.mark.parametrize("pixels", [0, 1, 2])
def test_a_shift_is_a_random_crop_of_the_padded_image(pixels, border):
    x = draw(B=60, H=5, W=6)
    result = random_shift(x, pixels, rng(), border)
    assert result.dtype == np.float32
    n = 2 * pixels + 1
    for image, shifted in zip(x, result, strict=True):
        padded = np.tile(np.float32(border), (4 + n, 5 + n, 3 // np.size(border)))
        padded[pixels : pixels + 5, pixels : pixels + 6] = image
        crops = [padded[r : r + 5, c : c + 6] for r in range(n) for c in range(n)]
        assert any(np.array_equal(crop, shifted) for crop in crops)


def test_all_shifts_are_equally_likely():
    image = np.zeros((1, 3, 3, 1), np.float32)
    image[0, 1, 1] = 1
    frequency = (random_shift(image.repeat(9000, axis=0), 1, rng()) == 1).mean(axis=0)
    np.testing.assert_allclose(frequency, 1 / 9, atol=0.015)


def test_half_of_the_images_are_flipped():
    x = draw(B=4000, H=2, W=3, C=1)
    result = random_flip(x, rng())
    same = (result == x).all(axis=(1, 2, 3))
    flipped = (result == x[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ flipped).all()
    assert abs(flipped.mean() - 0.5) < 4.5 * 0.5 / np.sqrt(4000)


# --- random erasing --------------------------------------------------------------------------


def boxes_of(masks):
    """Return top, left, height and width of the box in each mask. Raise if it is not a box."""
    boxes = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert mask.sum() == height * width
        boxes.append((rows[0], columns[0], height, width))
    return np.array(boxes).T


def test_the_erased_box_has_the_size_of_the_paper_and_a_uniform_position():
    x = np.full((3000, 60, 80, 1), 5, np.float32)
    result = random_erase(x, 1.0, rng())
    top, left, height, width = boxes_of((result != 5)[..., 0])
    area = height * width / 4800
    half_a_pixel = (height + width) / 2 / 4800  # sides are rounded
    assert (area > 0.02 - half_a_pixel).all()
    assert (area < 0.33 + half_a_pixel).all()
    assert abs(area.mean() - 0.175) < 4.5 * 0.31 / np.sqrt(12 * 3000) + 0.001
    assert area.min() < 0.025
    assert area.max() > 0.32
    inside = height < 60  # not limited to the side of the image
    assert inside.mean() > 0.9
    aspect = (height / width)[inside & (height > 12) & (width > 12)]
    assert 0.27 < aspect.min() < 0.4
    assert 3 < aspect.max() < 3.5
    for start, length, side in ((top, height, 60), (left, width, 80)):
        largest = side - length
        position = start[largest > 20] / largest[largest > 20]  # uniform from 0 to 1
        assert (position.min(), position.max()) == (0, 1)
        assert abs(position.mean() - 0.5) < 4.5 / np.sqrt(12 * position.size) + 0.002


def test_images_are_erased_with_the_given_probability():
    x = np.full((4000, 6, 6, 1), 5, np.float32)
    erased = (random_erase(x, 0.25, rng()) != x).any(axis=(1, 2, 3))
    assert abs(erased.mean() - 0.25) < 4.5 * np.sqrt(0.25 * 0.75 / 4000)


def test_the_box_contains_independent_uniform_noise():
    x = np.full((200, 32, 32, 3), 5, np.float32)
    result = random_erase(x, 1.0, rng())
    noise = result[(result != 5).all(axis=-1)]  # (pixels, 3)
    assert (result != 5).sum() == noise.size
    assert noise.min() < -0.999
    assert noise.max() > 0.999
    assert abs(noise).max() <= 1
    assert abs(np.quantile(noise, [0.25, 0.5, 0.75]) - [-0.5, 0, 0.5]).max() < 0.02
    assert abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.03
    assert abs(np.corrcoef(noise[:-1, 0], noise[1:, 0])[0, 1]) < 0.03


# --- augment ---------------------------------------------------------------------------------


def test_augment_returns_its_input_if_no_augmentation_is_enabled():
    x, generator = draw(), rng()
    assert augment(x, generator) is x
    assert generator.random() == rng().random()


def test_augment_shifts_then_flips_then_applies_randaugment_then_erases():
    x, generator = draw(B=30), rng(4)
    expected = random_flip(random_shift(x, 2, generator), generator)
    expected = apply_randaugment(expected, 2, 6.0, generator)
    expected = random_erase(expected, 0.5, generator)
    fields = {"shift": 2, "flip": True, "randaugment": 2, "random_erasing": 0.5}
    assert np.array_equal(augment(x, rng(4), **fields, randaugment_magnitude=6.0), expected)


SETTINGS = st.fixed_dictionaries({
    "shift": st.integers(0, 9), "flip": st.booleans(), "randaugment": st.integers(0, 4),
    "randaugment_magnitude": st.floats(0, 10), "random_erasing": st.floats(0, 1),
})  # fmt: skip
SIDES = st.integers(1, 9)
SHAPES = st.tuples(st.integers(0, 12), SIDES, SIDES, st.sampled_from([1, 3]))


def extreme_values(shape, seed):
    """Return read-only values, many of which are at or next to the limits of the range."""
    generator = rng(seed)
    choices = [-1, 1, 0, np.nextafter(1, 0), 0.3, *generator.uniform(-1, 1, 3)]
    x = generator.choice(choices, size=shape).astype(np.float32)
    x.flags.writeable = False
    return x


@settings(max_examples=120, deadline=None)
@given(shape=SHAPES, fields=SETTINGS, seed=st.integers(0, 99))
def test_augment_preserves_shape_dtype_and_range_and_is_reproducible(shape, fields, seed):
    x = extreme_values(shape, seed)  # read-only, so a change of the input raises an error
    result = augment(x, rng(seed), **fields)
    assert (result.shape, result.dtype) == (shape, np.float32)
    assert not result.size or abs(result).max() <= 1
    assert np.array_equal(result, augment(x, rng(seed), **fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shift": -1}, "shift must be at least 0, not -1"),
        ({"randaugment": -2}, "randaugment must be at least 0, not -2"),
        ({"randaugment": 1, "randaugment_magnitude": 11}, "magnitude must be from 0 to 10, not 11"),
        ({"randaugment": 1, "randaugment_magnitude": -0.5}, "must be from 0 to 10, not -0.5"),
        ({"randaugment": 1, "randaugment_magnitude": np.nan}, "must be from 0 to 10, not nan"),
        ({"random_erasing": 1.5}, "random_erasing must be from 0 to 1, not 1.5"),
        ({"random_erasing": -0.1}, "random_erasing must be from 0 to 1, not -0.1"),
    ],
)
def test_parameters_out_of_range_are_rejected(fields, message):
    with pytest.raises(ValueError, match=message):
        augment(draw(), rng(), **fields)


# --- mixup and CutMix ------------------------------------------------------------------------


def numbered(B, H=8, W=10, C=3):
    """Image i has the value i in every pixel, and the label i."""
    x = np.broadcast_to(np.arange(B, dtype=np.float32)[:, None, None, None], (B, H, W, C))
    return x, np.arange(B)


def label_weights(targets):
    """Return the weight of each image's label. The rest must be the label of the previous image."""
    B = len(targets)
    weight, rest = targets[np.arange(B), np.arange(B)], targets[np.arange(B), np.arange(B) - 1]
    assert np.count_nonzero(targets) == np.count_nonzero(weight) + np.count_nonzero(rest)
    assert abs(weight + rest - 1).max() < 1e-7
    return weight


@pytest.mark.parametrize("beta", [0.2, 0.8, 5.0])
def test_mixup_mixes_images_and_labels_with_one_weight(beta):
    x, labels = numbered(5)
    for seed in range(20):
        mixed, targets = mix(x, labels, 5, rng(seed), mixup=beta)
        (weight,) = set(label_weights(targets))
        assert 0.5 <= weight <= 1
        expected = weight * np.arange(5.0) + (1 - weight) * np.array([4, 0, 1, 2, 3])
        assert abs(mixed - expected[:, None, None, None]).max() < 1e-6


@pytest.mark.parametrize(("beta", "mean"), [(1.0, 0.75), (2.0, 0.6875), (0.5, 0.5 + 1 / np.pi)])
def test_the_mean_weight_of_mixup_is_that_of_the_larger_part(beta, mean):
    # E max(λ, 1-λ) = 1/2 + E|λ - 1/2|: for 1 uniform, for 2 density 6λ(1-λ), for 1/2 the arcsine
    x, labels = numbered(2, 1, 1, 1)
    generator = rng()
    weights = [mix(x, labels, 2, generator, mixup=beta)[1][0, 0] for _ in range(3000)]
    assert abs(np.mean(weights) - mean) < 4.5 * np.std(weights) / np.sqrt(3000)


def test_cutmix_pastes_a_box_of_the_previous_image_and_weights_labels_by_its_area():
    x, labels = numbered(6, 32, 24)
    for seed in range(100):
        mixed, targets = mix(x, labels, 6, rng(seed), cutmix=1.0)
        unchanged = mixed == x
        assert np.array_equal(mixed, np.where(unchanged, x, np.roll(x, 1, axis=0)))
        assert (unchanged == unchanged[:1, :, :, :1]).all()  # one box for all images and channels
        assert (label_weights(targets) == np.float32(unchanged[0].mean(dtype=float))).all()
        if not unchanged.all():
            top, left, height, width = boxes_of(~unchanged[:1, :, :, 0])[:, 0]
            if 0 < top < 32 - height and 0 < left < 24 - width:  # the aspect ratio of the image
                assert abs(height / 32 - width / 24) <= 0.5 / 32 + 0.5 / 24


def test_the_mean_area_of_cutmix_is_that_of_a_uniform_centre():
    # A box of side s around a uniform centre keeps s - s²/4 of its length. With s² = 1 - λ and λ
    # uniform, the mean of the area (s - s²/4)² is 1/2 - 1/5 + 1/48.
    x, labels = numbered(2, 100, 150, 1)
    generator = rng(1)
    weights = [mix(x, labels, 2, generator, cutmix=1.0)[1][0, 0] for _ in range(1500)]
    expected = 1 - (1 / 2 - 1 / 5 + 1 / 48)
    assert abs(np.mean(weights) - expected) < 4.5 * np.std(weights) / np.sqrt(1500) + 0.003
    assert min(weights) < 0.1  # λ is not replaced by max(λ, 1 - λ)


def test_mixup_and_cutmix_are_chosen_with_equal_probability():
    x, labels = numbered(3, 12, 12)
    generator = rng()
    mixups = 0
    for _ in range(1000):
        mixed, _ = mix(x, labels, 3, generator, mixup=5.0, cutmix=1.0)
        mixups += mixed[1].min() not in (0.0, 1.0)  # CutMix only copies values
    assert abs(mixups - 500) < 4.5 * np.sqrt(250)


def test_without_mixing_labels_become_one_hot_and_images_are_unchanged():
    x, labels, generator = draw(), np.array([2, 0, 1, 1, 3, 2]), rng()
    same, targets = mix(x, labels, 4, generator)
    assert same is x
    assert targets.dtype == np.float32
    assert np.array_equal(targets, np.eye(4)[labels])
    assert generator.random() == rng().random()


BETAS = st.sampled_from([0, 1e-3, 0.2, 1.0, 30.0])


@settings(max_examples=80, deadline=None)
@given(
    shape=SHAPES, mixup=BETAS, cutmix=BETAS, K=st.integers(1, 5), soft=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_mixing_preserves_the_sums_of_labels_and_the_range(shape, mixup, cutmix, K, soft, seed):
    x, generator = extreme_values(shape, seed), rng(seed)
    labels = generator.integers(K, size=len(x))
    labels = generator.dirichlet(np.ones(K), size=len(x)) if soft else labels
    labels.flags.writeable = False
    result, targets = mix(x, labels, K, rng(seed), mixup=mixup, cutmix=cutmix)
    assert (result.shape, result.dtype) == (shape, np.float32)
    assert (targets.shape, targets.dtype) == ((len(x), K), np.float32)
    assert not result.size or abs(result).max() <= 1
    assert (targets >= 0).all()
    assert np.allclose(targets.sum(axis=1), 1, rtol=0, atol=3e-7)
    before = labels if soft else labels[:, None] == np.arange(K)
    assert np.allclose(targets.sum(axis=0), before.sum(axis=0), rtol=0, atol=5e-6)


def test_soft_labels_are_mixed_like_one_hot_labels():
    x, labels = numbered(4)
    soft = np.full((4, 4), 0.1 / 3, np.float32)
    soft[labels, labels] = 0.9
    _, targets = mix(x, soft, 4, rng(), mixup=0.8)
    _, hard = mix(x, labels, 4, rng(), mixup=0.8)
    assert abs(targets - hard @ soft).max() < 1e-7


@pytest.mark.parametrize(
    ("labels", "settings", "error", "message"),
    [
        ([0, 1, 2], {}, ValueError, r"label 2 .* 2 classes"),
        ([0, -1, 1], {"mixup": 1.0}, ValueError, r"label -1 "),
        ([0, 1], {}, ValueError, r"labels of shape \(2,\) for 3 images of 2 classes"),
        (np.ones((3, 4)), {}, ValueError, r"labels of shape \(3, 4\) for 3 images of 2 classes"),
        ([0.5, 1.0, 0.0], {}, TypeError, r"labels must be integers \(class numbers\)"),
        ([0, 1, 1], {"mixup": -1}, ValueError, r"mixup must be finite and not negative: -1"),
        ([0, 1, 1], {"cutmix": np.nan}, ValueError, r"cutmix must be finite and not negative: nan"),
        ([0, 1, 1], {"cutmix": np.inf}, ValueError, r"cutmix must be finite and not negative: inf"),
    ],
)
def test_invalid_labels_and_parameters_are_rejected(labels, settings, error, message):
    x, _ = numbered(3)
    with pytest.raises(error, match=message):
        mix(x, np.array(labels), 2, rng(), **settings)
