"""The ResNet of the hybrid (Section 3.1). The Transformer's patches are cut from its feature map.

    root       7 x 7 convolution of stride 2, norm, ReLU, 3 x 3 max pooling of stride 2
    stage s    units of width f = 2^(s-1) F, where F is the width of the root; the first unit has
               stride 2, except in the first stage
    unit       1 x 1 convolution to f channels, norm, ReLU; 3 x 3 convolution, norm, ReLU; 1 x 1
               convolution to 4 f channels, norm; addition of the shortcut; ReLU. In the first unit
               of a stage, the shortcut is a 1 x 1 convolution and a norm, because the number of
               channels or the resolution changes.

All convolutions use standardised weights and have no bias. All norms are group norms of 32 groups.
"""

from typing import Any

from ..arrays import Array, Pullback, Watch, add_prefix
from ..layers import group_norm, max_pool, relu, standardised_convolution

Params = dict[str, Any]


def resnet_stem(
    images: Array, params: Params, watch: Watch | None = None, retain: bool = True
) -> tuple[Array, Pullback]:
    """Compute the feature map and the pullback, which returns (dimages, dparams).

    images (B, H, W, C), params {conv, norm, stages}  ->  (B, h, w, 4 f)
    `watch` receives "root", "stages/0/0/output", ... Without `retain`, each unit's pullback is
    discarded at once to save memory, and the returned pullback must not be called.
    """
    x, root_back = resnet_root(images, params, watch)
    units_back = []
    for stage, units in enumerate(params.get("stages", [])):
        for number, unit in enumerate(units):
            stride = 2 if number == 0 and stage > 0 else 1
            watch_unit = add_prefix(watch, f"stages/{stage}/{number}")
            x, unit_back = bottleneck(x, unit, stride, watch_unit)
            if retain:
                units_back.append((stage, unit_back))

    def pullback(dx: Array) -> tuple[Array, Params]:
        dstages = [[] for _ in params.get("stages", [])]
        for stage, unit_back in reversed(units_back):
            dx, dunit = unit_back(dx)
            dstages[stage].insert(0, dunit)
        dimages, dparams = root_back(dx)
        return dimages, dparams | ({"stages": dstages} if dstages else {})

    return x, pullback


def resnet_root(
    images: Array, params: Params, watch: Watch | None = None
) -> tuple[Array, Pullback]:
    """The root of the ResNet.  images (B, H, W, C)  ->  (B, H / 4, W / 4, F)"""
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

    The stride belongs to the 3 x 3 convolution (ResNet v1.5), because a 1 x 1 convolution of stride
    2 would ignore three of four entries.
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
        dsum = relu_back(dout)  # the gradient of both summands
        dactive2, dparams3 = norm3_back(dsum)
        dactive1, dparams2 = norm2_back(relu2_back(dactive2))
        dx, dparams1 = norm1_back(relu1_back(dactive1))
        dshortcut, dparams0 = shortcut_back(dsum)
        return dx + dshortcut, dparams1 | dparams2 | dparams3 | dparams0

    return out, pullback


def conv_norm(x: Array, params: Params, suffix: str, stride: int = 1) -> tuple[Array, Pullback]:
    """Convolution and group norm with the parameters `conv<suffix>` and `norm<suffix>`."""
    conv, norm = f"conv{suffix}", f"norm{suffix}"
    y, conv_back = standardised_convolution(x, **params[conv], stride=stride)
    normed, norm_back = group_norm(y, **params[norm])

    def pullback(dnormed: Array) -> tuple[Array, Params]:
        dparams = {}
        dy, dparams[norm] = norm_back(dnormed)
        dx, dparams[conv] = conv_back(dy)
        return dx, dparams

    return normed, pullback
