"""Mistakes that people really made in a backward pass, each beside its correct twin.

A mistake has the value of its twin, or looks as if it had: only the gradient gives it away.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minivit import layers
from minivit.arrays import dot_rows, mean_last, sum_leading
from minivit.layers.gelu import erf
from minivit.layers.padding import pad_same, window_views
from minivit.layers.patches import unfold

rng = np.random.default_rng(0)


class Specimen(NamedTuple):
    wrong: Callable
    right: Callable
    arguments: tuple
    refused: bool  # the checker raises TypeError, for there is no derivative to compare with
    chapter: int | str = ""  # of the book, where one would make it: 0 to 16 or "A"


ZOO = []


def mistake(right, *arguments, chapter, refused=False):
    """The function below is wrong where `right` is right; both take these arguments."""

    def put_in_the_zoo(wrong):
        ZOO.append(Specimen(wrong, right, arguments, refused, chapter))
        return wrong

    return put_in_the_zoo


def draw(*shape):
    return rng.normal(size=shape)


def weights(inputs, outputs):
    return {"kernel": draw(inputs, outputs), "bias": draw(outputs)}


def norm(D):
    return {"scale": draw(D), "bias": draw(D)}


# The residual


def half_block(z, norm, mlp):
    """Equation 3."""
    normed, norm_back = layers.layer_norm(z, **norm)
    y, mlp_back = layers.mlp(normed, **mlp)

    def pullback(dy):
        dnormed, dmlp = mlp_back(dy)
        dbranch, dnorm = norm_back(dnormed)
        return dy + dbranch, {"norm": dnorm, "mlp": dmlp}

    return z + y, pullback


block = half_block, draw(2, 3, 5), norm(5), {"hidden": weights(5, 4), "out": weights(4, 5)}


@mistake(*block, chapter=9)
def residual_through_the_norm(z, norm, mlp):
    """The residual's gradient goes back through the norm, with the branch's."""
    normed, norm_back = layers.layer_norm(z, **norm)
    y, mlp_back = layers.mlp(normed, **mlp)

    def pullback(dy):
        dnormed, dmlp = mlp_back(dy)
        dz, dnorm = norm_back(dnormed + dy)
        return dz, {"norm": dnorm, "mlp": dmlp}

    return z + y, pullback


@mistake(*block, chapter=9)
def residual_added_twice(z, norm, mlp):
    """Both the block and its caller add the residual's gradient."""
    y, back = half_block(z, norm, mlp)

    def pullback(dy):
        dz, dparams = back(dy)
        return dz + dy, dparams

    return y, pullback


@mistake(*block, chapter=9)
def residual_forgotten(z, norm, mlp):
    """Only the branch's gradient goes back."""
    y, back = half_block(z, norm, mlp)

    def pullback(dy):
        dz, dparams = back(dy)
        return dz - dy, dparams

    return y, pullback


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


@mistake(two_norms, draw(2, 3, 5), norm(5), norm(5), chapter=0)
def name_bound_again(z, norm1, norm2):
    """One name for both norms: a closure sees the last thing that the name was bound to."""
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
        pullbacks.append((linear_back, gelu_back))

    def pullback(dx):
        dkernels = []
        for linear_back, gelu_back in reversed(pullbacks):
            dx, dlinear = linear_back(gelu_back(dx))
            dkernels.append(dlinear["kernel"])
        return dx, {"kernels": dkernels[::-1]}

    return x, pullback


@mistake(chain, draw(4, 3), [draw(3, 3), draw(3, 3)], chapter=0)
def closures_made_in_a_loop(x, kernels):
    """Every closure made in the loop sees the loop's last names, so layer 1 is never undone."""
    pullbacks = []
    for kernel in kernels:
        x, linear_back = layers.linear(x, kernel)
        x, gelu_back = layers.gelu(x)
        pullbacks.append(lambda dx: linear_back(gelu_back(dx)))  # noqa: B023

    def pullback(dx):
        dkernels = []
        for back in reversed(pullbacks):
            dx, dlinear = back(dx)
            dkernels.append(dlinear["kernel"])
        return dx, {"kernels": dkernels[::-1]}

    return x, pullback


