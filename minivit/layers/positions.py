"""E_pos of Equation 1, in the kinds that appendix D.4 compares.

`none` adds nothing. `1d` is the default, a learned vector for each token in raster order. `2d`
learns a half for each row and a half for each column. `relative` adds nothing to the tokens: it
adds to the attention scores what the query says to the offset between query and key.
`sincos2d` is fixed (big_vision). The grid is (rows, columns) of patches.
"""

import math
from typing import Any

from ..arrays import Array, Pullback, array_module


def add_positions(z: Array, table: Array) -> tuple[Array, Pullback]:
    """`1d`: one learned vector a token, the class token's among them.

    z (B, T, D), table E_pos (T, D)  ->  (B, T, D)    (Equation 1)
    """

    def pullback(dz: Array) -> tuple[Array, dict[str, Array]]:
        return dz, {"table": dz.sum(0)}  # one table serves the whole batch

    return z + table, pullback


def add_positions_2d(
    z: Array, rows: Array, columns: Array, class_token: Array | None = None
) -> tuple[Array, Pullback]:
    """`2d`: half of the width tells the patch's column, the other half its row.

    z (B, T, D), rows (gh, D / 2), columns (gw, D / 2)  ->  (B, T, D), with T = gh gw patches.
    The class token has no place on the grid: if there is one (T = gh gw + 1), it has an entry
    of its own, class_token (D,). (Appendix D.4)
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
    """`sincos2d`: fixed waves along x and y; a class token gets zeros.

    z (B, T, D) with D a multiple of 4  ->  (B, T, D). Nothing is learned. A patch's vector is
    [sin xω, cos xω, sin yω, cos yω] with ω_j = 10000^(-j / (D/4 - 1)), j = 0 .. D/4 - 1, its
    column x and its row y counted from 0. (big_vision, after MoCo v3)
    """
    xp = array_module(z)
    T, D = z.shape[1:]
    gh, gw = grid
    kind = z.real.dtype
    steps = xp.arange(D // 4, dtype=kind) / max(D // 4 - 1, 1)
    omega = xp.exp(-math.log(10000) * steps)  # (D / 4,)
    x = xp.broadcast_to(xp.arange(gw, dtype=kind)[None, :, None] * omega, (gh, gw, D // 4))
    y = xp.broadcast_to(xp.arange(gh, dtype=kind)[:, None, None] * omega, (gh, gw, D // 4))
    waves = xp.concatenate([xp.sin(x), xp.cos(x), xp.sin(y), xp.cos(y)], axis=2)
    table = xp.concatenate([xp.zeros((T - gh * gw, D), dtype=kind), waves.reshape(gh * gw, D)])

    def pullback(dz: Array) -> Array:
        return dz

    return z + table, pullback


def relative_positions(q: Array, table: Array, class_token: bool) -> tuple[Array, Pullback]:
    """`relative`: an extra attention whose keys are offsets, its scores a bias to the others.

    q (B, k, T, Dh) the queries, already divided by √Dh; table (R, k Dh)  ->  (B, k, T, T).

    The score of query i and key j is q_i · r, where r is the table's row for their offset. For N
    patches in raster order there are 2N - 1 offsets, i - j + N - 1. A class token has offsets of
    its own, the last three rows: from it to a patch, from a patch to it, and to itself. Each
    layer has a table of its own, shared out among the heads like the keys. (Appendix D.4, which
    leaves these last choices open)
    """
    xp = array_module(q)
    k, T, Dh = q.shape[1:]
    R = len(table)
    offset = relative_offsets(xp, T, class_token)  # (T, T)
    keys = table.reshape(R, k, Dh).swapaxes(0, 1)  # (k, R, Dh)
    query = xp.arange(T)[:, None]
    every = q @ keys.swapaxes(1, 2)  # (B, k, T, R)

    def pullback(dbias: Array) -> tuple[Array, dict[str, Array]]:
        devery = xp.zeros_like(every)
        devery[:, :, query, offset] = dbias  # a query meets an offset once ...
        if class_token:
            devery[:, :, 0, R - 3] = dbias[:, :, 0, 1:].sum(-1)  # ... but the class token's
        dkeys = (devery.swapaxes(2, 3) @ q).sum(0)  # (k, R, Dh)
        return devery @ keys, {"table": dkeys.swapaxes(0, 1).reshape(table.shape)}

    return every[:, :, query, offset], pullback


def relative_offsets(xp: Any, T: int, class_token: bool) -> Array:
    """The row of the relative table for each query and key, (T, T) integers."""
    N = T - 1 if class_token else T
    between = xp.arange(N)[:, None] - xp.arange(N) + N - 1  # (N, N), from 0 to 2N - 2
    if not class_token:
        return between
    from_class, to_class = xp.full((1, N), 2 * N - 1), xp.full((N, 1), 2 * N)
    itself = xp.full((1, 1), 2 * N + 1)
    return xp.concatenate(
        [xp.concatenate([itself, from_class], 1), xp.concatenate([to_class, between], 1)]
    )
