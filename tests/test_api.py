"""The class that users hold: how models are made, what they take, refuse and give back."""

import dataclasses
import tracemalloc

import numpy as np
import pytest

from minivit import ViT, ViTConfig, flatten
from minivit import parallel as shards
from minivit.training import AdamW

TINY = {
    "image_size": (4, 6), "patch_size": 2, "channels": 2, "classes": 5,
    "width": 8, "depth": 2, "heads": 2, "mlp_width": 6,
}  # fmt: skip
TOKENS = 7  # 2 x 3 patches and the class token


def tiny(dtype="float64", **fields):
    """A tiny model, its parameters moved: with the zero head of a new one all logits are zero."""
    model = ViT.create(ViTConfig(**TINY | fields), dtype=dtype)
    rng = np.random.default_rng(1)
    for leaf in flatten(model.params).values():
        leaf += 0.3 * rng.normal(size=leaf.shape)
    return model


def some_images(batch=3, dtype="float64"):
    return np.random.default_rng(2).normal(size=(batch, 4, 6, 2)).astype(dtype)


# --- making one ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "depth", "width", "mlp_width", "heads", "patch_size"),
    [
        ("ViT-Ti/16", 12, 192, 768, 3, 16),
        ("ViT-S/32", 12, 384, 1536, 6, 32),
        ("ViT-B/16", 12, 768, 3072, 12, 16),
        ("ViT-L/14", 24, 1024, 4096, 16, 14),
        ("ViT-H/14", 32, 1280, 5120, 16, 14),
    ],
)
def test_a_name_stands_for_the_sizes_of_the_paper(name, depth, width, mlp_width, heads, patch_size):
    c = ViTConfig.named(name)
    found = (c.depth, c.width, c.mlp_width, c.heads, c.patch_size)
    assert found == (depth, width, mlp_width, heads, patch_size)
    assert (c.image_size, c.channels, c.classes) == ((224, 224), 3, 1000)


def test_a_model_by_name_takes_any_field():
    fields = {"image_size": (8, 16), "channels": 1, "classes": 10, "depth": 1, "heads": 6}
    model = ViT.create("ViT-Ti/4", **fields, positions="none", pooling="mean")
    expected = ViTConfig(
        **fields, patch_size=4, width=192, mlp_width=768, positions="none", pooling="mean"
    )
    assert model.config == expected
    assert model(np.zeros((2, 8, 16, 1), np.float32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "depth", "width", "stem", "patch_size"),
    [
        ("R+ViT-Ti/16", 12, 192, (), 8),
        ("R26+ViT-S/32", 12, 384, (2, 2, 2, 2), 1),
        ("R26+ViT-B/32", 12, 768, (2, 2, 2, 2), 1),
        ("R50+ViT-B/16", 12, 768, (3, 4, 9), 1),
        ("R50+ViT-L/32", 24, 1024, (3, 4, 6, 3), 1),
    ],
)
def test_a_name_stands_for_a_hybrid_of_the_authors(name, depth, width, stem, patch_size):
    c = ViTConfig.named(name, classes=10)
    assert (c.depth, c.width, c.stem, c.patch_size) == (depth, width, stem, patch_size)
    assert (c.stem_width, c.image_size, c.classes) == (64, (224, 224), 10)


def test_a_hybrid_by_name_runs():
    model = ViT.create("R+ViT-Ti/16", image_size=64, classes=4, depth=1)
    assert model(np.zeros((2, 64, 64, 3), np.float32)).shape == (2, 4)


def test_a_model_from_a_configuration_keeps_it():
    config = ViTConfig(**TINY)
    model = ViT.create(config)
    assert model.config is config
    assert len(model.params["blocks"]) == 2


def test_one_number_is_a_square_image():
    assert ViTConfig(**TINY | {"image_size": 4}).image_size == (4, 4)
    assert ViTConfig(**TINY | {"image_size": [4, 6]}).image_size == (4, 6)


def test_the_seed_decides_the_first_values():
    first, again, other = (
        flatten(ViT.create(ViTConfig(**TINY), seed=seed).params) for seed in (3, 3, 4)
    )
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["patch_embedding/kernel"], other["patch_embedding/kernel"])


@pytest.mark.parametrize(
    "name",
    [
        "ViT-B", "ViT-X/16", "vit-b/16", "ViT-B/16x", "ViT-B/", "", "ViT-B/16\n", "B/16",
        "R50+ViT-B/32", "R+ViT-B/16", "R26+ViT-S/32\n", "R50+B/16",
    ],
)  # fmt: skip
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    message = r"unknown model .* choose ViT-\{Ti,S,B,L,H\}/PATCH or one of R\+ViT-Ti/16, R26"
    with pytest.raises(ValueError, match=message):
        ViT.create(name)