def masked_softmax(x):
    keep = np.array([[1, 0, 1], [0, 1, 1]])
    p, softmax_back = layers.softmax(x)
    return p * keep, lambda dy: softmax_back(dy * keep)


@mistake(masked_softmax, draw(2, 3), chapter=0)
def kept_array_written_by_the_caller(x):
    """softmax keeps the array it returned; masking that in place spoils its pullback."""
    keep = np.array([[1, 0, 1], [0, 1, 1]])
    p, softmax_back = layers.softmax(x)
    p *= keep
    return p, lambda dy: softmax_back(dy * keep)


@mistake(layers.linear, draw(4, 3), draw(3, 2), draw(2), chapter=0)
def gradients_never_zeroed(x, kernel, bias):
    """The gradients are added to those of the last call, as after a forgotten zero_grad."""
    y, back = layers.linear(x, kernel, bias)
    total = {"kernel": np.zeros(kernel.shape), "bias": np.zeros(bias.shape)}

    def pullback(dy):
        dx, dparams = back(dy)
        total["kernel"] = total["kernel"] + dparams["kernel"]
        total["bias"] = total["bias"] + dparams["bias"]
        return dx, dict(total)

    return y, pullback


@mistake(layers.softmax, draw(2, 3), chapter=0)
def kept_array_used_up(x):
    """The pullback works in place on what it keeps: right the first time, and only then."""
    p, _ = layers.softmax(x)

    def pullback(dp):
        inner = dot_rows(p, dp)
        np.multiply(p, dp - inner, out=p)
        return p.copy()

    return p.copy(), pullback


# Dropout


def with_dropout(x, seed):
    return layers.dropout(x, 0.4, np.random.default_rng(seed))


always_on = np.random.default_rng(3)


@mistake(lambda x, seed: layers.dropout(x, 0.4, None), draw(4, 5), 7, chapter="A", refused=True)
def dropout_on_in_evaluation(x, seed):
    """Dropout goes on where it should be off: the value is another at every call."""
    return layers.dropout(x, 0.4, always_on)


@mistake(with_dropout, draw(4, 5), 7, chapter="A")
def dropout_drawn_again(x, seed):
    """Backward draws a mask of its own."""
    y, _ = with_dropout(x, seed)
    return y, lambda dy: with_dropout(dy, seed + 1)[0]


@mistake(with_dropout, draw(4, 5), 7, chapter="A")
def dropout_not_enlarged(x, seed):
    """Backward drops the right entries and forgets to divide the others by 1 - rate."""
    y, _ = with_dropout(x, seed)
    return y, lambda dy: dy * (y.real != 0)


@mistake(with_dropout, draw(4, 5), 7, chapter="A")
def dropout_not_in_backward(x, seed):
    """Backward lets every gradient pass."""
    y, _ = with_dropout(x, seed)
    return y, lambda dy: dy


# The embedding


@mistake(layers.add_positions, draw(3, 4, 5), draw(4, 5), chapter=3)
def positions_averaged(z, table):
    """The table's gradient is the mean over the batch, where it should be the sum."""
    return z + table, lambda dz: (dz, {"table": dz.mean(0)})


@mistake(layers.add_positions, draw(3, 4, 5), draw(4, 5), chapter=3)
def positions_not_summed(z, table):
    """The table's gradient has a batch axis, which broadcasting then hides."""
    return z + table, lambda dz: (dz, {"table": dz})


@mistake(layers.add_positions, draw(3, 4, 5), draw(4, 5), chapter=3)
def positions_of_the_last_image(z, table):
    """The gradient of every image overwrites that of the one before."""
    return z + table, lambda dz: (dz, {"table": dz[-1]})


@mistake(layers.prepend_class_token, draw(3, 4, 5), draw(5), chapter=3)
def class_token_frozen(x, class_token):
    """The class token never learns."""
    z, back = layers.prepend_class_token(x, class_token)
    return z, lambda dz: (back(dz)[0], {"class_token": np.zeros(class_token.shape)})


