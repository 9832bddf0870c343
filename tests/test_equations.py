"""The paper's eight equations as loops over scalars, compared with the library.

A tensor is a list of lists of floats here. Without broadcasting, reshapes and transposes, the two
implementations are unlikely to share a mistake. The shapes are tiny, and all lengths differ. The
paper does not specify epsilon or the order of columns, patches and pixels. The last tests verify
that another choice would be detected.
"""

import math

import numpy as np
import pytest

from minivit import ViTConfig, layers
from minivit.checking.cases import perturb
from minivit.models import classify, embed, encoder_block, initialise, vit
from minivit.tree import map_tree

B, H, W, C, P = 2, 4, 6, 3, 2
T, D, HEADS, M, K, L = H * W // P**2 + 1, 6, 2, 5, 4, 2
DH = D // HEADS
CONFIG = ViTConfig(
    image_size=(H, W), patch_size=P, channels=C, classes=K,
    width=D, depth=L, heads=HEADS, mlp_width=M,
)  # fmt: skip


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def draw_params():
    return perturb(initialise(CONFIG, dtype="float64"), np.random.default_rng(1))


def draw_block():
    return draw_params()["blocks"][0]


def to_lists(tree):
    """Replace the arrays of a tree by lists of floats."""
    return map_tree(lambda leaf: leaf.tolist(), tree)


def close(value, expected):
    expected = np.array(expected)
    assert value.shape == expected.shape
    return abs(value - expected).max() <= 1e-12 * max(1.0, abs(expected).max())


# --- the equations, for one image -------------------------------------------------------------


def affine(row, kernel, bias):
    columns = range(len(kernel[0]))
    return [sum(x * u[c] for x, u in zip(row, kernel, strict=True)) + bias[c] for c in columns]


def add(a, b):
    return [[x + y for x, y in zip(*rows, strict=True)] for rows in zip(a, b, strict=True)]


def LN(row, scale, bias, eps=1e-6):
    mean = sum(row) / len(row)
    sigma = math.sqrt(sum((x - mean) ** 2 for x in row) / len(row) + eps)
    return [s * (x - mean) / sigma + b for x, s, b in zip(row, scale, bias, strict=True)]


def softmax(row):
    exps = [math.exp(x) for x in row]
    return [e / sum(exps) for e in exps]


def GELU(x, kind="tanh"):
    if kind == "erf":
        return x * (1 + math.erf(x / math.sqrt(2))) / 2
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def MLP(row, hidden, out, kind="tanh"):
    return affine([GELU(x, kind) for x in affine(row, **hidden)], **out)


def flatten_patch(image, n):
    """x_p^n: patches in raster order, pixels in the order row, column, channel."""
    top, left = n // (W // P) * P, n % (W // P) * P
    pixels = [(top + i, left + j, c) for i in range(P) for j in range(P) for c in range(C)]
    return [image[i][j][c] for i, j, c in pixels]


def equation_1(image, patch_embedding, class_token, positions, **_):
    """[x_class; x_p^1 E; ...; x_p^N E] + E_pos"""
    patches = [affine(flatten_patch(image, n), **patch_embedding) for n in range(T - 1)]
    return add([class_token, *patches], positions["table"])


def columns_of(part, head):
    """Columns of U_qkv: the queries (part 0) of all heads, then the keys, then the values."""
    return [part * D + head * DH + i for i in range(DH)]


def equation_5(z, qkv, head, columns=columns_of):
    """[q, k, v] = z U_qkv"""
    packed = [affine(token, **qkv) for token in z]
    return [[[row[c] for c in columns(part, head)] for row in packed] for part in range(3)]


def equation_6(q, k):
    """A = softmax(q kᵀ / √Dh)"""
    root = math.sqrt(len(q[0]))
    return [
        softmax([sum(a * b for a, b in zip(qi, kj, strict=True)) / root for kj in k]) for qi in q
    ]


def equation_7(A, v):
    """SA(z) = A v"""
    columns = range(len(v[0]))
    return [[sum(a * vj[i] for a, vj in zip(row, v, strict=True)) for i in columns] for row in A]


