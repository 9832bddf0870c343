"""The kinds of figures, and the attention maps of a model by method."""

from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np

from ..api import ViT
from ..arrays import Array
from .attention import attention_rollout, patch_maps
from .relevance import attention_gradients, gradient_weighted_rollout

KINDS = {
    "maps": "attention maps over the image (Figure 6)",
    "distance": "mean attention distance of each head, by layer (Figure 7, right)",
    "positions": "cosine similarity of the position embeddings (Figure 7, centre)",
    "filters": "principal components of the patch embedding's filters (Figure 7, left)",
    "gradients": "attention maps of one layer's heads, and the gradient of the predicted logit",
}
IMAGE_KINDS = ("maps", "distance", "gradients")  # the others show only parameters
LAYER_KINDS = ("maps", "gradients")
METHODS = {
    "raw": "attention weights of each head of one layer",
    "mean": "mean over the heads of one layer",
    "max": "maximum over the heads of one layer",
    "rollout": "product over the layers (Abnar and Zuidema, 2020)",
    "relevance": "gradient-weighted rollout for a class (Chefer et al., 2021)",
}


def attention_maps(
    model: ViT,
    images: Array,
    methods: Sequence[str] = ("rollout",),
    layer: int = -1,
    head: int | None = None,
    targets: Sequence[int] = (),
    query: tuple[int, int] | None = None,
    fusion: str = "mean",
    discard: float = 0.0,
) -> dict[str, Array]:
    """Compute attention maps over the patches.

    Parameters
    ----------
    model : ViT
    images : (B, H, W, C) array of floats
    methods : sequence of str
        Names in METHODS.
    layer : int
        Index of the layer. "rollout" and "relevance" combine the layers up to this one.
    head : int, optional
        Use only the head with this index. By default all heads.
    targets : sequence of int
        Classes of "relevance", one map for each. By default the predicted class.
    query : (int, int), optional
        Row and column of the patch whose attention is shown. By default that of the class token or,
        in a model without one, the mean over all patches.
    fusion, discard : str, float
        Options of `attention_rollout`.

    Returns
    -------
    dict
        {title: (B, gh, gw) array}. "raw" gives one map per head.

    Raises
    ------
    ValueError
        For an unknown method, layer, head, target or query, or if "relevance" is requested of a
        model without a classifier.

    Examples
    --------
    >>> model = ViT.load(minivit.data.SCATTERED_MODEL)
    >>> images = minivit.data.load_scattered(n=1, held_out=3).held_out_images
    >>> maps = attention_maps(model, images, ["rollout", "raw"], layer=0, head=2)
    >>> {title: M.shape for title, M in maps.items()}
    {'rollout, layer 1, head 3': (3, 6, 6), 'layer 1, head 3': (3, 6, 6)}
    """
    A, gradients = compute_attention(model, images, methods, targets)
    combined = combine_attention(A, gradients, methods, layer, head, False, fusion, discard)
    return {title: patch_maps(M, model.config.grid, query) for title, M in combined.items()}


def compute_attention(
    model: ViT, images: Array, methods: Sequence[str], targets: Sequence[int] = ()
) -> tuple[Array, dict[str, Array]]:
    """Compute the attention A and, for "relevance", its gradient dA for each target.

    ->  A (L, B, h, T, T) and {name of the class: dA (L, B, h, T, T)}
    """
    if unknown := [method for method in methods if str(method) not in METHODS]:
        raise ValueError(f"unknown method {unknown[0]!r}: choose {', '.join(METHODS)}")
    if "relevance" not in methods:
        return model.attention(images), {}
    classes = {name_class(model, k): np.full(len(images), k) for k in targets}
    A, gradients = np.empty(0), {}
    for name, target in (classes or {"predicted": None}).items():
        A, gradients[name] = attention_gradients(model, images, target)
    return A, gradients


def combine_attention(
    attention: Array,
    gradients: dict[str, Array],
    methods: Sequence[str],
    layer: int = -1,
    head: int | None = None,
    name_layer: bool = False,
    fusion: str = "mean",
    discard: float = 0.0,
) -> dict[str, Array]:
    """Combine attention and gradients from `compute_attention`.  ->  {title: (B, T, T)}

    name_layer: name the layer in the title of each map, even if it is the last one
    """
    L, _, heads = attention.shape[:3]
    for name, index, count in ("layer", layer, L), ("head", head or 0, heads):
        if not isinstance(index, (int, np.integer)):
            raise TypeError(f"{name} must be an integer, not {index!r}")
        if not -count <= index < count:
            raise ValueError(f"{name} must be {-count} to {count - 1}, not {index}")
    layer %= L
    chosen = list(range(heads)) if head is None else [head % heads]
    number = layer + 1
    part = f", layer {number}" * (name_layer or number < L)
    only = "" if head is None else f", head {chosen[0] + 1}"
    A = attention[:number, :, chosen]  # (l, B, heads, T, T)
    combined = {}
    for method in methods:
        if method == "raw":
            maps = {f"layer {number}, head {i + 1}": A[-1, :, n] for n, i in enumerate(chosen)}
        elif method == "rollout":
            maps = {f"rollout{part}{only}": attention_rollout(A, fusion, discard)}
        elif method == "relevance":
            maps = {
                f"relevance, {name}{part}{only}": gradient_weighted_rollout(
                    A, dA[:number, :, chosen]
                )
                for name, dA in gradients.items()
            }
        else:
            maps = {f"layer {number}, {method}{only}": getattr(A[-1], method)(1)}
        combined |= maps
    return combined


def find_class(model: ViT, target: int | str) -> int:
    """Return the index of a class of a model, given by its index or its name.

    Upper and lower case are not distinguished. Raises ValueError if there is no such class, or if
    several have this name.
    """
    K, names = model.config.classes, model.class_names or ()
    if K is None:
        raise ValueError("the model has no classifier, so it has no classes")
    name = str(target).strip().lower()
    found = [k for k in range(len(names)) if names[k].lower() == name]
    if len(found) > 1:
        numbers = " and ".join(map(str, found))
        raise ValueError(f"the classes {numbers} are both called '{target}': pass an index")
    if not found and name.isdecimal() and int(name) < K:
        return int(name)
    if not found:
        choices = [] if name.lstrip("-").isdecimal() else [n.lower() for n in names]
        similar = get_close_matches(name, choices, n=3)
        hint = f"; did you mean {' or '.join(map(repr, similar))}?" if similar else ""
        known = f"a name or an index from 0 to {K - 1}" if names else f"0 to {K - 1}"
        raise ValueError(f"there is no class '{target}'" + (hint or f": choose {known}"))
    return found[0]


def name_class(model: ViT, k: int) -> str:
    """Return the name of class k or, if it is unknown, "class k"."""
    return model.class_names[k] if model.class_names else f"class {k}"