@mistake(layers.unpatchify, draw(2, 6, 12), 2, 4, 6, chapter=1)
def rows_and_columns_swapped(patches, patch_size, height, width):
    """The gradient goes back along a grid of columns x rows, which no square image shows."""
    images, _ = layers.unpatchify(patches, patch_size, height, width)

    def pullback(dimages):
        return unfold(dimages.reshape(len(dimages), width, height, -1), patch_size)

    return images, pullback


@mistake(layers.patchify, draw(2, 4, 6, 3), 2, chapter=1)
def channels_first(images, patch_size):
    """A patch's gradient is read in the order channel, row, column, that of another framework."""
    patches, back = layers.patchify(images, patch_size)
    P, C = patch_size, images.shape[-1]

    def pullback(dpatches):
        B, N, _ = dpatches.shape
        return back(np.moveaxis(dpatches.reshape(B, N, C, P, P), 2, 4).reshape(B, N, P * P * C))

    return patches, pullback


# The linear layer


@mistake(layers.linear, draw(4, 3), draw(3, 3), draw(3), chapter=2)
def kernel_transposed(x, kernel, bias):
    """The kernel's gradient is dyᵀ x, where it should be xᵀ dy; a square kernel takes both."""
    y, back = layers.linear(x, kernel, bias)

    def pullback(dy):
        dx, dparams = back(dy)
        return dx, {**dparams, "kernel": dparams["kernel"].T}

    return y, pullback


@mistake(layers.linear, draw(4, 3), draw(3, 3), draw(3), chapter=2)
def kernel_not_transposed(x, kernel, bias):
    """dx is dy kernel, where it should be dy kernelᵀ; a square kernel takes both."""
    y, back = layers.linear(x, kernel, bias)
    return y, lambda dy: (dy @ kernel, back(dy)[1])


@mistake(layers.linear, draw(4, 3), draw(3, 2), draw(2), chapter=2)
def bias_averaged(x, kernel, bias):
    """The bias's gradient is the mean over the rows, where it should be the sum."""
    y, back = layers.linear(x, kernel, bias)

    def pullback(dy):
        dx, dparams = back(dy)
        return dx, {**dparams, "bias": dy.mean(0)}

    return y, pullback


# Layer norm


def layer_norm_with(gradient):
    """A layer norm whose dx is gradient(g, x_hat, rstd)."""

    def layer_norm(x, scale, bias, eps=1e-6):
        y, back = layers.layer_norm(x, scale, bias, eps)
        centred = x - mean_last(x)
        rstd = (dot_rows(centred, centred) / x.shape[-1] + eps) ** -0.5
        x_hat = centred * rstd
        return y, lambda dy: (gradient(dy * scale, x_hat, rstd), back(dy)[1])

    return layer_norm


tokens = draw(3, 4, 5), draw(5), draw(5)


@mistake(layers.layer_norm, *tokens, chapter=4)
def norm_without_the_mean(x, scale, bias):
    """The mean is taken for a constant."""
    return layer_norm_with(lambda g, x_hat, rstd: rstd * (g - x_hat * mean_last(g * x_hat)))(
        x, scale, bias
    )


@mistake(layers.layer_norm, *tokens, chapter=4)
def norm_without_the_variance(x, scale, bias):
    """The variance is taken for a constant, so the part along x_hat stays."""
    return layer_norm_with(lambda g, x_hat, rstd: rstd * (g - mean_last(g)))(x, scale, bias)


@mistake(layers.layer_norm, *tokens, chapter=4)
def norm_over_the_wrong_axis(x, scale, bias):
    """Backward takes its means over the tokens, forward over the width."""

    def gradient(g, x_hat, rstd):
        mean, along = g.mean(-2, keepdims=True), (g * x_hat).mean(-2, keepdims=True)
        return rstd * (g - mean - x_hat * along)

    return layer_norm_with(gradient)(x, scale, bias)


@mistake(layers.layer_norm, *tokens, chapter=4)
def norm_scaled_too_late(x, scale, bias):
    """dx is made of dy, and only then multiplied by the scale."""
    ones = np.ones_like(scale)
    y, back = layers.layer_norm(x, scale, bias)
    _, plain_back = layers.layer_norm(x, ones, 0 * ones)
    return y, lambda dy: (plain_back(dy)[0] * scale, back(dy)[1])


