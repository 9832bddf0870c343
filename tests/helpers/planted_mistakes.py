"""Mistakes in backward passes, most of them taken from public repositories.

Each mistake has a correct counterpart with the same value. Only its gradient is wrong. A mistake is
a pullback `(dy, back, y, *arguments) -> gradients`, where `back` is the correct pullback and y the
value, or a function that returns the value and a wrong pullback.
"""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from minivit import layers
from minivit.arrays import dot_rows, mean_last, sum_leading
from minivit.layers.gelu import erf
from minivit.layers.padding import pad_same, window_views
from minivit.layers.patches import unfold

rng = np.random.default_rng(0)


class Mistake(NamedTuple):
    wrong: Callable
    correct: Callable
    arguments: tuple
    refused: bool = False  # the checker raises TypeError, because repeated calls differ


MISTAKES = {}


def wrong_function(correct, *arguments, refused=False):
    """Add the decorated function to the collection, as a wrong version of `correct`."""

    def add(wrong):
        assert wrong.__name__ not in MISTAKES
        MISTAKES[wrong.__name__] = Mistake(wrong, correct, arguments, refused)
        return wrong

    return add


def wrong_pullback(correct, *arguments):
    """Add `correct` with the decorated pullback to the collection."""

    def add(pullback):
        wrong_pullbacks((correct, *arguments), **{pullback.__name__: pullback})
        return pullback

    return add


def wrong_pullbacks(case, **pullbacks):
    """Add a function to the collection, once with each pullback. case: (function, *arguments)."""
    correct, *arguments = case
    signature = inspect.signature(correct)

    def with_pullback(*args, pullback, **kwargs):
        args = signature.bind(*args, **kwargs).args
        y, back = correct(*args)
        return y, lambda dy: pullback(dy, back, y, *args)

    for name, pullback in pullbacks.items():
        wrong = partial(with_pullback, pullback=pullback)
        wrong.__name__, wrong.__signature__ = name, signature
        wrong_function(correct, *arguments)(wrong)


def draw(*shape):
    return rng.normal(size=shape)


def affine(inputs, outputs):
    return {"kernel": draw(inputs, outputs), "bias": draw(outputs)}


def norm_params(D):
    return {"scale": draw(D), "bias": draw(D)}


# The residual connection


def half_block(z, norm, mlp):
    """Equation 3."""
    normed, norm_back = layers.layer_norm(z, **norm)
    y, mlp_back = layers.mlp(normed, **mlp)

    def pullback(dy):
        dnormed, dmlp = mlp_back(dy)
        dbranch, dnorm = norm_back(dnormed)
        return dy + dbranch, {"norm": dnorm, "mlp": dmlp}

    return z + y, pullback


MLP = {"hidden": affine(5, 4), "out": affine(4, 5)}
HALF_BLOCK = half_block, draw(2, 3, 5), norm_params(5), MLP


@wrong_pullback(*HALF_BLOCK)
def residual_through_the_norm(dy, back, y, z, norm, mlp):
    """The residual's gradient passes through the norm together with the branch's gradient."""
    normed, norm_back = layers.layer_norm(z, **norm)
    dnormed, dmlp = layers.mlp(normed, **mlp)[1](dy)
    dz, dnorm = norm_back(dnormed + dy)
    return dz, {"norm": dnorm, "mlp": dmlp}


wrong_pullbacks(
    HALF_BLOCK,
    # Both the block and its caller add the residual's gradient.
    residual_added_twice=lambda dy, back, *_: (back(dy)[0] + dy, back(dy)[1]),
    # Only the gradient of the branch is returned.
    residual_forgotten=lambda dy, back, *_: (back(dy)[0] - dy, back(dy)[1]),
)


# Closures and state


