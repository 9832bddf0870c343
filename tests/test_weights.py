"""Models in other people's names: in and out bit for bit, and every damage named."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minivit import ViT, ViTConfig, flatten
from minivit.checking.cases import perturb
from minivit.cli import main
from minivit.models import parameter_specs
from minivit.optim import SGD
from minivit.training.step import packed_gradients
from minivit.tree import map_tree, unflatten
from minivit.weights import LAYOUTS, CheckpointError, export, load, resize_positions
from minivit.weights.load import foreign_model

TINY = {
    "image_size": 12, "patch_size": 3, "channels": 3, "classes": 5,
    "width": 8, "depth": 2, "heads": 2, "mlp_width": 20,
}  # fmt: skip
KINDS = {
    "plain": {},
    "gap": {"pooling": "mean"},
    "hidden head": {"hidden_head": 6},
    "headless": {"classes": None},
    "pooler": {"classes": None, "hidden_head": 6},
    "hybrid": {"stem": (2, 1), "stem_width": 32, "patch_size": 2, "image_size": 32},
    "root alone": {"stem": (), "stem_width": 32, "patch_size": 2, "image_size": 16},
    "rectangular": {"image_size": (6, 15)},
    "no qkv bias": {"qkv_bias": False},
    "no patch bias": {"patch_bias": False},
    "waves": {"positions": "sincos2d"},
    "many blocks": {"depth": 12, "gelu": "erf", "norm_eps": 1e-3},
}
FOREIGN = ("google", "timm", "huggingface")
FIRST = "Transformer/encoderblock_0/"


def tiny(**fields):
    config = ViTConfig(**TINY | fields)
    model = ViT.create(config)
    params = perturb(model.params, np.random.default_rng(1))
    return ViT(config, map_tree(lambda leaf: leaf.astype("float32"), params))


def same_bits(one, other):
    one, other = flatten(one), flatten(other)
    return one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype and one[n].tobytes() == other[n].tobytes() for n in one
    )


def opened(tmp_path, arrays, **fields):
    """What `load` makes of a file of these arrays, without anything that minivit adds."""
    np.savez(tmp_path / "theirs.npz", **arrays)
    return ViT.load(tmp_path / "theirs.npz", **fields)


def refusal(load_it, *about):
    """The message of a file's refusal: one line that has all the words of `about` in it."""
    with pytest.raises(CheckpointError) as error:
        load_it()
    message = str(error.value)
    assert len(message.splitlines()) == 1
    for word in about:
        assert word in message, message
    return message


def refused(tmp_path, arrays, *about, **fields):
    return refusal(lambda: opened(tmp_path, arrays, **fields), "theirs.npz", *about)


def shapes_of(tree, config, layout):
    return {name: array.shape for name, array in export(tree, config, layout).items()}


@pytest.fixture
def no_copies(monkeypatch):
    """Large models of one number each, which `nothing` makes, stay so when they are exported."""
    monkeypatch.setattr(np, "ascontiguousarray", lambda array: array)


def nothing(config):
    """A tree of the right shapes that takes no memory."""
    leaves = flatten(parameter_specs(config)).items()
    return unflatten({name: np.broadcast_to(np.int8(0), p.shape) for name, p in leaves})


# --- names and shapes ------------------------------------------------------------------------

D, K, DH, M = 768, 12, 64, 3072
BIT = "embeddings.patch_embeddings.backbone.bit."


@pytest.mark.usefixtures("no_copies")
def test_the_authors_names_and_shapes():
    config = ViTConfig.named("ViT-B/16")
    expected = {
        "cls": (1, 1, D),
        "embedding/kernel": (16, 16, 3, D),
        "embedding/bias": (D,),
        "Transformer/posembed_input/pos_embedding": (1, 197, D),
        "Transformer/encoder_norm/scale": (D,),
        "Transformer/encoder_norm/bias": (D,),
        "head/kernel": (D, 1000),
        "head/bias": (1000,),
    }
    for i in range(12):
        block = f"Transformer/encoderblock_{i}/"
        attention = block + "MultiHeadDotProductAttention_1/"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            expected |= {f"{block}{norm}/scale": (D,), f"{block}{norm}/bias": (D,)}
        for part in ("query", "key", "value"):
            expected[f"{attention}{part}/kernel"] = (D, K, DH)
            expected[f"{attention}{part}/bias"] = (K, DH)
        expected |= {f"{attention}out/kernel": (K, DH, D), f"{attention}out/bias": (D,)}
        mlp = block + "MlpBlock_3/"
        expected |= {f"{mlp}Dense_0/kernel": (D, M), f"{mlp}Dense_0/bias": (M,)}
        expected |= {f"{mlp}Dense_1/kernel": (M, D), f"{mlp}Dense_1/bias": (D,)}
    assert len(expected) == 200
    assert shapes_of(nothing(config), config, "google") == expected

    with_hidden = dataclasses.replace(config, hidden_head=D)
    expected |= {"pre_logits/kernel": (D, D), "pre_logits/bias": (D,)}
    assert len(expected) == 202
    assert shapes_of(nothing(with_hidden), with_hidden, "google") == expected


@pytest.mark.usefixtures("no_copies")
def test_timms_names_and_shapes():
    config = ViTConfig.named("ViT-B/16", hidden_head=D)
    expected = {
        "cls_token": (1, 1, D),
        "pos_embed": (1, 197, D),
        "patch_embed.proj.weight": (D, 3, 16, 16),
        "patch_embed.proj.bias": (D,),
        "norm.weight": (D,),
        "norm.bias": (D,),
        "pre_logits.fc.weight": (D, D),
        "pre_logits.fc.bias": (D,),
        "head.weight": (1000, D),
        "head.bias": (1000,),
    }
    layers = {
        "norm1": None, "attn.qkv": (3 * D, D), "attn.proj": (D, D),
        "norm2": None, "mlp.fc1": (M, D), "mlp.fc2": (D, M),
    }  # fmt: skip
    for i in range(12):
        for layer, kernel in layers.items():
            expected[f"blocks.{i}.{layer}.weight"] = kernel or (D,)
            expected[f"blocks.{i}.{layer}.bias"] = kernel[:1] if kernel else (D,)
    assert len(expected) == 154
    assert shapes_of(nothing(config), config, "timm") == expected


@pytest.mark.usefixtures("no_copies")
@pytest.mark.parametrize("classes", [1000, None])
def test_hugging_faces_names_and_shapes(classes):
    config = ViTConfig.named("ViT-B/16", classes=classes, hidden_head=None if classes else D)
    expected = {
        "embeddings.cls_token": (1, 1, D),
        "embeddings.position_embeddings": (1, 197, D),
        "embeddings.patch_embeddings.projection.weight": (D, 3, 16, 16),
        "embeddings.patch_embeddings.projection.bias": (D,),
        "layernorm.weight": (D,),
        "layernorm.bias": (D,),
    }
    layers = {
        "layernorm_before": None, "layernorm_after": None,
        "attention.attention.query": (D, D), "attention.attention.key": (D, D),
        "attention.attention.value": (D, D), "attention.output.dense": (D, D),
        "intermediate.dense": (M, D), "output.dense": (D, M),
    }  # fmt: skip
    for i in range(12):
        for layer, kernel in layers.items():
            expected[f"encoder.layer.{i}.{layer}.weight"] = kernel or (D,)
            expected[f"encoder.layer.{i}.{layer}.bias"] = kernel[:1] if kernel else (D,)
    if classes:
        expected = {"vit." + name: shape for name, shape in expected.items()}
        expected |= {"classifier.weight": (1000, D), "classifier.bias": (1000,)}
        assert len(expected) == 200
    else:
        expected |= {"pooler.dense.weight": (D, D), "pooler.dense.bias": (D,)}
    assert shapes_of(nothing(config), config, "huggingface") == expected