@mistake(layers.layer_norm, *tokens, chapter=4)
def norm_scale_of_the_input(x, scale, bias):
    """The scale's gradient is the sum of dy x, where it should be that of dy x_hat."""
    y, back = layers.layer_norm(x, scale, bias)

    def pullback(dy):
        dx, dparams = back(dy)
        return dx, {**dparams, "scale": sum_leading(dy * x)}

    return y, pullback


# Softmax and attention


@mistake(layers.softmax, draw(2, 3), chapter=5)
def softmax_only_diagonal(x, out=None):
    """dx = dp p (1 - p): each weight for itself, as if the others did not give what it takes."""
    p, _ = layers.softmax(x, out)
    return p, lambda dp: dp * p * (1 - p)


@mistake(layers.softmax, draw(2, 3), chapter=5)
def softmax_backward_of_zeros(x):
    """A check that sums the outputs lets this pass: they sum to 1, whatever x is."""
    p, _ = layers.softmax(x)
    return p, lambda dp: 0 * p


@mistake(layers.softmax, draw(2, 3), chapter=5)
def softmax_over_the_wrong_axis(x):
    """Backward takes its dot product down the columns, forward its sum along the rows."""
    p, _ = layers.softmax(x)
    return p, lambda dp: p * (dp - (p * dp).sum(-2, keepdims=True))


def scaled_attention(q, k, v):
    scale = 1 / math.sqrt(q.shape[-1])
    y, back = layers.attend(q * scale, k, v)

    def pullback(dy):
        dq, dk, dv, _ = back(dy)
        return dq * scale, dk, dv

    return y, pullback


q_k_v = draw(2, 4, 3), draw(2, 4, 3), draw(2, 4, 3)


@mistake(scaled_attention, *q_k_v, chapter=6)
def scale_missing_in_backward(q, k, v):
    """Forward divides q by √Dh, backward leaves dq as it is."""
    y, back = layers.attend(q / math.sqrt(q.shape[-1]), k, v)
    return y, lambda dy: back(dy)[:3]


@mistake(scaled_attention, *q_k_v, chapter=6)
def scale_twice_in_backward(q, k, v):
    """dk is divided by √Dh too, but the q it is made of has been already."""
    y, back = scaled_attention(q, k, v)

    def pullback(dy):
        dq, dk, dv = back(dy)
        return dq, dk / math.sqrt(q.shape[-1]), dv

    return y, pullback


@mistake(scaled_attention, *q_k_v, chapter=6)
def queries_and_keys_swapped(q, k, v):
    """dq and dk have one shape, and change places unnoticed."""
    y, back = scaled_attention(q, k, v)

    def pullback(dy):
        dq, dk, dv = back(dy)
        return dk, dq, dv

    return y, pullback


@mistake(scaled_attention, *q_k_v, chapter=6)
def values_by_rows(q, k, v):
    """dv is A dy, where it should be Aᵀ dy: who was asked is taken for who asked."""
    seen = {}
    y, back = layers.attend(q / math.sqrt(q.shape[-1]), k, v, watch=seen.__setitem__)
    A = seen["probabilities"]

    def pullback(dy):
        dq, dk, _, _ = back(dy)
        return dq / math.sqrt(q.shape[-1]), dk, A @ dy

    return y, pullback


def merge_heads(y):
    """(B, k, T, Dh)  ->  (B, T, k Dh)"""
    B, k, T, Dh = y.shape
    merged = y.swapaxes(1, 2).reshape(B, T, k * Dh)
    return merged, lambda dz: dz.reshape(B, T, k, Dh).swapaxes(1, 2)


@mistake(merge_heads, draw(2, 2, 4, 3), chapter=7)
def heads_not_transposed_back(y):
    """The right shape by reshape alone: tokens and heads are shuffled."""
    merged, _ = merge_heads(y)
    return merged, lambda dz: dz.reshape(y.shape)