def two_norms(z, norm1, norm2):
    normed1, norm1_back = layers.layer_norm(z, **norm1)
    mid = z + normed1
    normed2, norm2_back = layers.layer_norm(mid, **norm2)

    def pullback(dy):
        dbranch, dnorm2 = norm2_back(dy)
        dmid = dy + dbranch
        dbranch, dnorm1 = norm1_back(dmid)
        return dmid + dbranch, {"norm1": dnorm1, "norm2": dnorm2}

    return mid + normed2, pullback


@wrong_function(two_norms, draw(2, 3, 5), norm_params(5), norm_params(5))
def name_bound_again(z, norm1, norm2):
    """Both norms use the same names. A closure reads the value that was bound last."""
    normed, norm_back = layers.layer_norm(z, **norm1)
    mid = z + normed
    normed, norm_back = layers.layer_norm(mid, **norm2)

    def pullback(dy):
        dbranch, dnorm2 = norm_back(dy)
        dmid = dy + dbranch
        dbranch, dnorm1 = norm_back(dmid)
        return dmid + dbranch, {"norm1": dnorm1, "norm2": dnorm2}

    return mid + normed, pullback


def chain(x, kernels):
    pullbacks = []
    for kernel in kernels:
        x, linear_back = layers.linear(x, kernel)
        x, gelu_back = layers.gelu(x)
        pullbacks.append(lambda dx, f=linear_back, g=gelu_back: f(g(dx)))
    return x, lambda dx: pull_through_chain(dx, pullbacks)


def pull_through_chain(dx, pullbacks):
    dkernels = []
    for back in reversed(pullbacks):
        dx, dlinear = back(dx)
        dkernels.append(dlinear["kernel"])
    return dx, {"kernels": dkernels[::-1]}


@wrong_function(chain, draw(4, 3), [draw(3, 3), draw(3, 3)])
def closures_made_in_a_loop(x, kernels):
    """Every closure of the loop reads the last values, so the first layer has no pullback."""
    pullbacks = []
    for kernel in kernels:
        x, linear_back = layers.linear(x, kernel)
        x, gelu_back = layers.gelu(x)
        pullbacks.append(lambda dx: linear_back(gelu_back(dx)))  # noqa: B023
    return x, lambda dx: pull_through_chain(dx, pullbacks)


MASK = np.array([[1, 0, 1], [0, 1, 1]])


def masked_softmax(x):
    p, softmax_back = layers.softmax(x)
    return p * MASK, lambda dy: softmax_back(dy * MASK)


@wrong_function(masked_softmax, draw(2, 3))
def captured_array_modified_by_the_caller(x):
    """The pullback of softmax captures its value, which the caller masks in place."""
    p, softmax_back = layers.softmax(x)
    p *= MASK
    return p, lambda dy: softmax_back(dy * MASK)


@wrong_function(layers.linear, draw(4, 3), draw(3, 2), draw(2))
def gradients_never_zeroed(x, kernel, bias):
    """The gradients are added to those of the last call, as without zero_grad."""
    y, back = layers.linear(x, kernel, bias)
    total = {"kernel": 0, "bias": 0}

    def pullback(dy):
        dx, dparams = back(dy)
        for name in total:
            total[name] = total[name] + dparams[name]
        return dx, dict(total)

    return y, pullback


@wrong_function(layers.softmax, draw(2, 3))
def captured_array_overwritten(x):
    """The pullback overwrites an array that it captured: only its first call is correct."""
    p, _ = layers.softmax(x)

    def pullback(dp):
        np.multiply(p, dp - dot_rows(p, dp), out=p)
        return p.copy()

    return p.copy(), pullback


# Dropout


def seeded_dropout(x, seed):
    return layers.dropout(x, 0.4, np.random.default_rng(seed))


shared_generator = np.random.default_rng(3)


@wrong_function(lambda x, seed: layers.dropout(x, 0.4, None), draw(4, 5), 7, refused=True)
def dropout_on_in_evaluation(x, seed):
    """Dropout is active in evaluation, so every call returns another value."""
    return layers.dropout(x, 0.4, shared_generator)


