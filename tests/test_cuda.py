"""The CUDA kernels of `minivit/cuda`, compared with the readable layers in float64.

Without a GPU, the CPU executes the source of the kernels (helpers/emulated_cupy.py).
"""

import subprocess
import sys
from functools import partial
from importlib import util
from pathlib import Path

import numpy as np
import pytest
from helpers.on_device import ON_GPU, assert_close, cast, convert, cupy, run_layer

import minivit
from minivit import devices, layers
from minivit.arrays import matmul, sum_leading
from minivit.checking.cases import layer_cases, model_cases
from minivit.optim import AdamW, adamw
from minivit.tree import flatten, pack

pytestmark = pytest.mark.usefixtures("gpu")
emulated = pytest.mark.skipif(ON_GPU, reason="inspects the emulated CuPy")

CASES = {case.name: case for case in layer_cases()}
TOLERANCE = {"float16": 2e-3, "float32": 2e-6, "float64": 5e-14}  # of the largest entry
LARGE = {"float16": 1e3, "float32": 1e6, "float64": 1e12}
FUNCTIONS = (  # all functions with a CUDA version
    matmul, sum_leading, adamw, layers.cross_entropy, layers.gelu, layers.layer_norm, layers.linear,
    layers.mlp, layers.softmax,
)  # fmt: skip
WITH_KERNELS = (
    "linear", "layer_norm", "softmax", "attend", "self_attention", "gelu", "mlp", "cross_entropy",
    "encoder_block",
)  # fmt: skip
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE)


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def upload(arguments, dtype):
    return convert(cast(arguments, dtype), cupy.asarray)


def assert_close_on_device(actual, expected, dtype, factor=1.0):
    """`found` and `expected` are arrays, or dicts or lists of arrays."""
    named = [flatten({"": x}) for x in (actual, expected)]
    assert_close(*named, dtype, factor * TOLERANCE[dtype], cupy.ndarray, floor=0.1)


def assert_agrees(function, arguments, dtype, factor=1.0):
    """Assert that value and gradients agree with the readable version in float64.

    NumPy arrays select the readable version. The pullback is called twice. It may not change the
    arguments.
    """
    expected = run_layer(function, arguments, "float64", rounded=dtype)
    on_device = []

    def asarray(host):
        on_device.append((cupy.asarray(host), host))
        return on_device[-1][0]

    def twice(*args):
        value, pullback = function(*args)
        return value, lambda dy: (pullback(dy), pullback(dy))[1]

    actual = run_layer(twice, arguments, dtype, asarray=asarray)
    assert_close(actual, expected, dtype, factor * TOLERANCE[dtype], cupy.ndarray, floor=0.1)
    for array, host in on_device:
        np.testing.assert_array_equal(array.get(), host)


# --- all layers -------------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("name", CASES)
def test_a_layer_agrees_with_the_readable_layer(name, dtype):
    if (name, dtype) == ("standardise, small weights", "float16"):
        pytest.skip("the gradient overflows in float16")
    factor = 4 if dtype == "float16" else 8
    assert_agrees(CASES[name].function, CASES[name].arguments, dtype, factor)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith(WITH_KERNELS)])
def test_a_pullback_is_the_derivative_of_the_readable_layer(name):
    # The readable layers compute the complex step, because kernels have no complex numbers.
    assert CASES[name].check("gpu").worst < 1e-12


@pytest.mark.parametrize("positions", ["1d", "relative"])
def test_the_pullback_of_a_model_is_its_derivative(positions):
    name = f"ViT, {positions}, class, linear head, tanh"
    (case,) = (case for case in model_cases() if case.name == name)
    assert case.check("gpu").worst < 1e-12


def test_the_functions_with_a_cuda_version_are_those_that_dispatch():
    for function in FUNCTIONS:
        assert function.dispatch(cupy.ndarray) is not function.dispatch(np.ndarray), function
    dispatched = {
        function.__name__
        for name, module in sys.modules.items()
        if name.startswith("minivit.")
        for function in vars(module).values()
        if hasattr(function, "dispatch")
    }
    assert dispatched == {function.__name__ for function in FUNCTIONS}


# --- rows of any length, large values -----------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("shape", [(1, 1), (2, 3, 31), (9, 32), (2, 2, 5, 33), (300, 7), (3, 197)])
def test_kernels_accept_rows_of_any_length(shape, dtype):
    x, vector, rows = draw(0, *shape), draw(1, shape[-1]), shape[-2]
    assert_agrees(layers.softmax, (3 * x,), dtype, 2)
    assert_agrees(layers.gelu, (2 * x, "tanh"), dtype, 2)
    assert_agrees(layers.gelu, (2 * x, "erf"), dtype, 2)
    if shape[-1] > 1:
        assert_agrees(layers.layer_norm, (x, vector, draw(2, shape[-1])), dtype, 4)
    logits = 3 * x.reshape(-1, *shape[-2:])[0]
    labels = np.arange(rows) % shape[-1]
    assert_agrees(layers.cross_entropy, (logits, labels, 0.1), dtype, 2)


