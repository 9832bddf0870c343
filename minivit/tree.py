"""Trees of arrays: parameters and their gradients as nested dicts and lists.

A tree's leaves have names, the path to them: `blocks/0/attention/qkv/kernel`. Checkpoints, the
weight-decay rule, the gradient checker and every message use these names.
"""

from collections.abc import Callable
from typing import Any

from .arrays import Array, array_module

Tree = Any  # an array, or a dict or list of trees


def flatten(tree: Tree) -> dict[str, Array]:
    """The leaves of a tree by name: {"blocks/0/norm1/scale": array, ...}. No array is copied."""
    if not isinstance(tree, (dict, list)):
        return {"": tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {
        f"{name}/{rest}".rstrip("/"): leaf
        for name, branch in items
        for rest, leaf in flatten(branch).items()
    }


def unflatten(flat: dict[str, Array]) -> Tree:
    """The tree of named leaves, the inverse of `flatten`: names that count 0, 1, 2 make a list.

    Raises ValueError if a name is a leaf and a branch at once, or a list has a gap.
    """
    if set(flat) == {""}:
        return flat[""]
    branches: dict[str, dict[str, Array]] = {}
    for path, leaf in flat.items():
        name, _, rest = path.partition("/")
        branches.setdefault(name, {})[rest] = leaf
    for name, branch in branches.items():
        if "" in branch and len(branch) > 1:
            raise ValueError(f"'{name}' is an array and a folder of arrays at once")
    tree = {name: unflatten(branch) for name, branch in branches.items()}
    if tree and all(name.isdecimal() for name in tree):
        if sorted(map(int, tree)) != list(range(len(tree))):
            raise ValueError(f"a list counts {', '.join(tree)}: expected 0 to {len(tree) - 1}")
        return [tree[str(i)] for i in range(len(tree))]
    return tree


def map_tree(function: Callable[..., Any], *trees: Tree) -> Tree:
    """The tree of function(leaf, ...) over trees of the same shape."""
    first = trees[0]
    if isinstance(first, dict):
        return {name: map_tree(function, *(tree[name] for tree in trees)) for name in first}
    if isinstance(first, list):
        return [map_tree(function, *branches) for branches in zip(*trees, strict=True)]
    return function(*trees)


def count_parameters(tree: Tree) -> int:
    """The number of scalars in a tree."""
    return sum(leaf.size for leaf in flatten(tree).values())


def is_kernel(name: str) -> bool:
    """Kernels lie first in the packed vector: weight decay is for them only."""
    return name.endswith("kernel")


def pack(tree: Tree, first: Callable[[str], bool] = lambda name: True) -> tuple[Array, int]:
    """Move all leaves into one vector; the tree keeps its shape and now holds views of it.

    The leaves for which first(name) is true come first, each part in the order of the names.
    Returns the vector and the number of scalars in that first part. One vector makes an optimiser
    a few lines long, and its update fast.
    """
    flat = flatten(tree)
    names = sorted(flat, key=lambda name: (not first(name), name))
    xp = array_module(flat[names[0]])
    vector = xp.concatenate([flat[name].ravel() for name in names])
    start, views = 0, {}
    for name in names:
        leaf = flat[name]
        views[name] = vector[start : start + leaf.size].reshape(leaf.shape)
        start += leaf.size
    _replace(tree, unflatten(views))
    return vector, sum(flat[name].size for name in names if first(name))


def _replace(tree: Tree, leaves: Tree) -> None:
    for name, branch in list(tree.items()) if isinstance(tree, dict) else enumerate(tree):
        if isinstance(branch, (dict, list)):
            _replace(branch, leaves[name])
        else:
            tree[name] = leaves[name]
