"""The names of Hugging Face's ViT, of transformers 4 and of 5, and its config.json.

Kernels are (out, in). A model with a classifier has `vit.` before all names but the classifier's;
one without has a pooler, which is the hidden layer of the paper's head.
"""

from typing import Any

import numpy as np

from ..models import ViTConfig
from .layouts import Layout, Row, rows_of
from .timm import stem

FOUR, FIVE = "encoder.layer.#.", "layers.#."  # what a block is called by transformers 4 and 5
ROOT = "embeddings.patch_embeddings.backbone.bit."
UNIT = ROOT + "encoder.stages.#.layers.#."

ARRAYS = {
    "class_token": Row(("embeddings.cls_token",), "1 1 D"),
    "positions/table": Row(("embeddings.position_embeddings",), "1 T D"),
}
MODULES = {
    **stem(ROOT + "embedder.convolution", ROOT + "embedder.norm", UNIT),
    "patch_embedding": ("embeddings.patch_embeddings.projection", "D I P P", "D"),
    "blocks/#/norm1": ((FOUR + "layernorm_before", FIVE + "layernorm_before"), "D", "D"),
    "blocks/#/attention/qkv": (
        (FOUR + "attention.attention.{query,key,value}", FIVE + "attention.{q_proj,k_proj,v_proj}"),
        "D D", "D",
    ),
    "blocks/#/attention/out": (
        (FOUR + "attention.output.dense", FIVE + "attention.o_proj"), "D D", "D",
    ),
    "blocks/#/norm2": ((FOUR + "layernorm_after", FIVE + "layernorm_after"), "D", "D"),
    "blocks/#/mlp/hidden": ((FOUR + "intermediate.dense", FIVE + "mlp.fc1"), "M D", "M"),
    "blocks/#/mlp/out": ((FOUR + "output.dense", FIVE + "mlp.fc2"), "D M", "D"),
    "norm": ("layernorm", "D", "D"),
    "hidden": ("pooler.dense", "R D", "R"),
    "head": ("classifier", "K Y", "K"),
}  # fmt: skip

HUGGINGFACE = Layout(
    mark=r"(vit\.)?(?:embeddings|encoder\.layer|layers)\.",
    rows=ARRAYS | rows_of(MODULES, kernel=".weight", scale=".weight"),
    turned=True,
    settings={"gelu": "erf", "norm_eps": 1e-12, "preprocessing": "huggingface"},
    prefix="vit.",
)

HALF = [0.5, 0.5, 0.5]
COLOURS = {  # mean and deviation
    "huggingface": (HALF, HALF),
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}
ACTIVATIONS = {
    "gelu": "erf", "gelu_python": "erf",
    "gelu_new": "tanh", "gelu_fast": "tanh", "gelu_pytorch_tanh": "tanh",
    "gelu_python_tanh": "tanh",
}  # fmt: skip
SIZES = {  # what the arrays tell too
    "hidden_size": "width", "num_hidden_layers": "depth", "intermediate_size": "mlp_width",
    "num_channels": "channels", "patch_size": "patch_size",
}  # fmt: skip


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of ViTConfig in a config.json. Raises ValueError for what is no ViT here."""
    kind, act = config.get("model_type", "vit"), config.get("hidden_act", "gelu")
    if kind not in ("vit", "minivit"):
        raise ValueError(f"model_type is {kind!r}: only 'vit' is read here")
    if act not in ACTIVATIONS:
        raise ValueError(f"hidden_act is {act!r}: known are {', '.join(ACTIVATIONS)}")
    if config.get("pooler_act", "tanh") != "tanh":
        raise ValueError(f"pooler_act is {config['pooler_act']!r}: only 'tanh' is read here")
    fields = {"gelu": ACTIVATIONS[act], "norm_eps": float(config.get("layer_norm_eps", 1e-12))}
    fields["heads"] = config.get("num_attention_heads", 12)
    fields["image_size"] = config.get("image_size", 224)
    return fields | {ours: config[name] for name, ours in SIZES.items() if name in config}


def preprocessing(processor: dict[str, Any]) -> dict[str, Any]:
    """The field of ViTConfig in a preprocessor_config.json, by its mean colour and deviation.

    Raises ValueError for colours that no family here has.
    """
    scaled = processor.get("do_rescale", True) and processor.get("do_normalize", True)
    found = [processor.get("image_mean", HALF), processor.get("image_std", HALF)]
    for family, known in COLOURS.items():
        if scaled and np.shape(found) == (2, 3) and np.allclose(found, known, atol=1e-3):
            return {"preprocessing": family}
    text = f"image_mean {found[0]}, image_std {found[1]}" if scaled else "colours as they are"
    raise ValueError(f"{text}, which is no preprocessing here: say preprocessing=")


def processor_json(config: ViTConfig) -> dict[str, Any]:
    """The preprocessor_config.json: pictures squashed into the image, their colours scaled.

    It has no word for a crop. What a family crops is squashed there.
    """
    imagenet = config.preprocessing in ("imagenet", "dino")
    mean, deviation = COLOURS["imagenet" if imagenet else "huggingface"]
    H, W = config.image_size
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": H, "width": W},
        "resample": 3 if config.preprocessing in ("timm", "dino") else 2,  # bicubic or bilinear
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": deviation,
    }


def config_json(config: ViTConfig) -> dict[str, Any]:
    """The config.json with which Hugging Face opens the model.

    Its own ViT has a class token, a bias in the patch embedding, no hidden layer beside a
    classifier, and no stem. Of a model that differs the type is "minivit", so that nobody takes it
    for another.
    """
    c = config
    same = c.pooling == "class" and c.patch_bias and c.stem is None
    same = same and (c.hidden_head is None or c.classes is None)
    H, W = c.image_size
    written = {
        "architectures": ["ViTForImageClassification" if c.classes else "ViTModel"],
        "model_type": "vit" if same else "minivit",
        "hidden_size": c.width,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads,
        "intermediate_size": c.mlp_width,
        "hidden_act": "gelu" if c.gelu == "erf" else "gelu_pytorch_tanh",
        "layer_norm_eps": c.norm_eps,
        "image_size": H if H == W else [H, W],
        "patch_size": c.patch_size,
        "num_channels": c.channels,
        "qkv_bias": c.qkv_bias,
        "hidden_dropout_prob": c.dropout,
        "attention_probs_dropout_prob": 0.0,
    }
    if c.hidden_head is not None:
        written |= {"pooler_output_size": c.hidden_head, "pooler_act": "tanh"}
    if c.classes is not None:
        labels = {str(i): f"LABEL_{i}" for i in range(c.classes)}
        written |= {"id2label": labels, "label2id": {v: int(k) for k, v in labels.items()}}
    return written
