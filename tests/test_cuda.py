"""The kernels of `minivit/cuda`, each against its plain twin in float64 on the host.

Without a GPU their own source runs on the CPU: see `emulated_cupy.py`.
"""

import subprocess
import sys
from functools import partial
from importlib import util
from pathlib import Path

import numpy as np
import pytest
from helpers.on_device import ON_GPU, convert, cupy, gpu, needs_compiler

import minivit
from minivit import layers
from minivit.arrays import matmul, sum_leading
from minivit.checking import cases as proofs
from minivit.devices import device_module
from minivit.optim import AdamW, adamw

pytestmark = [needs_compiler, pytest.mark.usefixtures("gpu")]
__all__ = ["gpu"]  # the fixture

DTYPES = ("float16", "float32", "float64")
TOLERANCE = {"float16": 2e-3, "float32": 2e-6, "float64": 5e-14}  # of the largest
LARGE = {"float16": 1e3, "float32": 1e6, "float64": 1e12}
SEAMS = (  # every function that has a faster version
    matmul, sum_leading, adamw, layers.cross_entropy, layers.gelu, layers.layer_norm, layers.linear,
    layers.mlp, layers.softmax,
)  # fmt: skip


def plain(function):
    """The version that stands in `layers`, whatever the arrays."""
    return function.dispatch(object)


def draw(rng, dtype, *shape):
    """Normal numbers that this dtype can hold, in float64."""
    return rng.normal(size=shape).astype(dtype).astype("float64")


def affine(rng, dtype, D, E):
    return {"kernel": draw(rng, dtype, D, E) / D**0.5, "bias": draw(rng, dtype, E)}


def upload(thing, dtype):
    return convert(thing, lambda a: cupy.asarray(a.astype(dtype) if a.dtype.kind == "f" else a))


def assert_close(found, expected, dtype, factor=1.0):
    """Arrays, or trees and tuples of them: near the reference, on the device, of the dtype."""
    found, expected = (
        minivit.flatten(list(x) if isinstance(x, tuple) else x) for x in (found, expected)
    )
    assert found.keys() == expected.keys()
    for name, reference in expected.items():
        array = found[name]
        assert type(array) is cupy.ndarray, f"{name} is no array of the device"
        assert (array.dtype, array.shape) == (dtype, reference.shape), name
        error = abs(array.get().astype("float64") - reference).max(initial=0)
        bound = factor * TOLERANCE[dtype] * max(abs(reference).max(initial=0), 0.1)
        assert error <= bound, f"{name} is wrong by {error:.1e}, allowed are {bound:.1e}"


def assert_twins(function, arguments, dtype, *more, factor=1.0):
    """Value and gradients of the kernel, in this dtype, and of the plain function in float64."""
    device_module("gpu")
    given = upload(arguments, dtype)
    value, pullback = function(*given, *more)
    expected, expected_back = plain(function)(*arguments, *more)
    assert_close(value, expected, dtype, factor)
    dy = draw(np.random.default_rng(5), dtype, *expected.shape)
    assert_close(pullback(upload(dy, dtype)), expected_back(dy), dtype, factor)
    again = pullback(upload(dy, dtype))
    assert_close(again, expected_back(dy), dtype, factor)  # it has kept what it needs
    for one, before in zip(flat(given), flat(arguments), strict=True):
        np.testing.assert_array_equal(one.get(), before.astype(one.dtype))  # and written nowhere


def flat(thing):
    return minivit.flatten(list(thing)).values()


