"""Models in other layouts: bit-exact round trips, and errors that name the damaged array."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.models import tiny_model
from helpers.refusals import refusal
from safetensors.numpy import load_file, save_file

from minivit import ViT, ViTConfig, flatten
from minivit.models import parameter_specs
from minivit.tree import map_tree, unflatten
from minivit.weights import LAYOUTS, export, resize_positions
from minivit.weights.convert import MODULES, ModelFile
from minivit.weights.load import make_model

TINY = {
    "image_size": 12, "patch_size": 3, "channels": 3, "classes": 5,
    "width": 8, "depth": 2, "heads": 2, "mlp_width": 20,
}  # fmt: skip
KINDS = {
    "plain": {},
    "mean pooling": {"pooling": "mean"},
    "hidden head": {"hidden_head": 6},
    "headless": {"classes": None},
    "pooler": {"classes": None, "hidden_head": 6},
    "hybrid": {"stem": (2, 1), "stem_width": 32, "patch_size": 2, "image_size": 32},
    "root alone": {"stem": (), "stem_width": 32, "patch_size": 2, "image_size": 16},
    "rectangular": {"image_size": (6, 15)},
    "no qkv bias": {"qkv_bias": False},
    "no patch bias": {"patch_bias": False},
    "sincos2d": {"positions": "sincos2d"},
    "no positions": {"positions": "none", "pooling": "mean"},
    "many blocks": {"depth": 12, "gelu": "erf", "norm_eps": 1e-3},
}
FOREIGN = ("google", "timm", "huggingface")
FIRST = "Transformer/encoderblock_0/"


def tiny(**fields):
    return tiny_model("float32", **TINY | fields)


def tiny_arrays(layout, **fields):
    model = tiny(**fields)
    return model, export(model.params, model.config, layout)


def same_bits(one, other):
    one, other = flatten(one), flatten(other)
    return one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype and one[n].tobytes() == other[n].tobytes() for n in one
    )


def open_arrays(tmp_path, arrays, **fields):
    """Load a file of these arrays without the configuration that minivit adds."""
    np.savez(tmp_path / "theirs.npz", **arrays)
    return ViT.load(tmp_path / "theirs.npz", **fields)


def refused(tmp_path, arrays, *parts, **fields):
    return refusal(lambda: open_arrays(tmp_path, arrays, **fields), "theirs.npz", *parts)


def shapes_of(tree, config, layout):
    return {name: array.shape for name, array in export(tree, config, layout).items()}


# --- names and shapes -------------------------------------------------------------------------

D, H, DH, M = 768, 12, 64, 3072
BIT = "embeddings.patch_embeddings.backbone.bit."
ATTENTION = "MultiHeadDotProductAttention_1/"
NORM = ((D,), (D,))  # shapes of scale and bias
QKV = ((D, H, DH), (H, DH))  # shapes of kernel and bias
DENSE, HIDDEN, OUT = ((D, D), (D,)), ((M, D), (M,)), ((D, M), (D,))
HEAD, PATCHES = ((1000, D), (1000,)), ((D, 3, 16, 16), (D,))

LAYERS = {  # of ViT-B/16 with a hidden layer, or without a classifier for Hugging Face
    "google": {
        "embedding": ((16, 16, 3, D), (D,)), "Transformer/encoder_norm": NORM,
        "pre_logits": DENSE, "head": ((D, 1000), (1000,)),
    },
    "timm": {"patch_embed.proj": PATCHES, "norm": NORM, "pre_logits.fc": DENSE, "head": HEAD},
    "huggingface": {
        "embeddings.patch_embeddings.projection": PATCHES, "layernorm": NORM, "pooler.dense": DENSE,
    },
}  # fmt: skip
ARRAYS = {
    "google": ("cls", "Transformer/posembed_input/pos_embedding"),
    "timm": ("cls_token", "pos_embed"),
    "huggingface": ("embeddings.cls_token", "embeddings.position_embeddings"),
}
SUBLAYERS = {
    "google": {
        "LayerNorm_0": NORM, "LayerNorm_2": NORM, ATTENTION + "query": QKV, ATTENTION + "key": QKV,
        ATTENTION + "value": QKV, ATTENTION + "out": ((H, DH, D), (D,)),
        "MlpBlock_3/Dense_0": ((D, M), (M,)), "MlpBlock_3/Dense_1": ((M, D), (D,)),
    },
    "timm": {
        "norm1": NORM, "attn.qkv": ((3 * D, D), (3 * D,)), "attn.proj": DENSE,
        "norm2": NORM, "mlp.fc1": HIDDEN, "mlp.fc2": OUT,
    },
    "huggingface": {
        "layernorm_before": NORM, "layernorm_after": NORM, "attention.attention.query": DENSE,
        "attention.attention.key": DENSE, "attention.attention.value": DENSE,
        "attention.output.dense": DENSE, "intermediate.dense": HIDDEN, "output.dense": OUT,
    },
}  # fmt: skip
BLOCKS = {"google": "Transformer/encoderblock_{}/", "timm": "blocks.{}.",
          "huggingface": "encoder.layer.{}."}  # fmt: skip


def shapes_at_full_size(name, layout, monkeypatch, **fields):
    """Return the shapes of a large model in a layout, without allocating its arrays."""
    monkeypatch.setattr(np, "ascontiguousarray", lambda array: array)
    config = ViTConfig.named(name, **fields)
    specs = flatten(parameter_specs(config)).items()
    tree = unflatten({leaf: np.broadcast_to(np.int8(0), spec.shape) for leaf, spec in specs})
    return shapes_of(tree, config, layout)


@pytest.mark.parametrize("layout", FOREIGN)
def test_names_and_shapes_of_a_plain_vit(monkeypatch, layout):
    token, table = ARRAYS[layout]
    expected, layers = {token: (1, 1, D), table: (1, 197, D)}, LAYERS[layout].copy()
    for i in range(12):
        layers |= {BLOCKS[layout].format(i) + name: s for name, s in SUBLAYERS[layout].items()}
    for layer, (weight, bias) in layers.items():
        kind = "kernel" if len(weight) > 1 else "scale"
        ending = f"/{kind}" if layout == "google" else ".weight"
        expected |= {layer + ending: weight, f"{layer}{ending[0]}bias": bias}
    assert len(expected) == {"google": 202, "timm": 154, "huggingface": 200}[layout]
    classes = None if layout == "huggingface" else 1000
    fields = {"classes": classes, "hidden_head": D}
    assert shapes_at_full_size("ViT-B/16", layout, monkeypatch, **fields) == expected
    if layout == "huggingface":
        expected = {f"vit.{name}": s for name, s in expected.items() if "pooler" not in name}
        expected |= {"classifier.weight": (1000, D), "classifier.bias": (1000,)}
        assert shapes_at_full_size("ViT-B/16", layout, monkeypatch) == expected


def test_names_and_shapes_of_the_authors_hybrid(monkeypatch):
    stem = {
        "conv_root/kernel": (7, 7, 3, 64), "gn_root/scale": (64,), "gn_root/bias": (64,),
        "embedding/kernel": (1, 1, 1024, D), "embedding/bias": (D,),
    }  # fmt: skip
    channels = 64
    for b, units in enumerate((3, 4, 9)):
        f = 64 * 2**b
        for u in range(units):
            unit = f"block{b + 1}/unit{u + 1}/"
            kernels = {"1": (1, 1, channels, f), "2": (3, 3, f, f), "3": (1, 1, f, 4 * f)}
            kernels |= {"_proj": (1, 1, channels, 4 * f)} if u == 0 else {}
            for which, kernel in kernels.items():
                stem[f"{unit}conv{which}/kernel"] = kernel
                stem |= {f"{unit}gn{which}/{leaf}": kernel[-1:] for leaf in ("scale", "bias")}
            channels = 4 * f
    shapes = shapes_at_full_size("R50+ViT-B/16", "google", monkeypatch)
    groups = ("conv_root", "gn_root", "block", "embedding")
    assert {name: shape for name, shape in shapes.items() if name.startswith(groups)} == stem
    assert shapes["Transformer/posembed_input/pos_embedding"] == (1, 197, D)


@pytest.mark.parametrize(
    ("name", "layout", "prefix", "expected"),
    [
        ("R26+ViT-S/32", "google", "", {"embedding/kernel": (1, 1, 2048, 384)}),
        ("R+ViT-Ti/16", "google", "", {"embedding/kernel": (8, 8, 64, 192)}),
        ("R+ViT-Ti/16", "timm", "patch_embed.", {
            "backbone.conv.weight": (64, 3, 7, 7), "backbone.norm.bias": (64,),
            "proj.weight": (192, 64, 8, 8),
        }),
        ("R26+ViT-S/32", "timm", "patch_embed.backbone.", {
            "stem.conv.weight": (64, 3, 7, 7), "stem.norm.weight": (64,),
            "stages.3.blocks.0.conv1.weight": (512, 1024, 1, 1),
            "stages.3.blocks.0.downsample.conv.weight": (2048, 1024, 1, 1),
            "stages.3.blocks.0.downsample.norm.bias": (2048,),
            "stages.3.blocks.1.conv2.weight": (512, 512, 3, 3),
        }),
        ("R26+ViT-S/32", "huggingface", f"vit.{BIT}", {
            "embedder.convolution.weight": (64, 3, 7, 7), "embedder.norm.weight": (64,),
            "encoder.stages.0.layers.1.norm3.bias": (256,),
            "encoder.stages.1.layers.0.downsample.conv.weight": (512, 256, 1, 1),
        }),
    ],
    ids=str,
)  # fmt: skip
def test_names_and_shapes_of_other_hybrids(monkeypatch, name, layout, prefix, expected):
    shapes = shapes_at_full_size(name, layout, monkeypatch)
    assert {theirs: shapes.get(prefix + theirs) for theirs in expected} == expected


@pytest.mark.parametrize("name", ["ViT-B/16", "ViT-H/14", "R50+ViT-B/16", "R+ViT-Ti/16"])
@pytest.mark.parametrize("layout", FOREIGN)
def test_infer_config_reads_fields_from_names_and_shapes(name, layout):
    config = ViTConfig.named(name)
    entries = MODULES[layout].names(config).values()
    shapes = {name: entry.shape for entry in entries for name in entry.names}
    fields = MODULES[layout].infer_config(shapes)
    assert fields == {field: getattr(config, field) for field in fields}
    expected = "patch_size channels classes width depth mlp_width pooling hidden_head qkv_bias stem"
    expected = {*expected.split(), *["heads"] * (layout == "google")}
    assert fields.keys() == expected | {*["stem_width"] * (config.stem is not None)}


def test_axes_of_every_kind_of_array():
    model, google = tiny_arrays("google", **KINDS["hybrid"])
    timm, face = (export(model.params, model.config, layout) for layout in FOREIGN[1:])
    ours, heads, P = flatten(model.params), [slice(0, 4), slice(4, 8)], 2

    attention = FIRST + ATTENTION, "vit.encoder.layer.0.attention."
    for kind, ending in {"kernel": "weight", "bias": "bias"}.items():
        qkv = ours[f"blocks/0/attention/qkv/{kind}"]  # (D, 3 D) or (3 D,), head after head
        assert np.array_equal(timm[f"blocks.0.attn.qkv.{ending}"], qkv.T)
        for third, part in zip(np.split(qkv, 3, axis=-1), ("query", "key", "value"), strict=True):
            theirs = google[f"{attention[0]}{part}/{kind}"]  # (D, h, Dh) or (h, Dh)
            assert np.array_equal(theirs, np.stack([third[..., h] for h in heads], axis=-2))
            assert np.array_equal(face[f"{attention[1]}attention.{part}.{ending}"], third.T)
    out = ours["blocks/0/attention/out/kernel"]  # (D, D)
    assert np.array_equal(google[f"{attention[0]}out/kernel"], [out[h] for h in heads])
    assert np.array_equal(timm["blocks.0.attn.proj.weight"], out.T)
    assert np.array_equal(face[f"{attention[1]}output.dense.weight"], out.T)
    hidden = ours["blocks/0/mlp/hidden/kernel"]  # (D, M)
    assert np.array_equal(google[FIRST + "MlpBlock_3/Dense_0/kernel"], hidden)
    assert np.array_equal(timm["blocks.0.mlp.fc1.weight"], hidden.T)
    assert np.array_equal(face["vit.encoder.layer.0.intermediate.dense.weight"], hidden.T)

    patches = ours["patch_embedding/kernel"]  # (P P C, D)
    C = len(patches) // P**2
    for r, c, channel in np.ndindex(P, P, C):
        row = patches[(r * P + c) * C + channel]
        assert np.array_equal(google["embedding/kernel"][r, c, channel], row)
        assert np.array_equal(timm["patch_embed.proj.weight"][:, channel, r, c], row)
    theirs = face["vit.embeddings.patch_embeddings.projection.weight"]
    assert np.array_equal(theirs, timm["patch_embed.proj.weight"])
    for arrays, (layout, names) in zip((google, timm, face), ARRAYS.items(), strict=True):
        prefix = "vit." if layout == "huggingface" else ""
        token, table = (arrays[prefix + name] for name in names)
        assert np.array_equal(token[0, 0], ours["class_token"])
        assert np.array_equal(table[0], ours["positions/table"])

    kernel = ours["stem/stages/1/0/conv2/kernel"]  # (rows, columns, in, out)
    assert np.array_equal(google["block2/unit1/conv2/kernel"], kernel)
    theirs = timm["patch_embed.backbone.stages.1.blocks.0.conv2.weight"]
    assert np.array_equal(theirs, kernel.transpose(3, 2, 0, 1))


# --- round trips ------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load_preserve_every_bit(tmp_path, kind):
    model = tiny(**KINDS[kind])
    images = np.random.default_rng(2).normal(size=(2, *model.config.image_size, 3)).astype("f")
    logits = model(images)
    for layout in LAYOUTS:
        for ending in (".npz", ".safetensors", *[""] * (layout == "huggingface")):
            first, second = tmp_path / f"first{ending}", tmp_path / f"second{ending}"
            model.save(first, layout)
            loaded = ViT.load(first)
            loaded.save(second, layout)
            again = ViT.load(second)
            assert loaded.config == again.config == model.config
            assert same_bits(loaded.params, model.params), (layout, ending)
            assert same_bits(again.params, model.params), (layout, ending)
            np.testing.assert_allclose(loaded(images), logits, rtol=0, atol=1e-5)
            if ending == ".npz":  # the order of metadata in a .safetensors file varies
                assert first.read_bytes() == second.read_bytes()


def uninferred(config, layout):
    """Return the fields that the arrays of a layout do not determine."""
    fields = {"gelu": config.gelu, "norm_eps": config.norm_eps, "preprocessing": "minivit"}
    fields |= {"positions": config.positions, "patch_bias": config.patch_bias}
    if config.grid[0] != config.grid[1] or config.positions != "1d":
        fields["image_size"] = config.image_size
    return fields if layout == "google" else fields | {"heads": config.heads}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", FOREIGN)
def test_arrays_alone_determine_all_other_fields(tmp_path, kind, layout):
    model, arrays = tiny_arrays(layout, **KINDS[kind])
    loaded = open_arrays(tmp_path, arrays, **uninferred(model.config, layout))
    assert loaded.config == model.config
    assert same_bits(loaded.params, model.params)
    assert export(loaded.params, loaded.config, layout).keys() == arrays.keys()


def test_defaults_of_the_layouts(tmp_path):
    eps = {"google": ("tanh", 1e-6), "timm": ("erf", 1e-6), "huggingface": ("erf", 1e-12)}
    for layout, expected in eps.items():
        _, arrays = tiny_arrays(layout, width=192, heads=3, depth=1)
        c = open_arrays(tmp_path, arrays).config
        assert (c.gelu, c.norm_eps, c.preprocessing) == (*expected, layout)
        assert (c.heads, c.dropout, c.positions) == (3, 0.0, "1d")
        c = open_arrays(tmp_path, arrays, gelu="tanh", norm_eps=1e-3, preprocessing="dino").config
        assert (c.gelu, c.norm_eps, c.preprocessing) == ("tanh", 1e-3, "dino")


def test_gradients_are_exported_with_the_names_of_the_parameters():
    model = tiny(hidden_head=6)
    images = np.random.default_rng(3).normal(size=(2, 12, 12, 3)).astype("f")
    logits, pullback = model.forward(images)
    _, gradients = pullback(logits)
    for layout in LAYOUTS:
        exported = export(gradients, model.config, layout)
        shapes = {name: array.shape for name, array in exported.items()}
        assert shapes == shapes_of(model.params, model.config, layout)
        assert all(array.flags.c_contiguous for array in exported.values())
    assert list(export(gradients, model.config, "minivit")) == list(flatten(gradients))


@pytest.mark.parametrize("positions", ["2d", "relative"])
def test_a_model_without_names_in_a_layout_is_not_saved(tmp_path, positions):
    model = tiny(positions=positions)
    for layout in FOREIGN:
        with pytest.raises(ValueError, match=r"the layout has no name for '.*/(rows|table)'"):
            model.save(tmp_path / "model", layout)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


# --- alternative spellings of the authors' names ----------------------------------------------
def add_prefix(prefix, arrays):
    return {prefix + name: array for name, array in arrays.items()}


def to_linen(arrays):
    """Number each kind of layer separately."""
    names = {"LayerNorm_2": "LayerNorm_1", "MlpBlock_3": "MlpBlock_0", "tion_1": "tion_0"}
    for old, new in names.items():
        arrays = {name.replace(old, new): array for name, array in arrays.items()}
    return arrays


def to_scanned(arrays):
    """Stack the arrays of all blocks."""
    blocks, others = {}, {}
    for name, array in arrays.items():
        before, found, after = name.partition("encoderblock_")
        if found:
            name = f"{before}encoderblock/{after.partition('/')[2]}"
            blocks.setdefault(name, []).append(array)
        else:
            others[name] = array
    return others | {name: np.stack(arrays) for name, arrays in blocks.items()}


def beside_optimiser_state(arrays):
    """Add an optimiser's state, whose names come first in the alphabet."""
    state = {f"opt/state/param_states/{n}/grad_ema": 7 * a for n, a in arrays.items()}
    state |= {f"opt/0/mu/{n}": 7 * a for n, a in arrays.items()}
    return state | {"opt/state/step": np.int64(9)} | add_prefix("opt/target/", arrays)


