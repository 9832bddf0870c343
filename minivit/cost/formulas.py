"""The ledger by formula, in the paper's letters. Nothing is run, and no array is made.

*FLOP* are those of products of matrices, two for each multiply-add. A pullback does two products
for each of its forward's, one for the gradient of either factor; the patch embedding's is no
exception, as minivit hands down the gradient of the images too. *Entries* is the work of a layer
without such products, norms, softmax, GELU and sums: how many numbers it goes over, however often.
(The sums that `arrays.py` takes as products with ones are such work as well.)
*Kept* are the bytes that the pullbacks hold on to until they are called. What several of them
keep is counted in the first row; parameters and the gradients to come are not counted.

`s` is the number of bytes of a scalar; the other letters are the paper's.
"""

from typing import NamedTuple

import numpy as np

from ..models import ViTConfig


class Row(NamedTuple):
    """A line of the ledger: what one such layer costs. The model has `times` of them."""

    layer: str
    times: int = 1
    parameters: int = 0
    forward: int = 0  # FLOP
    entries: int = 0
    kept: int = 0  # bytes

    @property
    def backward(self) -> int:
        """FLOP of the way back: two products for each one."""
        return 2 * self.forward

    @property
    def together(self) -> "Row":
        """What all of them cost."""
        return Row(self.layer, self.times, *(self.times * number for number in self[2:]))


def rows(config: ViTConfig, batch: int, dtype: str = "float32") -> list[Row]:
    """The ledger of a forward and backward over a batch, from the image to the logits."""
    s = np.dtype(dtype).itemsize
    return [
        *stem_rows(config, batch, s),
        *embedding_rows(config, batch, s),
        *attention_rows(config, batch, s),
        *mlp_rows(config, batch, s),
        *head_rows(config, batch, s),
    ]


def totals(ledger: list[Row]) -> Row:
    """The sum of the ledger."""
    together = [row.together[2:] for row in ledger]
    return Row("total", 1, *map(sum, zip(*together, strict=True)))


def linear_row(layer: str, times: int, n: int, D: int, E: int, s: int, bias: bool = True) -> Row:
    """y = x W + b for n rows: D E + E parameters, 2 n D E FLOP; it keeps x, n D s."""
    return Row(layer, times, D * E + E * bias, 2 * n * D * E, kept=n * D * s)


def norm_row(layer: str, times: int, n: int, D: int, s: int) -> Row:
    """Layer norm of n rows: 2 D parameters; it keeps x_hat and 1 / σ, n (D + 1) s."""
    return Row(layer, times, 2 * D, entries=n * D, kept=n * (D + 1) * s)


def dropout_rows(config: ViTConfig, layer: str, times: int, size: int, s: int) -> list[Row]:
    """One row if entries are dropped: it keeps its mask, of floats."""
    return [Row(layer, times, entries=size, kept=size * s)] if config.dropout else []


