"""Trees of arrays: parameters and gradients as nested dicts and lists.

A leaf is named by the path to it, for example `blocks/0/attention/qkv/kernel`. Checkpoints, weight
decay, the gradient checker and error messages use these names.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from .arrays import Array, array_module

Tree = Any  # an array, or a dict or list of trees


def flatten(tree: Tree) -> dict[str, Array]:
    """Return a dict of the leaves of a tree. No array is copied.

    Parameters
    ----------
    tree : array, or dict or list of trees
        Parameters or gradients of a model, for example.

    Returns
    -------
    dict
        {name: array}. The name of a leaf is the path to it, joined by slashes.

    Examples
    --------
    >>> flatten({"blocks": [{"scale": 1.0}, {"scale": 2.0}]})
    {'blocks/0/scale': 1.0, 'blocks/1/scale': 2.0}
    """
    if not isinstance(tree, (dict, list)):
        return {"": tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {
        f"{name}/{path}".rstrip("/"): leaf
        for name, branch in items
        for path, leaf in flatten(branch).items()
    }


def unflatten(flat: dict[str, Array]) -> Tree:
    """Rebuild a tree from its named leaves. This is the inverse of `flatten`.

    Parameters
    ----------
    flat : dict
        {name: array}, as returned by `flatten`. Names that count 0, 1, 2, ... form a list.

    Returns
    -------
    array, or dict or list of trees

    Raises
    ------
    ValueError
        If a name is both a leaf and a branch, or if the indices of a list have a gap.

    Examples
    --------
    >>> unflatten({"blocks/0/scale": 1.0, "blocks/1/scale": 2.0})
    {'blocks': [{'scale': 1.0}, {'scale': 2.0}]}
    """
    if set(flat) == {""}:
        return flat[""]
    branches: dict[str, dict[str, Array]] = {}
    for path, leaf in flat.items():
        name, _, subpath = path.partition("/")
        branches.setdefault(name, {})[subpath] = leaf
    for name, branch in branches.items():
        if "" in branch and len(branch) > 1:
            raise ValueError(f"'{name}' is both an array and a group of arrays")
    tree = {name: unflatten(branch) for name, branch in branches.items()}
    if tree and all(name.isdecimal() for name in tree):
        if sorted(map(int, tree)) != list(range(len(tree))):
            raise ValueError(
                f"a list has the indices {', '.join(tree)}: expected 0 to {len(tree) - 1}"
            )
        return [tree[str(i)] for i in range(len(tree))]
    return tree


def map_tree(function: Callable[..., Any], *trees: Tree) -> Tree:
    """Apply function(leaf, ...) to the corresponding leaves of trees of the same structure."""
    first = trees[0]
    if isinstance(first, dict):
        return {name: map_tree(function, *(tree[name] for tree in trees)) for name in first}
    if isinstance(first, list):
        return [map_tree(function, *branches) for branches in zip(*trees, strict=True)]
    return function(*trees)


def count_parameters(tree: Tree) -> int:
    """Return the number of scalars in a tree."""
    return sum(leaf.size for leaf in flatten(tree).values())


class ParameterVector(NamedTuple):
    """A tree whose leaves are views of one vector, created by `pack`."""

    vector: Array  # (P,), first all kernels and then all other leaves, each sorted by name
    tree: Tree  # the tree of views
    decayed: int  # number of scalars in the kernels; weight decay applies to vector[:decayed]


def pack(tree: Tree) -> ParameterVector:
    """Copy all leaves into one vector and replace them in the tree by views of it.

    Updating one vector takes less code and less time than updating each array.
    """
    flat = flatten(tree)
    kernels = sorted(name for name in flat if name.endswith("kernel"))
    names = kernels + sorted(flat.keys() - kernels)
    xp = array_module(flat[names[0]])
    vector = xp.concatenate([flat[name].ravel() for name in names])
    start, views = 0, {}
    for name in names:
        leaf = flat[name]
        views[name] = vector[start : start + leaf.size].reshape(leaf.shape)
        start += leaf.size
    _replace_leaves(tree, unflatten(views))
    return ParameterVector(vector, tree, sum(flat[name].size for name in kernels))


def _replace_leaves(tree: Tree, leaves: Tree) -> None:
    for name, branch in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(branch, (dict, list)):
            _replace_leaves(branch, leaves[name])
        else:
            tree[name] = leaves[name]
