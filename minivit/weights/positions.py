"""Resize position embeddings to another grid (section 3.2 of the paper)."""

import dataclasses

from ..arrays import Array, array_module
from ..data.resampling import resample
from ..models import ViTConfig
from ..tree import Tree


def resize_positions(
    table: Array, old_grid: tuple[int, int], new_grid: tuple[int, int], method: str = "aligned"
) -> Array:
    """Interpolate position embeddings at the patches of another grid.

    table (T, D), old grid (gh, gw)  ->  (T', D) of the same dtype
    If T = gh gw + 1, the first row belongs to the class token and stays unchanged. `method` is one
    of `minivit.data.resampling`: the authors use "aligned", timm "antialiased", Hugging Face
    "bicubic". Raises ValueError if T does not fit the old grid, or for an unknown method.
    """
    (gh, gw), (T, D) = old_grid, table.shape
    if T not in (gh * gw, gh * gw + 1):
        raise ValueError(f"{T} positions do not fit a grid of {gh} x {gw} patches")
    first = T - gh * gw
    # In float64, because rounding errors of the table affect every token
    patches = table[first:].astype("float64").reshape(gh, gw, D)
    resized = resample(patches, new_grid, method).reshape(-1, D).astype(table.dtype)
    return array_module(table).concatenate([table[:first], resized])


def resize_model(
    config: ViTConfig, params: Tree, image_size: int | tuple[int, int], method: str
) -> tuple[ViTConfig, Tree]:
    """Return the model for another image size, with its position embeddings resized.

    Raises ValueError for relative positions, and for a size that cannot be cut into patches.
    """
    resized_config = dataclasses.replace(config, image_size=image_size)
    old, new = config.grid, resized_config.grid
    if old == new or config.positions in ("none", "sincos2d"):
        return resized_config, params
    if config.positions == "relative":
        raise ValueError("relative positions cannot be resized: their table is not a grid")
    tables = params["positions"]
    if config.positions == "1d":
        resized = {"table": resize_positions(tables["table"], old, new, method)}
    else:
        resized = {
            name: resize_positions(tables[name], (n, 1), (m, 1), method)
            for name, n, m in zip(("rows", "columns"), old, new, strict=True)
        }
    return resized_config, params | {"positions": tables | resized}