# --- the layers -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 3, 31), (9, 32), (2, 2, 5, 33), (3, 197)])
def test_softmax(shape, dtype):
    x = 3 * draw(np.random.default_rng(0), dtype, *shape)
    assert_twins(layers.softmax, (x,), dtype, factor=2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_of_large_scores(dtype):
    x = LARGE[dtype] * draw(np.random.default_rng(0), dtype, 4, 37).astype(dtype).astype("float64")
    x = x.astype(dtype).astype("float64")
    x[1], x[2] = LARGE[dtype], -LARGE[dtype]
    assert_twins(layers.softmax, (x,), dtype, factor=2)


def test_softmax_in_place_and_out_of_views():
    device_module("gpu")
    x = draw(np.random.default_rng(0), "float64", 3, 4, 6)
    expected = plain(layers.softmax)(x)[0]
    scores = cupy.asarray(x)
    p, _ = layers.softmax(scores, out=scores)
    np.testing.assert_allclose(scores.get(), expected, rtol=1e-14)
    assert p.data.ptr == scores.data.ptr
    turned = cupy.asarray(np.ascontiguousarray(x.swapaxes(0, 2))).swapaxes(0, 2)
    np.testing.assert_allclose(layers.softmax(turned)[0].get(), expected, rtol=1e-14)
    layers.softmax(turned, out=turned)
    np.testing.assert_allclose(turned.get(), expected, rtol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 3), (3, 5), (2, 9, 31), (300, 33), (2, 3, 192)])
def test_layer_norm(shape, dtype):
    rng = np.random.default_rng(1)
    x, scale, bias = (draw(rng, dtype, *s) for s in (shape, shape[-1:], shape[-1:]))
    assert_twins(layers.layer_norm, (x, scale, bias), dtype, factor=4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layer_norm_far_from_zero(dtype):
    # E[x²] - E[x]² would have lost all digits of the variance here.
    rng = np.random.default_rng(1)
    x = (draw(rng, dtype, 3, 40) + 1e3).astype(dtype).astype("float64")
    scale, bias = draw(rng, dtype, 40), draw(rng, dtype, 40)
    assert_twins(layers.layer_norm, (x, scale, bias), dtype, factor=1e3)


def test_layer_norm_of_large_halves():
    # Squares of such numbers are no float16: the kernel adds them up in float32.
    rng = np.random.default_rng(1)
    x = (1e4 * draw(rng, "float16", 3, 40)).astype("float16").astype("float64")
    scale, bias = draw(rng, "float16", 40), draw(rng, "float16", 40)
    device_module("gpu")
    y, _ = layers.layer_norm(*upload((x, scale, bias), "float16"))
    assert_close(y, plain(layers.layer_norm)(x, scale, bias)[0], "float16", 2)


@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_layer_norm_heeds_eps(eps):
    x = 1e-2 * draw(np.random.default_rng(1), "float64", 4, 7)
    ones, zeros = np.ones(7), np.zeros(7)
    assert_twins(layers.layer_norm, (x, ones, zeros), "float64", eps, factor=4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["tanh", "erf"])
def test_gelu(kind, dtype):
    x = 2 * draw(np.random.default_rng(2), dtype, 3, 7, 41)
    assert_twins(layers.gelu, (x,), dtype, kind, factor=2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["tanh", "erf"])
def test_gelu_of_large_numbers(kind, dtype):
    x = np.array([[-LARGE[dtype], -50, -9, -0.0, 0, 9, 50, LARGE[dtype]]])
    assert_twins(layers.gelu, (x,), dtype, kind)
    _, pullback = layers.gelu(upload(x, dtype), kind)
    slopes = pullback(upload(np.ones_like(x), dtype)).get()[0]
    assert slopes.tolist() == pytest.approx([0, 0, 0, 0.5, 0.5, 1, 1, 1], abs=1e-12)


def test_no_rows_at_all():
    rng = np.random.default_rng(2)
    x, D = np.zeros((0, 5)), 5
    assert_twins(layers.softmax, (x,), "float32")
    assert_twins(layers.gelu, (x,), "float32")
    assert_twins(layers.layer_norm, (x, np.ones(D), np.zeros(D)), "float32")
    both = affine(rng, "float32", D, 7), affine(rng, "float32", 7, D)
    both = convert(both, lambda a: a.astype("float32").astype("float64"))
    assert_twins(layers.mlp, (x, *both), "float32")


def test_an_unknown_gelu():
    device_module("gpu")
    with pytest.raises(ValueError, match="unknown GELU 'relu': choose"):
        layers.gelu(cupy.zeros((2, 3), dtype="float32"), "relu")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 7, 3), (33, 70, 9)])