def embedding_rows(config: ViTConfig, B: int, s: int) -> list[Row]:
    """Equation 1.

    patch embedding   P² C D + D parameters, 2 B N P² C D FLOP; keeps the patches, B N P² C s
    class token       D parameters
    positions         T D parameters (1d), or (gh + gw) D / 2 and D for a class token (2d)
    """
    c = config
    T, D, P, C = c.tokens, c.width, c.patch_size, c.feature_channels
    gh, gw = c.grid
    token = c.pooling == "class"
    table = {"1d": T * D, "2d": (gh + gw) * (D // 2) + D * token}
    found = [linear_row("patch embedding", 1, B * gh * gw, P * P * C, D, s, c.patch_bias)]
    if token:
        found.append(Row("class token", 1, D, entries=B * T * D))
    if c.positions not in ("none", "relative"):
        found.append(Row("positions", 1, table.get(c.positions, 0), entries=B * T * D))
    return found + dropout_rows(c, "dropout of the embedding", 1, B * T * D, s)


def attention_rows(config: ViTConfig, B: int, s: int) -> list[Row]:
    """Equations 5 to 8 and their norm, in each of the L blocks.

    norm1       2 D parameters; keeps B T (D + 1) s
    qkv         3 D² + 3 D parameters, 6 B T D² FLOP; keeps its input, B T D s
    scores      2 B T² D FLOP; keeps [q, k, v] and the q that was divided by √Dh, 4 B T D s
    relative    R D parameters, 2 B T R D FLOP, R offsets; keeps what each query says to each, and
                two tables of numbers of 8 bytes: B k T R s + 8 T² + 8 T
    softmax     keeps A, B k T² s
    A v         2 B T² D FLOP; keeps A and v, which are counted above
    out         D² + D parameters, 2 B T D² FLOP; keeps its input, B T D s
    residual    nothing
    """
    c = config
    L, T, D, k = c.depth, c.tokens, c.width, c.heads
    tokens = B * T * D
    found = [
        norm_row("norm1", L, B * T, D, s),
        linear_row("attention: qkv", L, B * T, D, 3 * D, s, c.qkv_bias),
        Row("attention: scores", L, forward=2 * T * tokens, kept=4 * tokens * s),
        Row("attention: softmax", L, entries=B * k * T * T, kept=B * k * T * T * s),
        Row("attention: A v", L, forward=2 * T * tokens),
        linear_row("attention: out", L, B * T, D, D, s),
        *dropout_rows(c, "attention: dropout", L, tokens, s),
        Row("attention: residual", L, entries=tokens),
    ]
    if c.positions == "relative":
        N = c.grid[0] * c.grid[1]
        R = 2 * N - 1 + 3 * (c.pooling == "class")
        kept = B * k * T * R * s + 8 * T * T + 8 * T
        found.insert(3, Row("attention: relative", L, R * D, 2 * R * tokens, kept=kept))
    return found


def mlp_rows(config: ViTConfig, B: int, s: int) -> list[Row]:
    """The MLP of Equation 3 and its norm, in each of the L blocks.

    norm2       2 D parameters; keeps B T (D + 1) s
    hidden      D M + M parameters, 2 B T D M FLOP; keeps its input, B T D s
    gelu        keeps its input, B T M s; the exact form its value as well
    out         M D + D parameters, 2 B T M D FLOP; keeps its input, B T M s, unless that is the
                value that GELU has kept
    residual    nothing
    drop path   in all blocks but the first, after both branches; keeps a number an image, B s
    """
    c = config
    L, n, D, M = c.depth, B * c.tokens, c.width, c.mlp_width
    out = linear_row("MLP: out", L, n, M, D, s)
    exact = c.gelu == "erf"
    has_kept_it = exact and not c.dropout
    found = [
        norm_row("norm2", L, n, D, s),
        linear_row("MLP: hidden", L, n, D, M, s),
        Row("MLP: gelu", L, entries=n * M, kept=(1 + exact) * n * M * s),
        *dropout_rows(c, "MLP: dropout of the hidden", L, n * M, s),
        out._replace(kept=0) if has_kept_it else out,
        *dropout_rows(c, "MLP: dropout", L, n * D, s),
        Row("MLP: residual", L, entries=n * D),
    ]
    if c.drop_path and L > 1:
        found.append(Row("drop path", 2 * (L - 1), entries=n * D, kept=B * s))
    return found


def head_rows(config: ViTConfig, B: int, s: int) -> list[Row]:
    """Equation 4 and the classifier, with a hidden layer of R or none.

    norm      2 D parameters; keeps B T (D + 1) s
    pool      class: y is a view of the normed tokens, and keeps them all, B T D s; mean: nothing
    hidden    D R + R parameters, 2 B D R FLOP; keeps its value B R s, and y if that is no view
    head      D K + K parameters, 2 B D K FLOP (R in the place of D, if there is one); keeps y if
              that is no view and has not been counted
    """
    c = config
    T, D, R, K = c.tokens, c.width, c.hidden_head, c.classes
    token = c.pooling == "class"
    tokens = B * T * D
    pool = Row("pool", kept=tokens * s) if token else Row("pool", entries=tokens)
    found = [norm_row("final norm", 1, B * T, D, s), pool]
    y = 0 if token else B * D * s
    if R is not None:
        hidden = linear_row("hidden head", 1, B, D, R, s)
        found.append(hidden._replace(kept=y + B * R * s))
    if K is not None:
        head = linear_row("head", 1, B, R or D, K, s)
        found.append(head._replace(kept=0 if R else y))
    return found


def stem_rows(config: ViTConfig, B: int, s: int) -> list[Row]:
    """The ResNet of a hybrid: its root, and the units of each stage, the equal ones in one row."""
    if config.stem is None:
        return []
    (H, W), F = config.image_size, config.stem_width
    found = [root_row(B, H, W, config.channels, F, s)]
    h, w, C = -(-H // 4), -(-W // 4), F
    for stage, units in enumerate(config.stem):
        f, stride = F * 2**stage, 2 if stage else 1
        name = f"stem: stage {stage + 1}, unit"
        found.append(unit_row(f"{name} 1", 1, B, h, w, C, f, stride, s, shortcut=True))
        h, w, C = -(-h // stride), -(-w // stride), 4 * f
        if units > 1:
            name += f"s 2 to {units}" if units > 2 else " 2"
            found.append(unit_row(name, units - 1, B, h, w, C, f, 1, s))
    return found


def root_row(B: int, H: int, W: int, C: int, F: int, s: int) -> Row:
    """7 x 7 convolution, norm, ReLU and max pooling, with h w = H W / 4 places.

    49 C F + 2 F parameters, 2 B h w 49 C F FLOP. The pooling keeps of each of its B h w / 4 F
    numbers, in a byte, where it came from.
    """
    h, w = -(-H // 2), -(-W // 2)
    pooled = B * -(-h // 2) * -(-w // 2) * F
    forward, kept = convolution(B * h * w, 49 * C, F, s)
    kept += B * h * w * 49 * C * s + norm_and_relu(B, h * w, F, s) + pooled
    return Row("stem: root", 1, 49 * C * F + 2 * F, forward, kept=kept)


def unit_row(
    layer: str, times: int, B: int, H: int, W: int, C: int, f: int, stride: int, s: int,
    shortcut: bool = False,
) -> Row:  # fmt: skip
    """Convolutions 1 x 1 to f, 3 x 3, and 1 x 1 to 4 f; perhaps one more, of what entered.

    C f + 9 f² + 4 f² + 12 f parameters, 2 B f (H W C + h w (9 f + 4 f)) FLOP, with h w places
    after the stride; a shortcut has 4 C f + 8 f more, and 2 B h w 4 C f. The 1 x 1 convolutions
    keep their inputs, the 3 x 3 one its windows, 9 times the map; the shortcut has the same input
    as the first, of which it keeps a copy if it strides.
    """
    h, w = -(-H // stride), -(-W // stride)
    places, strided = B * H * W, B * h * w
    #              places, window, outputs, entries of the input it keeps
    convolutions = [
        (places, C, f, places * C),
        (strided, 9 * f, f, strided * 9 * f),
        (strided, f, 4 * f, strided * f),
    ]
    if shortcut:
        convolutions.append((strided, C, 4 * f, strided * C if stride > 1 else 0))
    parameters = forward = kept = 0
    for n, window, E, entries in convolutions:
        flop, weights = convolution(n, window, E, s)
        parameters += window * E + 2 * E
        forward += flop
        kept += weights + entries * s + norm_and_relu(B, n // B, E, s)
    if shortcut:
        kept -= strided * 4 * f  # no ReLU of its own
    return Row(layer, times, parameters, forward, kept=kept)


def convolution(n: int, window: int, E: int, s: int) -> tuple[int, int]:
    """FLOP, and the bytes kept of its weights, which are standardised: w_hat, 1 / window for each
    place in it, σ and its divisor. n places, E outputs: 2 n window E, (window E + window + 2 E) s
    """
    return 2 * n * window * E, (window * E + window + 2 * E) * s


def norm_and_relu(B: int, n: int, E: int, s: int) -> int:
    """Group norm keeps x_hat and 1 / σ for B maps of n places, B (n + 1) E s; ReLU a byte each."""
    return B * (n + 1) * E * s + B * n * E