@pytest.mark.usefixtures("no_copies")
def test_the_authors_names_of_a_hybrid():
    config = ViTConfig.named("R50+ViT-B/16")
    shapes = shapes_of(nothing(config), config, "google")
    stem = {
        "conv_root/kernel": (7, 7, 3, 64),
        "gn_root/scale": (64,),
        "gn_root/bias": (64,),
        "embedding/kernel": (1, 1, 1024, D),
        "embedding/bias": (D,),
    }
    entering = 64
    for b, units in enumerate((3, 4, 9)):
        f = 64 * 2**b
        for u in range(units):
            unit = f"block{b + 1}/unit{u + 1}/"
            convolutions = {"1": (1, 1, entering, f), "2": (3, 3, f, f), "3": (1, 1, f, 4 * f)}
            if u == 0:
                convolutions["_proj"] = (1, 1, entering, 4 * f)
            for which, kernel in convolutions.items():
                stem[f"{unit}conv{which}/kernel"] = kernel
                stem |= {f"{unit}gn{which}/{leaf}": kernel[-1:] for leaf in ("scale", "bias")}
            entering = 4 * f
    found = {n: s for n, s in shapes.items() if re.match("conv_root|gn_root|block|embedding", n)}
    assert found == stem
    assert shapes["Transformer/posembed_input/pos_embedding"] == (1, 197, D)


@pytest.mark.usefixtures("no_copies")
@pytest.mark.parametrize(
    ("name", "layout", "expected"),
    [
        ("R26+ViT-S/32", "google", {"embedding/kernel": (1, 1, 2048, 384)}),
        ("R+ViT-Ti/16", "google", {"embedding/kernel": (8, 8, 64, 192)}),
        (
            "R+ViT-Ti/16",
            "timm",
            {
                "patch_embed.backbone.conv.weight": (64, 3, 7, 7),
                "patch_embed.backbone.norm.bias": (64,),
                "patch_embed.proj.weight": (192, 64, 8, 8),
            },
        ),
        (
            "R26+ViT-S/32",
            "timm",
            {
                "patch_embed.backbone.stem.conv.weight": (64, 3, 7, 7),
                "patch_embed.backbone.stem.norm.weight": (64,),
                "patch_embed.backbone.stages.3.blocks.0.conv1.weight": (512, 1024, 1, 1),
                "patch_embed.backbone.stages.3.blocks.0.downsample.conv.weight": (2048, 1024, 1, 1),
                "patch_embed.backbone.stages.3.blocks.0.downsample.norm.bias": (2048,),
                "patch_embed.backbone.stages.3.blocks.1.conv2.weight": (512, 512, 3, 3),
            },
        ),
        (
            "R26+ViT-S/32",
            "huggingface",
            {
                f"vit.{BIT}embedder.convolution.weight": (64, 3, 7, 7),
                f"vit.{BIT}embedder.norm.weight": (64,),
                f"vit.{BIT}encoder.stages.0.layers.1.norm3.bias": (256,),
                f"vit.{BIT}encoder.stages.1.layers.0.downsample.conv.weight": (512, 256, 1, 1),
            },
        ),
    ],
    ids=str,
)  # fmt: skip
def test_names_of_other_hybrids(name, layout, expected):
    config = ViTConfig.named(name)
    shapes = shapes_of(nothing(config), config, layout)
    assert {theirs: shapes.get(theirs) for theirs in expected} == expected


# --- what each axis means --------------------------------------------------------------------


def numbered(config):
    """Parameters whose entries say where they are: 1000 times the row, plus the column."""

    def places(p):
        rows, columns = int(np.prod(p.shape[:-1])), p.shape[-1]
        table = 1000 * np.arange(rows)[:, None] + np.arange(columns)
        return table.reshape(p.shape).astype("float32")

    return map_tree(places, parameter_specs(config))


def test_the_axes_of_queries_keys_and_values():
    config = ViTConfig(**TINY)
    tree = numbered(config)
    google, timm, face = (export(tree, config, layout) for layout in FOREIGN)
    qkv, face_qkv = timm["blocks.1.attn.qkv.weight"], "vit.encoder.layer.1.attention.attention."
    bias = timm["blocks.1.attn.qkv.bias"]
    for third, part in enumerate(("query", "key", "value")):
        theirs = f"Transformer/encoderblock_1/MultiHeadDotProductAttention_1/{part}/"
        for h in range(2):
            for e in range(4):
                column = 8 * third + 4 * h + e  # head after head in each third
                expected = 1000 * np.arange(8) + column
                assert np.array_equal(google[theirs + "kernel"][:, h, e], expected)
                assert google[theirs + "bias"][h, e] == column
                assert np.array_equal(qkv[column], expected)
                assert bias[column] == column
                assert np.array_equal(face[f"{face_qkv}{part}.weight"][4 * h + e], expected)
                assert face[f"{face_qkv}{part}.bias"][4 * h + e] == column


def test_the_axes_of_the_output_of_attention_and_of_the_mlp():
    config = ViTConfig(**TINY)
    google, timm, face = (export(numbered(config), config, layout) for layout in FOREIGN)
    for h in range(2):
        for e in range(4):
            row = 1000 * (4 * h + e) + np.arange(8)
            found = google[FIRST + "MultiHeadDotProductAttention_1/out/kernel"][h, e]
            assert np.array_equal(found, row)
            assert np.array_equal(timm["blocks.0.attn.proj.weight"][:, 4 * h + e], row)
            name = "vit.encoder.layer.0.attention.output.dense.weight"
            assert np.array_equal(face[name][:, 4 * h + e], row)
    first = 1000 * np.arange(8)[:, None] + np.arange(20)  # (in, out)
    assert np.array_equal(google[FIRST + "MlpBlock_3/Dense_0/kernel"], first)
    assert np.array_equal(timm["blocks.0.mlp.fc1.weight"], first.T)
    assert np.array_equal(face["vit.encoder.layer.0.intermediate.dense.weight"], first.T)
    assert google[FIRST + "MlpBlock_3/Dense_1/kernel"].shape == (20, 8)


def test_the_axes_of_patches_and_positions():
    config = ViTConfig(**TINY)
    google, timm, face = (export(numbered(config), config, layout) for layout in FOREIGN)
    proj = timm["patch_embed.proj.weight"]
    for r in range(3):
        for c in range(3):
            for channel in range(3):
                row = 1000 * (9 * r + 3 * c + channel) + np.arange(8)
                assert np.array_equal(google["embedding/kernel"][r, c, channel], row)
                assert np.array_equal(proj[:, channel, r, c], row)
    assert np.array_equal(face["vit.embeddings.patch_embeddings.projection.weight"], proj)
    rows = 1000 * np.arange(17)[:, None] + np.arange(8)  # the class token's is the first
    assert np.array_equal(google["Transformer/posembed_input/pos_embedding"], rows[None])
    assert np.array_equal(timm["pos_embed"], rows[None])
    assert np.array_equal(face["vit.embeddings.position_embeddings"], rows[None])
    assert np.array_equal(timm["cls_token"], np.arange(8, dtype="f")[None, None])