@every_dtype
@pytest.mark.parametrize("kind", ["tanh", "erf"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 7, 3), (33, 70, 9)])
def test_the_mlp_accepts_any_width(sizes, kind, dtype):
    D, M, rows = sizes
    hidden = {"kernel": draw(1, D, M) / D**0.5, "bias": draw(2, M)}
    out = {"kernel": draw(3, M, D) / M**0.5, "bias": draw(4, D)}
    x, factor = draw(5, 2, rows, D), 4 if dtype == "float16" else 8
    assert_agrees(layers.mlp, (x, hidden, out, kind), dtype, factor)
    del hidden["bias"], out["bias"]
    assert_agrees(layers.mlp, (x, hidden, out, kind), dtype, factor)


def test_kernels_accept_arrays_without_rows():
    x, ones = np.zeros((0, 5)), np.ones(5)
    kernels = {"kernel": draw(1, 5, 7)}, {"kernel": draw(1, 7, 5)}
    for function, *parameters in [
        (layers.softmax,), (layers.gelu,), (layers.layer_norm, ones, ones), (layers.mlp, *kernels),
    ]:  # fmt: skip
        assert_agrees(function, (x, *parameters), "float32")


@every_dtype
def test_large_values_do_not_overflow(dtype):
    large = LARGE[dtype]
    scores = large * draw(0, 4, 37)
    scores[1], scores[2] = large, -large
    assert_agrees(layers.softmax, (scores,), dtype, 2)
    x, vector = 10 * large * draw(1, 3, 40), draw(2, 40)  # the squares exceed float16
    assert_agrees(layers.layer_norm, (x, vector, vector), dtype, 4)
    targets = np.random.default_rng(4).dirichlet(np.ones(6), size=4)
    for logits in (draw(4, 4, 6), large * draw(4, 4, 6)):
        assert_agrees(layers.cross_entropy, (logits, targets, 0.1), dtype, 4)
    for kind in ("tanh", "erf"):
        x = np.array([[-large, -50, -9, -0.0, 0, 9, 50, large]])
        assert_agrees(layers.gelu, (x, kind), dtype)
        _, pullback = layers.gelu(upload(x, dtype), kind)
        slopes = pullback(upload(np.ones_like(x), dtype)).get()[0]
        assert slopes.tolist() == pytest.approx([0, 0, 0, 0.5, 0.5, 1, 1, 1], abs=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layer_norm_is_accurate_far_from_zero(dtype):
    # Computed as E[x²] - E[x]², the variance would have no correct digits.
    arguments = draw(1, 3, 40) + 1e3, draw(2, 40), draw(3, 40)
    assert_agrees(layers.layer_norm, arguments, dtype, 1e3)


@pytest.mark.parametrize("eps", [1, 1e-2, 1e-6])
def test_layer_norm_uses_eps(eps):
    arguments = 1e-2 * draw(1, 4, 7), np.ones(7), np.zeros(7), eps
    assert_agrees(layers.layer_norm, arguments, "float64", 4)


def test_float16_losses_of_a_large_batch_do_not_overflow():
    logits = cupy.asarray(np.tile(np.array([0, 20], "float16"), (5000, 1)))
    loss, _ = layers.cross_entropy(logits, np.zeros(5000, int))
    assert (loss.dtype, float(loss.get())) == ("float16", 20)  # the sum exceeds 65,504


def test_softmax_accepts_views_and_writes_to_out():
    x = draw(0, 3, 4, 6)
    expected, _ = layers.softmax(x)
    scores = cupy.asarray(x)
    p, _ = layers.softmax(scores, out=scores)
    assert_close_on_device(scores, expected, "float64")
    assert p.data.ptr == scores.data.ptr
    view = cupy.asarray(np.ascontiguousarray(x.swapaxes(0, 2))).swapaxes(0, 2)
    assert_close_on_device(layers.softmax(view)[0], expected, "float64")
    layers.softmax(view, out=view)
    assert_close_on_device(view, expected, "float64")


def test_invalid_arguments_raise_the_errors_of_the_readable_layers():
    logits = cupy.zeros((2, 3), dtype="float32")
    with pytest.raises(ValueError, match="unknown GELU 'relu': choose"):
        layers.gelu(logits, "relu")
    with pytest.raises(ValueError, match="label_smoothing must be from 0 to 1"):
        layers.cross_entropy(logits, np.array([0, 1]), 1.5)
    with pytest.raises(ValueError, match="label 3 is out of range"):
        layers.cross_entropy(logits, np.array([0, 3]))


def test_kernels_reject_operands_of_another_dtype_or_shape():
    x, x64 = (cupy.ones((2, 3), dtype=dtype) for dtype in ("float32", "float64"))
    expected = r"the kernel expects float32 \(2, 3\), not "
    for layer in (layers.softmax, layers.gelu, partial(layers.layer_norm, scale=x[0], bias=x[0])):
        _, pullback = layer(x)
        with pytest.raises(ValueError, match=expected + r"float64 \(2, 3\)"):
            pullback(x64)
        with pytest.raises(ValueError, match=expected + r"float32 \(1, 3\)"):
            pullback(x[:1])
    with pytest.raises(ValueError, match=r"expects float32 \(3,\), not float64 \(3,\)"):
        layers.layer_norm(x, x64[0], x[0])
    with pytest.raises(ValueError, match=r"expects float32 \(3,\), not float32 \(2,\)"):
        layers.layer_norm(x, x[0], x[0, :2])
    with pytest.raises(ValueError, match=r"expects float32 \(3,\), not float64 \(3,\)"):
        AdamW(pack({"a": cupy.ones(3, dtype="float32")})).update(x64[0], 0.1)


# --- products, sums, AdamW -----------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3, 5), (5, 2)), ((1, 1), (1, 1)), ((1, 5), (5, 1)), ((4, 1), (1, 3)),
        ((2, 3, 5), (2, 5, 4)), ((2, 3, 4, 5), (2, 3, 5, 6)), ((1, 5), (2, 5, 4)),
        ((2, 1, 3, 5), (4, 5, 2)), ((3, 0), (0, 2)), ((0, 3), (3, 2)), ((0, 2, 3), (0, 3, 4)),
    ],
)  # fmt: skip
def test_matmul_agrees_with_numpy(a, b, dtype):
    a, b = cast((draw(6, *a), draw(7, *b)), dtype, "float64")
    assert_close_on_device(matmul(*upload((a, b), dtype)), a @ b, dtype, 4)
    transposed = [x.swapaxes(-1, -2) for x in upload((a.mT, b.mT), dtype)]
    assert_close_on_device(matmul(*transposed), a @ b, dtype, 4)


