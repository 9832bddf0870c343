"""Formulas for the cost of each layer, in the paper's symbols. No model is created or run.

- *FLOP*: floating-point operations of matrix products, two per multiply-add. The backward pass has
  twice as many as the forward pass, because the gradient of each of the two factors is a product of
  the same size.
- *Elements*: scalars that layers without matrix products process (norms, softmax, GELU, sums).
- *Retained*: bytes of the arrays that pullbacks retain, without parameters and gradients. An array
  that several pullbacks retain is counted in the first layer.

s is the number of bytes of a scalar, n a number of rows or pixels, and B the batch size.
"""

from typing import NamedTuple

import numpy as np

from ..models import ViTConfig


class LayerCost(NamedTuple):
    """The cost of one layer. The model has `times` identical layers."""

    layer: str
    times: int = 1
    parameters: int = 0
    forward: int = 0  # FLOP
    elements: int = 0
    retained: int = 0  # bytes

    @property
    def backward(self) -> int:
        """FLOP of the backward pass."""
        return 2 * self.forward


def layer_costs(config: ViTConfig, batch_size: int, dtype: str = "float32") -> list[LayerCost]:
    """Return the cost of every layer in a forward and backward pass of a batch that is not split.

    Identical layers of different blocks are one entry. In float16 on a CPU, layers that compute in
    float32 retain more than predicted.

    >>> costs = layer_costs(ViTConfig.named("ViT-B/16"), batch_size=1)
    >>> costs[0].layer, costs[0].parameters  # P² C D + D
    ('patch embedding', 590592)
    >>> f"{total_cost(costs).forward / 2e9:.2f} GMAC"
    '17.56 GMAC'
    """
    s = np.dtype(dtype).itemsize
    functions = stem_costs, embedding_costs, block_costs, head_costs
    return [cost for function in functions for cost in function(config, batch_size, s)]


def total_cost(costs: list[LayerCost]) -> LayerCost:
    """Return the sum over all layers."""
    columns = zip(*([cost.times * x for x in cost[2:]] for cost in costs), strict=True)
    return LayerCost("total", 1, *map(sum, columns))


def linear_cost(layer: str, n: int, D: int, E: int, s: int, bias: bool = True) -> LayerCost:
    """Return the cost of y = x W + b for n rows. It retains x."""
    return LayerCost(layer, 1, D * E + E * bias, 2 * n * D * E, retained=n * D * s)


def norm_cost(layer: str, n: int, D: int, s: int) -> LayerCost:
    """Return the cost of layer norm of n rows. It retains x_hat and 1 / σ."""
    return LayerCost(layer, 1, 2 * D, elements=n * D, retained=n * (D + 1) * s)


def dropout_costs(config: ViTConfig, layer: str, size: int, s: int) -> list[LayerCost]:
    """Return the cost of a dropout layer, or no cost without dropout. It retains a float mask."""
    return [LayerCost(layer, elements=size, retained=size * s)] if config.dropout else []