def test_the_axes_of_a_stems_convolutions():
    config = ViTConfig(**TINY | KINDS["hybrid"])
    tree = numbered(config)
    google, timm, _ = (export(tree, config, layout) for layout in FOREIGN)
    ours = tree["stem"]["stages"][1][0]["conv2"]["kernel"]
    theirs = timm["patch_embed.backbone.stages.1.blocks.0.conv2.weight"]
    assert np.array_equal(google["block2/unit1/conv2/kernel"], ours)
    for r in range(3):
        for c in range(3):
            assert np.array_equal(theirs[:, :, r, c], ours[r, c].T)


# --- there and back --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_load_save_load_is_the_same_bit_for_bit(tmp_path, kind):
    model = tiny(**KINDS[kind])
    images = np.random.default_rng(2).normal(size=(2, *model.config.image_size, 3)).astype("f")
    logits = model(images)
    for layout in LAYOUTS:
        for ending in (".npz", ".safetensors", *[""] * (layout == "huggingface")):
            first, second = tmp_path / f"first{ending}", tmp_path / f"second{ending}"
            model.save(first, layout)
            loaded = ViT.load(first)
            assert loaded.config == model.config
            assert same_bits(loaded.params, model.params), (layout, ending)
            np.testing.assert_allclose(loaded(images), logits, rtol=0, atol=1e-5)
            loaded.save(second, layout)
            again = ViT.load(second)
            assert again.config == model.config
            assert same_bits(again.params, model.params), (layout, ending)
            if ending == ".npz":  # the other's metadata have no order
                assert first.read_bytes() == second.read_bytes()


def needed(config, layout):
    """What the arrays of a layout do not tell."""
    fields = {"gelu": config.gelu, "norm_eps": config.norm_eps, "heads": config.heads}
    if config.grid[0] != config.grid[1] or config.positions != "1d":
        fields["image_size"] = config.image_size
    fields |= {"positions": config.positions, "patch_bias": config.patch_bias}
    fields["preprocessing"] = "minivit"
    if layout == "google":
        del fields["heads"]
    return fields


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", FOREIGN)
def test_arrays_alone_tell_nearly_everything(tmp_path, kind, layout):
    model = tiny(**KINDS[kind])
    arrays = export(model.params, model.config, layout)
    loaded = opened(tmp_path, arrays, **needed(model.config, layout))
    stem_width = {} if model.config.stem is None else {"stem_width": 32}
    assert loaded.config == dataclasses.replace(model.config, **stem_width)
    assert same_bits(loaded.params, model.params)
    assert export(loaded.params, loaded.config, layout).keys() == arrays.keys()


@pytest.mark.parametrize(
    ("layout", "gelu", "norm_eps"),
    [("google", "tanh", 1e-6), ("timm", "erf", 1e-6), ("huggingface", "erf", 1e-12)],
)
def test_what_goes_without_saying(tmp_path, layout, gelu, norm_eps):
    model = tiny(width=192, heads=3, depth=1)
    arrays = export(model.params, model.config, layout)
    config = opened(tmp_path, arrays).config
    assert (config.gelu, config.norm_eps, config.preprocessing) == (gelu, norm_eps, layout)
    assert (config.heads, config.dropout, config.positions) == (3, 0.0, "1d")
    other = opened(tmp_path, arrays, gelu="tanh", norm_eps=1e-3, preprocessing="dino").config
    assert (other.gelu, other.norm_eps, other.preprocessing) == ("tanh", 1e-3, "dino")


def test_minivits_own_names_are_exported_without_a_prefix():
    model = tiny()
    exported = export(model.params, model.config, "minivit")
    assert list(exported) == list(flatten(model.params))


def test_gradients_go_out_under_the_same_names():
    model = tiny(hidden_head=6)
    images = np.random.default_rng(3).normal(size=(2, 12, 12, 3)).astype("f")
    logits, pullback = model.forward(images)
    _, gradients = pullback(logits)
    for layout in FOREIGN:
        exported = export(gradients, model.config, layout)
        shapes = shapes_of(model.params, model.config, layout)
        assert {name: array.shape for name, array in exported.items()} == shapes
        assert all(array.flags.c_contiguous for array in exported.values())
    ours = gradients["blocks"][1]["attention"]["qkv"]["kernel"]
    theirs = export(gradients, model.config, "timm")["blocks.1.attn.qkv.weight"]
    assert np.array_equal(theirs, ours.T)


@pytest.mark.parametrize("positions", ["2d", "relative"])
def test_what_others_have_no_name_for_is_not_saved(tmp_path, positions):
    model = tiny(positions=positions)
    for layout in FOREIGN:
        with pytest.raises(ValueError, match=f"the layout '{layout}' has no name for '.*/"):
            model.save(tmp_path / "model", layout)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_an_unknown_layout_names_the_known(tmp_path):
    with pytest.raises(ValueError, match="'flax': choose minivit, google, timm, huggingface"):
        tiny().save(tmp_path / "model.npz", "flax")
    with pytest.raises(ValueError, match="unknown layout 'flax'"):
        export(tiny().params, tiny().config, "flax")


# --- the authors' other ways -----------------------------------------------------------------


def google(kind="hidden head"):
    model = tiny(**KINDS[kind])
    return model, export(model.params, model.config, "google")


def before(prefix, arrays):
    return {prefix + name: array for name, array in arrays.items()}


def renumbered(arrays):
    """As flax's own modules count: each kind of layer by itself."""
    new = {"LayerNorm_2": "LayerNorm_1", "MlpBlock_3": "MlpBlock_0"}
    new["MultiHeadDotProductAttention_1"] = "MultiHeadDotProductAttention_0"
    pattern = re.compile("|".join(new))
    return {pattern.sub(lambda m: new[m[0]], name): array for name, array in arrays.items()}


def scanned(arrays):
    """All blocks of a kind in one array."""
    blocks, others = {}, {}
    for name, array in arrays.items():
        match = re.match(r"(.*encoderblock)_\d+(/.*)", name)
        if match:
            blocks.setdefault(match[1] + match[2], []).append(array)
        else:
            others[name] = array
    return others | {name: np.stack(arrays) for name, arrays in blocks.items()}


def beside_moments(arrays):
    """The optimiser's part comes first in the alphabet, and is no model."""
    moments = {f"opt/state/param_states/{n}/grad_ema": 7 * a for n, a in arrays.items()}
    plain = {f"opt/state/moments/{n}": 7 * a for n, a in arrays.items()}
    return moments | plain | {"opt/state/step": np.int64(9)} | before("opt/target/", arrays)


def beside_text(arrays):
    """The image's half of a pair of towers."""
    text = {"params/txt/Transformer/encoder_norm/scale": np.ones(4, "f")}
    scale = {"params/t": np.ones(1, "f"), "params/b": np.ones(1, "f")}
    return text | scale | before("params/img/", arrays)


