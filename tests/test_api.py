"""The class ViT: creating models, forward and backward passes, attention, invalid images."""

import dataclasses
import re
import tracemalloc

import numpy as np
import pytest
from helpers.models import random_batch, tiny_model

from minivit import ViT, ViTConfig, arrays, data, flatten, layers, parallel, training
from minivit.tree import pack

TINY = {
    "image_size": (4, 6), "patch_size": 2, "channels": 2, "classes": 5,
    "width": 8, "depth": 2, "heads": 2, "mlp_width": 6,
}  # fmt: skip
T = 7  # 2 x 3 patches and the class token


def tiny(dtype="float64", **fields):
    return tiny_model(dtype, **TINY | fields)


def random_images(batch=3, dtype="float64"):
    return random_batch(batch, dtype, shape=(4, 6, 2))[0]


# --- creating models -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sizes", "stem", "patch_size"),
    [
        ("ViT-Ti/16", (12, 192, 768, 3), None, 16),
        ("ViT-S/32", (12, 384, 1536, 6), None, 32),
        ("ViT-B/16", (12, 768, 3072, 12), None, 16),
        ("ViT-L/14", (24, 1024, 4096, 16), None, 14),
        ("ViT-H/14", (32, 1280, 5120, 16), None, 14),
        ("R+ViT-Ti/16", (12, 192, 768, 3), (), 8),
        ("R26+ViT-S/32", (12, 384, 1536, 6), (2, 2, 2, 2), 1),
        ("R26+ViT-B/32", (12, 768, 3072, 12), (2, 2, 2, 2), 1),
        ("R50+ViT-B/16", (12, 768, 3072, 12), (3, 4, 9), 1),
        ("R50+ViT-L/32", (24, 1024, 4096, 16), (3, 4, 6, 3), 1),
    ],
)
def test_a_named_model_has_the_sizes_of_the_paper(name, sizes, stem, patch_size):
    c = ViTConfig.named(name)
    assert (c.depth, c.width, c.mlp_width, c.heads) == sizes
    assert (c.stem, c.stem_width, c.patch_size) == (stem, 64, patch_size)
    assert (c.image_size, c.channels, c.classes) == ((224, 224), 3, 1000)


def test_fields_replace_those_of_a_named_model():
    fields = {"image_size": (8, 16), "channels": 1, "classes": 10, "depth": 1, "heads": 6}
    fields |= {"positions": "none", "pooling": "mean"}
    model = ViT.create("ViT-Ti/4", **fields)
    assert model.config == ViTConfig(**fields, patch_size=4, width=192, mlp_width=768)
    assert model(np.zeros((2, 8, 16, 1), np.float32)).shape == (2, 10)
    hybrid = ViT.create("R+ViT-Ti/16", image_size=64, classes=4, depth=1)
    assert hybrid(np.zeros((2, 64, 64, 3), np.float32)).shape == (2, 4)


def test_a_model_has_the_configuration_it_is_created_from():
    config = ViTConfig(**TINY | {"image_size": [4, 6]})
    model = ViT.create(config)
    assert model.config is config
    assert config.image_size == (4, 6)
    assert ViTConfig(**TINY | {"image_size": 4}).image_size == (4, 4)
    assert len(model.params["blocks"]) == 2


@pytest.mark.parametrize(
    "name",
    [
        "ViT-B", "ViT-X/16", "vit-b/16", "ViT-B/16x", "ViT-B/", "", "ViT-B/16\n", "B/16",
        "R50+ViT-B/32", "R+ViT-B/16", "R26+ViT-S/32\n", "R50+B/16", "vit_base_patch16",
        "vit_giant_patch14_224", "vit_base_r50_s32_224", "deit_base_patch16_224",
    ],
)  # fmt: skip
def test_an_unknown_name_is_rejected(name):
    message = r"unknown model .* choose ViT-\{Ti,S,B,L,H\}/PATCH, one of R\+ViT-Ti/16, R26"
    with pytest.raises(ValueError, match=message):
        ViT.create(name)


