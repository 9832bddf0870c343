"""Self-attention, Equations 5 to 8."""

import math

import numpy as np

from ..arrays import Array, Pullback, Watch, array_module, matmul
from .dropout import dropout
from .linear import linear
from .positions import relative_positions
from .softmax import softmax


def attend(
    q: Array, k: Array, v: Array, bias: Array | None = None, watch: Watch | None = None
) -> tuple[Array, Pullback]:
    """Average the values with the attention weights A:  y = A v,  A = softmax(q kᵀ + bias).

    q, k, v (..., T, Dh), bias (..., T, T)  ->  y (..., T, Dh)    (Equations 6 and 7)
    The caller divides q by √Dh. The pullback returns (dq, dk, dv, dscores); dscores is also the
    gradient of the bias. Its argument `out` is an optional triple of arrays for dq, dk and dv.
    `watch` receives "probabilities" A and, in the pullback, "dprobabilities".
    """
    scores = matmul(q, k.swapaxes(-1, -2))  # (..., T, T)
    if bias is not None:
        scores += bias
    A, softmax_back = softmax(scores, out=scores)  # (6)
    if watch:
        watch("probabilities", A)

    def pullback(
        dy: Array, out: tuple[Array | None, ...] = (None, None, None)
    ) -> tuple[Array, Array, Array, Array]:
        dA = matmul(dy, v.swapaxes(-1, -2))  # (..., T, T)
        if watch:
            watch("dprobabilities", dA)
        dscores = softmax_back(dA)
        dq = matmul(dscores, k, out[0])
        dk = matmul(dscores.swapaxes(-1, -2), q, out[1])
        dv = matmul(A.swapaxes(-1, -2), dy, out[2])
        return dq, dk, dv, dscores

    return matmul(A, v), pullback  # (7)


def single_head_attention(
    z: Array, kernel: Array, bias: Array | None = None, watch: Watch | None = None
) -> tuple[Array, Pullback]:
    """One attention head:  SA(z) = A v  with  [q, k, v] = z U_qkv.

    z (..., T, D), kernel U_qkv (D, 3 Dh), bias (3 Dh,)  ->  (..., T, Dh)    (Equations 5 to 7)
    """
    xp = array_module(z)
    Dh = kernel.shape[1] // 3
    qkv, qkv_back = linear(z, kernel, bias)  # (5)  (..., T, 3 Dh)
    q, k, v = qkv[..., :Dh], qkv[..., Dh : 2 * Dh], qkv[..., 2 * Dh :]
    y, attend_back = attend(q / math.sqrt(Dh), k, v, watch=watch)

    def pullback(dy: Array) -> tuple[Array, dict[str, Array]]:
        dq, dk, dv, _ = attend_back(dy)
        return qkv_back(xp.concatenate([dq / math.sqrt(Dh), dk, dv], axis=-1))

    return y, pullback


def self_attention(
    z: Array, qkv: dict[str, Array], out: dict[str, Array], heads: int,
    relative: dict[str, Array] | None = None, class_token: bool = True, rate: float = 0.0,
    generator: np.random.Generator | None = None, watch: Watch | None = None,
) -> tuple[Array, Pullback]:  # fmt: skip
    """Multi-head self-attention:  MSA(z) = [SA_1(z); ...; SA_h(z)] U_msa.

    z (B, T, D), qkv {kernel U_qkv (D, 3 D), bias (3 D,)}, out {kernel U_msa (D, D), bias (D,)}
    ->  (B, T, D)    (Equations 5 to 8)

    The columns of U_qkv compute the queries of head 1, head 2, ..., then all keys, then all values.
    `relative` {table (R, D)} and `class_token` are passed to `relative_positions` (appendix D.4).
    Dropout of `rate` follows U_msa. `watch` receives "probabilities" (B, h, T, T) and, in the
    pullback, "dprobabilities". Raises ValueError if D is not a multiple of `heads`.
    """
    xp = array_module(z)
    B, T, D = z.shape
    Dh = D // heads
    if Dh * heads != D:
        raise ValueError(f"width {D} is not a multiple of {heads} heads")
    scale = 1 / math.sqrt(Dh)
    packed, qkv_back = linear(z, **qkv)  # (5)  (B, T, 3 D)
    q, k, v = packed.reshape(B, T, 3, heads, Dh).transpose(2, 0, 3, 1, 4)  # each (B, h, T, Dh)
    q = q * scale
    bias, relative_back = (
        relative_positions(q, **relative, class_token=class_token) if relative else (None, None)
    )
    y, attend_back = attend(q, k, v, bias, watch)  # (6, 7)  (B, h, T, Dh)
    concatenated = y.swapaxes(1, 2).reshape(B, T, D)
    projected, out_back = linear(concatenated, **out)  # (8)
    attn_out, drop_back = dropout(projected, rate, generator)

    def pullback(dattn_out: Array) -> tuple[Array, dict[str, dict[str, Array]]]:
        dconcatenated, dout = out_back(drop_back(dattn_out))
        dy = dconcatenated.reshape(B, T, heads, Dh).swapaxes(1, 2)  # (B, h, T, Dh)
        dpacked = xp.empty((B, T, 3, heads, Dh), dtype=dy.dtype)
        dq, dk, dv = dpacked.transpose(2, 0, 3, 1, 4)  # views, filled by the next line
        *_, dscores = attend_back(dy, out=(dq, dk, dv))
        dparams = {"out": dout}
        if relative_back is not None:
            dq_relative, dparams["relative"] = relative_back(dscores)
            dq += dq_relative
        dq *= scale
        dz, dparams["qkv"] = qkv_back(dpacked.reshape(B, T, 3 * D))
        return dz, dparams

    return attn_out, pullback