def draw_packed(dtype):
    """Return q, k, v (B, h, T, Dh) on both devices: views of one array, as in `self_attention`."""
    packed = cast(draw(7, 2, 5, 3, 4, 6), dtype, "float64")
    axes = 2, 0, 3, 1, 4
    return packed.transpose(axes), upload(packed, dtype).transpose(axes)


@every_dtype
def test_matmul_of_views_copies_nothing(dtype):
    from minivit.cuda import arrays

    (q, k, v), (device_q, device_k, device_v) = draw_packed(dtype)
    for view in (device_q, device_k.swapaxes(-1, -2), device_v):
        assert arrays.prepare_matrices(view, view.shape[:-2]) is view
    scores = matmul(device_q, device_k.swapaxes(-1, -2))
    assert_close_on_device(scores, q @ k.mT, dtype, 4)
    A = cast(draw(8, *scores.shape), dtype, "float64")
    assert_close_on_device(matmul(upload(A, dtype), device_v), A @ v, dtype, 4)


@emulated
def test_matmul_merges_batch_axes():
    (q, _, _), (device_q, _, _) = draw_packed("float64")
    contiguous = cupy.asarray(np.ascontiguousarray(q))
    for x, calls in ((contiguous, 1), (device_q, 2)):  # B = 2, h = 4
        before = cupy.device.launches
        matmul(x, x.swapaxes(-1, -2))
        assert cupy.device.launches - before == calls


def test_matmul_writes_into_views():
    a, b = draw(7, 2, 4, 5, 3), draw(8, 2, 4, 3, 6)
    packed = cupy.zeros((2, 5, 3, 4, 6), dtype="float64").transpose(2, 0, 3, 1, 4)
    matmul(*upload((a, b), "float64"), packed[1])
    assert_close_on_device(packed[1], a @ b, "float64")
    assert abs(packed[0].get()).max() == abs(packed[2].get()).max() == 0
    column_major = cupy.zeros((2, 4, 6, 5), dtype="float64").swapaxes(-1, -2)
    matmul(*upload((a, b), "float64"), column_major)
    assert_close_on_device(column_major, a @ b, "float64")


def test_matmul_rejects_shapes_and_dtypes_that_do_not_match():
    zeros = partial(cupy.zeros, dtype="float32")
    with pytest.raises(ValueError, match=r"cannot multiply float32 \(2, 3\) by float32 \(4, 2\)"):
        matmul(zeros((2, 3)), zeros((4, 2)))
    with pytest.raises(ValueError, match=r"cannot multiply float32 \(2, 3\) by float64 \(3, 2\)"):
        matmul(zeros((2, 3)), cupy.zeros((3, 2), dtype="float64"))