wrong_pullbacks(
    (seeded_dropout, draw(4, 5), 7),
    # The backward pass draws a new mask.
    dropout_drawn_again=lambda dy, back, y, x, seed: seeded_dropout(dy, seed + 1)[0],
    # The backward pass uses the correct mask, but does not divide by 1 - rate.
    dropout_not_rescaled=lambda dy, back, y, *_: dy * (y != 0),
    # The backward pass does not apply the mask.
    dropout_not_in_backward=lambda dy, *_: dy,
)


# The embedding

wrong_pullbacks(
    (layers.add_positions, draw(3, 4, 5), draw(4, 5)),
    # The table's gradient is the mean over the batch instead of the sum.
    positions_averaged=lambda dz, *_: (dz, {"table": dz.mean(0)}),
    # The table's gradient has a batch axis, which broadcasting hides.
    positions_not_summed=lambda dz, *_: (dz, {"table": dz}),
    # The gradient of every image overwrites that of the previous one.
    positions_of_the_last_image=lambda dz, *_: (dz, {"table": dz[-1]}),
)
wrong_pullbacks(
    (layers.prepend_class_token, draw(3, 4, 5), draw(5)),
    # The class token receives no gradient.
    class_token_frozen=lambda dz, back, z, x, token: (back(dz)[0], {"class_token": 0 * token}),
)


wrong_pullbacks(
    (layers.unpatchify, draw(2, 6, 12), 2, 4, 6),
    # The backward pass uses a grid of columns x rows. Square images hide this.
    rows_and_columns_swapped=lambda dx, back, x, _, P, H, W: unfold(dx.reshape(-1, W, H, 3), P),
)


@wrong_pullback(layers.patchify, draw(2, 4, 6, 3), 2)
def channels_first(dpatches, back, patches, images, P):
    """A patch's gradient is read in the order channel, row, column of another framework."""
    by_channel = dpatches.reshape(*dpatches.shape[:2], -1, P, P)
    return back(np.moveaxis(by_channel, 2, 4).reshape(dpatches.shape))


# The linear layer

wrong_pullbacks(
    (layers.linear, draw(4, 3), draw(3, 3), draw(3)),
    # The kernel's gradient is dyᵀ x instead of xᵀ dy. A square kernel hides this.
    kernel_transposed=lambda dy, back, y, x, *_: (back(dy)[0], back(dy)[1] | {"kernel": dy.T @ x}),
    # dx is dy kernel instead of dy kernelᵀ. A square kernel hides this.
    kernel_not_transposed=lambda dy, back, y, x, kernel, bias: (dy @ kernel, back(dy)[1]),
)
wrong_pullbacks(
    (layers.linear, draw(4, 3), draw(3, 2), draw(2)),
    # The bias's gradient is the mean over the rows instead of the sum.
    bias_averaged=lambda dy, back, *_: (back(dy)[0], back(dy)[1] | {"bias": dy.mean(0)}),
)


# Layer norm

TOKENS = layers.layer_norm, draw(3, 4, 5), draw(5), draw(5)


def normalise(x, eps=1e-6):
    """Return x_hat and 1 / σ of layer norm."""
    centred = x - mean_last(x)
    rstd = (dot_rows(centred, centred) / x.shape[-1] + eps) ** -0.5
    return centred * rstd, rstd


@wrong_pullback(*TOKENS)
def norm_without_the_mean(dy, back, y, x, scale, bias):
    """The mean is treated as a constant."""
    (x_hat, rstd), g = normalise(x), dy * scale
    return rstd * (g - x_hat * mean_last(g * x_hat)), back(dy)[1]


@wrong_pullback(*TOKENS)
def norm_over_the_wrong_axis(dy, back, y, x, scale, bias):
    """The backward pass averages over the tokens, the forward pass over the width."""
    (x_hat, rstd), g = normalise(x), dy * scale
    mean, component = g.mean(-2, keepdims=True), (g * x_hat).mean(-2, keepdims=True)
    return rstd * (g - mean - x_hat * component), back(dy)[1]