def embedding_costs(config: ViTConfig, B: int, s: int) -> list[LayerCost]:
    """Return the costs of Equation 1. The patch embedding retains the patches."""
    c = config
    T, D, P, C = c.tokens, c.width, c.patch_size, c.feature_channels
    gh, gw = c.grid
    has_token = c.pooling == "class"
    costs = [linear_cost("patch embedding", B * gh * gw, P * P * C, D, s, c.patch_bias)]
    if has_token:
        costs.append(LayerCost("class token", 1, D, elements=B * T * D))
    if c.positions in ("1d", "2d", "sincos2d"):
        learned = {"1d": T * D, "2d": (gh + gw) * (D // 2) + D * has_token, "sincos2d": 0}
        costs.append(LayerCost("positions", 1, learned[c.positions], elements=B * T * D))
    return costs + dropout_costs(c, "dropout of the embedding", B * T * D, s)


def block_costs(config: ViTConfig, B: int, s: int) -> list[LayerCost]:
    """Return the costs of Equations 2, 3 and 5 to 8, in each of the L blocks.

    "attention: scores" retains q, k, v and q / √Dh. GELU retains its input; the exact GELU also
    retains its output, which is the input of the second linear layer unless dropout follows.
    Relative positions retain the score of each query and offset, and two arrays of 8-byte indices.
    Drop path follows both branches of every block but the first, and retains a scalar per image.
    """
    c = config
    L, T, D, M, h = c.depth, c.tokens, c.width, c.mlp_width, c.heads
    exact, n = c.gelu == "erf", B * T
    mlp_out = linear_cost("MLP: out", n, M, D, s)
    costs = [
        norm_cost("norm1", n, D, s),
        linear_cost("attention: qkv", n, D, 3 * D, s, c.qkv_bias),
        LayerCost("attention: scores", forward=2 * n * T * D, retained=4 * n * D * s),
        LayerCost("attention: softmax", elements=n * h * T, retained=n * h * T * s),
        LayerCost("attention: A v", forward=2 * n * T * D),
        linear_cost("attention: out", n, D, D, s),
        *dropout_costs(c, "attention: dropout", n * D, s),
        LayerCost("attention: residual", elements=n * D),
        norm_cost("norm2", n, D, s),
        linear_cost("MLP: hidden", n, D, M, s),
        LayerCost("MLP: gelu", elements=n * M, retained=(1 + exact) * n * M * s),
        *dropout_costs(c, "MLP: dropout of the hidden layer", n * M, s),
        mlp_out._replace(retained=0) if exact and not c.dropout else mlp_out,
        *dropout_costs(c, "MLP: dropout", n * D, s),
        LayerCost("MLP: residual", elements=n * D),
    ]
    if c.positions == "relative":
        R = 2 * c.grid[0] * c.grid[1] - 1 + 3 * (c.pooling == "class")  # offsets
        retained = n * h * R * s + 8 * T * T + 8 * T
        costs.insert(3, LayerCost("attention: relative", 1, R * D, 2 * n * R * D, 0, retained))
    costs = [cost._replace(times=L) for cost in costs]
    if c.drop_path and L > 1:
        costs.append(LayerCost("drop path", 2 * (L - 1), elements=n * D, retained=B * s))
    return costs


def head_costs(config: ViTConfig, B: int, s: int) -> list[LayerCost]:
    """Return the costs of Equation 4 and of the head, which may have a hidden layer of width R.

    The class token is a view of all tokens, which are thus retained. The mean of the tokens is a
    new array that the next layer retains. The hidden layer retains its input and its output.
    """
    n, D, R, K = B * config.tokens, config.width, config.hidden_head, config.classes
    is_view = config.pooling == "class"
    y = 0 if is_view else B * D * s
    pool = {"retained": n * D * s} if is_view else {"elements": n * D}
    costs = [norm_cost("final norm", n, D, s), LayerCost("pool", **pool)]
    if R is not None:
        costs.append(linear_cost("hidden head", B, D, R, s)._replace(retained=y + B * R * s))
    if K is not None:
        head = linear_cost("head", B, R or D, K, s)
        costs.append(head._replace(retained=0 if R else y))
    return costs


def stem_costs(config: ViTConfig, B: int, s: int) -> list[LayerCost]:
    """Return the costs of a hybrid's ResNet. All units of a stage but the first are one entry.

    Max pooling retains a one-byte index per maximum.
    """
    if config.stem is None:
        return []
    (H, W), F = config.image_size, config.stem_width
    h, w = -(-H // 2), -(-W // 2)
    root = conv_cost(B, h * w, 49 * config.channels, F, s)
    h, w, C = -(-h // 2), -(-w // 2), F
    root = total_cost([root, LayerCost("max pooling", retained=B * h * w * F)])
    costs = [root._replace(layer="stem: root")]
    for stage, units in enumerate(config.stem):
        f, stride = F * 2**stage, 2 if stage else 1
        for name, times in ("first unit", 1), ("other units", units - 1):
            n, h, w = h * w, -(-h // stride), -(-w // stride)  # n: pixels before the stride
            unit = [conv_cost(B, n, C, f, s)]
            unit += [conv_cost(B, h * w, 9 * f, f, s), conv_cost(B, h * w, f, 4 * f, s)]
            if name == "first unit":  # the shortcut; without a stride, its input is shared
                unit.append(conv_cost(B, h * w, C, 4 * f, s, shared=stride == 1, relu=False))
            layer = f"stem: stage {stage + 1}, {name}"
            costs.append(total_cost(unit)._replace(layer=layer, times=times))
            stride, C = 1, 4 * f
    return [cost for cost in costs if cost.times]


def conv_cost(
    B: int, n: int, window: int, E: int, s: int, shared: bool = False, relu: bool = True
) -> LayerCost:
    """Return the cost of a convolution of n windows per image to E channels, a norm and a ReLU.

    The convolution retains its windows, unless it shares them with another one, and the
    standardised kernel with σ, the divisor and 1 / window for each weight of a channel. The norm
    retains x_hat and 1 / σ, the ReLU one byte per element.
    """
    windows = 0 if shared else B * n * window
    retained = (windows + B * (n + 1) * E + window * E + window + 2 * E) * s + relu * B * n * E
    return LayerCost("", 1, window * E + 2 * E, 2 * B * n * window * E, retained=retained)