def test_mlp(sizes, dtype):
    D, M, rows = sizes
    rng = np.random.default_rng(3)
    hidden, out = affine(rng, dtype, D, M), affine(rng, dtype, M, D)
    hidden, out = convert((hidden, out), lambda a: a.astype(dtype).astype("float64"))
    factor = 4 if dtype == "float16" else 8
    for kind in ("tanh", "erf"):
        x = draw(rng, dtype, 2, rows, D)
        assert_twins(layers.mlp, (x, hidden, out), dtype, kind, factor=factor)


def test_mlp_drops_the_same_entries():
    rng = np.random.default_rng(3)
    arguments = draw(rng, "float64", 2, 3, 5), affine(rng, "float64", 5, 7)
    arguments = *arguments, affine(rng, "float64", 7, 5)
    device_module("gpu")
    with_seed = [np.random.default_rng(8), np.random.default_rng(8)]
    found, _ = layers.mlp(*upload(arguments, "float64"), "tanh", 0.4, with_seed[0])
    expected, _ = layers.mlp(*arguments, "tanh", 0.4, with_seed[1])
    assert (expected == 0).any()
    assert_close(found, expected, "float64")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (17, 32), (5, 1000)])
def test_cross_entropy(shape, smoothing, dtype):
    rng = np.random.default_rng(4)
    logits = 3 * draw(rng, dtype, *shape)
    labels = rng.integers(0, shape[1], shape[0])
    given = upload((logits, labels), dtype)
    device_module("gpu")
    loss, pullback = layers.cross_entropy(*given, smoothing)
    expected, expected_back = plain(layers.cross_entropy)(logits, labels, smoothing)
    assert_close(loss, np.asarray(expected), dtype, 2)
    assert_close(pullback(0.25), expected_back(0.25), dtype, 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("large", [False, True])
def test_cross_entropy_of_soft_targets(large, dtype):
    rng = np.random.default_rng(4)
    size = LARGE[dtype] if large else 1
    logits = (size * draw(rng, dtype, 4, 6)).astype(dtype).astype("float64")
    targets = rng.dirichlet(np.ones(6), size=4) * [[1], [2], [0.5], [0]]  # whatever they sum to
    targets = targets.astype(dtype).astype("float64")
    device_module("gpu")
    loss, pullback = layers.cross_entropy(*upload((logits, targets), dtype), 0.1)
    expected, expected_back = plain(layers.cross_entropy)(logits, targets, 0.1)
    assert_close(loss, np.asarray(expected), dtype, 4)
    assert_close(pullback(), expected_back(), dtype, 4)


def test_cross_entropy_refuses_what_the_plain_one_refuses():
    device_module("gpu")
    logits = cupy.zeros((2, 3), dtype="float32")
    with pytest.raises(ValueError, match="from 0 to 1"):
        layers.cross_entropy(logits, np.array([0, 1]), 1.5)
    with pytest.raises(ValueError, match="out of range"):
        layers.cross_entropy(logits, np.array([0, 3]))


# --- products and sums ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3, 5), (5, 2)), ((1, 1), (1, 1)), ((1, 5), (5, 1)), ((4, 1), (1, 3)),
        ((2, 3, 5), (2, 5, 4)), ((2, 3, 4, 5), (2, 3, 5, 6)), ((1, 5), (2, 5, 4)),
        ((2, 1, 3, 5), (4, 5, 2)), ((3, 0), (0, 2)), ((0, 3), (3, 2)), ((0, 2, 3), (0, 3, 4)),
    ],
)  # fmt: skip
def test_products(a, b, dtype):
    device_module("gpu")
    rng = np.random.default_rng(6)
    a, b = draw(rng, dtype, *a), draw(rng, dtype, *b)
    assert_close(matmul(*upload((a, b), dtype)), a @ b, dtype, 4)
    turned = [x.swapaxes(-1, -2) for x in upload((a.mT, b.mT), dtype)]
    assert_close(matmul(*turned), a @ b, dtype, 4)


