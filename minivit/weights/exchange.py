"""Other people's names, in and out: whose they are, and a model's arrays under them."""

import re
from collections.abc import Iterable

import numpy as np

from ..arrays import Array, to_host
from ..models import ViTConfig
from ..tree import Tree, flatten
from .google import GOOGLE
from .huggingface import HUGGINGFACE
from .layouts import names_of, row_of, shape_of, turned_back
from .timm import TIMM

FOREIGN = {"google": GOOGLE, "timm": TIMM, "huggingface": HUGGINGFACE}
LAYOUTS = ("minivit", *FOREIGN)


def export(tree: Tree, config: ViTConfig, layout: str) -> dict[str, Array]:
    """The arrays of a tree under other people's names, in their shapes, on the host.

    `tree` has the shape of the model's parameters: these, or gradients. `layout` is one of
    "minivit", "google", "timm", "huggingface". Raises ValueError for another, or if it has no
    name for what the model has.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}: choose {', '.join(LAYOUTS)}")
    flat = {name: to_host(leaf) for name, leaf in flatten(tree).items()}
    if layout == "minivit":
        return flat
    theirs, arrays = FOREIGN[layout], {}
    spelling = int(layout == "timm" and config.stem == ())  # a root alone has another name there
    for ours, leaf in flat.items():
        if row_of(ours, theirs) is None:
            raise ValueError(f"the layout '{layout}' has no name for '{ours}'")
        names, shape = names_of(ours, theirs, spelling), shape_of(ours, theirs, config)
        prefix = theirs.prefix * (config.classes is not None and not ours.startswith("head/"))
        for name, part in zip(names, np.split(leaf, len(names), axis=-1), strict=True):
            arrays[prefix + name] = np.ascontiguousarray(turned_back(part, shape, theirs))
    return arrays


def recognise(names: Iterable[str]) -> str | None:
    """Whose names these are: a key of FOREIGN, or None."""
    names = list(names)
    for layout, theirs in FOREIGN.items():
        if any(re.match(theirs.mark, name) for name in names):
            return layout
    return None