@pytest.mark.parametrize(
    ("timm", "name", "size"),
    [
        ("vit_tiny_patch16_224", "ViT-Ti/16", 224),
        ("vit_small_patch32_384.augreg_in21k_ft_in1k", "ViT-S/32", 384),
        ("vit_base_patch8_224", "ViT-B/8", 224),
        ("vit_large_patch14_224", "ViT-L/14", 224),
        ("vit_huge_patch14_224", "ViT-H/14", 224),
        ("vit_tiny_r_s16_p8_224", "R+ViT-Ti/16", 224),
        ("vit_small_r26_s32_384", "R26+ViT-S/32", 384),
        ("vit_base_r26_s32_224", "R26+ViT-B/32", 224),
        ("vit_base_r50_s16_384", "R50+ViT-B/16", 384),
        ("vit_large_r50_s32_224", "R50+ViT-L/32", 224),
    ],
)
def test_the_names_of_timm_have_the_same_sizes(timm, name, size):
    config = ViTConfig.named(timm, classes=10)
    assert config == ViTConfig.named(name, image_size=size, classes=10)
    assert config.name == name


def test_objects_print_compactly():
    model = tiny(channels=3)
    text = "<ViT with D=8, L=2, h=2, M=6, P=2: 4 x 6 x 3 pixels, 5 classes, "
    parameters = sum(leaf.size for leaf in flatten(model.params).values())
    assert repr(model) == f"{text}{parameters:,} parameters, float64 on cpu>"
    config = dataclasses.replace(model.config, classes=None, stem=(1,), stem_width=32, patch_size=1)
    assert config.name == "hybrid ViT with D=8, L=2, h=2, M=6, P=1"
    assert eval(repr(config)) == config
    assert repr(ViTConfig()) == (
        "ViTConfig(image_size=(224, 224), patch_size=16, channels=3, classes=1000, width=768, "
        "depth=12, heads=12, mlp_width=3072)"
    )
    recipe = training.Recipe(epochs=3, mixup=0.2)
    assert repr(recipe) == (
        "Recipe(epochs=3, batch_size=128, optimiser='adamw', learning_rate=0.002, seed=0, "
        "mixup=0.2)"
    )
    assert repr(data.load_digits(n=50)) == (
        "<Dataset digits: 50 training and 360 held-out images of 8 x 8 x 1, 10 classes>"
    )


COUNTS = ("patch_size", "channels", "classes", "width", "depth", "heads", "mlp_width")
INVALID_FIELDS = [
    *(
        ({name: value}, f"{name} must be a positive integer, not {value!r}")
        for name in (*COUNTS, "hidden_head", "image_size", "stem_width")
        for value in (0, -1, 2.0, "2", True)
    ),
    ({"image_size": None}, "image_size must be a positive integer, not None"),
    ({"image_size": (4,)}, "image_size must be one number or two"),
    ({"image_size": (4, 6, 2)}, "image_size must be one number or two"),
    ({"image_size": (4, 0)}, "image_size must be a positive integer, not 0"),
    ({"image_size": (4, 7)}, "image_size 4 x 7 cannot be cut into patches of 2 x 2"),
    ({"image_size": (5, 6)}, "image_size 5 x 6 cannot be cut into patches of 2 x 2"),
    ({"patch_size": 3}, "image_size 4 x 6 cannot be cut into patches of 3 x 3"),
    ({"patch_size": 8}, "image_size 4 x 6 cannot be cut into patches of 8 x 8"),
    ({"heads": 3}, "width 8 is not a multiple of 3 heads"),
    ({"heads": 16}, "width 8 is not a multiple of 16 heads"),
    ({"positions": "3d"}, "unknown positions '3d': choose none, 1d, 2d, relative, sincos2d"),
    ({"positions": None}, "unknown positions None"),
    ({"pooling": "max"}, "unknown pooling 'max': choose class, mean"),
    ({"gelu": "relu"}, "unknown gelu 'relu': choose tanh, erf"),
    ({"preprocessing": "keras"}, "unknown preprocessing 'keras': choose minivit, google, timm,"),
    ({"positions": "2d", "width": 9, "heads": 3}, "'2d' need a width that is a multiple of 2"),
    ({"positions": "sincos2d", "width": 6}, "'sincos2d' need a width that is a multiple of 4"),
    *(
        ({name: value}, f"{name} must be in [0, 1), not {value}")
        for name in ("dropout", "drop_path")
        for value in (-0.1, 1.0, float("nan"))
    ),
    ({"depth": 1001}, "depth must be at most 1,000, not 1001"),
    ({"depth": 10**9}, "depth must be at most 1,000, not 1000000000"),
    ({"depth": 10**400}, f"depth must be at most 1,000, not 1{'0' * 39}"),
    ({"width": 10**18}, f"width must be at most 1,000,000,000, not {10**18}"),
    ({"image_size": 10**18}, f"image_size must be at most 1,000,000,000, not {10**18}"),
    ({"stem": (1,) * 9}, "stem must have at most 8 stages, not 9"),
    ({"stem": (101,)}, "the number of units in a stage of the stem must be at most 100, not 101"),
    (
        {"image_size": 640},
        "image_size 640 x 640 gives 102,401 tokens, more than 100,000",
    ),
    ({"norm_eps": 1.5}, "norm_eps must be at most 1, not 1.5"),
    ({"position_std": 1e30}, "position_std must be at most 1, not 1e+30"),
    ({"norm_eps": -1e-6}, "norm_eps must be finite and not negative: -1e-06"),
    ({"position_std": float("nan")}, "position_std must be finite and not negative: nan"),
    ({"qkv_bias": 1}, "qkv_bias must be True or False, not 1"),
    ({"patch_bias": None}, "patch_bias must be True or False, not None"),
    ({"stem": 3}, "stem must be the units of each stage, such as (3, 4, 9): 3"),
    ({"stem": "34"}, "stem must be the units of each stage, such as (3, 4, 9): '34'"),
    ({"stem": (1, 0)}, "the number of units in a stage of the stem must be a positive integer"),
    ({"stem": (1, 2.0)}, "the number of units in a stage of the stem must be a positive integer"),
    ({"stem": (), "stem_width": 48}, "stem_width 48 is not a multiple of 32 groups"),
    ({"stem": (1, 1), "image_size": (15, 22)}, "15 x 22 (feature map 2 x 3) cannot be cut into"),
]