def SA(z, qkv, head, columns=columns_of):
    q, k, v = equation_5(z, qkv, head, columns)
    return equation_7(equation_6(q, k), v)


def equation_8(z, qkv, out, columns=columns_of):
    """MSA(z) = [SA_1(z); ...; SA_h(z)] U_msa"""
    heads = [SA(z, qkv, head, columns) for head in range(HEADS)]
    return [affine([x for head in heads for x in head[t]], **out) for t in range(len(z))]


def equation_2(z, norm1, attention, **_):
    """z'_l = MSA(LN(z_{l-1})) + z_{l-1}"""
    return add(equation_8([LN(token, **norm1) for token in z], **attention), z)


def equation_3(z, norm2, mlp, **_):
    """z_l = MLP(LN(z'_l)) + z'_l"""
    return add([MLP(LN(token, **norm2), **mlp) for token in z], z)


def equation_4(z, norm, **_):
    """y = LN(z_L^0)"""
    return LN(z[0], **norm)


# --- equation by equation ---------------------------------------------------------------------


def test_equation_1_equals_the_embedding():
    images, params = draw(B, H, W, C), draw_params()
    expected = [equation_1(image, **to_lists(params)) for image in images.tolist()]
    assert close(embed(images, params, CONFIG)[0], expected)


@pytest.mark.parametrize(
    ("equation", "branch", "rows"), [(equation_2, "mlp", M), (equation_3, "attention", D)]
)
def test_equations_2_and_3_equal_the_encoder_block(equation, branch, rows):
    # The other branch is switched off by a zero output layer.
    z, block = draw(B, T, D), draw_block()
    block[branch]["out"] = {"kernel": np.zeros((rows, D)), "bias": np.zeros(D)}
    expected = [equation(tokens, **to_lists(block)) for tokens in z.tolist()]
    assert close(encoder_block(z, block, CONFIG)[0], expected)


def test_equation_4_equals_the_classifier():
    z, params = draw(B, T, D), draw_params()
    params["head"] = {"kernel": np.eye(D), "bias": np.zeros(D)}  # the logits are y
    expected = [equation_4(tokens, **to_lists(params)) for tokens in z.tolist()]
    assert close(classify(z, params, CONFIG)[0], expected)


def test_equation_5_assigns_queries_and_keys_to_heads():
    z, attention, watched = draw(1, T, D), draw_block()["attention"], {}
    layers.self_attention(z, **attention, heads=HEADS, watch=watched.__setitem__)
    qkv = to_lists(attention["qkv"])
    parts = [equation_5(z[0].tolist(), qkv, head) for head in range(HEADS)]
    assert close(watched["probabilities"], [[equation_6(q, k) for q, k, _ in parts]])


def test_equation_5_assigns_values_to_heads():
    # Zero queries attend to all tokens equally, so each head returns the mean of its values.
    z, qkv = draw(1, T, D), draw_block()["attention"]["qkv"]
    qkv["kernel"][:, :D], qkv["bias"][:D] = 0, 0
    v = [equation_5(z[0].tolist(), to_lists(qkv), head)[2] for head in range(HEADS)]
    mean = [sum(v[head][t][i] for t in range(T)) / T for head in range(HEADS) for i in range(DH)]
    identity = {"kernel": np.eye(D), "bias": np.zeros(D)}
    assert close(layers.self_attention(z, qkv, identity, HEADS)[0], [[mean] * T])


def test_equations_6_and_7_equal_attend():
    q, k, v, watched = draw(3, T, 5), draw(3, T, 5, seed=1), draw(3, T, 4), {}
    value, _ = layers.attend(q / math.sqrt(5), k, v, watch=watched.__setitem__)
    A = [equation_6(*pair) for pair in zip(q.tolist(), k.tolist(), strict=True)]
    assert close(watched["probabilities"], A)
    assert close(value, [equation_7(*pair) for pair in zip(A, v.tolist(), strict=True)])