wrong_pullbacks(
    TOKENS,
    # The variance is treated as a constant, so the component along x_hat remains.
    norm_without_the_variance=lambda dy, back, y, x, scale, _: (
        normalise(x)[1] * (dy * scale - mean_last(dy * scale)), back(dy)[1]
    ),
    # dx is computed from dy and multiplied by the scale afterwards.
    norm_scaled_too_late=lambda dy, back, y, x, scale, _: (
        scale * layers.layer_norm(x, np.ones_like(scale), scale)[1](dy)[0], back(dy)[1]
    ),
    # The scale's gradient is the sum of dy x instead of dy x_hat.
    norm_scale_of_the_input=lambda dy, back, y, x, *_: (
        back(dy)[0], back(dy)[1] | {"scale": sum_leading(dy * x)}
    ),
)  # fmt: skip


# Softmax and attention

wrong_pullbacks(
    (layers.softmax, draw(2, 3)),
    # dx = dp p (1 - p): the off-diagonal entries of the Jacobian are missing.
    softmax_only_diagonal=lambda dp, back, p, *_: dp * p * (1 - p),
    # The gradient is zero. Checking the sum of the outputs misses this: it is always 1.
    softmax_backward_of_zeros=lambda dp, back, p, *_: 0 * p,
    # The backward pass sums over the columns, the forward pass over the rows.
    softmax_over_the_wrong_axis=lambda dp, back, p, *_: p * (dp - (p * dp).sum(-2, keepdims=True)),
)


def scaled_attention(q, k, v):
    root = math.sqrt(q.shape[-1])
    y, back = layers.attend(q / root, k, v)

    def pullback(dy):
        dq, dk, dv, _ = back(dy)
        return dq / root, dk, dv

    return y, pullback


ATTENTION = scaled_attention, draw(2, 4, 3), draw(2, 4, 3), draw(2, 4, 3)


def multiply(gradients, *factors):
    return tuple(gradient * factor for gradient, factor in zip(gradients, factors, strict=True))


wrong_pullbacks(
    ATTENTION,
    # The forward pass divides q by √Dh; the backward pass does not divide dq.
    scale_missing_in_backward=lambda dy, back, *_: multiply(back(dy), math.sqrt(3), 1, 1),
    # dk is divided by √Dh, although it is computed from the divided q.
    scale_twice_in_backward=lambda dy, back, *_: multiply(back(dy), 1, 1 / math.sqrt(3), 1),
    # dq and dk are returned in the wrong order. They have the same shape.
    queries_and_keys_swapped=lambda dy, back, *_: tuple(back(dy)[i] for i in (1, 0, 2)),
)


@wrong_pullback(*ATTENTION)
def values_by_rows(dy, back, y, q, k, v):
    """dv is A dy instead of Aᵀ dy: queries and keys are exchanged."""
    arrays = {}
    layers.attend(q / math.sqrt(q.shape[-1]), k, v, watch=arrays.__setitem__)
    return *back(dy)[:2], arrays["probabilities"] @ dy


def merge_heads(y):
    """(B, h, T, Dh)  ->  (B, T, h Dh)"""
    B, h, T, Dh = y.shape
    merged = y.swapaxes(1, 2).reshape(B, T, h * Dh)
    return merged, lambda dz: dz.reshape(B, T, h, Dh).swapaxes(1, 2)


wrong_pullbacks(
    (merge_heads, draw(2, 2, 4, 3)),
    # A reshape without the transpose: the shape is correct, but tokens and heads are mixed.
    heads_not_transposed_back=lambda dz, back, merged, y: dz.reshape(y.shape),
)


@wrong_pullback(layers.relative_positions, draw(2, 2, 5, 3), draw(10, 6), True)
def repeated_offset_counted_once(dbias, back, *_):
    """dtable[offset] = ... keeps only the last of several keys with the same offset."""
    last = dbias.copy()
    last[:, :, 0, 1:-1] = 0  # the class token uses one offset for all patches
    return back(last)


# The MLP