def packed_views(rng, dtype="float64"):
    """q, k and v as `self_attention` has them: views of one array, (B, k, T, Dh) each."""
    packed = draw(rng, dtype, 2, 5, 3, 4, 6)
    views = packed.transpose(2, 0, 3, 1, 4)
    return views, cupy.asarray(packed.astype(dtype)).transpose(2, 0, 3, 1, 4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_of_views_are_right_and_copy_nothing(dtype):
    device_module("gpu")
    (q, k, v), (device_q, device_k, device_v) = packed_views(np.random.default_rng(7), dtype)
    from minivit.cuda import arrays

    for view in (device_q, device_k.swapaxes(-1, -2), device_v):
        assert arrays.readable(view, view.shape[:-2]) is view
    scores = matmul(device_q, device_k.swapaxes(-1, -2))
    assert_close(scores, q @ k.mT, dtype, 4)
    A = draw(np.random.default_rng(8), dtype, *scores.shape)
    assert_close(matmul(upload(A, dtype), device_v), A @ v, dtype, 4)


@pytest.mark.skipif(ON_GPU, reason="asks the emulation what it was asked for")
def test_products_take_as_few_calls_as_can_be():
    device_module("gpu")
    views, device_views = packed_views(np.random.default_rng(7))
    contiguous = upload(np.ascontiguousarray(views[0]), "float64")
    for q, calls in ((contiguous, 1), (device_views[0], 2)):  # B is 2 and k is 4
        before = cupy.device.launches
        matmul(q, q.swapaxes(-1, -2))
        assert cupy.device.launches - before == calls


def test_products_are_written_into_views():
    device_module("gpu")
    rng = np.random.default_rng(7)
    a, b = draw(rng, "float64", 2, 4, 5, 3), draw(rng, "float64", 2, 4, 3, 6)
    filled = cupy.zeros((2, 5, 3, 4, 6), dtype="float64")
    into = filled.transpose(2, 0, 3, 1, 4)
    assert matmul(*upload((a, b), "float64"), into[1]) is not None
    np.testing.assert_allclose(into[1].get(), a @ b, rtol=1e-13)
    assert abs(into[0].get()).max() == abs(into[2].get()).max() == 0
    by_columns = cupy.zeros((2, 4, 6, 5), dtype="float64").swapaxes(-1, -2)
    matmul(*upload((a, b), "float64"), by_columns)
    np.testing.assert_allclose(by_columns.get(), a @ b, rtol=1e-13)


def test_products_that_do_not_fit():
    device_module("gpu")
    zeros = partial(cupy.zeros, dtype="float32")
    with pytest.raises(ValueError, match=r"no product of float32 \(2, 3\) and float32 \(4, 2\)"):
        matmul(zeros((2, 3)), zeros((4, 2)))
    with pytest.raises(ValueError, match="no product of float32"):
        matmul(zeros((2, 3)), cupy.zeros((3, 2), dtype="float64"))


def test_the_precision_of_products():
    rng = np.random.default_rng(9)
    a, b = draw(rng, "float32", 256, 256), draw(rng, "float32", 256, 256)
    device_a, device_b = upload((a, b), "float32")
    errors = {}
    for precision in minivit.devices.PRECISIONS:
        minivit.devices.set_matmul_precision(precision)
        y, pullback = layers.linear(device_a, device_b)
        dx, dparams = pullback(device_a)
        expected = {"y": a @ b, "dx": a @ b.T, "kernel": a.T @ a, "matmul": a @ b}
        found = {"y": y, "dx": dx, **dparams, "matmul": matmul(device_a, device_b)}
        assert {array.dtype.name for array in found.values()} == {"float32"}
        errors[precision] = {
            name: abs(found[name].get() - right).max() / abs(right).max()
            for name, right in expected.items()
        }
    for name, error in errors["tf32"].items():  # the layers' products, all of them
        assert errors["float32"][name] < 1e-6
        assert 1e-5 < error < 1e-3
        assert 4 * error < errors["bfloat16"][name] < 1e-2
    y = matmul(*upload((a, b), "float64"))
    np.testing.assert_allclose(y.get(), a @ b, rtol=1e-10)  # of float32 alone
    with pytest.raises(ValueError, match="unknown precision 'int8': choose float32, tf32"):
        minivit.devices.set_matmul_precision("int8")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (7, 5), (40, 33), (129, 2), (3000, 70)])
