"""The embedding, Equation 1:  z_0 = [x_class; x_p^1 E; x_p^2 E; ...; x_p^N E] + E_pos."""

from ..arrays import Array, Pullback, array_module, widen_float16
from .linear import linear
from .patches import patchify


def patch_embedding(
    images: Array, kernel: Array, bias: Array | None, patch_size: int
) -> tuple[Array, Pullback]:
    """Project each patch to D dimensions by the matrix E.

    images (B, H, W, C), kernel E (P P C, D), bias (D,) or None  ->  x (B, N, D)
    The result equals a convolution with kernel E.reshape(P, P, C, D) and stride P.
    """
    patches, patchify_back = patchify(images, patch_size)  # (B, N, P P C)
    x, linear_back = linear(patches, kernel, bias)  # (B, N, D)

    def pullback(dx: Array) -> tuple[Array, dict[str, Array]]:
        dpatches, dparams = linear_back(dx)
        return patchify_back(dpatches), dparams

    return x, pullback


@widen_float16
def prepend_class_token(x: Array, class_token: Array) -> tuple[Array, Pullback]:
    """Prepend the class token.  x (B, N, D), class_token (D,)  ->  z (B, N + 1, D)"""
    B, _, D = x.shape
    xp = array_module(x)
    tokens = xp.broadcast_to(class_token, (B, 1, D))

    def pullback(dz: Array) -> tuple[Array, dict[str, Array]]:
        return dz[:, 1:], {"class_token": dz[:, 0].sum(0)}  # all images share the token

    return xp.concatenate([tokens, x], axis=1), pullback