COUNTS = ("patch_size", "channels", "classes", "width", "depth", "heads", "mlp_width")
BAD_COUNTS = [
    ({name: value}, f"{name} is a whole number from 1 up, not {value!r}")
    for name in (*COUNTS, "hidden_head", "image_size", "stem_width")
    for value in (0, -1, 2.0, "2", True)
]
BAD_FIELDS = [
    *BAD_COUNTS,
    ({"image_size": None}, "image_size is a whole number from 1 up, not None"),
    ({"image_size": (4,)}, "image_size is one number or two"),
    ({"image_size": (4, 6, 2)}, "image_size is one number or two"),
    ({"image_size": (4, 0)}, "image_size is a whole number from 1 up, not 0"),
    ({"image_size": (4, 7)}, "image_size 4 x 7 cannot be cut into patches of 2 x 2"),
    ({"image_size": (5, 6)}, "image_size 5 x 6 cannot be cut into patches of 2 x 2"),
    ({"patch_size": 3}, "image_size 4 x 6 cannot be cut into patches of 3 x 3"),
    ({"patch_size": 8}, "image_size 4 x 6 cannot be cut into patches of 8 x 8"),
    ({"heads": 3}, "width 8 cannot be shared among 3 heads"),
    ({"heads": 16}, "width 8 cannot be shared among 16 heads"),
    ({"positions": "3d"}, "unknown positions '3d': choose none, 1d, 2d, relative, sincos2d"),
    ({"positions": None}, "unknown positions None"),
    ({"pooling": "max"}, "unknown pooling 'max': choose class, mean"),
    ({"gelu": "relu"}, "unknown gelu 'relu': choose tanh, erf"),
    ({"positions": "2d", "width": 9, "heads": 3}, "'2d' need a width that is a multiple of 2"),
    ({"positions": "sincos2d", "width": 6}, "'sincos2d' need a width that is a multiple of 4"),
    ({"dropout": -0.1}, "dropout is a rate from 0 to below 1, not -0.1"),
    ({"dropout": 1.0}, "dropout is a rate from 0 to below 1, not 1.0"),
    ({"dropout": float("nan")}, "dropout is a rate from 0 to below 1, not nan"),
    ({"preprocessing": "none"}, "unknown preprocessing 'none': choose minivit, google, timm, hug"),
    ({"norm_eps": -1e-6}, "norm_eps must not be negative, it is -1e-06"),
    ({"norm_eps": float("nan")}, "norm_eps must be a finite number, it is nan"),
]


@pytest.mark.parametrize(("fields", "message"), BAD_FIELDS, ids=str)
def test_sizes_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011, the message is compared below
        ViTConfig(**TINY | fields)
    assert message in str(error.value)


def test_what_does_not_fit_is_refused_by_name_too():
    with pytest.raises(ValueError, match="image_size 30 x 30 cannot be cut"):
        ViT.create("ViT-Ti/4", image_size=30)


def test_an_unknown_field_is_refused_by_its_name():
    with pytest.raises(TypeError, match="colour"):
        ViT.create("ViT-Ti/4", image_size=32, colour=3)


def test_fields_beside_a_configuration_are_refused():
    with pytest.raises(TypeError, match=r"dataclasses\.replace"):
        ViT.create(ViTConfig(**TINY), depth=3)


def test_replace_checks_again():
    with pytest.raises(ValueError, match="3 heads"):
        dataclasses.replace(ViTConfig(**TINY), heads=3)


@pytest.mark.parametrize("dtype", ["int32", "complex64", "bool"])
def test_parameters_that_are_no_floats_are_refused(dtype):
    with pytest.raises(ValueError, match=f"floats, not {dtype}"):
        ViT.create(ViTConfig(**TINY), dtype=dtype)


# --- forward and back ------------------------------------------------------------------------


def test_forward_gives_logits_and_the_pullback_all_gradients():
    model, images = tiny(hidden_head=3), some_images()
    logits, pullback = model.forward(images)
    dimages, dparams = pullback(np.ones_like(logits))
    assert logits.shape == (3, 5)
    assert dimages.shape == images.shape
    gradients, params = flatten(dparams), flatten(model.params)
    assert gradients.keys() == params.keys()
    assert all(gradients[name].shape == params[name].shape for name in params)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_calling_a_model_gives_the_logits_of_forward(batch):
    model, images = tiny(), some_images(batch)
    logits, _ = model.forward(images)
    np.testing.assert_allclose(model(images), logits, rtol=0, atol=1e-13)


