"""The paper's eight equations, entry by entry, beside the library.

Here a tensor is a list of lists of floats, and nothing is computed but by loops over scalars and
by `math`: no broadcasting, no reshape and no transpose can hide a mistake in both. The shapes
are tiny and odd, so that no two lengths are alike by chance. At the end each choice that the
paper leaves to its code (eps, the order of columns, of patches, of pixels) is made differently
once, to see that it would be noticed.
"""

import math

import numpy as np
import pytest

from minivit import ViTConfig, layers
from minivit.models import classify, embed, encoder_block, initialise, vit
from minivit.tree import map_tree

B, H, W, C, P = 2, 4, 6, 3, 2
T, D, k, M, K, L = H * W // P**2 + 1, 6, 2, 5, 4, 2
CONFIG = ViTConfig(
    image_size=(H, W), patch_size=P, channels=C, classes=K, width=D, depth=L, heads=k, mlp_width=M
)


def drawn(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def params_of(config=CONFIG):
    rng = np.random.default_rng(1)
    first = initialise(config, dtype="float64")
    return map_tree(lambda leaf: leaf + 0.5 * rng.normal(size=leaf.shape), first)


def lists(tree):
    """The same tree of parameters with lists of floats at its leaves."""
    return map_tree(lambda leaf: leaf.tolist(), tree)


def same(value, expected):
    expected = np.array(expected)
    assert value.shape == expected.shape
    return abs(value - expected).max() <= 1e-12 * max(1.0, abs(expected).max())


# The pieces, of one token or of one image


def times(row, kernel, bias):
    """row U + bias, one column of U after another."""
    columns = range(len(kernel[0]))
    return [sum(x * u[c] for x, u in zip(row, kernel, strict=True)) + bias[c] for c in columns]


def plus(a, b):
    return [[x + y for x, y in zip(*rows, strict=True)] for rows in zip(a, b, strict=True)]


def LN(row, scale, bias, eps=1e-6):
    mean = sum(row) / len(row)
    variance = sum((x - mean) ** 2 for x in row) / len(row)
    sigma = math.sqrt(variance + eps)
    return [s * (x - mean) / sigma + b for x, s, b in zip(row, scale, bias, strict=True)]


def softmax(row):
    exps = [math.exp(x) for x in row]
    return [e / sum(exps) for e in exps]


def GELU(x, kind="tanh"):
    if kind == "erf":
        return x * (1 + math.erf(x / math.sqrt(2))) / 2
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def MLP(row, hidden, out, kind="tanh"):
    return times([GELU(x, kind) for x in times(row, **hidden)], **out)


def flat_patch(image, n):
    """x_p^n: rows of patches from the top; in a patch row, column, channel."""
    top, left = n // (W // P) * P, n % (W // P) * P
    pixels = [(top + i, left + j, c) for i in range(P) for j in range(P) for c in range(C)]
    return [image[i][j][c] for i, j, c in pixels]


def equation_1(image, patch_embedding, class_token, positions, **others):
    """[x_class; x_p^1 E; ...; x_p^N E] + E_pos"""
    patches = [times(flat_patch(image, n), **patch_embedding) for n in range(T - 1)]
    return plus([class_token, *patches], positions["table"])


def columns_of(part, head):
    """Which columns of U_qkv: q, k, v are parts 0, 1, 2; in a part, one head after another."""
    Dh = D // k
    return [part * D + head * Dh + i for i in range(Dh)]


def equation_5(z, qkv, head, columns=columns_of):
    """[q, k, v] = z U_qkv"""
    packed = [times(token, **qkv) for token in z]
    return [[[row[c] for c in columns(part, head)] for row in packed] for part in range(3)]


def equation_6(q, k):
    """A = softmax(q kᵀ / √Dh)"""
    Dh = len(q[0])
    return [
        softmax([sum(a * b for a, b in zip(qi, kj, strict=True)) / math.sqrt(Dh) for kj in k])
        for qi in q
    ]


def equation_7(A, v):
    """SA(z) = A v"""
    return [
        [sum(a * vj[i] for a, vj in zip(row, v, strict=True)) for i in range(len(v[0]))]
        for row in A
    ]


def SA(z, qkv, head, columns=columns_of):
    q, key, v = equation_5(z, qkv, head, columns)
    return equation_7(equation_6(q, key), v)


def equation_8(z, qkv, out, columns=columns_of):
    """MSA(z) = [SA_1(z); ...; SA_k(z)] U_msa"""
    heads = [SA(z, qkv, head, columns) for head in range(k)]
    return [times([x for head in heads for x in head[t]], **out) for t in range(len(z))]


def equation_2(z, norm1, attention, **others):
    """z'_l = MSA(LN(z_{l-1})) + z_{l-1}"""
    return plus(equation_8([LN(token, **norm1) for token in z], **attention), z)


def equation_3(z, norm2, mlp, **others):
    """z_l = MLP(LN(z'_l)) + z'_l"""
    return plus([MLP(LN(token, **norm2), **mlp) for token in z], z)


def equation_4(z, norm, **others):
    """y = LN(z_L^0)"""
    return LN(z[0], **norm)


# Equation by equation


def test_equation_1():
    images, params = drawn(B, H, W, C), params_of()
    expected = [equation_1(image, **lists(params)) for image in images.tolist()]
    assert same(embed(images, params, CONFIG)[0], expected)


def test_equation_2():
    # An MLP whose last layer is zero leaves z'_l as it is.
    z, block = drawn(B, T, D), params_of()["blocks"][0]
    block["mlp"]["out"] = {"kernel": np.zeros((M, D)), "bias": np.zeros(D)}
    expected = [equation_2(tokens, **lists(block)) for tokens in z.tolist()]
    assert same(encoder_block(z, block, CONFIG)[0], expected)


def test_equation_3():
    # And so does an attention whose U_msa is zero.
    z, block = drawn(B, T, D), params_of()["blocks"][0]
    block["attention"]["out"] = {"kernel": np.zeros((D, D)), "bias": np.zeros(D)}
    expected = [equation_3(tokens, **lists(block)) for tokens in z.tolist()]
    assert same(encoder_block(z, block, CONFIG)[0], expected)


def test_equation_4():
    # A head that is the identity shows y.
    z, params = drawn(B, T, D), params_of()
    params["head"] = {"kernel": np.eye(D), "bias": np.zeros(D)}
    expected = [equation_4(tokens, **lists(params)) for tokens in z.tolist()]
    assert same(classify(z, params, CONFIG)[0], expected)


def test_equation_5_gives_each_head_its_queries_and_keys():
    z, attention = drawn(1, T, D), params_of()["blocks"][0]["attention"]
    seen = {}
    layers.self_attention(z, **attention, heads=k, watch=seen.__setitem__)
    parts = [equation_5(z[0].tolist(), lists(attention["qkv"]), head) for head in range(k)]
    assert same(seen["probabilities"], [[equation_6(q, key) for q, key, _ in parts]])


def test_equation_5_gives_each_head_its_values():
    # Without queries a token attends to all alike, and the heads return the mean of their values.
    z, qkv = drawn(1, T, D), params_of()["blocks"][0]["attention"]["qkv"]
    queries = [*columns_of(0, 0), *columns_of(0, 1)]
    qkv["kernel"][:, queries], qkv["bias"][queries] = 0, 0
    v = [equation_5(z[0].tolist(), lists(qkv), head)[2] for head in range(k)]
    mean = [sum(v[head][t][i] for t in range(T)) / T for head in range(k) for i in range(D // k)]
    identity = {"kernel": np.eye(D), "bias": np.zeros(D)}
    assert same(layers.self_attention(z, qkv, identity, k)[0], [[mean] * T])


def test_equation_6():
    q, key, v = drawn(3, T, 5).tolist(), drawn(3, T, 5, seed=1).tolist(), drawn(3, T, 4)
    seen = {}
    layers.attend(np.array(q) / math.sqrt(5), np.array(key), v, watch=seen.__setitem__)
    assert same(seen["probabilities"], [equation_6(*pair) for pair in zip(q, key, strict=True)])


def test_equation_7():
    q, key, v = drawn(3, T, 5).tolist(), drawn(3, T, 5, seed=1).tolist(), drawn(3, T, 4).tolist()
    value, _ = layers.attend(np.array(q) / math.sqrt(5), np.array(key), np.array(v))
    assert same(value, [equation_7(equation_6(a, b), c) for a, b, c in zip(q, key, v, strict=True)])


def test_equations_5_to_7_are_one_head():
    z, qkv = drawn(B, T, D), {"kernel": drawn(D, 9), "bias": drawn(9)}

    def columns(part, head):
        return range(3 * part, 3 * part + 3)

    expected = [SA(tokens, lists(qkv), 0, columns) for tokens in z.tolist()]
    assert same(layers.single_head_attention(z, **qkv)[0], expected)


def test_equation_8():
    z, attention = drawn(B, T, D), params_of()["blocks"][0]["attention"]
    expected = [equation_8(tokens, **lists(attention)) for tokens in z.tolist()]
    assert same(layers.self_attention(z, **attention, heads=k)[0], expected)


def test_all_equations_in_a_row():
    images, params = drawn(B, H, W, C), params_of()
    expected = []
    for image in images.tolist():
        z = equation_1(image, **lists(params))
        for block in lists(params["blocks"]):
            z = equation_3(equation_2(z, **block), **block)
        expected.append(times(equation_4(z, **lists(params)), **lists(params["head"])))
    assert same(vit(images, params, CONFIG)[0], expected)


# What the equations are made of


def test_layer_norm():
    x, scale, bias = drawn(B, T, D) * 1e-2, drawn(D), drawn(D, seed=1)  # small: eps is heard
    expected = [[LN(row, scale.tolist(), bias.tolist()) for row in rows] for rows in x.tolist()]
    assert same(layers.layer_norm(x, scale, bias)[0], expected)


@pytest.mark.parametrize("kind", ["tanh", "erf"])
def test_gelu_and_mlp(kind):
    x, mlp = 2 * drawn(3, D), params_of()["blocks"][0]["mlp"]
    expected = [[GELU(entry, kind) for entry in row] for row in x.tolist()]
    assert same(layers.gelu(x, kind)[0], expected)
    expected = [MLP(row, **lists(mlp), kind=kind) for row in x.tolist()]
    assert same(layers.mlp(x, **mlp, kind=kind)[0], expected)


def test_the_head_of_pre_training():
    y, hidden = drawn(3, D), {"kernel": drawn(D, 5), "bias": drawn(5)}
    head = {"kernel": drawn(5, K), "bias": drawn(K)}
    inner = [[math.tanh(h) for h in times(row, **lists(hidden))] for row in y.tolist()]
    expected = [times(row, **lists(head)) for row in inner]
    assert same(layers.pretraining_head(y, hidden, head)[0], expected)


def test_cross_entropy():
    logits, labels = drawn(3, K), [2, 0, 3]
    chances = [softmax(row)[label] for row, label in zip(logits.tolist(), labels, strict=True)]
    loss, _ = layers.cross_entropy(logits, np.array(labels))
    assert abs(loss - sum(-math.log(p) for p in chances) / 3) <= 1e-12


# Each choice, made differently, is noticed


def head_by_head(part, head):
    """The columns of another order: q, k and v of head 1, then of head 2."""
    return [(head * 3 + part) * (D // k) + i for i in range(D // k)]


def keys_first(part, head):
    return columns_of({0: 1, 1: 0, 2: 2}[part], head)


def heads_interleaved(part, head):
    return [part * D + i * k + head for i in range(D // k)]


@pytest.mark.parametrize("columns", [head_by_head, keys_first, heads_interleaved])
def test_another_order_of_columns_would_be_noticed(columns):
    z, attention = drawn(1, T, D), params_of()["blocks"][0]["attention"]
    value, _ = layers.self_attention(z, **attention, heads=k)
    tokens, params = z[0].tolist(), lists(attention)
    assert same(value, [equation_8(tokens, **params)])
    assert not same(value, [equation_8(tokens, **params, columns=columns)])


@pytest.mark.parametrize("eps", [0, 1e-12, 1e-5])
def test_another_eps_would_be_noticed(eps):
    x, scale, bias = drawn(1, D), [1.0] * D, [0.0] * D
    value, _ = layers.layer_norm(x, np.array(scale), np.array(bias))
    assert same(value, [LN(x[0].tolist(), scale, bias)])
    assert not same(value, [LN(x[0].tolist(), scale, bias, eps)])


def column_by_column(tokens):
    gh, gw = H // P, W // P
    return [tokens[0], *(tokens[1 + i * gw + j] for j in range(gw) for i in range(gh))]


def class_token_last(tokens):
    return [*tokens[1:], tokens[0]]


@pytest.mark.parametrize("other", [column_by_column, class_token_last])
def test_another_order_of_tokens_would_be_noticed(other):
    images, params = drawn(1, H, W, C), params_of()
    value, _ = embed(images, params, CONFIG)
    tokens = equation_1(images[0].tolist(), **lists(params))
    assert same(value, [tokens])
    assert not same(value, [other(tokens)])


def test_another_order_of_pixels_would_be_noticed():
    images, params = drawn(1, H, W, C), params_of()
    value, _ = embed(images, params, CONFIG)
    kernel = lists(params)["patch_embedding"]["kernel"]
    by_channel = [(i * P + j) * C + c for c in range(C) for i in range(P) for j in range(P)]
    other = lists(params)
    other["patch_embedding"]["kernel"] = [kernel[row] for row in by_channel]
    assert not same(value, [equation_1(images[0].tolist(), **other)])