@pytest.mark.parametrize(("fields", "message"), INVALID_FIELDS, ids=str)
def test_an_invalid_configuration_is_rejected(fields, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011, the message is compared below
        ViTConfig(**TINY | fields)
    assert message in str(error.value)


def test_invalid_fields_are_rejected_by_create_and_replace():
    with pytest.raises(ValueError, match="image_size 30 x 30 cannot be cut"):
        ViT.create("ViT-Ti/4", image_size=30)
    with pytest.raises(TypeError, match="colour"):
        ViT.create("ViT-Ti/4", image_size=32, colour=3)
    with pytest.raises(TypeError, match=r"dataclasses\.replace"):
        ViT.create(ViTConfig(**TINY), depth=3)
    with pytest.raises(ValueError, match="3 heads"):
        dataclasses.replace(ViTConfig(**TINY), heads=3)
    for dtype in ("int32", "complex64", "bool"):
        with pytest.raises(ValueError, match=f"must have a floating-point dtype, not {dtype}"):
            ViT.create(ViTConfig(**TINY), dtype=dtype)


# --- forward and backward ------------------------------------------------------------------------


def test_the_pullback_returns_the_gradients_of_the_images_and_all_parameters():
    model, images = tiny(hidden_head=3), random_images()
    logits, pullback = model.forward(images)
    dimages, dparams = pullback(np.ones_like(logits))
    assert logits.shape == (3, 5)
    assert abs(logits[0] - logits[1]).max() > 0.01  # they depend on the image
    assert dimages.shape == images.shape
    gradients, params = flatten(dparams), flatten(model.params)
    assert gradients.keys() == params.keys()
    assert all(gradients[name].shape == params[name].shape for name in params)


@pytest.mark.parametrize("batch", [1, 2, 11])
@pytest.mark.parametrize("shards", [None, 4])
def test_a_call_gives_the_logits_of_forward_for_any_number_of_shards(monkeypatch, batch, shards):
    model, images, seen = tiny(), random_images(batch), {}
    logits, _ = model.forward(images, watch=seen.__setitem__)
    maps = [seen[f"blocks/{i}/attention/probabilities"] for i in (0, 1)]
    if shards:
        monkeypatch.setattr(
            "minivit.inference.choose_shard_count", lambda *args: min(batch, shards)
        )
    np.testing.assert_allclose(model(images), logits, rtol=0, atol=1e-13)
    np.testing.assert_allclose(model.attention(images), maps, rtol=0, atol=1e-13)
    head, features = model.params["head"], model.features(images)
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"], logits, 0, 1e-13)


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_tokens_and_intermediate_tokens_are_those_of_forward(pooling):
    model, images, seen = tiny(pooling=pooling), random_images(5), {}
    model.forward(images, watch=seen.__setitem__)
    outputs = [seen[f"blocks/{i}/output"] for i in (0, 1)]
    np.testing.assert_allclose(model.intermediate(images, [1, 0, -1]), [*outputs[::-1], outputs[1]])
    norm = model.params["norm"]
    expected = layers.layer_norm(outputs[1], norm["scale"], norm["bias"])[0]
    tokens = model.tokens(images)
    np.testing.assert_allclose(tokens, expected, rtol=1e-12)
    pooled = tokens[:, 0] if pooling == "class" else tokens.mean(1)
    np.testing.assert_allclose(model.features(images), pooled, rtol=1e-12)
    for layer in (2, -3):
        with pytest.raises(IndexError):
            model.intermediate(images, [layer])


def test_dropout_is_active_only_with_a_generator():
    model, images = tiny(dropout=0.5), random_images()
    without, _ = model.forward(images)
    dropped, again = (model.forward(images, np.random.default_rng(0))[0] for _ in range(2))
    assert np.array_equal(tiny().forward(images)[0], without)
    assert np.array_equal(dropped, again)
    assert abs(dropped - without).max() > 0.01
    assert np.array_equal(model(images), tiny()(images))


def test_the_memory_of_inference_does_not_grow_with_the_batch(monkeypatch):
    monkeypatch.setattr(parallel, "cpu_count", lambda: 1)  # one shard at a time
    config = ViTConfig(
        image_size=32, patch_size=4, channels=1, classes=3, width=32, depth=1, heads=2,
        mlp_width=512,
    )  # fmt: skip
    model, images, peaks = ViT.create(config), np.zeros((512, 32, 32, 1), np.float32), []
    for n in (64, 64, 512):  # the first call also allocates caches
        tracemalloc.start()
        model(images[:n])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.2 * peaks[1]
    assert peaks[2] < 20e6  # without shards, the MLP alone would need 68 MB


def test_attention_has_the_axes_layer_image_head_query_key():
    attention = tiny().attention(random_images())
    assert attention.shape == (2, 3, 2, T, T)
    assert (attention > 0).all()
    np.testing.assert_allclose(attention.sum(-1), 1, rtol=1e-12)
    assert abs(attention[0] - attention[1]).max() > 0.01  # the layers differ
    assert abs(attention[:, :, 0] - attention[:, :, 1]).max() > 0.01  # and the heads
    assert tiny(pooling="mean").attention(random_images()).shape == (2, 3, 2, T - 1, T - 1)


def test_watch_receives_the_gradients_of_the_attention_in_the_backward_pass():
    model, images, seen = tiny(), random_images(), {}
    logits, pullback = model.forward(images, watch=seen.__setitem__)
    forward = set(seen)
    pullback(np.ones_like(logits))
    backward = {f"blocks/{i}/attention/dprobabilities" for i in (0, 1)}
    assert forward >= {"embedding", "blocks/0/output", "blocks/1/output"}
    assert set(seen) - forward == backward
    first, last = (seen[name] for name in sorted(backward))
    assert first.shape == last.shape == (3, 2, T, T)
    # Only the class token reaches the head: in the last layer, other queries have no gradient.
    assert last[:, :, 0].any()
    assert not last[:, :, 1:].any()
    assert first[:, :, 1:].any()


def test_the_parameters_can_be_changed_in_place_before_and_after_packing():
    model, images = tiny(), random_images()
    for packed in (False, True):
        before = model(images)
        if packed:
            parameters = pack(model.params)
            assert np.array_equal(model(images), before)
        flatten(model.params)["head/bias"][2] += 10
        np.testing.assert_allclose(model(images) - before, [[0, 0, 10, 0, 0]] * 3, atol=1e-12)
    parameters.vector[:] = 0
    assert not model(images).any()


# --- images --------------------------------------------------------------------------------------


def test_complex_images_keep_their_imaginary_part():
    model, images = tiny(), random_images()
    logits = model(images + 1e-20j)
    assert logits.dtype == np.complex128
    np.testing.assert_allclose(logits.real, model(images), atol=1e-13)
    _, pullback = model.forward(images)
    derivative = pullback(np.ones((3, 5)))[0].sum()
    assert logits.imag.sum() / 1e-20 == pytest.approx(derivative, rel=1e-10)


def test_the_memory_layout_of_the_images_does_not_affect_the_logits():
    model, images = tiny(), random_images()
    for layout in (
        np.asfortranarray(images),
        images.transpose(0, 3, 1, 2).copy().transpose(0, 2, 3, 1),  # channels first
        images[::-1, ::-1].copy()[::-1, ::-1],
        np.repeat(images, 2, axis=0)[::2],
    ):
        np.testing.assert_allclose(model(layout), model(images), rtol=0, atol=1e-13)


def with_value(image, value):
    images = random_images(5)
    images[image, 3, 5, 1] = value
    return images


INVALID_IMAGES = {
    "bytes": (random_images().astype("uint8"), TypeError, "not uint8: scale them .* / np"),
    "integers": (random_images().astype("int64"), TypeError, "not int64: scale them first"),
    "a list": (random_images().tolist(), TypeError, "not list"),
    "None": (None, TypeError, "not NoneType"),
    "one image": (random_images()[0], ValueError, r"this model expects \(B, 4, 6, 2\)"),
    "five axes": (random_images()[None], ValueError, r"\(1, 3, 4, 6, 2\): this model expects"),
    "swapped sides": (np.zeros((3, 6, 4, 2)), ValueError, "batch, height, width, channels"),
    "channels first": (np.zeros((3, 2, 4, 6)), ValueError, "batch, height, width, channels"),
    "an empty batch": (np.zeros((0, 4, 6, 2)), ValueError, "the batch is empty"),
    "NaN": (with_value(3, np.nan), ValueError, "image 3 of the batch has pixels that are NaN"),
    "-inf": (with_value(0, -np.inf), ValueError, "image 0 of the batch .* NaN or infinite"),
    "overflow": (with_value(2, 1e300), ValueError, "image 2 of the batch"),
    "complex NaN": (with_value(2, np.nan) + 0j, ValueError, "image 2 of the batch"),
    "float32 inf": (with_value(4, np.inf).astype("float32"), ValueError, "image 4 of the batch"),
}  # fmt: skip


@pytest.mark.parametrize("name", INVALID_IMAGES)
@pytest.mark.parametrize("method", ["forward", "__call__", "attention", "features"])
def test_invalid_images_are_rejected(name, method):
    images, error, message = INVALID_IMAGES[name]
    with pytest.raises(error, match=message):
        getattr(tiny("float32"), method)(images)


# --- numbers and arrays of NumPy and other libraries ---------------------------------------------


def test_numpy_numbers_are_accepted_and_saved(tmp_path):
    i, f = np.int64, np.float32
    config = ViTConfig(
        image_size=(i(8), i(8)), patch_size=i(4), channels=i(1), classes=i(2), width=i(8),
        depth=i(1), heads=i(2), mlp_width=i(8), norm_eps=f(0.5), qkv_bias=np.bool_(True),
    )  # fmt: skip
    model = ViT.create(config)
    model.save(tmp_path / "model.npz")
    assert ViT.load(tmp_path / "model.npz").config == config
    kinds = {type(value) for value in dataclasses.astuple(config)}
    assert kinds <= {int, float, bool, str, tuple, type(None)}
    assert type(config.image_size[0]) is int


class Subclass(np.ndarray):
    """A subclass of ndarray in a module without array functions."""


class Tensor:
    """A tensor of another library."""

    def __init__(self, array, error=None):
        self.array, self.error = array, error

    def __array__(self, dtype=None, copy=None):
        if self.error:
            raise self.error
        return self.array


def test_subclasses_and_tensors_of_other_libraries_give_the_same_results():
    model = tiny_model("float32")
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype("f")
    expected = model(images)
    for other in (images.view(Subclass), Tensor(images)):
        result = model(other)
        assert type(result) is np.ndarray
        assert np.array_equal(result, expected)
        assert np.array_equal(model.forward(other)[0], model.forward(images)[0])
    x, scale = images[0, :, :, 0], np.ones(8, "f")
    y, _ = layers.layer_norm(x.view(Subclass), scale, scale)
    assert np.array_equal(y, layers.layer_norm(x, scale, scale)[0])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (Tensor(None, RuntimeError("it requires grad")), "cannot convert test_api.Tensor to a "
            "NumPy array: it requires grad"),
        (np.ma.masked_array(np.zeros((1, 8, 8, 1)), True), "masked arrays are not supported: "
            "fill the masked entries with x.filled()"),
        (Tensor(np.zeros((1, 8, 8, 1), int)), "images must be arrays of floats, not int64"),
        ([[0.0]], "images must be arrays of floats, not list"),
    ],
)  # fmt: skip
def test_an_object_that_is_not_an_array_of_floats_is_rejected(images, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        tiny_model("float32")(images)


def test_a_layer_rejects_an_object_of_another_library():
    message = "expected a NumPy or CuPy array, not test_api.Tensor: convert it with np.asarray"
    with pytest.raises(TypeError, match=re.escape(message)):
        arrays.array_module(Tensor(np.zeros(3)))