@mistake(layers.relative_positions, draw(2, 2, 5, 3), draw(10, 6), True, chapter="A")
def repeated_offset_counted_once(q, table, class_token):
    """dtable[offset] = ... keeps the last of the many keys that share an offset."""
    bias, back = layers.relative_positions(q, table, class_token)

    def pullback(dbias):
        last = dbias.copy()
        last[:, :, 0, 1:-1] = 0  # from the class token to a patch: one offset for all of them
        return back(last)

    return bias, pullback


# The MLP


@mistake(lambda x: layers.gelu(x, "erf"), draw(4, 5), chapter=8)
def gelu_without_the_density(x):
    """The slope of x Φ(x) is taken for Φ(x), and the x φ(x) of the product rule is forgotten."""
    y, _ = layers.gelu(x, "erf")
    return y, lambda dy: dy * 0.5 * (1 + erf(x / math.sqrt(2)))


@mistake(lambda x: layers.gelu(x, "tanh"), draw(4, 5), chapter=8)
def gelu_of_the_other_kind(x):
    """Forward has the tanh form, backward the slope of the exact one."""
    return layers.gelu(x, "tanh")[0], layers.gelu(x, "erf")[1]


# Pooling, heads and losses


def pool_patches(z):
    """The mean of all tokens but the first."""
    y, back = layers.mean_pool(z[:, 1:])

    def pullback(dy):
        return np.concatenate([np.zeros((len(z), 1, z.shape[-1])), back(dy)], axis=1)

    return y, pullback


@mistake(pool_patches, draw(2, 4, 3), chapter=10)
def pooled_by_the_wrong_count(z):
    """Backward divides by T tokens, where forward took the mean of the T - 1 patches."""
    y, back = pool_patches(z)
    return y, lambda dy: back(dy) * (z.shape[1] - 1) / z.shape[1]


@mistake(pool_patches, draw(2, 4, 3), chapter=10)
def class_token_pooled_too(z):
    """Backward hands the class token a share, and forward did not."""
    y, _ = pool_patches(z)
    return y, lambda dy: np.repeat(dy[:, None] / (z.shape[1] - 1), z.shape[1], axis=1)


head = layers.pretraining_head, draw(3, 5), weights(5, 4), weights(4, 2)


@mistake(*head, chapter=10)
def hidden_layer_detached(y, hidden, head):
    """The hidden layer's output is copied out of the graph: nothing below the head learns."""
    logits, back = layers.pretraining_head(y, hidden, head)

    def pullback(dlogits):
        nothing = {name: 0 * leaf for name, leaf in hidden.items()}
        return 0 * y, {"hidden": nothing, "head": back(dlogits)[1]["head"]}

    return logits, pullback


@mistake(*head, chapter=10)
def slope_of_tanh_forgotten(y, hidden, head):
    """The gradient passes the tanh unchanged."""
    h, hidden_back = layers.linear(y, **hidden)
    logits, head_back = layers.linear(np.tanh(h), **head)

    def pullback(dlogits):
        dt, dhead = head_back(dlogits)
        dy, dhidden = hidden_back(dt)
        return dy, {"hidden": dhidden, "head": dhead}

    return logits, pullback


@mistake(layers.cross_entropy, draw(3, 4), np.array([2, 0, 3]), chapter=2)
def loss_not_divided_by_the_batch(logits, labels):
    """The loss is a mean, its gradient that of a sum: the learning rate grows with the batch."""
    loss, back = layers.cross_entropy(logits, labels)
    return loss, lambda dloss: back(dloss) * len(logits)


@mistake(layers.cross_entropy, draw(3, 4), np.array([2, 0, 3]), 0.1, chapter=2)
def smoothing_forgotten_in_backward(logits, labels, smoothing):
    """The loss is smoothed, its gradient is softmax minus one-hot."""
    loss, _ = layers.cross_entropy(logits, labels, smoothing)
    return loss, layers.cross_entropy(logits, labels)[1]