def test_the_precision_of_products_can_be_selected():
    a, b = cast((draw(9, 256, 256), draw(10, 256, 256)), "float32", "float64")
    device_a, device_b = upload((a, b), "float32")
    expected, errors = {"y": a @ b, "dx": a @ b.T, "kernel": a.T @ a, "matmul": a @ b}, {}
    for precision in devices.PRECISIONS:
        devices.set_matmul_precision(precision)
        y, pullback = layers.linear(device_a, device_b)
        dx, dparams = pullback(device_a)
        actual = {"y": y, "dx": dx, **dparams, "matmul": matmul(device_a, device_b)}
        assert {array.dtype.name for array in actual.values()} == {"float32"}
        errors[precision] = {
            name: abs(actual[name].get() - exact).max() / abs(exact).max()
            for name, exact in expected.items()
        }
    for name, error in errors["tf32"].items():  # all products of a linear layer
        assert errors["float32"][name] < 1e-6
        assert 1e-5 < error < 1e-3
        assert 4 * error < errors["bfloat16"][name] < 1e-2
    y = matmul(*upload((a, b), "float64"))
    np.testing.assert_allclose(y.get(), a @ b, rtol=1e-10)  # float64 is not affected
    with pytest.raises(ValueError, match="unknown precision 'int8': choose float32, tf32"):
        devices.set_matmul_precision("int8")


@every_dtype
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (7, 5), (40, 33), (129, 2), (3000, 70)])
def test_sum_leading_agrees_with_numpy(shape, dtype):
    x = cast(draw(10, *shape), dtype, "float64")
    on_device = upload(x, dtype)
    sums = sum_leading(on_device)
    assert_close_on_device(sums, x.sum(0), dtype, 4 if dtype == "float32" else 2)
    sums += 1  # the result is no view of x
    np.testing.assert_array_equal(on_device.get(), x.astype(dtype))


def test_float16_is_summed_in_float32():
    # In float16, the small parts of 2^-4 + 2^-14 would be lost, and the sum would be 62,500.
    x = cupy.asarray(np.full((1_000_000, 1), 2**-4 + 2**-14, dtype="float16"))
    assert sum_leading(x).get().tolist() == [62560]  # 62,561 rounded to a multiple of 32
    _, pullback = layers.layer_norm(x[:3], x[0], x[0])
    assert minivit.list_retained(pullback)["rstd"].dtype == "float32"


@every_dtype
@pytest.mark.parametrize("decayed", [0, 5, 301])
def test_adamw_agrees_with_the_readable_version(decayed, dtype):
    p, g, m, v = cast((*draw(11, 3, 301), draw(12, 301) ** 2), dtype, "float64")
    options = {"decayed": decayed, "step_size": 0.01, "decay_factor": 0.9, "beta1": 0.9}
    options |= {"beta2": 0.999, "v_scale": 2.0, "eps": 1e-3}
    actual, before = upload([p, g, m, v], dtype), g.copy()
    adamw(*actual, **options)
    adamw(p, g, m, v, **options)
    names = dict(enumerate(actual)), dict(enumerate((p, before, m, v)))
    assert_close_on_device(*names, dtype, 2)


# --- the emulation and the real compiler --------------------------------------------------------


def change_softmax(monkeypatch, kernel, old, new):
    assert kernel.source.count(old) == 1
    monkeypatch.setattr(kernel, "source", kernel.source.replace(old, new))
    monkeypatch.setattr(kernel, "compiled", {})


def test_a_wrong_kernel_is_found(monkeypatch):
    from minivit.cuda.softmax import BACKWARD

    change_softmax(monkeypatch, BACKWARD, "F(dp[j]) - dot", "F(dp[j])")
    assert CASES["softmax"].check("gpu").worst > 0.01


@pytest.mark.skipif(ON_GPU, reason="the kernel would never end on a GPU")
def test_a_lane_that_misses_a_shuffle_is_found(monkeypatch):
    from minivit.cuda.softmax import FORWARD

    shuffle = "sum = warp_sum(sum);"
    change_softmax(monkeypatch, FORWARD, shuffle, f"if (threadIdx.x) return; {shuffle}")
    with pytest.raises(RuntimeError, match="a thread waits for one that has ended"):
        layers.softmax(cupy.zeros((2, 3), dtype="float32"))


@pytest.mark.skipif(util.find_spec("cupy") is None, reason="CuPy with NVRTC is not installed")
def test_nvrtc_compiles_every_kernel():  # it needs no GPU
    script = Path(__file__).with_name("compile_kernels.py")
    result = subprocess.run([sys.executable, script], capture_output=True, text=True)
    if result.returncode == 77:
        pytest.skip(result.stdout.strip())
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count(" bytes\n") == 9 * 3 * 3  # kernels, dtypes, architectures