wrong_pullbacks(
    (layers.gelu, draw(4, 5), "erf"),
    # The derivative of x Φ(x) is Φ(x), without the term x φ(x) of the product rule.
    gelu_without_the_density=lambda dy, back, y, x, _: dy * 0.5 * (1 + erf(x / math.sqrt(2))),
)
wrong_pullbacks(
    (layers.gelu, draw(4, 5), "tanh"),
    # The forward pass uses the tanh form, the backward pass the exact form.
    gelu_of_the_other_kind=lambda dy, back, y, x, _: layers.gelu(x, "erf")[1](dy),
)


# Pooling, heads and losses


def pool_patches(z):
    """Average all tokens except the first."""
    y, back = layers.mean_pool(z[:, 1:])
    class_token = np.zeros((len(z), 1, z.shape[-1]))
    return y, lambda dy: np.concatenate([class_token, back(dy)], axis=1)


wrong_pullbacks(
    (pool_patches, draw(2, 4, 3)),
    # The backward pass divides by T, the forward pass by the T - 1 patches.
    pooled_by_the_wrong_count=lambda dy, back, *_: back(dy) * 3 / 4,
    # The class token receives a gradient, although the forward pass does not read it.
    class_token_receives_a_gradient=lambda dy, *_: np.repeat(dy[:, None] / 3, 4, axis=1),
)


HEAD = layers.pretraining_head, draw(3, 5), affine(5, 4), affine(4, 2)


@wrong_pullback(*HEAD)
def hidden_layer_detached(dlogits, back, logits, y, hidden, head):
    """The hidden layer's output is detached: nothing below the head receives a gradient."""
    zeros = {name: 0 * leaf for name, leaf in hidden.items()}
    return 0 * y, {"hidden": zeros, "head": back(dlogits)[1]["head"]}


@wrong_pullback(*HEAD)
def derivative_of_tanh_forgotten(dlogits, back, logits, y, hidden, head):
    """The backward pass omits the tanh."""
    h, hidden_back = layers.linear(y, **hidden)
    dt, dhead = layers.linear(np.tanh(h), **head)[1](dlogits)
    dy, dhidden = hidden_back(dt)
    return dy, {"hidden": dhidden, "head": dhead}


LABELS = np.array([2, 0, 3])
wrong_pullbacks(
    (layers.cross_entropy, draw(3, 4), LABELS),
    # The loss is a mean, but its gradient is that of a sum and grows with the batch size.
    loss_not_divided_by_the_batch=lambda dloss, back, loss, logits, _: back(dloss) * len(logits),
    # softmax minus one-hot, the gradient of the logits, is passed through softmax's pullback.
    softmax_counted_twice=lambda dloss, back, _, logits, *__: layers.softmax(logits)[1](
        back(dloss)
    ),
)
wrong_pullbacks(
    (layers.cross_entropy, draw(3, 4), LABELS, 0.1),
    # The loss uses label smoothing, but its gradient is softmax minus one-hot.
    smoothing_forgotten_in_backward=lambda dloss, back, loss, logits, labels, _: (
        layers.cross_entropy(logits, labels)[1](dloss)
    ),
)
wrong_pullbacks(
    (layers.mean_squared_error, draw(3, 4), draw(3, 4)),
    # The derivative of e² is e instead of 2 e.
    square_without_its_factor=lambda dloss, back, *_: tuple(g / 2 for g in back(dloss)),
)


# The ResNet of the hybrid

STRIDED = layers.convolution, draw(2, 4, 6, 3), draw(3, 3, 3, 2), 2


@wrong_pullback(*STRIDED)
def symmetric_padding(dy, back, y, x, kernel, stride):
    """The forward pass pads one pixel after the image, the backward pass one on each side."""
    dx, dparams = back(dy)
    shifted = np.zeros_like(dx)
    shifted[:, :-1, :-1] = dx[:, 1:, 1:]
    return shifted, dparams