def test_many_shards_are_put_together_in_order(monkeypatch):
    model, images = tiny(), some_images(11)
    together, maps = model(images), model.attention(images)
    monkeypatch.setattr("minivit.api.shard_count", lambda *args: 4)
    np.testing.assert_allclose(model(images), together, rtol=0, atol=1e-13)
    np.testing.assert_allclose(model.attention(images), maps, rtol=0, atol=1e-13)


def test_the_logits_of_a_model_do_depend_on_the_image():
    logits = tiny()(some_images())
    assert abs(logits[0] - logits[1]).max() > 0.01


def test_dropout_needs_a_generator():
    model, images = tiny(dropout=0.5), some_images()
    plain, _ = tiny().forward(images)
    without, _ = model.forward(images)
    dropped, _ = model.forward(images, np.random.default_rng(0))
    again, _ = model.forward(images, np.random.default_rng(0))
    assert np.array_equal(plain, without)
    assert np.array_equal(dropped, again)
    assert abs(dropped - without).max() > 0.01
    assert np.array_equal(model(images), tiny()(images))


def peak(function, *arguments):
    """The most bytes that were allocated at a time while the function ran."""
    tracemalloc.start()
    try:
        function(*arguments)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_calling_a_model_needs_no_more_memory_for_a_longer_batch(monkeypatch):
    monkeypatch.setattr(shards, "cpu_count", lambda: 2)  # each core holds a shard
    config = ViTConfig(
        image_size=32, patch_size=4, channels=1, classes=3,
        width=32, depth=1, heads=2, mlp_width=512,
    )  # fmt: skip
    model = ViT.create(config)
    long = np.zeros((512, 32, 32, 1), np.float32)
    short = long[:64]
    model(short)  # what is made once, at the first call, is no part of it
    # Eight times the images. Were they taken at once, 68 MB for the MLP alone.
    assert peak(model, long) < 2.5 * peak(model, short)
    assert peak(model, long) < 50e6


# --- looking inside --------------------------------------------------------------------------


def test_attention_is_of_every_layer_image_head_query_and_key():
    attention = tiny().attention(some_images())
    assert attention.shape == (2, 3, 2, TOKENS, TOKENS)
    assert (attention > 0).all()
    np.testing.assert_allclose(attention.sum(-1), 1, rtol=1e-12)
    assert abs(attention[0] - attention[1]).max() > 0.01  # the layers differ
    assert abs(attention[:, :, 0] - attention[:, :, 1]).max() > 0.01  # so do the heads


def test_without_a_class_token_attention_has_one_row_less():
    assert tiny(pooling="mean").attention(some_images()).shape == (2, 3, 2, 6, 6)


def test_attention_is_what_watch_is_shown():
    model, images, seen = tiny(), some_images(), {}
    model.forward(images, watch=seen.__setitem__)
    shown = [seen[f"blocks/{layer}/attention/probabilities"] for layer in (0, 1)]
    np.testing.assert_allclose(model.attention(images), shown, rtol=0, atol=1e-14)


def test_watch_is_shown_gradients_on_the_way_back():
    model, images, seen = tiny(), some_images(), {}
    logits, pullback = model.forward(images, watch=seen.__setitem__)
    forward = set(seen)
    pullback(np.ones_like(logits))
    backward = {f"blocks/{layer}/attention/dprobabilities" for layer in (0, 1)}
    assert forward >= {"embedding", "blocks/0/output", "blocks/1/output"}
    assert set(seen) - forward == backward
    for name in backward:
        assert seen[name].shape == (3, 2, TOKENS, TOKENS)
        assert seen[name].any()
    # Only the class token is read off: what the patches attend to in the last layer is nothing.
    assert not seen["blocks/1/attention/dprobabilities"][:, :, 1:].any()
    assert seen["blocks/0/attention/dprobabilities"][:, :, 1:].any()


# --- parameters are live ---------------------------------------------------------------------


def test_writing_into_a_flattened_array_changes_the_model():
    model, images = tiny(), some_images()
    before = model(images)
    flatten(model.params)["head/bias"][2] += 10
    np.testing.assert_allclose(model(images) - before, [[0, 0, 10, 0, 0]] * 3, atol=1e-12)


def test_writing_still_changes_the_model_once_an_optimiser_has_packed_it():
    model, images = tiny(), some_images()
    before = model(images)
    optimiser = AdamW(model.params)
    assert np.array_equal(model(images), before)
    flat = flatten(model.params)
    flat["head/bias"][2] += 10
    np.testing.assert_allclose(model(images) - before, [[0, 0, 10, 0, 0]] * 3, atol=1e-12)
    assert all(np.shares_memory(leaf, optimiser.vector) for leaf in flat.values())
    optimiser.vector[:] = 0
    assert not model(images).any()