def beside_text_tower(arrays):
    text = {"params/txt/Transformer/encoder_norm/scale": np.ones(4, "f")}
    scale = {"params/t": np.ones(1, "f"), "params/b": np.ones(1, "f")}
    return text | scale | add_prefix("params/img/", to_linen(arrays))


SPELLINGS = {
    "Linen": to_linen,
    "params/": lambda arrays: add_prefix("params/", to_linen(arrays)),
    "opt/target/ and state": beside_optimiser_state,
    "params/img/ and text": beside_text_tower,
    "params/ and scanned": lambda arrays: add_prefix("params/", to_scanned(to_linen(arrays))),
    "reversed": lambda arrays: dict(reversed(arrays.items())),
    "big-endian": lambda arrays: {n: a.astype(">f4") for n, a in arrays.items()},
    "Fortran order": lambda arrays: {n: np.asfortranarray(a) for n, a in arrays.items()},
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_the_authors(tmp_path, spelling):
    model, arrays = tiny_arrays("google", hidden_head=6)
    theirs = SPELLINGS[spelling](arrays)
    loaded = open_arrays(tmp_path, theirs)
    assert loaded.config == dataclasses.replace(model.config, preprocessing="google")
    assert same_bits(loaded.params, model.params)
    assert {leaf.dtype.str for leaf in flatten(loaded.params).values()} == {"<f4"}
    # Errors spell the name as the file does.
    name = next(n for n in theirs if n.endswith("Dense_1/bias") and not n.startswith("opt/0"))
    name = name if "state" not in name else "opt/target/" + FIRST + "MlpBlock_3/Dense_1/bias"
    refused(tmp_path, theirs | {name: np.full_like(theirs[name], np.nan)}, f"'{name}' contains NaN")
    if "scanned" not in spelling:
        without = {n: a for n, a in theirs.items() if n != name}
        refused(tmp_path, without, f"the array '{name}' is missing")


@pytest.mark.parametrize("kind", ["hybrid", "root alone"])
def test_only_group_norms_may_have_leading_axes_of_length_one(tmp_path, kind):
    model, arrays = tiny_arrays("google", **KINDS[kind])
    older = {n: a.reshape(1, 1, 1, -1) if "gn" in n else a for n, a in arrays.items()}
    assert sum(array.ndim == 4 and "gn" in name for name, array in older.items()) >= 2
    assert same_bits(open_arrays(tmp_path, older).params, model.params)
    for layout in FOREIGN:
        _, arrays = tiny_arrays(layout, hidden_head=6)
        for name, array in arrays.items():
            if array.ndim > 1:
                refused(tmp_path, arrays | {name: array[None]}, f"'{name}'", "expected", heads=2)


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_position_embeddings_of_big_vision_exclude_the_class_token(tmp_path, pooling):
    model, arrays = tiny_arrays("google", pooling=pooling)
    table = arrays.pop("Transformer/posembed_input/pos_embedding")
    arrays["pos_embedding"] = table[:, 1:] if pooling == "class" else table
    loaded = open_arrays(tmp_path, add_prefix("params/", arrays))
    if pooling == "class":
        model.params["positions"]["table"][0] = 0
    assert same_bits(loaded.params, model.params)


@pytest.mark.parametrize("is_half", [lambda name: True, lambda name: "LayerNorm" not in name])
def test_bfloat16_in_raw_bytes(tmp_path, is_half):
    model = tiny(hidden_head=6)
    chop = np.uint32(0xFFFF0000)  # rounds to bfloat16
    model.params = map_tree(lambda a: (a.view("u4") & chop).view("f4"), model.params)
    arrays = export(model.params, model.config, "google")
    halves = {n: (a.view("<u4") >> 16).astype("<u2").view("V2") for n, a in arrays.items()}
    arrays |= {n: a for n, a in halves.items() if is_half(n)}
    assert {array.dtype.str for array in arrays.values()} <= {"|V2", "<f4"}
    assert same_bits(open_arrays(tmp_path, arrays).params, model.params)


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (["float16"], "float32"), (["float32"], "float32"), (["float64"], "float64"),
        (["float16", "float32"], "float32"), (["float32", "float64"], "float64"),
        ([">f2", ">f8"], "float64"),
    ],
    ids=str,
)  # fmt: skip
def test_dtypes_of_other_layouts(tmp_path, dtypes, expected):
    for layout in FOREIGN:
        _, arrays = tiny_arrays(layout)
        arrays = {n: a.astype(dtypes[i % len(dtypes)]) for i, (n, a) in enumerate(arrays.items())}
        loaded = open_arrays(tmp_path, arrays, heads=2)
        assert {leaf.dtype for leaf in flatten(loaded.params).values()} == {np.dtype(expected)}
        back = export(loaded.params, loaded.config, layout)
        assert all(np.array_equal(back[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize(
    "name",
    [f"blocks.{number}.norm1.bias" for number in ("07", "٧", "10000", "9" * 5000, "-1")]
    + ["blocks.0.ls1.gamma", "dist_token", "fc_norm.weight", "reg_token", "attn_pool.latent", ""],
    ids=lambda name: name[:20],
)
def test_unknown_names_are_refused(tmp_path, name):
    _, arrays = tiny_arrays("timm", depth=1)
    extra = {name: np.zeros(8, "f")}
    parts = [f"the array '{name}' is unknown"]
    if len(name) > 1000:  # the message is shortened
        parts = [f"the array '{name[:500]}", f"{name[-100:]}' is unknown"]
    refused(tmp_path, arrays | extra, parts[0], *parts[1:], heads=2)
    _, arrays = tiny_arrays("google", **KINDS["hybrid"])
    extra = {"block0/unit1/conv1/kernel": arrays["block1/unit1/conv1/kernel"]}  # counts from 1
    refused(tmp_path, arrays | extra, "'block0/unit1/conv1/kernel' is unknown")


# --- alternative spellings of PyTorch's names -------------------------------------------------
@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module.backbone.", "teacher."])
@pytest.mark.parametrize("kind", ["headless", "plain"])
def test_prefixes_of_dino(tmp_path, prefix, kind):
    model, arrays = tiny_arrays("timm", **KINDS[kind])
    whole = add_prefix(prefix, arrays)
    for theirs in (whole, {n if "head" in n else prefix + n: a for n, a in arrays.items()}):
        loaded = open_arrays(tmp_path, theirs, heads=2)
        assert loaded.config.classes == model.config.classes
        assert same_bits(loaded.params, model.params)
    name = prefix + "blocks.1.mlp.fc2.bias"
    without = {n: a for n, a in whole.items() if n != name}
    refused(tmp_path, without, f"'{name}' is missing", heads=2)
    refused(tmp_path, whole | {"dino_head": np.ones(1, "f")}, "'dino_head' is unknown", heads=2)


def test_both_names_of_a_root_without_stages(tmp_path):
    model, arrays = tiny_arrays("timm", **KINDS["root alone"])
    longer = {n.replace("backbone.", "backbone.stem."): a for n, a in arrays.items()}
    for names, root in ((arrays, "backbone.norm"), (longer, "backbone.stem.norm")):
        assert same_bits(open_arrays(tmp_path, names, heads=2).params, model.params)
        name = f"patch_embed.{root}.bias"
        without = {n: a for n, a in names.items() if n != name}
        refused(tmp_path, without, f"the array '{name}' is missing", heads=2)


def to_transformers_5(name):
    names = {
        "encoder.layer.": "layers.", "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj", "intermediate.dense": "mlp.fc1",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj", "output.dense": "mlp.fc2",
    }  # fmt: skip
    for old, new in names.items():
        name = name.replace(old, new)
    return name


@pytest.mark.parametrize("kind", ["plain", "pooler", "headless", "no qkv bias", "hybrid"])
@pytest.mark.parametrize("rename", [str, to_transformers_5], ids=["4", "5"])
@pytest.mark.parametrize("prefixed", [True, False])
def test_names_of_transformers_4_and_5(tmp_path, kind, rename, prefixed):
    model, arrays = tiny_arrays("huggingface", **KINDS[kind])
    arrays = {rename(name).removeprefix("vit."): array for name, array in arrays.items()}
    if prefixed:
        arrays = {n if "classifier" in n else "vit." + n: a for n, a in arrays.items()}
    assert any("q_proj" in name for name in arrays) == (rename is to_transformers_5)
    loaded = open_arrays(tmp_path, arrays, heads=2)
    assert same_bits(loaded.params, model.params)
    assert loaded.config.qkv_bias == model.config.qkv_bias
    name = "vit." * prefixed + rename("encoder.layer.1.attention.attention.key.weight")
    without = {n: a for n, a in arrays.items() if n != name}
    refused(tmp_path, without, f"the array '{name}' is missing", heads=2)


# --- Hugging Face's folders -------------------------------------------------------------------

SETTINGS = {
    "model_type": "vit", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 20, "image_size": 12, "patch_size": 3, "num_channels": 3,
}  # fmt: skip


def make_folder(tmp_path, settings=SETTINGS, processor=None, **fields):
    """Write a folder as Hugging Face does, with these JSON files for a tiny model."""
    folder = tmp_path / "theirs"
    folder.mkdir(exist_ok=True)
    _, arrays = tiny_arrays("huggingface", **fields)
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})
    for name, content in {"config": settings, "preprocessor_config": processor}.items():
        if content is not None:
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / f"{name}.json").write_bytes(text.encode(errors="surrogateescape"))
    return folder


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"heads": 2, "gelu": "erf", "norm_eps": 1e-12, "image_size": (12, 12)}),
        ({"num_attention_heads": 4, "layer_norm_eps": 1e-5}, {"heads": 4, "norm_eps": 1e-5}),
        ({"hidden_act": "gelu", "image_size": [6, 24]}, {"gelu": "erf", "image_size": (6, 24)}),
        ({"hidden_act": "gelu_python", "pooler_act": "tanh"}, {"gelu": "erf"}),
        ({"hidden_act": "gelu_new", "torch_dtype": "float32"}, {"gelu": "tanh"}),
        ({"hidden_act": "gelu_fast", "id2label": {"0": "cat"}}, {"gelu": "tanh"}),
        ({"hidden_act": "gelu_pytorch_tanh"}, {"gelu": "tanh"}),
    ],
    ids=str,
)
def test_fields_of_config_json(tmp_path, changes, expected):
    folder = make_folder(tmp_path, SETTINGS | changes)
    for path in (folder, folder / "model.safetensors"):
        config = ViT.load(path).config
        assert {name: getattr(config, name) for name in expected} == expected
    for fields in {"heads": 4, "gelu": "tanh"}, {"heads": 1, "gelu": "erf"}:  # have priority
        config = ViT.load(folder, **fields).config
        assert {name: getattr(config, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 9}, "config.json: width is 9, but 8 in the arrays"),
        ({"num_hidden_layers": 3}, "config.json: depth is 3, but 2 in the arrays"),
        ({"intermediate_size": 32}, "config.json: mlp_width is 32, but 20 in the arrays"),
        ({"patch_size": 4}, "config.json: patch_size is 4, but 3 in the arrays"),
        ({"num_channels": 1}, "config.json: channels is 1, but 3 in the arrays"),
        (
            {"image_size": 24},
            "config.json: image_size is 24, but 'vit.embeddings.position_embeddings' has 16",
        ),
        ({"image_size": "12"}, "image_size must be a positive integer, not '12'"),
        ({"image_size": [12]}, "image_size must be one number or two"),
        ({"image_size": {"height": 12}}, "image_size must be a positive integer"),
        ({"num_attention_heads": 3}, "width 8 is not a multiple of 3 heads"),
        ({"num_attention_heads": "2"}, "heads must be a positive integer"),
        ({"num_attention_heads": 0}, "heads must be a positive integer"),
        ({"layer_norm_eps": -1}, "norm_eps must be finite and not negative"),
        ({"layer_norm_eps": float("nan")}, "norm_eps must be finite"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu': choose gelu, "),
        ({"pooler_act": "gelu"}, "pooler_act is 'gelu', but only 'tanh' is supported"),
        ({"model_type": "dinov2"}, "model_type is 'dinov2', but only 'vit' is supported"),
        ({"model_type": ["vit"]}, "model_type is"),
        *((value, "config.json is not valid") for value in (
            {"layer_norm_eps": None}, {"layer_norm_eps": "x"}, {"hidden_act": ["gelu"]},
            "", '{"model_type": "vit"', "[1]", "null", "[" * 100_000, "\udcff",
        )),
    ],
    ids=lambda value: str(value)[-40:],
)  # fmt: skip
def test_an_invalid_config_json_is_refused(tmp_path, settings, message):
    folder = make_folder(tmp_path, SETTINGS | settings if type(settings) is dict else settings)
    refusal(lambda: ViT.load(folder), str(folder), message)


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, "huggingface"),
        ({"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}, "imagenet"),
        ({"size": 224}, "huggingface"),
        ({"image_mean": [0.1, 0.2, 0.3]}, None), ({"image_std": [0.2, 0.2, 0.2]}, None),
        ({"image_mean": "x"}, None), ({"do_normalize": False}, None), ({"do_rescale": False}, None),
        ('{"image_mean": [1', None), ("[]", None),
    ],
    ids=str,
)  # fmt: skip
def test_the_preprocessing_in_preprocessor_config_json(tmp_path, processor, expected):
    folder = make_folder(tmp_path, processor=processor)
    if expected:
        assert ViT.load(folder).config.preprocessing == expected
    else:
        refusal(lambda: ViT.load(folder), str(folder / "preprocessor_config.json"), "is not valid")
    assert ViT.load(folder, preprocessing="timm").config.preprocessing == "timm"


