"""The layout of the authors' files (google-research/vision_transformer) and of big_vision.

Arrays have minivit's axes, but query, key and value are separate and have an axis for the heads.
The original files number the sublayers of a block consecutively. Files written with Flax Linen
number each kind separately.
"""

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from ..arrays import Array
from ..models import ViTConfig
from ..models.config import MAX_DEPTH
from .layouts import UNIT, Entry, Names, Shapes, Spelling, parts_in_use

DEFAULTS = {"gelu": "tanh", "norm_eps": 1e-6, "preprocessing": "google"}
LINEN = {  # part of an original name: its spelling in Flax Linen
    "MultiHeadDotProductAttention_1": "MultiHeadDotProductAttention_0",
    "LayerNorm_2": "LayerNorm_1",
    "MlpBlock_3": "MlpBlock_0",
}
# Optimiser state; in files of image-text models, the text encoder, logit scale and logit bias
IGNORED = ("opt/", "params/txt/", "params/t/", "params/b/")

POSITIONS = "Transformer/posembed_input/pos_embedding"
BLOCK, ATTENTION = "Transformer/encoderblock_{}/", "MultiHeadDotProductAttention_1/"
LAYERS = {
    "class_token": "cls",
    "positions/table": POSITIONS,
    "stem/conv": "conv_root",
    "stem/norm": "gn_root",
    "patch_embedding": "embedding",
    "blocks/{}/norm1": BLOCK + "LayerNorm_0",
    "blocks/{}/attention/qkv": BLOCK + ATTENTION + "*",
    "blocks/{}/attention/out": BLOCK + ATTENTION + "out",
    "blocks/{}/norm2": BLOCK + "LayerNorm_2",
    "blocks/{}/mlp/hidden": BLOCK + "MlpBlock_3/Dense_0",
    "blocks/{}/mlp/out": BLOCK + "MlpBlock_3/Dense_1",
    "norm": "Transformer/encoder_norm",
    "hidden": "pre_logits",
    "head": "head",
}
for _name in UNIT:
    _google_name = _name.replace("norm", "gn").replace("shortcut", "proj")
    LAYERS[f"stem/stages/{{}}/{{}}/{_name}"] = f"block{{}}/unit{{}}/{_google_name}"
NAMES = Names(
    LAYERS, kinds={"kernel": "/kernel", "scale": "/scale", "bias": "/bias"}, axes={}, first=1
)


def find_spelling(names: Collection[str]) -> Spelling | None:
    """Return the spelling of the authors' names in a file, or None if it has none."""
    for name in names:
        prefix, separator, _ = name.partition("Transformer/")
        if separator and (prefix == "opt/target/" or not name.startswith(IGNORED)):
            return Spelling(prefix, parts_in_use(names, LINEN), IGNORED)
    return None


def unpack(name: str, array: Array, class_token: bool) -> Iterator[tuple[str, Array]]:
    """Yield the arrays of the layout that an array of a big_vision or older file contains."""
    prefix, scanned, suffix = name.partition("encoderblock/")
    if scanned and array.ndim:  # (L, ...): one array for all blocks
        for i, block in enumerate(array[: MAX_DEPTH + 1]):
            yield f"{prefix}encoderblock_{i}/{suffix}", block
    elif name == "pos_embedding" and array.ndim == 3 and len(array) == 1:
        # big_vision adds the positions before it prepends the class token
        yield POSITIONS, np.pad(array, ((0, 0), (int(class_token), 0), (0, 0)))
    elif name.endswith(("/scale", "/bias")) and array.shape[:-1] == (1, 1, 1):
        yield name, array.reshape(-1)  # a group norm of the first release
    else:
        yield name, array


def infer_config(shapes: Shapes) -> dict[str, Any]:
    """Return the fields of ViTConfig that the array shapes determine."""
    query = NAMES.shape("blocks/0/attention/qkv/kernel", 3, shapes)  # (D, h, Dh)
    return NAMES.infer_config(shapes) | {"heads": query[1]}


def names(config: ViTConfig) -> dict[str, Entry]:
    """Return the entry of each leaf of the parameter tree."""
    D, heads = config.width, (config.heads, config.width // config.heads)
    split = {"qkv/kernel": (D, *heads), "qkv/bias": heads, "out/kernel": (*heads, D)}
    return NAMES.entries(config, {f"attention/{leaf}": shape for leaf, shape in split.items()})