# --- what it takes ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("given", ["float16", "float32", "float64"])
def test_logits_have_the_dtype_of_the_parameters(dtype, given):
    model, images = tiny(dtype), some_images(dtype="float16").astype(given)
    assert {leaf.dtype for leaf in flatten(model.params).values()} == {np.dtype(dtype)}
    assert model.dtype == dtype
    logits, pullback = model.forward(images)
    dimages, dparams = pullback(np.ones_like(logits))
    dtypes = {model(images).dtype, logits.dtype, dimages.dtype, model.attention(images).dtype}
    dtypes |= {leaf.dtype for leaf in flatten(dparams).values()}
    assert dtypes == {np.dtype(dtype)}
    exact = tiny("float64")(images.astype("float64"))
    precision = {"float16": 0.1, "float32": 1e-5, "float64": 1e-12}[dtype]
    assert abs(logits - exact).max() < precision


def test_complex_images_keep_their_imaginary_part():
    model, images = tiny(), some_images()
    logits = model(images + 1e-20j)
    assert logits.dtype == np.complex128
    np.testing.assert_allclose(logits.real, model(images), atol=1e-13)
    _, pullback = model.forward(images)
    slope = pullback(np.ones((3, 5)))[0].sum()
    assert logits.imag.sum() / 1e-20 == pytest.approx(slope, rel=1e-10)


LAYOUTS = {
    "first axis fastest": np.asfortranarray,
    "channels before the rows": lambda x: x.transpose(0, 3, 1, 2).copy().transpose(0, 2, 3, 1),
    "backwards": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "every second image": lambda x: np.repeat(x, 2, axis=0)[::2],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_layout_in_memory_does_not_matter(name):
    model, images, layout = tiny(), some_images(), LAYOUTS[name]
    assert np.array_equal(layout(images), images)
    np.testing.assert_allclose(model(layout(images)), model(images), rtol=0, atol=1e-13)


def spoiled(image, value):
    images = some_images(5)
    images[image, 3, 5, 1] = value
    return images


REFUSED = {
    "bytes": (some_images().astype("uint8"), TypeError, r"uint8: scale them .* / np\.float32"),
    "integers": (some_images().astype("int64"), TypeError, "int64: scale them first"),
    "truth values": (some_images() > 0, TypeError, "bool: scale them first"),
    "objects": (some_images().astype(object), TypeError, "these are object"),
    "a list": (some_images().tolist(), TypeError, "these are list"),
    "a number": (0.5, TypeError, "these are float:"),
    "nothing": (None, TypeError, "these are NoneType"),
    "one image": (some_images()[0], ValueError, r"\(4, 6, 2\): this model takes \(B, 4, 6, 2\)"),
    "five axes": (some_images()[None], ValueError, r"\(1, 3, 4, 6, 2\): this model takes"),
    "a larger size": (np.zeros((3, 8, 6, 2)), ValueError, r"shape \(3, 8, 6, 2\): this model"),
    "the sides swapped": (np.zeros((3, 6, 4, 2)), ValueError, "batch, height, width, channels"),
    "more channels": (np.zeros((3, 4, 6, 3)), ValueError, r"shape \(3, 4, 6, 3\): this model"),
    "channels first": (np.zeros((3, 2, 4, 6)), ValueError, "batch, height, width, channels"),
    "an empty batch": (np.zeros((0, 4, 6, 2)), ValueError, "the batch is empty"),
    "NaN": (spoiled(3, np.nan), ValueError, "image 3 of the batch has pixels that are NaN"),
    "inf": (spoiled(4, np.inf), ValueError, "image 4 of the batch .* NaN or infinite"),
    "-inf": (spoiled(0, -np.inf), ValueError, "image 0 of the batch"),
    "complex NaN": (spoiled(2, np.nan) + 0j, ValueError, "image 2 of the batch"),
    "float32 NaN": (spoiled(1, np.nan).astype("float32"), ValueError, "image 1 of the batch"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("use", ["forward", "__call__", "attention"])
def test_images_that_do_not_fit_are_refused(kind, use):
    images, error, message = REFUSED[kind]
    with pytest.raises(error, match=message):
        getattr(tiny(), use)(images)


def test_pixels_too_large_for_the_dtype_are_refused():
    with pytest.raises(ValueError, match="image 2 of the batch has pixels that are NaN or inf"):
        tiny("float32")(spoiled(2, 1e300))