def test_equations_5_to_7_equal_single_head_attention():
    z, qkv = draw(B, T, D), {"kernel": draw(D, 9), "bias": draw(9)}

    def columns(part, head):
        return range(3 * part, 3 * part + 3)

    expected = [SA(tokens, to_lists(qkv), 0, columns) for tokens in z.tolist()]
    assert close(layers.single_head_attention(z, **qkv)[0], expected)


def test_equation_8_equals_self_attention():
    z, attention = draw(B, T, D), draw_block()["attention"]
    expected = [equation_8(tokens, **to_lists(attention)) for tokens in z.tolist()]
    assert close(layers.self_attention(z, **attention, heads=HEADS)[0], expected)


def test_all_equations_in_sequence_equal_the_vit():
    images, params = draw(B, H, W, C), draw_params()
    lists, expected = to_lists(params), []
    for image in images.tolist():
        z = equation_1(image, **lists)
        for block in lists["blocks"]:
            z = equation_3(equation_2(z, **block), **block)
        expected.append(affine(equation_4(z, **lists), **lists["head"]))
    assert close(vit(images, params, CONFIG)[0], expected)


@pytest.mark.parametrize("kind", ["tanh", "erf"])
def test_gelu_and_mlp_equal_the_loops(kind):
    x, mlp = 2 * draw(3, D), draw_block()["mlp"]
    assert close(layers.gelu(x, kind)[0], [[GELU(v, kind) for v in row] for row in x.tolist()])
    expected = [MLP(row, **to_lists(mlp), kind=kind) for row in x.tolist()]
    assert close(layers.mlp(x, **mlp, kind=kind)[0], expected)


def test_the_pretraining_head_equals_the_loops():
    y, hidden = draw(3, D), {"kernel": draw(D, 5), "bias": draw(5)}
    head = {"kernel": draw(5, K), "bias": draw(K)}
    inner = [[math.tanh(h) for h in affine(row, **to_lists(hidden))] for row in y.tolist()]
    expected = [affine(row, **to_lists(head)) for row in inner]
    assert close(layers.pretraining_head(y, hidden, head)[0], expected)


# --- other choices would be detected ----------------------------------------------------------


@pytest.mark.parametrize(
    "columns",
    [
        lambda part, head: [(head * 3 + part) * DH + i for i in range(DH)],
        lambda part, head: columns_of({0: 1, 1: 0, 2: 2}[part], head),
        lambda part, head: [part * D + i * HEADS + head for i in range(DH)],
    ],
    ids=["grouped by head", "keys first", "interleaved heads"],
)
def test_another_order_of_columns_is_detected(columns):
    z, attention = draw(1, T, D), draw_block()["attention"]
    value, _ = layers.self_attention(z, **attention, heads=HEADS)
    assert not close(value, [equation_8(z[0].tolist(), **to_lists(attention), columns=columns)])


@pytest.mark.parametrize("eps", [0, 1e-12, 1e-5])
def test_another_epsilon_is_detected(eps):
    x, scale, bias = draw(1, D), [1.0] * D, [0.0] * D
    value, _ = layers.layer_norm(x, np.array(scale), np.array(bias))
    assert close(value, [LN(x[0].tolist(), scale, bias)])
    assert not close(value, [LN(x[0].tolist(), scale, bias, eps)])


def test_another_order_of_tokens_or_pixels_is_detected():
    images, params = draw(1, H, W, C), draw_params()
    value, _ = embed(images, params, CONFIG)
    tokens = equation_1(images[0].tolist(), **to_lists(params))
    gh, gw = H // P, W // P
    columns_first = [tokens[0], *(tokens[1 + i * gw + j] for j in range(gw) for i in range(gh))]
    assert not close(value, [columns_first])
    assert not close(value, [[*tokens[1:], tokens[0]]])
    channels_first = [(i * P + j) * C + c for c in range(C) for i in range(P) for j in range(P)]
    params["patch_embedding"]["kernel"] = params["patch_embedding"]["kernel"][channels_first]
    assert not close(value, [equation_1(images[0].tolist(), **to_lists(params))])