def test_a_folder_without_weights(tmp_path):
    folder = make_folder(tmp_path)
    (folder / "pytorch_model.bin").write_bytes(b"never loaded")
    assert ViT.load(folder).config.width == 8  # the converted file has priority
    (folder / "model.safetensors").unlink()
    converted = f"save_file(t.get('model', t), '{folder}/model.safetensors')"
    refusal(lambda: ViT.load(folder), "pytorch_model.bin", "python -c", converted)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(
        FileNotFoundError, match=f"^there is no model.safetensors or model.npz in {folder}$"
    ):
        ViT.load(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"split: merge the files into model\.safetensors"):
        ViT.load(folder)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, "vit"), ({"image_size": (6, 15)}, "vit"), ({"qkv_bias": False}, "vit"),
        ({"classes": None}, "vit"), ({"classes": None, "hidden_head": 6}, "vit"),
        ({"positions": "sincos2d"}, "vit"),
        # Hugging Face's ViT cannot represent these.
        ({"hidden_head": 6}, "minivit"), ({"pooling": "mean"}, "minivit"),
        ({"patch_bias": False}, "minivit"), (KINDS["hybrid"], "minivit"),
    ],
    ids=str,
)  # fmt: skip
def test_a_written_folder(tmp_path, fields, kind):
    model, folder = tiny(gelu="tanh", **fields), tmp_path / "model"
    model.save(folder, "huggingface")
    names = ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    c, written = model.config, json.loads((folder / "config.json").read_text(encoding="utf-8"))
    size = list(c.image_size)
    expected = {
        "architectures": ["ViTForImageClassification" if c.classes else "ViTModel"],
        "model_type": kind, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_channels": 3, "intermediate_size": 20, "patch_size": c.patch_size,
        "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "qkv_bias": c.qkv_bias,
        "image_size": size if size[0] != size[1] else size[0],
    }  # fmt: skip
    assert {name: written[name] for name in expected} == expected
    labels = c.classes or 0
    assert len(written.get("id2label", {})) == len(written.get("label2id", {})) == labels
    assert written.get("pooler_output_size") == c.hidden_head


