"""The layout of Hugging Face's ViT in transformers 4 and 5, and its JSON files.

Kernels are (out, in). In a model with a classifier, all names except those of the classifier start
with `vit.`. A model without one may have a pooler, which is the hidden layer of the paper's head.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from ..models import ViTConfig
from .class_names import placeholder_names
from .layouts import Names, Spelling, parts_in_use, torch_units

DEFAULTS = {"gelu": "erf", "norm_eps": 1e-12, "preprocessing": "huggingface"}
TRANSFORMERS_5 = {  # part of a name in transformers 4 and published files: in transformers 5
    "^encoder.layer.": "^layers.",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}

BIT = "embeddings.patch_embeddings.backbone.bit."
NAMES = Names(
    {
        "class_token": "embeddings.cls_token",
        "positions/table": "embeddings.position_embeddings",
        "stem/conv": BIT + "embedder.convolution",
        "stem/norm": BIT + "embedder.norm",
        **torch_units(BIT + "encoder.stages.{}.layers.{}."),
        "patch_embedding": "embeddings.patch_embeddings.projection",
        "blocks/{}/norm1": "encoder.layer.{}.layernorm_before",
        "blocks/{}/attention/qkv": "encoder.layer.{}.attention.attention.*",
        "blocks/{}/attention/out": "encoder.layer.{}.attention.output.dense",
        "blocks/{}/norm2": "encoder.layer.{}.layernorm_after",
        "blocks/{}/mlp/hidden": "encoder.layer.{}.intermediate.dense",
        "blocks/{}/mlp/out": "encoder.layer.{}.output.dense",
        "norm": "layernorm",
        "hidden": "pooler.dense",
        "head": "classifier",
    }
)
infer_config, names = NAMES.infer_config, NAMES.entries

HALF = [0.5, 0.5, 0.5]
NORMALISATIONS = {  # mean and standard deviation of red, green and blue
    "huggingface": (HALF, HALF),
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}
ACTIVATIONS = {
    "gelu": "erf", "gelu_python": "erf",
    "gelu_new": "tanh", "gelu_fast": "tanh", "gelu_pytorch_tanh": "tanh",
    "gelu_python_tanh": "tanh",
}  # fmt: skip
SIZES = {  # field of config.json: field of ViTConfig; the array shapes determine both
    "hidden_size": "width", "num_hidden_layers": "depth", "intermediate_size": "mlp_width",
    "num_channels": "channels", "patch_size": "patch_size",
}  # fmt: skip


def find_spelling(names: Collection[str]) -> Spelling | None:
    """Return the spelling of Hugging Face's names in a file, or None if it has none."""
    for name in names:
        bare = name.removeprefix("vit.")
        if bare.startswith(("embeddings.", "encoder.layer.", "layers.")):
            return Spelling(name.removesuffix(bare), parts_in_use(names, TRANSFORMERS_5))
    return None


def read_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of ViTConfig in a config.json. Raise ValueError for another model."""
    kind, act = config.get("model_type", "vit"), config.get("hidden_act", "gelu")
    if kind not in ("vit", "minivit"):
        raise ValueError(f"model_type is {kind!r}, but only 'vit' is supported")
    if act not in ACTIVATIONS:
        raise ValueError(f"hidden_act is {act!r}: choose {', '.join(ACTIVATIONS)}")
    if config.get("pooler_act", "tanh") != "tanh":
        raise ValueError(f"pooler_act is {config['pooler_act']!r}, but only 'tanh' is supported")
    return {field: config[name] for name, field in SIZES.items() if name in config} | {
        "gelu": ACTIVATIONS[act],
        "norm_eps": float(config.get("layer_norm_eps", 1e-12)),
        "heads": config.get("num_attention_heads", 12),
        "image_size": config.get("image_size") or 224,
    }


def read_processor(processor: dict[str, Any]) -> dict[str, Any]:
    """Return the preprocessing with the normalisation of a preprocessor_config.json.

    Raises ValueError if there is none.
    """
    normalised = processor.get("do_rescale", True) and processor.get("do_normalize", True)
    stats = processor.get("image_mean", HALF), processor.get("image_std", HALF)
    for name, expected in NORMALISATIONS.items():
        if normalised and np.shape(stats) == (2, 3) and np.allclose(stats, expected, atol=1e-3):
            return {"preprocessing": name}
    actual = f"image_mean {stats[0]}, image_std {stats[1]}" if normalised else "no normalisation"
    raise ValueError(f"{actual} matches no preprocessing of minivit: pass preprocessing=")


def make_config(config: ViTConfig, class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the config.json with which Hugging Face loads the model.

    Hugging Face's ViT has a class token, a patch embedding with bias, no stem, and no hidden
    layer before a classifier. The type of other models is "minivit", not "vit".
    """
    c = config
    is_vit = c.pooling == "class" and c.patch_bias and c.stem is None
    is_vit = is_vit and (c.hidden_head is None or c.classes is None)
    H, W = c.image_size
    content = {
        "architectures": ["ViTForImageClassification" if c.classes else "ViTModel"],
        "model_type": "vit" if is_vit else "minivit",
        "hidden_size": c.width, "num_hidden_layers": c.depth, "num_attention_heads": c.heads,
        "intermediate_size": c.mlp_width, "num_channels": c.channels, "patch_size": c.patch_size,
        "image_size": H if H == W else [H, W],
        "hidden_act": "gelu" if c.gelu == "erf" else "gelu_pytorch_tanh",
        "layer_norm_eps": c.norm_eps, "qkv_bias": c.qkv_bias,
        "hidden_dropout_prob": c.dropout, "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    if c.hidden_head is not None:
        content |= {"pooler_output_size": c.hidden_head, "pooler_act": "tanh"}
    if c.classes is not None:
        names = class_names or placeholder_names(c.classes).values()
        content["id2label"] = {str(i): name for i, name in enumerate(names)}
        content["label2id"] = {name: i for i, name in enumerate(names)}
    return content


def make_processor(config: ViTConfig) -> dict[str, Any]:
    """Return the preprocessor_config.json. It cannot describe a crop, so images are stretched."""
    imagenet = config.preprocessing in ("imagenet", "dino")
    mean, std = NORMALISATIONS["imagenet" if imagenet else "huggingface"]
    H, W = config.image_size
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True, "size": {"height": H, "width": W},
        "resample": 3 if config.preprocessing in ("timm", "dino") else 2,  # bicubic or bilinear
        "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": mean, "image_std": std,
    }  # fmt: skip
