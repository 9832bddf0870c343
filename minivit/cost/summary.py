"""A table of a model's layers, with shapes, parameters and FLOP."""

from typing import Any

from ..models import ViTConfig
from .formulas import LayerCost, layer_costs, total_cost
from .report import format_quantity

LINE = "{:30} {:16} {:>12} {:>8}"


class Summary(str):
    """A text of several lines, which an interactive session prints without quotation marks."""

    def __repr__(self) -> str:
        return str(self)


def summary(model: Any) -> Summary:
    """Return a table of the layers of a model, for one image.

    Parameters
    ----------
    model : ViT, ViTConfig, or the name of a model, such as "ViT-B/16"

    Returns
    -------
    Summary
        Text. The columns are the layer, the shape of its output, its parameters, and the FLOP of
        its matrix products in the forward pass (two per multiply-add). A line that ends in "x n" is
        the sum over n identical layers. Residual connections and dropout are omitted.

    Examples
    --------
    >>> config = ViTConfig.named("ViT-Ti/4", image_size=32, classes=10)
    >>> print(*summary(config).splitlines()[:4], sep="\\n")
    ViT-Ti/4
    layer                          output             parameters     FLOP
    image                          (32, 32, 3)                 -        -
    patch embedding                (64, 192)               9,408   1.18 M
    """
    config = ViTConfig.named(model) if isinstance(model, str) else model
    config = config if isinstance(config, ViTConfig) else config.config
    shapes, costs = output_shapes(config), layer_costs(config, 1)
    lines = [config.name, LINE.format("layer", "output", "parameters", "FLOP")]
    for cost in [LayerCost("image"), *costs, total_cost(costs)]:
        if cost.layer in shapes:
            total = total_cost([cost])
            layer = cost.layer if cost.times == 1 else f"{cost.layer} x {cost.times}"
            parameters = f"{total.parameters:,}" if total.parameters else "-"
            shape, flop = shapes[cost.layer], format_quantity(total.forward)
            lines.append(LINE.format(layer, str(shape) if shape else "", parameters, flop))
    return Summary("\n".join(lines))


def output_shapes(config: ViTConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of the output of each layer for one image, by its name in `layer_costs`.

    The last stage of a hybrid's stem has the shape of the feature map. The shapes of the other
    stages are empty.
    """
    c = config
    T, D, M, K = c.tokens, c.width, c.mlp_width, c.classes
    N = c.grid[0] * c.grid[1]
    tokens = (T, D)
    shapes: dict[str, tuple[int, ...]] = {"image": (*c.image_size, c.channels)}
    stem = [cost.layer for cost in layer_costs(c, 1) if cost.layer.startswith("stem")]
    shapes |= dict.fromkeys(stem, ())
    shapes |= dict.fromkeys(stem[-1:], (*c.feature_map, c.feature_channels))
    shapes |= {"patch embedding": (N, D), "class token": tokens, "positions": tokens}
    shapes |= {"norm1": tokens, "attention: qkv": (T, 3 * D), "attention: A v": tokens}
    maps = "attention: scores", "attention: relative", "attention: softmax"
    shapes |= dict.fromkeys(maps, (c.heads, T, T))
    shapes |= {"attention: out": tokens, "norm2": tokens, "MLP: hidden": (T, M)}
    shapes |= {"MLP: gelu": (T, M), "MLP: out": tokens, "final norm": tokens, "pool": (D,)}
    return shapes | {"hidden head": (c.hidden_head or 0,), "head": (K or 0,), "total": ()}