def test_a_folder_saved_again_by_others(tmp_path):
    model, file = tiny(gelu="erf", norm_eps=1e-4), tmp_path / "model" / "model.safetensors"
    model.save(tmp_path / "model", "huggingface")
    save_file(load_file(file), file, {"format": "pt"})  # without minivit's configuration
    loaded = ViT.load(tmp_path / "model")
    assert loaded.config == dataclasses.replace(model.config, preprocessing="huggingface")
    assert same_bits(loaded.params, model.params)


# --- heads, positions and image size ----------------------------------------------------------
@pytest.mark.parametrize("layout", ["timm", "huggingface"])
def test_the_caller_passes_an_undetermined_number_of_heads(tmp_path, layout):
    _, arrays = tiny_arrays(layout)
    refused(tmp_path, arrays, "the number of heads for width 8 is unknown: pass heads=")
    assert open_arrays(tmp_path, arrays, heads=4).config.heads == 4
    refused(tmp_path, arrays, "width 8 is not a multiple of 3 heads", heads=3)
    refused(tmp_path, arrays, "heads must be a positive integer", heads="2")


def test_the_authors_shapes_determine_the_heads(tmp_path):
    _, arrays = tiny_arrays("google")
    assert open_arrays(tmp_path, arrays).config.heads == 2
    message = f"'{FIRST + ATTENTION}query/kernel' has shape (8, 2, 4), expected (8, 4, 2)"
    refused(tmp_path, arrays, message, heads=4)