WAYS = {
    "flax's numbers": renumbered,
    "params/": lambda arrays: before("params/", renumbered(arrays)),
    "opt/target/": lambda arrays: before("opt/target/", arrays),
    "opt/target/ and moments": beside_moments,
    "params/img/": lambda arrays: before("params/img/", renumbered(arrays)),
    "params/img/ and text": beside_text,
    "scan": lambda arrays: scanned(renumbered(arrays)),
    "params/ and scan": lambda arrays: before("params/", scanned(arrays)),
    "backwards": lambda arrays: dict(reversed(arrays.items())),
    "the other byte order": lambda arrays: {n: a.astype(">f4") for n, a in arrays.items()},
    "column by column": lambda arrays: {n: np.asfortranarray(a) for n, a in arrays.items()},
}


@pytest.mark.parametrize("way", WAYS)
def test_the_authors_other_ways(tmp_path, way):
    model, arrays = google()
    loaded = opened(tmp_path, WAYS[way](arrays))
    assert loaded.config == dataclasses.replace(model.config, preprocessing="google")
    assert same_bits(loaded.params, model.params)
    assert {leaf.dtype.str for leaf in flatten(loaded.params).values()} == {"<f4"}


@pytest.mark.parametrize("kind", ["hybrid", "root alone"])
def test_group_norms_with_leading_ones(tmp_path, kind):
    model, arrays = google(kind)
    older = {n: a.reshape(1, 1, 1, -1) if "gn" in n else a for n, a in arrays.items()}
    assert sum(array.ndim == 4 and "gn" in name for name, array in older.items()) >= 2
    assert same_bits(opened(tmp_path, older).params, model.params)


def test_leading_ones_are_for_vectors_alone(tmp_path):
    # A dense kernel with one in front would not be recognised as one to be transposed.
    model = tiny(hidden_head=6)
    for layout in FOREIGN:
        arrays = export(model.params, model.config, layout)
        for name, array in arrays.items():
            if array.ndim > 1:
                message = refused(tmp_path, arrays | {name: array[None]}, name, heads=2)
                assert "expected (" in message


def test_big_visions_positions_leave_out_the_class_token(tmp_path):
    model, arrays = google("plain")
    table = arrays.pop("Transformer/posembed_input/pos_embedding")
    loaded = opened(tmp_path, before("params/", arrays | {"pos_embedding": table[:, 1:]}))
    expected = flatten(model.params)["positions/table"].copy()
    expected[0] = 0
    assert np.array_equal(loaded.params["positions"]["table"], expected)
    rest = loaded.params | {"positions": model.params["positions"]}
    assert same_bits(rest, model.params)


def test_big_visions_positions_without_a_class_token(tmp_path):
    model, arrays = google("gap")
    table = arrays.pop("Transformer/posembed_input/pos_embedding")
    loaded = opened(tmp_path, arrays | {"pos_embedding": table})
    assert same_bits(loaded.params, model.params)


def bits_of_bfloat16(array):
    """The upper halves of floats that have nothing in the lower."""
    return (array.view("<u4") >> 16).astype("<u2").view("V2")


def coarse(model):
    """The model with every number rounded to bfloat16."""
    chop = np.uint32(0xFFFF0000)
    return ViT(model.config, map_tree(lambda a: (a.view("u4") & chop).view("f4"), model.params))


@pytest.mark.parametrize("half", [lambda name: True, lambda name: "LayerNorm" not in name])
def test_bfloat16_in_raw_bytes(tmp_path, half):
    model = coarse(google()[0])
    arrays = export(model.params, model.config, "google")
    arrays = {n: bits_of_bfloat16(a) if half(n) else a for n, a in arrays.items()}
    assert {array.dtype.str for array in arrays.values()} <= {"|V2", "<f4"}
    assert same_bits(opened(tmp_path, arrays).params, model.params)


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (["float16"], "float32"),
        (["float32"], "float32"),
        (["float64"], "float64"),
        (["float16", "float32"], "float32"),
        (["float32", "float64"], "float64"),
        ([">f2", ">f8"], "float64"),
    ],
    ids=str,
)
def test_every_kind_of_float(tmp_path, dtypes, expected):
    model = tiny()
    for layout in FOREIGN:
        arrays = export(model.params, model.config, layout)
        names = enumerate(arrays.items())
        arrays = {n: a.astype(dtypes[i % len(dtypes)]) for i, (n, a) in names}
        loaded = opened(tmp_path, arrays, heads=2)
        assert {leaf.dtype for leaf in flatten(loaded.params).values()} == {np.dtype(expected)}
        back = export(loaded.params, loaded.config, layout)
        assert all(np.array_equal(back[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize("number", ["07", "٧", "10000", "9" * 5000, "-1"])
def test_a_number_has_one_way_to_be_written(tmp_path, number):
    model = tiny(depth=1)
    arrays = export(model.params, model.config, "timm")
    extra = {f"blocks.{number}.norm1.bias": np.zeros(8, "f")}
    refused(tmp_path, arrays | extra, f"'blocks.{number}.norm1.bias' is unknown", heads=2)


def test_the_authors_blocks_count_from_one(tmp_path):
    _, arrays = google("hybrid")
    extra = {"block0/unit1/conv1/kernel": arrays["block1/unit1/conv1/kernel"]}
    refused(tmp_path, arrays | extra, "'block0/unit1/conv1/kernel' is unknown")


# --- timm's and DINO's other ways ------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module.backbone.", "teacher."])
@pytest.mark.parametrize("kind", ["headless", "plain"])
def test_dinos_prefixes(tmp_path, prefix, kind):
    model = tiny(**KINDS[kind])
    arrays = before(prefix, export(model.params, model.config, "timm"))
    loaded = opened(tmp_path, arrays, heads=2)
    assert loaded.config.classes == model.config.classes
    assert same_bits(loaded.params, model.params)
    name = prefix + "blocks.1.mlp.fc2.bias"
    without = {n: a for n, a in arrays.items() if n != name}
    refused(tmp_path, without, f"'{name}' is missing", heads=2)
    refused(tmp_path, arrays | {"dino_head": np.ones(1, "f")}, "'dino_head' is unknown", heads=2)


def test_a_stem_of_the_root_alone_by_either_name(tmp_path):
    model = tiny(**KINDS["root alone"])
    arrays = export(model.params, model.config, "timm")
    assert "patch_embed.backbone.conv.weight" in arrays
    longer = {n.replace("backbone.", "backbone.stem."): a for n, a in arrays.items()}
    assert "patch_embed.backbone.stem.conv.weight" in longer
    for names in (arrays, longer):
        assert same_bits(opened(tmp_path, names, heads=2).params, model.params)


@pytest.mark.parametrize(
    "name", ["blocks.0.ls1.gamma", "dist_token", "fc_norm.weight", "reg_token", "attn_pool.latent"]
)
def test_what_a_vision_transformer_has_not_is_refused(tmp_path, name):
    model = tiny()
    arrays = export(model.params, model.config, "timm") | {name: np.ones((1, 1, 8), "f")}
    refused(tmp_path, arrays, f"the array '{name}' is unknown", heads=2)


# --- Hugging Face's other ways ---------------------------------------------------------------


def as_of_five(name):
    for old, new in [
        ("encoder.layer.", "layers."),
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    ]:
        name = name.replace(old, new)
    return name


@pytest.mark.parametrize("kind", ["plain", "pooler", "headless", "no qkv bias"])
@pytest.mark.parametrize("rename", [str, as_of_five], ids=["4", "5"])
@pytest.mark.parametrize("prefixed", [True, False])
def test_hugging_faces_names_of_both_kinds(tmp_path, kind, rename, prefixed):
    model = tiny(**KINDS[kind])
    arrays = export(model.params, model.config, "huggingface")
    arrays = {rename(name).removeprefix("vit."): array for name, array in arrays.items()}
    if prefixed:
        arrays = {n if "classifier" in n else "vit." + n: a for n, a in arrays.items()}
    assert any("q_proj" in name for name in arrays) == (rename is as_of_five)
    loaded = opened(tmp_path, arrays, heads=2)
    assert same_bits(loaded.params, model.params)
    assert loaded.config.qkv_bias == model.config.qkv_bias
    name = "vit." * prefixed + rename("encoder.layer.1.attention.attention.key.weight")
    without = {n: a for n, a in arrays.items() if n != name}
    refused(tmp_path, without, f"'{name}' is missing", heads=2)


SETTINGS = {
    "model_type": "vit", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 20, "image_size": 12, "patch_size": 3, "num_channels": 3,
}  # fmt: skip


def folder_of(tmp_path, settings, **fields):
    """A folder as Hugging Face saves it, with these settings for the tiny model of `fields`."""
    model = tiny(**fields)
    folder = tmp_path / "theirs"
    folder.mkdir(exist_ok=True)
    arrays = export(model.params, model.config, "huggingface")
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})
    text = settings if isinstance(settings, str) else json.dumps(settings)
    (folder / "config.json").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"heads": 2, "gelu": "erf", "norm_eps": 1e-12, "image_size": (12, 12)}),
        ({"num_attention_heads": 4}, {"heads": 4}),
        ({"hidden_act": "gelu"}, {"gelu": "erf"}),
        ({"hidden_act": "gelu_python"}, {"gelu": "erf"}),
        ({"hidden_act": "gelu_new"}, {"gelu": "tanh"}),
        ({"hidden_act": "gelu_fast"}, {"gelu": "tanh"}),
        ({"hidden_act": "gelu_pytorch_tanh"}, {"gelu": "tanh"}),
        ({"layer_norm_eps": 1e-5}, {"norm_eps": 1e-5}),
        ({"pooler_act": "tanh"}, {}),
        ({"image_size": [6, 24]}, {"image_size": (6, 24)}),
        ({"torch_dtype": "float32", "id2label": {"0": "cat"}}, {}),
    ],
    ids=str,
)
def test_a_config_json_is_heard(tmp_path, changes, expected):
    config = ViT.load(folder_of(tmp_path, SETTINGS | changes)).config
    assert {name: getattr(config, name) for name in expected} == expected


