"""Pooling (Equation 4) and the classification head."""

from ..arrays import Array, Pullback, array_module, matmul, widen_float16
from .linear import linear


def class_pool(z: Array) -> tuple[Array, Pullback]:
    """Represent the image by the class token:  y = z_L^0.

    z (B, T, D), after the final layer norm  ->  y (B, D)    (Equation 4)
    """
    xp = array_module(z)

    def pullback(dy: Array) -> Array:
        dz = xp.zeros(z.shape, dtype=dy.dtype)  # the patch tokens receive no gradient
        dz[:, 0] = dy
        return dz

    return z[:, 0], pullback


def mean_pool(z: Array) -> tuple[Array, Pullback]:
    """Represent the image by the mean of its patch tokens.

    z (B, N, D), after the final layer norm as in the authors' code  ->  y (B, D)  (Appendix D.3)
    """
    xp = array_module(z)
    B, N, D = z.shape
    y = matmul(xp.full((1, N), 1 / N, dtype=z.dtype), z)[:, 0]
    return y, lambda dy: xp.broadcast_to((dy / N)[:, None], (B, N, D))


@widen_float16
def hidden_layer(y: Array, kernel: Array, bias: Array) -> tuple[Array, Pullback]:
    """Hidden layer of the pre-training head:  t = tanh(y kernel + bias).

    y (B, D), kernel (D, R), bias (R,)  ->  t (B, R)    (Section 3.1)
    """
    h, linear_back = linear(y, kernel, bias)  # (B, R)
    t = array_module(y).tanh(h)

    def pullback(dt: Array) -> tuple[Array, dict[str, Array]]:
        return linear_back(dt * (1 - t * t))

    return t, pullback


def pretraining_head(
    y: Array, hidden: dict[str, Array], head: dict[str, Array]
) -> tuple[Array, Pullback]:
    """Pre-training head: a hidden tanh layer and a linear layer.

    y (B, D), hidden {kernel (D, R), bias (R,)}, head {kernel (R, K), bias (K,)}  ->  (B, K)
    Fine-tuning replaces it by a single linear layer, initialised to zero. (Section 3.1)
    """
    t, hidden_back = hidden_layer(y, **hidden)  # (B, R)
    logits, head_back = linear(t, **head)  # (B, K)

    def pullback(dlogits: Array) -> tuple[Array, dict[str, dict[str, Array]]]:
        dt, dhead = head_back(dlogits)
        dy, dhidden = hidden_back(dt)
        return dy, {"hidden": dhidden, "head": dhead}

    return logits, pullback