def test_widths_of_the_paper_determine_the_heads():
    for width, heads in {192: 3, 384: 6, 768: 12, 1280: 16}.items():
        config = ViTConfig(**TINY | {"width": width, "heads": heads, "depth": 1})
        zeros = map_tree(lambda spec: np.zeros(spec.shape, "f"), parameter_specs(config))
        file = ModelFile(Path("theirs.npz"), export(zeros, config, "timm"))
        found, _ = make_model(file, None, {})
        assert found.heads == heads


@pytest.mark.parametrize(
    ("fields", "grids"),
    [
        ({"image_size": (6, 15)}, {(6, 15): (2, 5), (15, 6): (5, 2)}),
        ({"image_size": (6, 24)}, {(6, 24): (2, 8), (12, 12): (4, 4)}),
        (  # the feature map of a stem is rounded up
            {"stem": (1, 1, 1), "stem_width": 32, "patch_size": 1, "image_size": (33, 50)},
            {(33, 50): (3, 4)},
        ),
    ],
)
def test_an_image_size_that_matches_the_positions_is_the_files_own(tmp_path, fields, grids):
    for layout in FOREIGN:
        model, arrays = tiny_arrays(layout, **fields)
        for size, grid in grids.items():
            loaded = open_arrays(tmp_path, arrays, image_size=size, heads=2)
            assert (loaded.config.image_size, loaded.config.grid) == (size, grid)
            assert same_bits(loaded.params, model.params)
        N = model.config.tokens - 1
        if N != 16:
            message = f"has {N} patches, not a square: pass image_size=(height, width)"
            refused(tmp_path, arrays, message, heads=2)
            message = "not a square: pass the file's own image_size="
            refused(tmp_path, arrays, message, image_size=48, heads=2)