def test_a_config_json_is_overruled_by_the_caller(tmp_path):
    folder = folder_of(tmp_path, SETTINGS | {"hidden_act": "gelu_new"})
    config = ViT.load(folder, heads=4, gelu="erf", norm_eps=1e-5).config
    assert (config.heads, config.gelu, config.norm_eps) == (4, "erf", 1e-5)


def test_the_file_inside_a_folder_has_its_config_json_too(tmp_path):
    folder = folder_of(tmp_path, SETTINGS)
    assert ViT.load(folder / "model.safetensors").config.heads == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (SETTINGS | {"hidden_size": 9}, "config.json says width is 9, the arrays say 8"),
        (SETTINGS | {"num_hidden_layers": 3}, "config.json says depth is 3, the arrays say 2"),
        (SETTINGS | {"intermediate_size": 32}, "mlp_width is 32, the arrays say 20"),
        (SETTINGS | {"patch_size": 4}, "config.json says patch_size is 4, the arrays say 3"),
        (SETTINGS | {"num_channels": 1}, "config.json says channels is 1, the arrays say 3"),
        (
            SETTINGS | {"image_size": 24},
            "config.json says image_size is 24, 'vit.embeddings.position_embeddings' has 16",
        ),
        (SETTINGS | {"image_size": "12"}, "image_size is a whole number"),
        (SETTINGS | {"image_size": [12]}, "image_size is one number or two"),
        (SETTINGS | {"image_size": {"height": 12}}, "image_size is a whole number"),
        (SETTINGS | {"num_attention_heads": 3}, "width 8 cannot be shared among 3 heads"),
        (SETTINGS | {"num_attention_heads": "2"}, "heads is a whole number"),
        (SETTINGS | {"num_attention_heads": 0}, "heads is a whole number"),
        (SETTINGS | {"layer_norm_eps": None}, "cannot be used"),
        (SETTINGS | {"layer_norm_eps": "x"}, "cannot be used"),
        (SETTINGS | {"layer_norm_eps": -1}, "norm_eps must not be negative"),
        (SETTINGS | {"layer_norm_eps": float("nan")}, "norm_eps"),
        (SETTINGS | {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        (SETTINGS | {"hidden_act": ["gelu"]}, "cannot be used"),
        (SETTINGS | {"pooler_act": "gelu"}, "pooler_act is 'gelu'"),
        (SETTINGS | {"model_type": "dinov2"}, "model_type is 'dinov2': only 'vit' is read here"),
        (SETTINGS | {"model_type": ["vit"]}, "model_type is"),
        ("", "cannot be used"),
        ('{"model_type": "vit"', "cannot be used"),
        ("[1]", "cannot be used"),
        ("null", "cannot be used"),
        ("[" * 100_000, "cannot be used"),
    ],
    ids=lambda value: str(value)[-40:],
)
def test_a_config_json_that_cannot_be_is_refused(tmp_path, settings, message):
    folder = folder_of(tmp_path, settings)
    refusal(lambda: ViT.load(folder), str(folder), message)


def test_a_config_json_that_is_no_text_is_refused(tmp_path):
    folder = folder_of(tmp_path, SETTINGS)
    (folder / "config.json").write_bytes(b"\xff\xfe{}")
    refusal(lambda: ViT.load(folder), str(folder / "config.json"), "cannot be used")


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, "huggingface"),
        ({"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}, "imagenet"),
        ({"size": 224}, "huggingface"),
    ],
)
def test_a_preprocessor_config_json_tells_the_preprocessing(tmp_path, processor, expected):
    folder = folder_of(tmp_path, SETTINGS)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    assert ViT.load(folder).config.preprocessing == expected
    assert ViT.load(folder, preprocessing="google").config.preprocessing == "google"


@pytest.mark.parametrize(
    "text",
    [
        '{"image_mean": [0.1, 0.2, 0.3]}', '{"image_std": [0.2, 0.2, 0.2]}', '{"image_mean": "x"}',
        '{"do_normalize": false}', '{"do_rescale": false}', '{"image_mean": [1', "[]",
    ],
)  # fmt: skip
def test_a_preprocessor_config_json_that_cannot_be_is_refused(tmp_path, text):
    folder = folder_of(tmp_path, SETTINGS)
    (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")
    refusal(lambda: ViT.load(folder), str(folder / "preprocessor_config.json"), "cannot be used")
    assert ViT.load(folder, preprocessing="timm").config.preprocessing == "timm"


def test_a_size_that_a_config_json_says_is_the_files_own(tmp_path):
    folder = folder_of(tmp_path, SETTINGS)  # 4 x 4 patches; 2 x 8 are as many
    model, square = ViT.load(folder, image_size=(6, 24)), ViT.load(folder)
    table = resize_positions(square.params["positions"]["table"], (4, 4), (2, 8))
    assert np.array_equal(model.params["positions"]["table"], table)


def test_a_folder_converted_as_the_refusal_says_opens(tmp_path):
    folder = folder_of(tmp_path, SETTINGS)
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert ViT.load(folder).config.width == 8  # what was converted counts, whatever lies beside
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"save_file\(.*/model\.safetensors'\)"):
        ViT.load(folder)