@wrong_pullback(*STRIDED)
def overlapping_windows_overwrite(dy, back, y, x, kernel, stride):
    """A pixel in several windows receives only the gradient of the last one, not the sum."""
    sides = kernel.shape[:2]
    dpadded = pad_same(np.zeros(x.shape), sides, stride)
    by_offset = kernel.reshape(-1, *kernel.shape[2:])
    for dview, matrix in zip(window_views(dpadded, sides, stride), by_offset, strict=True):
        dview[:] = dy @ matrix.T
    return dpadded[:, : x.shape[1], : x.shape[2]], back(dy)[1]


wrong_pullbacks(
    STRIDED,
    # The kernel's gradient is rotated by 180 degrees, as in a mathematical convolution.
    kernel_rotated=lambda dy, back, *_: (
        back(dy)[0], {"kernel": back(dy)[1]["kernel"][::-1, ::-1]}
    ),
)  # fmt: skip
wrong_pullbacks(
    (layers.convolution, draw(2, 4, 6, 3), draw(1, 1, 3, 2), 2),
    # A 1 x 1 convolution of stride 2 skips 3 of 4 pixels. Here they receive a gradient.
    skipped_pixels_filled=lambda dy, back, y, x, kernel, _: (
        (dy @ kernel[0, 0].T).repeat(2, axis=1).repeat(2, axis=2), back(dy)[1]
    ),
)  # fmt: skip
wrong_pullbacks(
    (layers.standardised_convolution, *STRIDED[1:]),
    # The kernel receives the gradient of the standardised kernel.
    gradient_of_the_standardised_kernel=lambda dy, back, y, x, kernel, stride: layers.convolution(
        x, layers.standardise(kernel)[0], stride
    )[1](dy),
)


def standardise_gradient(dw_hat, kernel, divisor, slope):
    """The correct gradient for divisor = σ + ε and slope = σ."""
    centred = kernel - kernel.mean((0, 1, 2))
    component = (dw_hat * centred).mean((0, 1, 2)) / (divisor * divisor)
    return (dw_hat - dw_hat.mean((0, 1, 2))) / divisor - centred * component / slope


def kernel_std(kernel):
    return kernel.std((0, 1, 2))


FILTERS = layers.standardise, draw(3, 3, 2, 4)


@wrong_pullback(*FILTERS)
def std_of_a_sample(dw_hat, back, w_hat, kernel):
    """The backward pass divides by n - 1, the default of some frameworks."""
    n = kernel[..., 0].size
    sigma = kernel_std(kernel) * math.sqrt(n / (n - 1))
    return standardise_gradient(dw_hat, kernel, sigma + 1e-5, sigma)


@wrong_pullback(*FILTERS)
def eps_inside_the_root(dw_hat, back, w_hat, kernel):
    """The backward pass uses √(σ² + ε), the forward pass σ + ε."""
    root = np.sqrt(kernel_std(kernel) ** 2 + 1e-5)
    return standardise_gradient(dw_hat, kernel, root, root)


wrong_pullbacks(
    FILTERS,
    # The mean is treated as a constant.
    standardise_without_the_mean=lambda dw_hat, back, w_hat, kernel: (
        back(dw_hat) + dw_hat.mean((0, 1, 2)) / (kernel_std(kernel) + 1e-5)
    ),
    # The standard deviation is treated as a constant.
    standardise_with_constant_std=lambda dw_hat, back, w_hat, kernel: (
        (dw_hat - dw_hat.mean((0, 1, 2))) / (kernel_std(kernel) + 1e-5)
    ),
    # The forward pass divides by σ + ε, the backward pass by σ.
    eps_left_out_of_backward=lambda dw_hat, back, w_hat, kernel: standardise_gradient(
        dw_hat, kernel, kernel_std(kernel), kernel_std(kernel)
    ),
)