@pytest.mark.parametrize("resize", ["aligned", "bilinear", "bicubic", "antialiased", "area"])
@pytest.mark.parametrize(("image_size", "grid"), [(18, (6, 6)), ((9, 24), (3, 8))])
def test_another_image_size_resizes_the_positions_alone(tmp_path, resize, image_size, grid):
    model, arrays = tiny_arrays("timm")
    model.save(tmp_path / "own.npz")
    old = model.params["positions"]["table"]
    expected = flatten(model.params) | {
        "positions/table": resize_positions(old, (4, 4), grid, resize)
    }
    for loaded in (
        open_arrays(tmp_path, arrays, heads=2, image_size=image_size, resize=resize),
        ViT.load(tmp_path / "own.npz", image_size=image_size, resize=resize),
    ):
        assert loaded.config.grid == grid
        assert same_bits(flatten(loaded.params), expected)
        assert np.array_equal(loaded.params["positions"]["table"][0], old[0])
        assert loaded(np.zeros((1, *loaded.config.image_size, 3), "f")).shape == (1, 5)


@pytest.mark.parametrize("positions", ["sincos2d", "none", "relative", "2d"])
def test_other_positions_at_another_image_size(tmp_path, positions):
    model, path = tiny(positions=positions), tmp_path / "own.npz"
    model.save(path)
    same_grid = ViT.load(path, image_size=12)
    assert same_bits(same_grid.params, model.params)
    if positions == "relative":
        with pytest.raises(ValueError, match="relative positions cannot be resized"):
            ViT.load(path, image_size=(18, 9))
        return
    loaded = ViT.load(path, image_size=(18, 9))
    assert loaded.config.image_size == (18, 9)
    if positions == "2d":
        old, new = model.params["positions"], loaded.params.pop("positions")
        assert np.array_equal(new["class_token"], old["class_token"])
        for name, n in {"rows": 6, "columns": 3}.items():
            expected = [np.interp(np.linspace(0, 3, n), range(4), line) for line in old[name].T]
            np.testing.assert_allclose(new[name], np.transpose(expected), rtol=0, atol=1e-6)
        del model.params["positions"]
    assert same_bits(loaded.params, model.params)