def test_weights_in_several_files_are_refused(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="in several files"):
        ViT.load(tmp_path)


def test_an_unknown_way_of_resizing_is_refused_even_where_nothing_is_resized(tmp_path):
    tiny().save(tmp_path / "model.npz")
    with pytest.raises(ValueError, match="unknown resize 'nearest': choose aligned, bilinear"):
        ViT.load(tmp_path / "model.npz", resize="nearest")


def test_a_folder_without_weights(tmp_path):
    folder = folder_of(tmp_path, SETTINGS)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    with pytest.raises(FileNotFoundError) as error:
        ViT.load(folder)
    assert str(error.value) == f"there is no model.safetensors in {folder}"


def test_a_folder_with_a_pickle_says_how_to_convert_it(tmp_path):
    folder = folder_of(tmp_path, SETTINGS)
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    ViT.load(folder)  # there is no need for it
    (folder / "model.safetensors").unlink()
    refusal(lambda: ViT.load(folder), str(folder / "pytorch_model.bin"), "python -c")


@pytest.mark.parametrize(
    ("fields", "kind", "architecture"),
    [
        ({}, "vit", "ViTForImageClassification"),
        ({"image_size": (6, 15)}, "vit", "ViTForImageClassification"),
        ({"qkv_bias": False}, "vit", "ViTForImageClassification"),
        ({"classes": None}, "vit", "ViTModel"),
        ({"classes": None, "hidden_head": 6}, "vit", "ViTModel"),
        ({"positions": "sincos2d"}, "vit", "ViTForImageClassification"),
        ({"hidden_head": 6}, "minivit", None),  # what it has none of,
        ({"pooling": "mean"}, "minivit", None),  # nobody is to open as its own
        ({"patch_bias": False}, "minivit", None),
        (KINDS["hybrid"], "minivit", None),
    ],
    ids=str,
)
def test_the_config_json_that_is_written(tmp_path, fields, kind, architecture):
    model = tiny(**fields)
    model.save(tmp_path / "model", "huggingface")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    written = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    assert written["model_type"] == kind
    if architecture:
        assert written["architectures"] == [architecture]
    expected = {
        "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "num_channels": 3,
        "intermediate_size": 20, "patch_size": model.config.patch_size,
        "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
        "qkv_bias": model.config.qkv_bias,
    }  # fmt: skip
    assert {name: written[name] for name in expected} == expected
    H, W = model.config.image_size
    assert written["image_size"] == (H if H == W else [H, W])
    labels = model.config.classes or 0
    assert len(written.get("id2label", {})) == len(written.get("label2id", {})) == labels
    if fields.get("classes", 1) is None:
        assert written.get("pooler_output_size") == fields.get("hidden_head")


def test_what_others_save_again_is_opened_by_its_config_json(tmp_path):
    model = tiny(gelu="erf", norm_eps=1e-4)
    model.save(tmp_path / "model", "huggingface")
    file = tmp_path / "model" / "model.safetensors"
    save_file(load_file(file), file, {"format": "pt"})  # what minivit left in it is lost
    loaded = ViT.load(tmp_path / "model")
    assert loaded.config == dataclasses.replace(model.config, preprocessing="huggingface")
    assert same_bits(loaded.params, model.params)


# --- heads and sizes -------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["timm", "huggingface"])
def test_heads_are_asked_for_where_nothing_tells_them(tmp_path, layout):
    model = tiny()
    arrays = export(model.params, model.config, layout)
    refused(tmp_path, arrays, "do not tell how many heads share a width of 8: say heads=")
    assert opened(tmp_path, arrays, heads=4).config.heads == 4
    refused(tmp_path, arrays, "width 8 cannot be shared among 3 heads", heads=3)
    refused(tmp_path, arrays, "heads is a whole number", heads="2")


def test_the_authors_shapes_tell_the_heads_and_can_contradict(tmp_path):
    _, arrays = google("plain")
    assert opened(tmp_path, arrays).config.heads == 2
    name = FIRST + "MultiHeadDotProductAttention_1/query/kernel"
    refused(tmp_path, arrays, f"'{name}' is (8, 2, 4), expected (8, 4, 2)", heads=4)


@pytest.mark.parametrize(("width", "heads"), [(192, 3), (384, 6), (768, 12), (1280, 16)])
def test_the_papers_widths_tell_their_heads(width, heads):
    config = ViTConfig(**TINY | {"width": width, "heads": heads, "depth": 1})
    zeros = map_tree(lambda p: np.zeros(p.shape, "f"), parameter_specs(config))
    arrays = export(zeros, config, "timm")
    found, _ = foreign_model(Path("theirs.npz"), arrays, None, {}, None)
    assert found.heads == heads


def test_an_image_size_tells_the_grid_without_resizing(tmp_path):
    model = tiny(image_size=(6, 15))
    for layout in FOREIGN:
        arrays = export(model.params, model.config, layout)
        fields = {"heads": 2}
        message = refused(tmp_path, arrays, "has 10 patches, not a square", **fields)
        assert "say image_size=(height, width)" in message
        loaded = opened(tmp_path, arrays, image_size=(6, 15), **fields)
        assert loaded.config.image_size == (6, 15)
        assert same_bits(loaded.params, model.params)
        turned = opened(tmp_path, arrays, image_size=(15, 6), **fields)
        assert turned.config.grid == (5, 2)
        assert same_bits(turned.params, model.params)
        refused(tmp_path, arrays, "not a square", image_size=(6, 12), **fields)


def test_a_square_count_may_be_a_rectangle(tmp_path):
    model = tiny()
    arrays = export(model.params, model.config, "timm")
    loaded = opened(tmp_path, arrays, heads=2, image_size=(6, 24))
    assert loaded.config.grid == (2, 8)
    assert same_bits(loaded.params, model.params)


def test_the_map_of_a_stem_rounds_up(tmp_path):
    model = tiny(stem=(1, 1, 1), stem_width=32, patch_size=1, image_size=(33, 50))
    assert model.config.grid == (3, 4)
    arrays = export(model.params, model.config, "timm")
    loaded = opened(tmp_path, arrays, heads=2, image_size=(33, 50))
    assert loaded.config.grid == (3, 4)
    assert same_bits(loaded.params, model.params)