def test_sums_of_columns(shape, dtype):
    device_module("gpu")
    x = draw(np.random.default_rng(10), dtype, *shape)
    factor = 4 if dtype == "float32" else 2
    assert_close(sum_leading(upload(x, dtype)), x.sum(0), dtype, factor)
    given = cupy.asarray(x.astype(dtype))
    sums = sum_leading(given)
    sums += 1  # are the caller's own
    np.testing.assert_array_equal(given.get(), x.astype(dtype))


def test_sums_of_halves_are_added_up_in_float32():
    # Added to a few of its kind, 2^-4 + 2^-14 would be 2^-4 as a float16, and 61 would be missing.
    device_module("gpu")
    x = cupy.asarray(np.full((1_000_000, 1), 2**-4 + 2**-14, dtype="float16"))
    assert sum_leading(x).get().tolist() == [62560]  # of 62561, with a step of 32
    _, pullback = layers.layer_norm(x[:3], x[0], x[0])
    assert minivit.list_retained(pullback)["rstd"].dtype == "float32"


def test_a_kernel_refuses_what_it_would_read_wrongly():
    device_module("gpu")
    x, wide = cupy.ones((2, 3), dtype="float32"), cupy.ones((2, 3), dtype="float64")
    _, softmax_back = layers.softmax(x)
    _, norm_back = layers.layer_norm(x, x[0], x[0])
    _, gelu_back = layers.gelu(x)
    told = r"a kernel that reads float32 \(2, 3\) was given float64 \(2, 3\)"
    for pullback in (softmax_back, norm_back, gelu_back):
        with pytest.raises(ValueError, match=told):
            pullback(wide)
        with pytest.raises(ValueError, match=r"was given float32 \(1, 3\)"):
            pullback(x[:1])
    with pytest.raises(ValueError, match=r"was given float64 \(3,\)"):
        layers.layer_norm(x, wide[0], x[0])
    with pytest.raises(ValueError, match=r"was given float32 \(2,\)"):
        layers.layer_norm(x, x[0], x[0, :2])
    with pytest.raises(ValueError, match=r"was given float64 \(3,\)"):
        AdamW({"a": cupy.ones(3, dtype="float32")}).update(wide[0], 0.1)


def test_whole_numbers_where_others_are_meant():
    device_module("gpu")
    x = draw(np.random.default_rng(1), "float64", 4, 7)
    assert_twins(layers.layer_norm, (x, np.ones(7), np.zeros(7)), "float64", 1, factor=4)


def test_an_mlp_without_biases():
    rng = np.random.default_rng(3)
    hidden, out = ({"kernel": draw(rng, "float64", *io)} for io in ((5, 7), (7, 5)))
    assert_twins(layers.mlp, (draw(rng, "float64", 2, 3, 5), hidden, out), "float64", factor=8)


# --- AdamW ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernels", [0, 5, 301])
def test_adamw(kernels, dtype):
    device_module("gpu")
    rng = np.random.default_rng(11)
    vectors = [draw(rng, dtype, 301) for _ in range(3)]
    vectors.append(draw(rng, dtype, 301) ** 2)
    vectors = [x.astype(dtype).astype("float64") for x in vectors]
    how = {"kernels": kernels, "rate": 0.01, "keep": 0.9, "beta1": 0.9, "beta2": 0.999}
    how |= {"unbias": 2.0, "eps": 1e-3}
    given = upload(vectors, dtype)
    adamw(*given, **how)
    before = vectors[1].copy()
    plain(adamw)(*vectors, **how)
    assert_close(dict(enumerate(given)), dict(enumerate(vectors)), dtype, 2)
    np.testing.assert_array_equal(given[1].get(), before.astype(dtype))