@pytest.mark.parametrize(("stated", "wanted", "grids"), [
    ([12, 27], 24, ((4, 9), (8, 8))),  # 36 patches could be a square
    (12, (6, 24), ((4, 4), (2, 8))),  # both have 16 patches
])  # fmt: skip
def test_the_image_size_of_config_json_is_the_files_own(tmp_path, stated, wanted, grids):
    folder = make_folder(tmp_path, SETTINGS | {"image_size": stated}, image_size=stated)
    old = tiny(image_size=stated).params["positions"]["table"]
    found = ViT.load(folder, image_size=wanted).params["positions"]["table"]
    assert np.array_equal(found, resize_positions(old, *grids, "aligned"))


@pytest.mark.parametrize(
    "image_size", [0, -12, 13, 3.5, "12", (12,), (12, 12, 12), (12, "x"), (12, 13)], ids=repr
)
def test_an_invalid_image_size_is_an_error(tmp_path, image_size):
    model, arrays = tiny_arrays("timm")
    model.save(tmp_path / "own.npz")
    with pytest.raises(ValueError, match="image_size"):
        open_arrays(tmp_path, arrays, heads=2, image_size=image_size)
    with pytest.raises(ValueError, match="image_size"):
        ViT.load(tmp_path / "own.npz", image_size=image_size)