@mistake(layers.cross_entropy, draw(3, 4), np.array([2, 0, 3]), chapter=2)
def softmax_counted_twice(logits, labels):
    """softmax minus one-hot already is the gradient of the logits; it is pulled through softmax."""
    loss, back = layers.cross_entropy(logits, labels)
    _, softmax_back = layers.softmax(logits)
    return loss, lambda dloss: softmax_back(back(dloss))


@mistake(layers.mean_squared_error, draw(3, 4), draw(3, 4), chapter="A")
def square_without_its_two(y, target):
    """The slope of e² is taken for e."""
    loss, back = layers.mean_squared_error(y, target)
    return loss, lambda dloss: tuple(gradient / 2 for gradient in back(dloss))


# The hybrid's ResNet

striding = layers.convolution, draw(2, 4, 6, 3), draw(3, 3, 3, 2), 2


@mistake(*striding, chapter="A")
def padded_alike_on_both_sides(x, kernel, stride):
    """Forward pads 0 before and 1 behind, backward crops as if there were 1 on each side."""
    y, back = layers.convolution(x, kernel, stride)

    def pullback(dy):
        dx, dparams = back(dy)
        moved = np.zeros_like(dx)
        moved[:, :-1, :-1] = dx[:, 1:, 1:]
        return moved, dparams

    return y, pullback


@mistake(*striding, chapter="A")
def overlapping_windows_overwrite(x, kernel, stride):
    """A pixel that several windows saw keeps the gradient of the last of them, not their sum."""
    y, back = layers.convolution(x, kernel, stride)
    sides = kernel.shape[:2]

    def pullback(dy):
        dpadded = pad_same(np.zeros(x.shape), sides, stride)
        by_place = kernel.reshape(-1, *kernel.shape[2:])
        for dseen, one in zip(window_views(dpadded, sides, stride), by_place, strict=True):
            dseen[:] = dy @ one.T
        return dpadded[:, : x.shape[1], : x.shape[2]], back(dy)[1]

    return y, pullback


@mistake(*striding, chapter="A")
def kernel_turned(x, kernel, stride):
    """The kernel's gradient comes out turned by 180 degrees, as in a true convolution."""
    y, back = layers.convolution(x, kernel, stride)

    def pullback(dy):
        dx, dparams = back(dy)
        return dx, {"kernel": dparams["kernel"][::-1, ::-1]}

    return y, pullback


@mistake(layers.convolution, draw(2, 4, 6, 3), draw(1, 1, 3, 2), 2, chapter="A")
def stride_filled_up(x, kernel, stride):
    """A 1 x 1 convolution of stride 2 skips three pixels in four; backward has them share."""
    y, back = layers.convolution(x, kernel, stride)

    def pullback(dy):
        dx = (dy @ kernel[0, 0].T).repeat(stride, axis=1).repeat(stride, axis=2)
        return dx, back(dy)[1]

    return y, pullback


@mistake(layers.standardised_convolution, *striding[1:], chapter="A")
def gradient_of_the_standardised_kernel(x, kernel, stride):
    """The kernel is given the gradient of what standardising made of it."""
    w_hat, _ = layers.standardise(kernel)
    return layers.convolution(x, w_hat, stride)


def standardise_with(gradient):
    """A standardisation whose pullback is gradient(dw_hat, centred, σ)."""

    def standardise(kernel):
        centred = kernel - kernel.mean((0, 1, 2))
        sigma = kernel.std((0, 1, 2)) if kernel.dtype == float else 1
        return layers.standardise(kernel)[0], lambda dw_hat: gradient(dw_hat, centred, sigma)

    return standardise


def of_standardise(dw_hat, centred, divisor, slope):
    """The right gradient, given the divisor and what its slope is divided by."""
    along = (dw_hat * centred).mean((0, 1, 2)) / (divisor * divisor)
    return (dw_hat - dw_hat.mean((0, 1, 2))) / divisor - centred * along / slope


filters = layers.standardise, draw(3, 3, 2, 4)


@mistake(*filters, chapter="A")
def standardise_without_the_mean(kernel):
    """The mean is taken for a constant."""

    def gradient(dw_hat, centred, sigma):
        mean = dw_hat.mean((0, 1, 2)) / (sigma + 1e-5)
        return of_standardise(dw_hat, centred, sigma + 1e-5, sigma) + mean

    return standardise_with(gradient)(kernel)


