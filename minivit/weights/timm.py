"""The layout of timm's files, which DINO and DeiT use too.

Kernels are (out, in). U_qkv is one matrix, as in the paper. minivit computes hybrids with the
authors' epsilons (of the norms and the standardised kernels), which differ slightly from timm's.
"""

from collections.abc import Collection

from .layouts import Names, Spelling, parts_in_use, torch_units

DEFAULTS = {"gelu": "erf", "norm_eps": 1e-6, "preprocessing": "timm"}
ROOT_ALONE = {"backbone.stem.conv": "backbone.conv", "backbone.stem.norm": "backbone.norm"}
NAMES = Names(
    {
        "class_token": "cls_token",
        "positions/table": "pos_embed",
        "stem/conv": "patch_embed.backbone.stem.conv",
        "stem/norm": "patch_embed.backbone.stem.norm",
        **torch_units("patch_embed.backbone.stages.{}.blocks.{}."),
        "patch_embedding": "patch_embed.proj",
        "blocks/{}/norm1": "blocks.{}.norm1",
        "blocks/{}/attention/qkv": "blocks.{}.attn.qkv",
        "blocks/{}/attention/out": "blocks.{}.attn.proj",
        "blocks/{}/norm2": "blocks.{}.norm2",
        "blocks/{}/mlp/hidden": "blocks.{}.mlp.fc1",
        "blocks/{}/mlp/out": "blocks.{}.mlp.fc2",
        "norm": "norm",
        "hidden": "pre_logits.fc",
        "head": "head",
    }
)
infer_config, names = NAMES.infer_config, NAMES.entries


def find_spelling(names: Collection[str]) -> Spelling | None:
    """Return the spelling of timm's names in a file, or None if it has none."""
    for name in names:
        prefix, separator, suffix = name.partition("blocks.")
        if separator and (".attn." in suffix or ".mlp." in suffix):
            return Spelling(prefix, parts_in_use(names, ROOT_ALONE))
    return None
