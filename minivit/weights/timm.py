"""The names of timm's files, which are DINO's and DeiT's too.

Kernels are (out, in). U_qkv is one matrix, as in the paper. A hybrid in these names is computed
with the authors' constants, which differ a little from timm's (eps of the norms and kernels).
"""

from .layouts import Layout, Row, Table, rows_of

BLOCK = "blocks.#."
ROOT = "patch_embed.backbone."
UNIT = ROOT + "stages.#.blocks.#."
OURS = "stem/stages/#/#/"


def stem(conv: str | tuple[str, ...], norm: str | tuple[str, ...], unit: str) -> Table:
    """The rows of a hybrid's ResNet in PyTorch's axes: its root's two modules, its units."""
    return {
        "stem/conv": (conv, "F C 7 7", None),
        "stem/norm": (norm, "F", "F"),
        OURS + "conv1": (unit + "conv1", "f i 1 1", None),
        OURS + "norm1": (unit + "norm1", "f", "f"),
        OURS + "conv2": (unit + "conv2", "f f 3 3", None),
        OURS + "norm2": (unit + "norm2", "f", "f"),
        OURS + "conv3": (unit + "conv3", "4f f 1 1", None),
        OURS + "norm3": (unit + "norm3", "4f", "4f"),
        OURS + "conv_shortcut": (unit + "downsample.conv", "4f i 1 1", None),
        OURS + "norm_shortcut": (unit + "downsample.norm", "4f", "4f"),
    }


ARRAYS = {
    "class_token": Row(("cls_token",), "1 1 D"),
    "positions/table": Row(("pos_embed",), "1 T D"),
}
MODULES = {
    **stem((ROOT + "stem.conv", ROOT + "conv"), (ROOT + "stem.norm", ROOT + "norm"), UNIT),
    "patch_embedding": ("patch_embed.proj", "D I P P", "D"),
    "blocks/#/norm1": (BLOCK + "norm1", "D", "D"),
    "blocks/#/attention/qkv": (BLOCK + "attn.qkv", "3D D", "3D"),
    "blocks/#/attention/out": (BLOCK + "attn.proj", "D D", "D"),
    "blocks/#/norm2": (BLOCK + "norm2", "D", "D"),
    "blocks/#/mlp/hidden": (BLOCK + "mlp.fc1", "M D", "M"),
    "blocks/#/mlp/out": (BLOCK + "mlp.fc2", "D M", "D"),
    "norm": ("norm", "D", "D"),
    "hidden": ("pre_logits.fc", "R D", "R"),
    "head": ("head", "K Y", "K"),
}

TIMM = Layout(
    mark=r"(.*?)blocks\.\d+\.(?:attn|mlp)\.",
    rows=ARRAYS | rows_of(MODULES, kernel=".weight", scale=".weight"),
    turned=True,
    settings={"gelu": "erf", "norm_eps": 1e-6, "preprocessing": "timm"},
)