@mistake(*filters, chapter="A")
def standardise_without_the_deviation(kernel):
    """The deviation is taken for a constant."""

    def gradient(dw_hat, centred, sigma):
        return (dw_hat - dw_hat.mean((0, 1, 2))) / (sigma + 1e-5)

    return standardise_with(gradient)(kernel)


@mistake(*filters, chapter="A")
def deviation_of_a_sample(kernel):
    """Backward divides by n - 1, as some frameworks' std does; forward by n."""

    def gradient(dw_hat, centred, sigma):
        n = centred[..., 0].size
        sigma = sigma * math.sqrt(n / (n - 1))
        return of_standardise(dw_hat, centred, sigma + 1e-5, sigma)

    return standardise_with(gradient)(kernel)


@mistake(*filters, chapter="A")
def eps_inside_the_root(kernel):
    """Backward has √(σ² + ε), forward σ + ε."""

    def gradient(dw_hat, centred, sigma):
        inside = np.sqrt(sigma * sigma + 1e-5)
        return of_standardise(dw_hat, centred, inside, inside)

    return standardise_with(gradient)(kernel)


@mistake(*filters, chapter="A")
def eps_left_out_of_backward(kernel):
    """Forward divides by σ + ε, backward by σ alone."""
    return standardise_with(lambda *given: of_standardise(*given, given[-1]))(kernel)


def group_norm_with(in_groups, out_of_groups):
    """A group norm that in backward takes its means over the last axis of in_groups(array)."""

    def group_norm(x, scale, bias, groups):
        y, back = layers.group_norm(x, scale, bias, groups)
        size = x.shape[-1] // groups
        x_hat, _ = layers.group_norm(x, np.ones_like(scale), np.zeros_like(scale), groups)
        by_group = x.real.reshape(len(x), -1, groups, size)
        rstd = (by_group.var((1, 3), keepdims=True) + 1e-6) ** -0.5

        def mean(a):
            rows = in_groups(a, groups)
            means = np.broadcast_to(rows.mean(-1, keepdims=True), rows.shape)
            return out_of_groups(means, a.shape, groups)

        def pullback(dy):
            g = dy * scale
            dx = g - mean(g) - x_hat * mean(g * x_hat)
            return (dx.reshape(by_group.shape) * rstd).reshape(x.shape), back(dy)[1]

        return y, pullback

    return group_norm