def group_norm_with(dy, back, y, x, scale, bias, groups, shape, axes):
    """Average over these axes of x.reshape(shape) in the backward pass of group norm."""

    def mean(a):
        rows = a.reshape(shape)
        return np.broadcast_to(rows.mean(axes, keepdims=True), rows.shape).reshape(a.shape)

    x_hat, _ = layers.group_norm(x, np.ones_like(scale), np.zeros_like(scale), groups)
    by_group = x.real.reshape(len(x), -1, groups, x.shape[-1] // groups)
    rstd = (by_group.var((1, 3), keepdims=True) + 1e-6) ** -0.5
    g = dy * scale
    dx = g - mean(g) - x_hat * mean(g * x_hat)
    return (dx.reshape(by_group.shape) * rstd).reshape(x.shape), back(dy)[1]


BY_GROUP = 2, 2, 3, 3, 2  # (B, H, W, groups, C / groups); the correct axes are (1, 2, 4)
wrong_pullbacks(
    (layers.group_norm, draw(2, 2, 3, 6), draw(6), draw(6), 3),
    # The backward pass groups channels 0 and 3, the forward pass channels 0 and 1.
    channels_grouped_by_stride=partial(group_norm_with, shape=(2, 2, 3, 2, 3), axes=(1, 2, 3)),
    # The backward pass averages over the channels of each pixel, like layer norm.
    groups_without_the_map=partial(group_norm_with, shape=BY_GROUP, axes=4),
    # The backward pass averages over each channel, the forward pass over the group.
    channels_normalised_separately=partial(group_norm_with, shape=BY_GROUP, axes=(1, 2)),
    # The backward pass averages over all images, like batch norm.
    norm_over_the_batch=partial(group_norm_with, shape=BY_GROUP, axes=(0, 1, 2, 4)),
)


def pool_gradient(x, gradient):
    """Return the gradient of x, which is gradient(view) in each view of the windows."""
    padded = pad_same(x, (3, 3), 2, -math.inf)
    dpadded = np.zeros(padded.shape)
    windows = (window_views(a, (3, 3), 2) for a in (padded, dpadded))
    for view, dview in zip(*windows, strict=True):
        dview += gradient(view)
    return dpadded[:, : x.shape[1], : x.shape[2]]  # even sides are padded after the image


wrong_pullbacks(
    (layers.max_pool, np.round(draw(2, 4, 6, 3))),  # rounded: many entries are equal
    # All entries that equal the maximum receive the gradient, not only the first.
    gradient_to_every_tie=lambda dy, back, y, x: pool_gradient(x, lambda view: dy * (view == y)),
    # The gradient is distributed over the nine entries of the window, like average pooling.
    max_pool_like_mean_pool=lambda dy, back, y, x: pool_gradient(x, lambda view: dy / 9),
)
wrong_pullbacks(
    (layers.relu, np.array([[-1.0, 0, 2], [0, 3, -2]])),
    # The mask is the sign of the gradient instead of the sign of the input.
    relu_of_the_gradient=lambda dy, *_: dy * (dy > 0),
    # The backward pass uses x >= 0, the forward pass x > 0.
    derivative_of_relu_at_zero=lambda dy, back, y, x: dy * (x >= 0),
)


def residual_relu(x, kernel):
    branch, branch_back = layers.convolution(x, kernel)
    y, relu_back = layers.relu(x + branch)

    def pullback(dy):
        dsum = relu_back(dy)
        dx, dparams = branch_back(dsum)
        return dx + dsum, dparams

    return y, pullback


UNIT = residual_relu, draw(2, 3, 4, 3), draw(3, 3, 3, 3)


wrong_pullbacks(
    UNIT,
    # The shortcut's gradient bypasses the last ReLU, as if it followed the branch only.
    shortcut_past_the_relu=lambda dy, back, y, *_: (back(dy)[0] + dy * (y <= 0), back(dy)[1]),
)


@wrong_pullback(*UNIT)
def relu_before_the_sum(dy, back, y, x, kernel):
    """The mask is that of the branch instead of the sum."""
    branch, branch_back = layers.convolution(x, kernel)
    dx, dparams = branch_back(dy * (branch > 0))
    return dx + dy, dparams