def test_ten_updates_from_the_first():
    device_module("gpu")
    rng = np.random.default_rng(12)
    params = {"a": {"kernel": rng.normal(size=(4, 3)), "bias": rng.normal(size=3)}}
    on_device = AdamW(upload(params, "float64"), weight_decay=0.1)
    on_host = AdamW(params, weight_decay=0.1)
    for _ in range(10):
        gradient = rng.normal(size=15)
        on_host.update(gradient, 0.01)
        on_device.update(cupy.asarray(gradient), 0.01)
    np.testing.assert_allclose(on_device.vector.get(), on_host.vector, rtol=1e-12)


# --- all of them ------------------------------------------------------------------------------


def test_every_seam_has_a_kernel_and_no_other_function_is_one():
    device_module("gpu")
    for function in SEAMS:
        assert function.dispatch(cupy.ndarray) is not plain(function), function
        assert function.dispatch(np.ndarray) is plain(function), function
    root = Path(minivit.__file__).parent
    decorated = [
        name
        for path in root.rglob("*.py")
        for name in path.read_text(encoding="utf-8").split("@singledispatch\ndef ")[1:]
    ]
    assert sorted(n.partition("(")[0] for n in decorated) == sorted(f.__name__ for f in SEAMS)


PROOFS = {proof.name: proof for proof in proofs.layer_cases()}


@pytest.mark.parametrize("name", PROOFS)
def test_a_kernel_is_the_derivative_of_the_plain_function(name):
    # Complex numbers stay with the plain functions, so the complex step is theirs.
    assert PROOFS[name].check("gpu").worst < 1e-12


@pytest.mark.parametrize("positions", ["1d", "relative"])
def test_the_whole_model_is_the_derivative_of_the_plain_one(positions):
    name = f"ViT, {positions}, class, linear head, tanh"
    chosen = next(proof for proof in proofs.model_cases() if proof.name == name)
    assert chosen.check("gpu").worst < 1e-12


def test_a_wrong_kernel_is_found(monkeypatch):
    device_module("gpu")
    from minivit.cuda import softmax

    wrong = softmax.BACKWARD.source.replace("F(dp[j]) - together", "F(dp[j])")
    assert wrong != softmax.BACKWARD.source
    monkeypatch.setattr(softmax.BACKWARD, "source", wrong)
    monkeypatch.setattr(softmax.BACKWARD, "compiled", {})
    assert PROOFS["softmax"].check("gpu").worst > 0.01


@pytest.mark.skipif(ON_GPU, reason="a GPU would hang")
def test_a_lane_that_leaves_the_others_waiting_is_found(monkeypatch):
    device_module("gpu")
    from minivit.cuda import softmax

    waits = "sum = warp_sum(sum);"
    left = softmax.FORWARD.source.replace(waits, f"if (threadIdx.x) return; {waits}")
    assert left != softmax.FORWARD.source
    monkeypatch.setattr(softmax.FORWARD, "source", left)
    monkeypatch.setattr(softmax.FORWARD, "compiled", {})
    with pytest.raises(RuntimeError, match="waits for one that does not come"):
        layers.softmax(cupy.zeros((2, 3), dtype="float32"))


def test_kernels_do_not_take_complex_numbers_and_leave_integers_alone():
    device_module("gpu")
    x = np.array([[1 + 2j, 3 - 1j]])
    found, _ = layers.softmax(cupy.asarray(x))
    np.testing.assert_allclose(found.get(), plain(layers.softmax)(x)[0], rtol=1e-12)


NVRTC = Path(__file__).with_name("compile_kernels.py")


@pytest.mark.skipif(util.find_spec("cupy") is None, reason="CuPy, which brings NVRTC, is not there")
def test_nvrtc_compiles_every_kernel():
    """The real compiler, which needs no device."""
    done = subprocess.run([sys.executable, NVRTC], capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("compiled") == 9 * 3 * 3  # kernels, dtypes, architectures
