"""The hybrid of Section 3.1: a ResNet looks at the image, and patches are cut from what it sees.

    root       7 x 7 convolution of stride 2, norm, ReLU, max pooling of stride 2
    stage s    units of f = 2^(s-1) F channels, F those of the root; its first unit has stride 2,
               save in the first stage
    unit       1 x 1 to f, norm, ReLU; 3 x 3, norm, ReLU; 1 x 1 to 4 f, norm; and what entered is
               added before the last ReLU. In the first unit of a stage that goes through a 1 x 1
               convolution and a norm of its own, for its channels, or its size, are others.

All convolutions have standardised weights, and no bias; all norms are group norms of 32 groups.
"""

from collections.abc import Iterator
from typing import Any

from ..arrays import Array, Pullback, Watch, add_prefix
from ..layers import group_norm, max_pool, relu, standardised_convolution

Params = dict[str, Any]


def resnet_stem(
    images: Array, params: Params, watch: Watch | None = None
) -> tuple[Array, Pullback]:
    """The feature map, keeping what the way back needs.

    images (B, H, W, C), params {conv, norm, stages}  ->  (B, h, w, Cmap); the pullback gives
    (dimages, dparams). `watch` is shown "root", "stages/0/0/output" and so on.
    """
    x, root_back = resnet_root(images, params, watch)
    units_back = []
    for stage, number, unit, stride in iterate_units(params):
        x, unit_back = bottleneck(x, unit, stride, add_prefix(watch, f"stages/{stage}/{number}"))
        units_back.append((stage, unit_back))

    def pullback(dx: Array) -> tuple[Array, Params]:
        dstages = [[] for _ in params.get("stages", [])]
        for stage, unit_back in reversed(units_back):
            dx, dunit = unit_back(dx)
            dstages[stage].insert(0, dunit)
        dimages, dparams = root_back(dx)
        if dstages:
            dparams["stages"] = dstages
        return dimages, dparams

    return x, pullback


def infer_stem(images: Array, params: Params, watch: Watch | None = None) -> Array:
    """The feature map, keeping nothing: each unit's pullback is dropped at once."""
    x, _ = resnet_root(images, params, watch)
    for stage, number, unit, stride in iterate_units(params):
        x, _ = bottleneck(x, unit, stride, add_prefix(watch, f"stages/{stage}/{number}"))
    return x


def iterate_units(params: Params) -> Iterator[tuple[int, int, Params, int]]:
    """(stage, number, parameters, stride) of every unit, in order. Numbers count from 0."""
    for stage, members in enumerate(params.get("stages", [])):
        for number, unit in enumerate(members):
            yield stage, number, unit, 2 if number == 0 and stage > 0 else 1


def resnet_root(
    images: Array, params: Params, watch: Watch | None = None
) -> tuple[Array, Pullback]:
    """images (B, H, W, C)  ->  (B, H / 4, W / 4, F)"""
    normed, norm_back = conv_norm(images, params, "", stride=2)
    active, relu_back = relu(normed)  # (B, H / 2, W / 2, F)
    pooled, pool_back = max_pool(active)
    if watch:
        watch("root", pooled)

    def pullback(dpooled: Array) -> tuple[Array, Params]:
        return norm_back(relu_back(pool_back(dpooled)))

    return pooled, pullback


def bottleneck(
    x: Array, params: Params, stride: int = 1, watch: Watch | None = None
) -> tuple[Array, Pullback]:
    """One unit.  x (B, H, W, C)  ->  (B, H / stride, W / stride, 4 f)

    The stride is that of the 3 x 3 convolution, which sees every entry all the same; a 1 x 1
    convolution of stride 2 would drop three in four. (The ResNet "v1.5")
    """
    shortcut, shortcut_back = (
        conv_norm(x, params, "_shortcut", stride)
        if "conv_shortcut" in params
        else (x, lambda dy: (dy, {}))
    )
    normed1, norm1_back = conv_norm(x, params, "1")
    active1, relu1_back = relu(normed1)  # (B, H, W, f)
    normed2, norm2_back = conv_norm(active1, params, "2", stride)
    active2, relu2_back = relu(normed2)  # (B, H / stride, W / stride, f)
    normed3, norm3_back = conv_norm(active2, params, "3")
    out, relu_back = relu(shortcut + normed3)  # (B, H / stride, W / stride, 4 f)
    if watch:
        watch("output", out)

    def pullback(dout: Array) -> tuple[Array, Params]:
        dsum = relu_back(dout)  # goes both ways as it is
        dactive2, dparams3 = norm3_back(dsum)
        dactive1, dparams2 = norm2_back(relu2_back(dactive2))
        dx, dparams1 = norm1_back(relu1_back(dactive1))
        dshortcut, dparams0 = shortcut_back(dsum)
        return dx + dshortcut, dparams1 | dparams2 | dparams3 | dparams0

    return out, pullback


def conv_norm(x: Array, params: Params, which: str, stride: int = 1) -> tuple[Array, Pullback]:
    """The convolution and the group norm that the parameters have under conv`which` and so on."""
    conv, norm = f"conv{which}", f"norm{which}"
    y, conv_back = standardised_convolution(x, **params[conv], stride=stride)
    normed, norm_back = group_norm(y, **params[norm])

    def pullback(dnormed: Array) -> tuple[Array, Params]:
        dparams = {}
        dy, dparams[norm] = norm_back(dnormed)
        dx, dparams[conv] = conv_back(dy)
        return dx, dparams

    return normed, pullback
