"""Position embeddings: E_pos of Equation 1, in the variants that appendix D.4 compares.

- `none`: nothing is added.
- `1d` (default): one learned vector per token, in raster order.
- `2d`: half a vector per column and half a vector per row of the patch grid, both learned.
- `relative`: a term that depends on the offset between query and key is added to each attention
  score. Nothing is added to the tokens.
- `sincos2d`: fixed sine and cosine waves (big_vision).

The grid has gh rows and gw columns of patches.
"""

import math
from typing import Any

from ..arrays import Array, Pullback, array_module, matmul, widen_float16


@widen_float16
def add_positions(z: Array, table: Array) -> tuple[Array, Pullback]:
    """`1d`: add one learned vector per token, including the class token.

    z (B, T, D), table E_pos (T, D)  ->  (B, T, D)    (Equation 1)
    """

    def pullback(dz: Array) -> tuple[Array, dict[str, Array]]:
        return dz, {"table": dz.sum(0)}  # all images share the table

    return z + table, pullback


@widen_float16
def add_positions_2d(
    z: Array, rows: Array, columns: Array, class_token: Array | None = None
) -> tuple[Array, Pullback]:
    """`2d`: the first half of a patch's vector depends on its column, the second on its row.

    z (B, T, D), rows (gh, D / 2), columns (gw, D / 2), class_token (D,) or None  ->  (B, T, D)
    T is gh gw, or gh gw + 1 with a vector for the class token. (Appendix D.4)
    """
    xp = array_module(z)
    D = z.shape[-1]
    gh, gw = len(rows), len(columns)
    by_column = xp.broadcast_to(columns[None, :, :], (gh, gw, D // 2))
    by_row = xp.broadcast_to(rows[:, None, :], (gh, gw, D // 2))
    table = xp.concatenate([by_column, by_row], axis=2).reshape(gh * gw, D)
    if class_token is not None:
        table = xp.concatenate([class_token[None], table])  # (T, D)

    def pullback(dz: Array) -> tuple[Array, dict[str, Array]]:
        dtable = dz.sum(0)  # (T, D)
        grid = dtable[-gh * gw :].reshape(gh, gw, D)
        dparams = {"rows": grid[:, :, D // 2 :].sum(1), "columns": grid[:, :, : D // 2].sum(0)}
        if class_token is not None:
            dparams["class_token"] = dtable[0]
        return dz, dparams

    return z + table, pullback


def add_positions_sincos2d(z: Array, grid: tuple[int, int]) -> tuple[Array, Pullback]:
    """`sincos2d`: add fixed waves along x and y to the patches, and zeros to a class token.

    z (B, T, D) with D a multiple of 4  ->  (B, T, D)
    The vector of a patch in column x and row y, both counted from 0, is [sin xω, cos xω, sin yω,
    cos yω] with ω_j = 10000^(-j / (D/4 - 1)), j = 0 .. D/4 - 1. (big_vision, after MoCo v3)
    """
    xp = array_module(z)
    T, D = z.shape[1:]
    gh, gw = grid
    dtype = z.real.dtype
    steps = xp.arange(D // 4, dtype=dtype) / max(D // 4 - 1, 1)
    omega = xp.exp(-math.log(10000) * steps)  # (D / 4,)
    x = xp.broadcast_to(xp.arange(gw, dtype=dtype)[None, :, None] * omega, (gh, gw, D // 4))
    y = xp.broadcast_to(xp.arange(gh, dtype=dtype)[:, None, None] * omega, (gh, gw, D // 4))
    waves = xp.concatenate([xp.sin(x), xp.cos(x), xp.sin(y), xp.cos(y)], axis=2)
    table = xp.concatenate([xp.zeros((T - gh * gw, D), dtype=dtype), waves.reshape(gh * gw, D)])
    return z + table, lambda dz: (dz, {})


@widen_float16
def relative_positions(q: Array, table: Array, class_token: bool) -> tuple[Array, Pullback]:
    """`relative`: compute a bias of the attention scores from queries and learned vectors.

    q (B, h, T, Dh), already divided by √Dh; table (R, h Dh)  ->  bias (B, h, T, T)

    The bias of query i and key j is q_i · r, where r is the row of the table for their offset. N
    patches in raster order have 2N - 1 offsets, i - j + N - 1. With a class token there are three
    more rows: from the class token to a patch, from a patch to the class token, and from the class
    token to itself. Each head uses Dh of the columns. (Appendix D.4, which does not specify the
    treatment of the class token)
    """
    xp = array_module(q)
    h, T, Dh = q.shape[1:]
    R = len(table)
    offset = relative_offsets(xp, T, class_token)  # (T, T)
    keys = table.reshape(R, h, Dh).swapaxes(0, 1)  # (h, R, Dh)
    query = xp.arange(T)[:, None]
    scores = matmul(q, keys.swapaxes(1, 2))  # (B, h, T, R), of all queries and offsets

    def pullback(dbias: Array) -> tuple[Array, dict[str, Array]]:
        dscores = xp.zeros_like(scores)
        dscores[:, :, query, offset] = dbias  # each query uses an offset once, except
        if class_token:  # the class token, which uses one offset for all patches
            dscores[:, :, 0, R - 3] = dbias[:, :, 0, 1:].sum(-1)
        dkeys = matmul(dscores.swapaxes(2, 3), q).sum(0)  # (h, R, Dh)
        return matmul(dscores, keys), {"table": dkeys.swapaxes(0, 1).reshape(table.shape)}

    return scores[:, :, query, offset], pullback


def relative_offsets(xp: Any, T: int, class_token: bool) -> Array:
    """Return the row of the relative table for each query and key, (T, T) integers."""
    N = T - 1 if class_token else T
    between = xp.arange(N)[:, None] - xp.arange(N) + N - 1  # (N, N), from 0 to 2N - 2
    if not class_token:
        return between
    offsets = xp.full((T, T), 2 * N + 1)  # from the class token to itself
    offsets[0, 1:], offsets[1:, 0], offsets[1:, 1:] = 2 * N - 1, 2 * N, between
    return offsets