@pytest.mark.parametrize("positions", ["sincos2d", "none"])
@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_unlearned_positions_are_written_as_a_table_for_others(tmp_path, positions, pooling):
    model = tiny(positions=positions, pooling=pooling, image_size=(6, 15))
    images = np.random.default_rng(6).normal(size=(2, 6, 15, 3)).astype("f")
    for layout in FOREIGN:
        model.save(tmp_path / "model.safetensors", layout)
        assert ViT.load(tmp_path / "model.safetensors").config == model.config
        arrays = load_file(tmp_path / "model.safetensors")  # without minivit's configuration
        fields = uninferred(model.config, layout) | {"positions": "1d", "image_size": (6, 15)}
        loaded = open_arrays(tmp_path, arrays, **fields)
        assert loaded.config.positions == "1d"
        np.testing.assert_allclose(loaded(images), model(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", FOREIGN)
def test_a_missing_table_of_positions(tmp_path, layout):
    model, arrays = tiny_arrays(layout, positions="sincos2d", pooling="mean")
    refused(tmp_path, arrays, "pos", "is missing (pass positions='sincos2d' or 'none'", heads=2)
    fields = {"heads": 2, "positions": "sincos2d"}
    refused(tmp_path, arrays, "positions 'sincos2d' have no table: pass image_size=", **fields)
    loaded = open_arrays(tmp_path, arrays, image_size=12, **fields)
    assert same_bits(loaded.params, model.params)


def test_other_positions_than_those_of_the_file(tmp_path):
    _, arrays = tiny_arrays("timm")
    for positions, part in {"none": "'pos_embed' is", "2d": "/rows", "relative": "/table"}.items():
        refused(tmp_path, arrays, part, heads=2, positions=positions)


def test_a_missing_patch_bias(tmp_path):
    model, arrays = tiny_arrays("timm", patch_bias=False)
    message = "'patch_embed.proj.bias' is missing (pass patch_bias=False"
    refused(tmp_path, arrays, message, heads=2)
    assert same_bits(open_arrays(tmp_path, arrays, heads=2, patch_bias=False).params, model.params)
    _, whole = tiny_arrays("timm")
    refused(tmp_path, whole, "'patch_embed.proj.bias' is unknown", heads=2, patch_bias=False)


def test_invalid_arguments(tmp_path):
    model, path = tiny(), tmp_path / "model.npz"
    model.save(path)
    with pytest.raises(TypeError, match="unknown field 'head'"):
        ViT.load(path, head=2)
    with pytest.raises(ValueError, match="unknown resize 'nearest': choose aligned, bilinear"):
        ViT.load(path, resize="nearest")
    for use in (model.save, lambda path, layout: export(model.params, model.config, layout)):
        with pytest.raises(ValueError, match="'flax': choose minivit, google, timm, huggingface"):
            use(path, "flax")


# --- damage -----------------------------------------------------------------------------------

DAMAGES = {
    "longer": lambda a: np.concatenate([a, a[..., :1]], axis=-1),
    "shorter": lambda a: a[..., :-1] if a.shape[-1] > 1 else a[:-1],
    "longer first axis": lambda a: np.concatenate([a, a[:1]]),
    "empty": lambda a: a[..., :0],
    "one more axis": lambda a: a[..., None],
    "no axis": lambda a: a.ravel()[0],
    "NaN": lambda a: np.append(a.ravel()[:-1], np.float32("nan")).reshape(a.shape),
    "infinite": lambda a: np.append(np.float32("-inf"), a.ravel()[1:]).reshape(a.shape),
    "integers": lambda a: a.astype("i4"),
    "complex": lambda a: a.astype("c8"),
    "text": lambda a: a.astype("U9"),
}


def damage_array(arrays, name, damage):
    rest = {n: a for n, a in arrays.items() if n != name}
    return rest if damage == "deleted" else rest | {name: DAMAGES[damage](arrays[name])}


@pytest.mark.parametrize("kind", ["hidden head", "hybrid", "root alone", "pooler"])
@pytest.mark.parametrize("layout", FOREIGN)
@pytest.mark.parametrize("damage", ["deleted", *DAMAGES])
def test_the_error_names_the_damaged_array(layout, kind, damage):
    # With one block, a model without the damaged qkv bias would be valid.
    _, arrays = tiny_arrays(layout, **KINDS[kind] | {"depth": 2 if kind == "hidden head" else 1})
    _, plain = tiny_arrays(layout)
    fields = {} if layout == "google" else {"heads": 2}
    common = set() if kind == "hidden head" else plain.keys()
    for name in [name for name in arrays if name not in common][:: 3 if kind == "hybrid" else 1]:
        bad = damage_array(arrays, name, damage)
        refusal(
            lambda bad=bad: make_model(ModelFile(Path("theirs.npz"), bad), None, fields),
            "theirs.npz: ",
            f"'{name}'",
        )


@pytest.mark.parametrize("layout", FOREIGN)
def test_blocks_with_a_gap_are_refused(tmp_path, layout):
    _, arrays = tiny_arrays(layout)
    prefix = "vit." * (layout == "huggingface") + BLOCKS[layout]
    extra = {f"{prefix.format(3)}{next(iter(SUBLAYERS[layout]))}{prefix[-1]}bias": np.ones(8, "f")}
    message = f"the array '{prefix.format(2)}", "is missing"
    refused(tmp_path, arrays | extra, *message, heads=2)


@pytest.mark.parametrize(
    ("layout", "prefix", "one", "other"),
    [
        ("google", "params/", "params/cls", "cls"),
        ("google", "", "Transformer/posembed_input/pos_embedding", "pos_embedding"),
        ("google", "", FIRST + "LayerNorm_2/scale", FIRST + "LayerNorm_1/scale"),
        ("google", "", FIRST + "LayerNorm_0/scale", "Transformer/encoderblock/LayerNorm_0/scale"),
        ("huggingface", "", "vit.encoder.layer.0.output.dense.bias", "vit.layers.0.mlp.fc2.bias"),
        ("huggingface", "", "vit.layernorm.bias", "layernorm.bias"),
    ],
)
def test_two_spellings_of_one_array_are_both_named(tmp_path, layout, prefix, one, other):
    arrays = add_prefix(prefix, tiny_arrays(layout)[1])
    scanned = np.zeros((2, *arrays[one].shape), "f") if "encoderblock/" in other else arrays[one]
    both = arrays | {other: scanned}
    for order in (both, dict(reversed(both.items()))):
        message = refused(tmp_path, order, f"'{other}'", "are the same array", heads=2)
        assert f"'{one}'" in message.replace("block_1", "block_0")


def test_files_of_another_kind(tmp_path):
    _, arrays = tiny_arrays("timm", classes=None)
    both = add_prefix("student.", arrays) | add_prefix("teacher.", arrays)
    refused(tmp_path, both, "the array 'teacher.", "' is unknown", heads=2)
    some = {"b": np.ones(3, "f"), "a": np.ones(3, "f")}
    refused(tmp_path, some, "is not a Vision Transformer: it contains a, b, ...")
    refused(tmp_path, {"two\nlines": np.ones(3, "f")}, r"two\nlines")
    refused(tmp_path, arrays | {"two\nlines": np.ones(3, "f")}, r"'two\nlines'", heads=2)


@pytest.mark.parametrize("fields", [{"depth": 1000}, {"stem": [100], "stem_width": 32}])
@pytest.mark.parametrize("layout", ["minivit", "timm"])
def test_more_blocks_than_arrays_are_refused(tmp_path, fields, layout):
    tiny().save(tmp_path / "model.npz", layout)
    with np.load(tmp_path / "model.npz") as file:
        arrays = dict(file)
    text = json.dumps(json.loads(str(arrays["config"])) | {"patch_size": 1, **fields})
    refused(tmp_path, arrays | {"config": np.array(text)}, "more blocks than the file has arrays")