def side_by_side(a, groups):
    B, H, W, C = a.shape
    rows = a.reshape(B, H * W, groups, C // groups).swapaxes(1, 2)
    return rows.reshape(B, groups, -1)


def back_side_by_side(rows, shape, groups):
    B, H, W, C = shape
    return rows.reshape(B, groups, H * W, C // groups).swapaxes(1, 2).reshape(shape)


grouped = (
    group_norm_with(side_by_side, back_side_by_side), draw(2, 2, 3, 6), draw(6), draw(6), 3
)  # fmt: skip


@mistake(*grouped, chapter="A")
def every_third_channel(x, scale, bias, groups):
    """Backward groups channels 0, 3, then 1, 4, then 2, 5; forward 0, 1, then 2, 3, then 4, 5."""

    def taken_apart(a, groups):
        B, H, W, C = a.shape
        return np.moveaxis(a.reshape(B, H * W, C // groups, groups), 3, 1).reshape(B, groups, -1)

    def put_together(rows, shape, groups):
        B, H, W, C = shape
        return np.moveaxis(rows.reshape(B, groups, H * W, C // groups), 1, 3).reshape(shape)

    return group_norm_with(taken_apart, put_together)(x, scale, bias, groups)


@mistake(*grouped, chapter="A")
def groups_without_the_map(x, scale, bias, groups):
    """Backward takes its means place by place, as a layer norm does; forward over the map."""

    def taken_apart(a, groups):
        return a.reshape(*a.shape[:3], groups, -1)

    return group_norm_with(taken_apart, lambda rows, shape, groups: rows.reshape(shape))(
        x, scale, bias, groups
    )


@mistake(*grouped, chapter="A")
def every_channel_for_itself(x, scale, bias, groups):
    """Backward takes its means channel by channel; forward over the group."""
    return group_norm_with(
        lambda a, groups: np.moveaxis(a, 3, 1).reshape(len(a), a.shape[3], -1),
        lambda rows, shape, groups: rows.swapaxes(1, 2).reshape(shape),
    )(x, scale, bias, groups)


@mistake(*grouped, chapter="A")
def norm_over_the_batch(x, scale, bias, groups):
    """Backward takes its means over all images, as batch norm does; forward image by image."""
    return group_norm_with(
        lambda a, groups: side_by_side(a, groups).swapaxes(0, 1).reshape(groups, -1),
        lambda rows, shape, groups: back_side_by_side(
            rows.reshape(groups, shape[0], -1).swapaxes(0, 1), shape, groups
        ),
    )(x, scale, bias, groups)


def pool_with(gradient):
    """A max pooling whose pullback hands each place in a window gradient(dy, seen, y)."""

    def max_pool(x):
        y, _ = layers.max_pool(x)
        padded = pad_same(x, (3, 3), 2, -math.inf)

        def pullback(dy):
            dpadded = np.zeros(padded.shape)
            windows = (window_views(a, (3, 3), 2) for a in (padded, dpadded))
            for seen, dseen in zip(*windows, strict=True):
                dseen += gradient(dy, seen, y)
            return dpadded[:, : x.shape[1], : x.shape[2]]

        return y, pullback

    return max_pool


# Of even sides, so that all padding lies behind; of whole numbers, so that many are equal.
pooled = layers.max_pool, np.round(draw(2, 4, 6, 3))


@mistake(*pooled, chapter="A")
def every_tie_is_paid(x):
    """All numbers that equal the largest have the whole gradient, not the first alone."""
    return pool_with(lambda dy, seen, y: dy * (seen == y))(x)


@mistake(*pooled, chapter="A")
def max_pooled_back_as_a_mean(x):
    """The window's gradient is shared out among its nine places, as average pooling does."""
    return pool_with(lambda dy, seen, y: dy / 9)(x)


@mistake(layers.relu, draw(3, 4), chapter="A")
def relu_of_the_gradient(x):
    """Backward lets positive gradients pass, where it should look at the input's sign."""
    y, _ = layers.relu(x)
    return y, lambda dy: dy * (dy > 0)


@mistake(layers.relu, np.array([[-1.0, 0, 2], [0, 3, -2]]), chapter="A")
def slope_of_relu_at_zero(x):
    """Backward has x >= 0, forward x > 0."""
    y, _ = layers.relu(x)
    return y, lambda dy: dy * (x.real >= 0)


def added_and_bent(x, kernel):
    branch, branch_back = layers.convolution(x, kernel)
    y, relu_back = layers.relu(x + branch)

    def pullback(dy):
        dsum = relu_back(dy)
        dx, dparams = branch_back(dsum)
        return dx + dsum, dparams

    return y, pullback


unit = added_and_bent, draw(2, 3, 4, 3), draw(3, 3, 3, 3)


@mistake(*unit, chapter="A")
def shortcut_past_the_relu(x, kernel):
    """The shortcut's gradient goes round the last ReLU, as if that bent the branch alone."""
    y, back = added_and_bent(x, kernel)
    _, branch_back = layers.convolution(x, kernel)

    def pullback(dy):
        _, dparams = back(dy)
        dsum = dy * (y.real > 0)
        return branch_back(dsum)[0] + dy, dparams

    return y, pullback


@mistake(*unit, chapter="A")
def relu_before_the_sum(x, kernel):
    """Backward has the mask of the branch before it was added, not that of the sum."""
    y, _ = added_and_bent(x, kernel)
    branch, branch_back = layers.convolution(x, kernel)
    _, relu_back = layers.relu(branch)

    def pullback(dy):
        dx, dparams = branch_back(relu_back(dy))
        return dx + dy, dparams

    return y, pullback