@pytest.mark.parametrize("resize", ["aligned", "bilinear", "bicubic", "antialiased", "area"])
@pytest.mark.parametrize("image_size", [18, (9, 24)])
def test_another_image_size_resizes_the_positions(tmp_path, resize, image_size):
    model = tiny()
    arrays = export(model.params, model.config, "timm")
    model.save(tmp_path / "own.npz")
    grid = (6, 6) if image_size == 18 else (3, 8)
    old = model.params["positions"]["table"]
    table = resize_positions(old, (4, 4), grid, resize)
    others = {n: a for n, a in flatten(model.params).items() if n != "positions/table"}
    for loaded in (
        opened(tmp_path, arrays, heads=2, image_size=image_size, resize=resize),
        ViT.load(tmp_path / "own.npz", image_size=image_size, resize=resize),
    ):
        assert loaded.config.grid == grid
        flat = flatten(loaded.params)
        assert np.array_equal(flat.pop("positions/table"), table)
        assert np.array_equal(table[0], old[0])
        assert same_bits(flat, others)
        assert loaded(np.zeros((1, *loaded.config.image_size, 3), "f")).shape == (1, 5)


def test_the_authors_resize_with_aligned_corners(tmp_path):
    model = tiny()
    loaded = opened(tmp_path, export(model.params, model.config, "google"), image_size=18, heads=2)
    corners = [0, 5, 30, 35]
    old, new = (m.params["positions"]["table"][1:] for m in (model, loaded))
    np.testing.assert_allclose(new[corners], old[[0, 3, 12, 15]], rtol=0, atol=1e-7)


def test_a_config_json_tells_the_grid_that_is_resized(tmp_path):
    # 36 patches look like a square, which they are not.
    settings = SETTINGS | {"image_size": [12, 27]}
    folder = folder_of(tmp_path, settings, image_size=(12, 27))
    old = tiny(image_size=(12, 27)).params["positions"]["table"]
    loaded = ViT.load(folder, image_size=24)
    expected = resize_positions(old, (4, 9), (8, 8), "aligned")
    assert np.array_equal(loaded.params["positions"]["table"], expected)


@pytest.mark.parametrize(
    "image_size", [0, -12, 13, 3.5, "12", (12,), (12, 12, 12), (12, "x"), (12, 13)], ids=repr
)
def test_an_image_size_that_cannot_be_is_an_error(tmp_path, image_size):
    model = tiny()
    model.save(tmp_path / "own.npz")
    arrays = export(model.params, model.config, "timm")
    for load_it in (
        lambda: opened(tmp_path, arrays, heads=2, image_size=image_size),
        lambda: ViT.load(tmp_path / "own.npz", image_size=image_size),
    ):
        with pytest.raises(ValueError, match="image_size"):
            load_it()


@pytest.mark.parametrize("positions", ["sincos2d", "none"])
@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_what_is_no_parameter_here_is_a_table_elsewhere(tmp_path, positions, pooling):
    model = tiny(positions=positions, pooling=pooling, hidden_head=None, image_size=(6, 15))
    images = np.random.default_rng(6).normal(size=(2, 6, 15, 3)).astype("f")
    for layout in FOREIGN:
        model.save(tmp_path / "model.safetensors", layout)
        assert ViT.load(tmp_path / "model.safetensors").config == model.config
        arrays = load_file(tmp_path / "model.safetensors")  # and whoever does not know minivit
        fields = needed(model.config, layout) | {"positions": "1d", "image_size": (6, 15)}
        loaded = opened(tmp_path, arrays, **fields)
        assert loaded.config.positions == "1d"
        np.testing.assert_allclose(loaded(images), model(images), rtol=0, atol=1e-5)


def test_waves_have_no_table(tmp_path):
    model = tiny(positions="sincos2d", pooling="mean")
    for layout in FOREIGN:
        arrays = export(model.params, model.config, layout)
        assert not any("pos" in name for name in arrays)
        fields = {"heads": 2, "positions": "sincos2d"}
        refused(tmp_path, arrays, "pos", "is missing", heads=2)
        refused(tmp_path, arrays, "positions 'sincos2d' have no table: say image_size=", **fields)
        loaded = opened(tmp_path, arrays, image_size=12, **fields)
        assert same_bits(loaded.params, model.params)


@pytest.mark.parametrize(
    ("positions", "message"),
    [("none", "'pos_embed' has no place"), ("2d", "positions/rows"), ("relative", "relative/")],
)
def test_positions_of_another_kind_than_the_files(tmp_path, positions, message):
    model = tiny()
    arrays = export(model.params, model.config, "timm")
    refused(tmp_path, arrays, message, heads=2, positions=positions)


def test_a_patch_bias_is_missed_unless_the_caller_knows_better(tmp_path):
    model = tiny(patch_bias=False)
    arrays = export(model.params, model.config, "timm")
    refused(tmp_path, arrays, "'patch_embed.proj.bias' is missing", heads=2)
    assert same_bits(opened(tmp_path, arrays, heads=2, patch_bias=False).params, model.params)
    whole = export(tiny().params, tiny().config, "timm")
    refused(tmp_path, whole, "'patch_embed.proj.bias' has no place", heads=2, patch_bias=False)


def test_an_unknown_field_is_named(tmp_path):
    model = tiny()
    with pytest.raises(TypeError, match="unknown field 'head'"):
        opened(tmp_path, export(model.params, model.config, "timm"), head=2)


# --- damage ----------------------------------------------------------------------------------

DAMAGES = {
    "longer": lambda a: np.concatenate([a, a[..., :1]], axis=-1),
    "shorter": lambda a: a[..., :-1] if a.shape[-1] > 1 else a[:-1],
    "longer in front": lambda a: np.concatenate([a, a[:1]]),
    "empty": lambda a: a[..., :0],
    "one more axis": lambda a: a[..., None],
    "no axis": lambda a: a.ravel()[0],
    "NaN": lambda a: np.where(np.arange(a.size).reshape(a.shape) == a.size - 1, np.nan, a),
    "infinite": lambda a: np.where(np.arange(a.size).reshape(a.shape) == 0, -np.inf, a),
    "integers": lambda a: a.astype("i4"),
    "complex": lambda a: a.astype("c8"),
    "text": lambda a: a.astype("U9"),
}


def damaged(name, array, damage):
    if damage in ("NaN", "infinite"):
        return DAMAGES[damage](array).astype("f")
    return DAMAGES[damage](array)


@pytest.mark.parametrize("kind", ["hidden head", "hybrid", "root alone", "pooler"])
@pytest.mark.parametrize("layout", FOREIGN)
@pytest.mark.parametrize("damage", ["deleted", *DAMAGES])
def test_the_damaged_array_is_named(layout, kind, damage):
    # Of two blocks one without bias is damaged; of one block it would be another model.
    model, plain = tiny(**KINDS[kind] | {"depth": 2 if kind == "hidden head" else 1}), tiny()
    arrays = export(model.params, model.config, layout)
    fields = {} if layout == "google" else {"heads": 2}
    of_all = set() if kind == "hidden head" else export(plain.params, plain.config, layout).keys()
    for name in [name for name in arrays if name not in of_all][:: 3 if kind == "hybrid" else 1]:
        array = arrays[name]
        bad = {n: a for n, a in arrays.items() if n != name}
        if damage != "deleted":
            bad[name] = damaged(name, array, damage)
        refusal(
            lambda bad=bad: foreign_model(Path("theirs.npz"), bad, None, fields, None),
            "theirs.npz: ",
            f"'{name}'",
        )


