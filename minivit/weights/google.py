"""The names of the authors' files (google-research/vision_transformer) and of big_vision's.

The older files number the parts of a block 0, 1, 2, 3 in one row, the newer ones each kind by
itself. Kernels are (in, out) as ours; the queries, keys and values have an axis for the heads.
"""

import re
from collections.abc import Iterator

import numpy as np

from ..arrays import Array
from .layouts import Layout, Row, rows_of

BLOCK = "Transformer/encoderblock_#/"
OLD, NEW = BLOCK + "MultiHeadDotProductAttention_1/", BLOCK + "MultiHeadDotProductAttention_0/"
QKV = "{query,key,value}"
UNIT = "block+/unit+/"
OURS = "stem/stages/#/#/"

# The optimiser's moments and steps; of a pair of towers the text's, and how they are compared
OTHERS = r"opt/|params/txt/|params/[bt]$"

ARRAYS = {
    "class_token": Row(("cls",), "1 1 D"),
    "positions/table": Row(("Transformer/posembed_input/pos_embedding",), "1 T D"),
}
MODULES = {
    "stem/conv": ("conv_root", "7 7 C F", None),
    "stem/norm": ("gn_root", "F", "F"),
    OURS + "conv1": (UNIT + "conv1", "1 1 i f", None),
    OURS + "norm1": (UNIT + "gn1", "f", "f"),
    OURS + "conv2": (UNIT + "conv2", "3 3 f f", None),
    OURS + "norm2": (UNIT + "gn2", "f", "f"),
    OURS + "conv3": (UNIT + "conv3", "1 1 f 4f", None),
    OURS + "norm3": (UNIT + "gn3", "4f", "4f"),
    OURS + "conv_shortcut": (UNIT + "conv_proj", "1 1 i 4f", None),
    OURS + "norm_shortcut": (UNIT + "gn_proj", "4f", "4f"),
    "patch_embedding": ("embedding", "P P I D", "D"),
    "blocks/#/norm1": (BLOCK + "LayerNorm_0", "D", "D"),
    "blocks/#/attention/qkv": ((OLD + QKV, NEW + QKV), "D k Dh", "k Dh"),
    "blocks/#/attention/out": ((OLD + "out", NEW + "out"), "k Dh D", "D"),
    "blocks/#/norm2": ((BLOCK + "LayerNorm_2", BLOCK + "LayerNorm_1"), "D", "D"),
    "blocks/#/mlp/hidden": (
        (BLOCK + "MlpBlock_3/Dense_0", BLOCK + "MlpBlock_0/Dense_0"), "D M", "M",
    ),
    "blocks/#/mlp/out": (
        (BLOCK + "MlpBlock_3/Dense_1", BLOCK + "MlpBlock_0/Dense_1"), "M D", "D",
    ),
    "norm": ("Transformer/encoder_norm", "D", "D"),
    "hidden": ("pre_logits", "D R", "R"),
    "head": ("head", "Y K", "K"),
}  # fmt: skip


def adapt(arrays: dict[str, Array]) -> Iterator[tuple[str, Array, str]]:
    """big_vision's own ways: all blocks in one array, positions added before the class token."""
    for name, array in arrays.items():
        before, together, after = name.partition("Transformer/encoderblock/")
        if together and array.ndim:  # (L, ...), a block after the other
            for i, one in enumerate(array):
                yield f"{before}Transformer/encoderblock_{i}/{after}", one, name
        elif name == "pos_embedding" and array.ndim == 3:
            table = with_class_row(array) if "cls" in arrays else array
            yield "Transformer/posembed_input/pos_embedding", table, name
        elif not re.match(OTHERS, name):
            yield name, array, name


def with_class_row(table: Array) -> Array:
    """(1, N, D)  ->  (1, N + 1, D): the class token gets a position, which adds nothing."""
    padded = np.zeros((1, table.shape[1] + 1, table.shape[2]), dtype=table.dtype)
    padded[:, 1:] = table
    return padded


GOOGLE = Layout(
    mark=r"(?!opt/state|params/txt)(.*?)Transformer/",
    rows=ARRAYS | rows_of(MODULES, kernel="/kernel", scale="/scale"),
    turned=False,
    settings={"gelu": "tanh", "norm_eps": 1e-6, "preprocessing": "google"},
    adapt=adapt,
)
