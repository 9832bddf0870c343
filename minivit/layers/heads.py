"""Equation 4 and what follows it: one vector for the image, and the classifier on top."""

from ..arrays import Array, Pullback, array_module, matmul
from .linear import linear


def class_pool(z: Array) -> tuple[Array, Pullback]:
    """The class token's output stands for the image:  y = z_L^0.

    z (B, T, D)  ->  y (B, D)    (Equation 4; the final layer norm has been applied to z)
    """
    xp = array_module(z)

    def pullback(dy: Array) -> Array:
        dz = xp.zeros(z.shape, dtype=dy.dtype)  # the patches go straight to nothing
        dz[:, 0] = dy
        return dz

    return z[:, 0], pullback


def mean_pool(z: Array) -> tuple[Array, Pullback]:
    """The mean of the patches stands for the image.

    z (B, N, D)  ->  y (B, D)    (Appendix D.3; after the final layer norm, as the authors do)
    """
    xp = array_module(z)
    B, N, D = z.shape

    def pullback(dy: Array) -> Array:
        return xp.broadcast_to((dy / N)[:, None], (B, N, D))

    return matmul(xp.full((1, N), 1 / N, dtype=z.dtype), z)[:, 0], pullback


def hidden_layer(y: Array, kernel: Array, bias: Array) -> tuple[Array, Pullback]:
    """The layer that the head has in pre-training, tanh(y kernel + bias).

    y (B, D), kernel (D, R), bias (R,)  ->  (B, R)    (Section 3.1)
    """
    h, linear_back = linear(y, kernel, bias)  # (B, R)
    t = array_module(y).tanh(h)

    def pullback(dt: Array) -> tuple[Array, dict[str, Array]]:
        return linear_back(dt * (1 - t * t))

    return t, pullback


def pretraining_head(
    y: Array, hidden: dict[str, Array], head: dict[str, Array]
) -> tuple[Array, Pullback]:
    """The head of pre-training: one hidden tanh layer, then a linear one.

    y (B, D), hidden {kernel (D, R), bias (R,)}, head {kernel (R, K), bias (K,)}  ->  (B, K)
    (Section 3.1. For fine-tuning the hidden layer goes and a zero-initialised `linear` stays.)
    """
    t, hidden_back = hidden_layer(y, **hidden)  # (B, R)
    logits, head_back = linear(t, **head)  # (B, K)

    def pullback(dlogits: Array) -> tuple[Array, dict[str, dict[str, Array]]]:
        dt, dhead = head_back(dlogits)
        dy, dhidden = hidden_back(dt)
        return dy, {"hidden": dhidden, "head": dhead}

    return logits, pullback