@pytest.mark.parametrize("damage", ["deleted", "longer", "one more axis", "NaN", "integers"])
def test_the_damaged_array_is_named_in_minivits_own_names(tmp_path, damage):
    model = tiny(hidden_head=6)
    model.save(tmp_path / "model.npz")
    with np.load(tmp_path / "model.npz") as file:
        arrays = dict(file)
    for name in [name for name in arrays if name != "config"][::4]:
        bad = {n: a for n, a in arrays.items() if n != name}
        if damage != "deleted":
            bad[name] = damaged(name, arrays[name], damage)
        refused(tmp_path, bad, f"'{name.removeprefix('params/')}'")


@pytest.mark.parametrize("layout", FOREIGN)
def test_what_has_no_place_is_named(tmp_path, layout):
    model = tiny()
    arrays = export(model.params, model.config, layout)
    extra, missing = {  # a block too many, with a gap
        "google": ("Transformer/encoderblock_3/LayerNorm_0/bias", "Transformer/encoderblock_2/"),
        "timm": ("blocks.3.norm1.bias", "blocks.2."),
        "huggingface": ("vit.encoder.layer.3.layernorm_before.bias", "vit.encoder.layer.2."),
    }[layout]
    bias = {extra: np.ones(8, "f")}
    refused(tmp_path, arrays | bias, f"the array '{missing}", "is missing", heads=2)
    refused(tmp_path, arrays | {"norms": np.ones(8, "f")}, "'norms' is unknown", heads=2)
    refused(tmp_path, arrays | {"": np.ones(8, "f")}, "'' is unknown", heads=2)


@pytest.mark.parametrize(
    ("prefix", "one", "other"),
    [
        ("params/", "params/cls", "cls"),
        ("", "Transformer/posembed_input/pos_embedding", "pos_embedding"),
        ("", FIRST + "LayerNorm_2/scale", FIRST + "LayerNorm_1/scale"),
        ("", FIRST + "LayerNorm_0/scale", "Transformer/encoderblock/LayerNorm_0/scale"),
    ],
)
def test_two_arrays_for_one_place_are_both_named(tmp_path, prefix, one, other):
    _, arrays = google("plain")
    arrays = before(prefix, arrays)
    shape = arrays[one].shape if "/encoderblock/" not in other else (2, 8)
    both = arrays | {other: np.zeros(shape, "f")}
    for order in (both, dict(reversed(both.items()))):
        message = refused(tmp_path, order, f"'{other}'", "are the same array")
        assert f"'{one}'" in message.replace("block_1", "block_0")


def test_two_spellings_of_one_array_are_both_named(tmp_path):
    model = tiny()
    arrays = export(model.params, model.config, "huggingface")
    old = "vit.encoder.layer.0.output.dense.bias"
    both = arrays | {as_of_five(old): arrays[old]}
    refused(tmp_path, both, f"'{old}'", f"'{as_of_five(old)}'", heads=2)
    both = arrays | {old.removeprefix("vit."): arrays[old]}
    refused(tmp_path, both, f"'{old}'", f"'{old.removeprefix('vit.')}'", heads=2)


def test_a_teacher_beside_a_student_is_no_model(tmp_path):
    model = tiny(classes=None)
    arrays = export(model.params, model.config, "timm")
    both = before("student.", arrays) | before("teacher.", arrays)
    refused(tmp_path, both, "the array 'teacher.", "' is unknown", heads=2)


def test_arrays_of_something_else_are_no_vision_transformer(tmp_path):
    some = {"b": np.ones(3, "f"), "a": np.ones(3, "f")}
    refused(tmp_path, some, "has no names of a Vision Transformer: a, b, ...")
    refused(tmp_path, {"two\nlines": np.ones(3, "f")}, "two lines")


def test_a_name_of_two_lines_makes_a_message_of_one(tmp_path):
    model = tiny()
    arrays = export(model.params, model.config, "timm")
    refused(tmp_path, arrays | {"two\nlines": np.ones(3, "f")}, "'two lines'", heads=2)


@pytest.mark.parametrize("fields", [{"depth": 10**9}, {"stem": [10**9], "stem_width": 32}])
@pytest.mark.parametrize("layout", ["minivit", "timm"])
def test_more_blocks_than_arrays_are_refused_before_they_are_listed(tmp_path, fields, layout):
    model = tiny()
    model.save(tmp_path / "model.npz", layout)
    with np.load(tmp_path / "model.npz") as file:
        arrays = dict(file)
    text = json.dumps(json.loads(str(arrays["config"])) | {"patch_size": 1, **fields})
    refused(tmp_path, arrays | {"config": np.array(text)}, "more blocks than there are arrays")


@pytest.mark.parametrize("command", ["predict", "attention"])
def test_a_damaged_file_ends_a_command_with_one_line(tmp_path, capsys, command):
    model = tiny()
    arrays = export(model.params, model.config, "google")
    name = FIRST + "LayerNorm_0/scale"
    weights = tmp_path / "theirs.npz"
    np.savez(weights, **arrays | {name: np.full(8, np.nan, "f")})
    no_folder, pickled = tmp_path / "nowhere", tmp_path / "theirs.pth"
    pickled.write_bytes(b"never opened")
    (tmp_path / "theirs.safetensors").write_bytes(b"\x08")
    for path, words in {
        weights: [f"'{name}' has entries that are NaN or infinite"],
        no_folder: ["there is no"],
        pickled: ["python -c"],
        tmp_path / "theirs.safetensors": ["is damaged"],
    }.items():
        assert main([command, "photo.jpg", "--weights", str(path)]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("minivit: error: ")
        assert err.count("\n") == 1
        assert all(word in err for word in [str(path), *words])


# --- a loaded model is a model ---------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_loaded_model_learns_and_the_file_does_not(tmp_path, layout):
    images = np.random.default_rng(4).normal(size=(6, 12, 12, 3)).astype("f")
    labels = np.arange(6) % 5
    steps = {}
    path = tmp_path / "model.safetensors"
    tiny().save(path, layout)
    bytes_before = path.read_bytes()
    for name, model in {"made": tiny(), "loaded": ViT.load(path)}.items():
        optimiser = SGD(model.params)
        losses = []
        for _ in range(3):
            loss, _, gradient = packed_gradients(model, images, labels)
            optimiser.update(gradient, 0.01)
            losses.append(loss)
        assert losses[2] < losses[0]
        steps[name] = flatten(model.params)
    for name, leaf in steps["made"].items():
        np.testing.assert_allclose(steps["loaded"][name], leaf, rtol=0, atol=1e-5, err_msg=name)
    assert path.read_bytes() == bytes_before


def test_what_is_loaded_can_be_saved_over_itself(tmp_path):
    path = tmp_path / "model.safetensors"
    for layout in LAYOUTS:
        tiny().save(path, layout)
        model = ViT.load(path)
        for other in LAYOUTS:
            model.save(path, other)
            assert same_bits(ViT.load(path).params, tiny().params)
        assert same_bits(model.params, tiny().params)  # still whole, in memory
    assert list(tmp_path.iterdir()) == [path]


def test_load_gives_the_configuration_and_the_tree(tmp_path):
    model = tiny()
    model.save(tmp_path / "model.npz", "timm")
    config, params = load(tmp_path / "model.npz")
    assert config == model.config
    assert same_bits(params, model.params)
