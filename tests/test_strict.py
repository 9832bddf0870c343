"""The layers, the model and the optimisers run on a device's arrays: see `strict.py`.

First the stand-in itself is put to the test, then the code on it, and last a few mistakes that
run on NumPy without complaint, to see that they are found.
"""

import inspect
import itertools
import math
import operator
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import emulated_cupy
import numpy as np
import pytest
from helpers import strict
from helpers.on_device import convert, xp
from helpers.strict import StrictArray

import minivit
from minivit import ViTConfig, layers
from minivit.arrays import array_module, to_host
from minivit.checking import cases as proofs
from minivit.models import infer, initialise, vit
from minivit.models.config import GELUS, POOLINGS, POSITIONS
from minivit.training import SGD, AdamW, clip_by_global_norm, loss_and_gradients, packed_gradients
from minivit.tree import map_tree, pack

DTYPES = ("float32", "float64")


# --- the stand-in ---------------------------------------------------------------------------


def x32() -> StrictArray:
    return strict.asarray(np.arange(1, 7, dtype=np.float32).reshape(2, 3))


HOST = np.ones((2, 3), dtype=np.float32)
WIDE = np.ones((2, 3))

HOST_ARRAYS = {
    "x + host": lambda x: x + HOST,
    "host + x": lambda x: HOST + x,
    "x @ host": lambda x: x @ HOST.T,
    "host @ x": lambda x: HOST.T @ x,
    "x += host": lambda x: x.__iadd__(HOST),
    "host += x": lambda x: HOST.copy().__iadd__(x),
    "x == host": lambda x: x == HOST,
    "host < x": lambda x: operator.lt(HOST, x),
    "x * list": lambda x: x * [1, 2, 3],
    "xp.multiply(x, host)": lambda x: strict.multiply(x, HOST),
    "xp.multiply(x, list)": lambda x: strict.multiply(x, [1, 2, 3]),
    "xp.asarray(strings)": lambda x: strict.asarray(["one"]),
    "xp.exp(host)": lambda x: strict.exp(HOST),
    "xp.exp(x, out=host)": lambda x: strict.exp(x, out=HOST.copy()),
    "xp.concatenate([x, host])": lambda x: strict.concatenate([x, HOST]),
    "xp.ascontiguousarray(host)": lambda x: strict.ascontiguousarray(HOST),
    "x[:] = host": lambda x: x.__setitem__(slice(None), HOST),
    "x[:] = list": lambda x: x.__setitem__(slice(None), [1.0, 2.0, 3.0]),
    "host[:] = x": lambda x: HOST.copy().__setitem__(slice(None), x),
    "x[host indices]": lambda x: x[np.array([0, 1])],
    "x[host mask]": lambda x: x[HOST > 0],
    "x[list]": lambda x: x[[0, 1]],
    "x[host indices] = 0": lambda x: x.__setitem__(np.array([0, 1]), 0),
    "host[x's indices]": lambda x: HOST[x.argmax(0)],
}
CONVERSIONS = {
    "np.asarray(x)": lambda x: np.asarray(x),
    "np.array([x])": lambda x: np.array([x]),
    "np.exp(x)": lambda x: np.exp(x),
    "np.mean(x)": lambda x: np.mean(x),
    "np.concatenate([x])": lambda x: np.concatenate([x]),
    "np.add.reduce(x)": lambda x: np.add.reduce(x),
    "np.testing": lambda x: np.testing.assert_array_equal(x, x),
    "np.float32(x)": lambda x: np.float32(x[0, 0]),
    "memoryview(x)": lambda x: memoryview(x),
}
READS = {
    "float(x)": lambda x: float(x[0, 0]),
    "int(x)": lambda x: int(x[0, 0]),
    "complex(x)": lambda x: complex(x[0, 0]),
    "bool(x)": lambda x: bool(x[0, 0]),
    "if x.any()": lambda x: 1 if x.any() else 0,
    "index(x)": lambda x: [1, 2, 3][x.argmax()],
    "a slice": lambda x: x[: x.argmax()],
    "math.sqrt(x)": lambda x: math.sqrt(x[0, 0]),
    "round(x)": lambda x: round(x[0, 0]),
    "f'{x:.3f}'": lambda x: f"{x[0, 0]:.3f}",
    "x in a list": lambda x: x[0, 0] in [0.0, 1.0],
    "sum(rows)": lambda x: sum(x),
    "sum(vector)": lambda x: sum(x[0]),
    "max(rows)": lambda x: max(x),
    "max(vector)": lambda x: max(x[0]),
    "min(vector)": lambda x: min(x[0]),
    "any(rows)": lambda x: any(x),
    "list(vector)": lambda x: list(x[0]),
    "for number in vector": lambda x: [2 * number for number in x[0]],
    "1 in vector": lambda x: 1 in x[0],
    "xp.where(mask)": lambda x: strict.where(x > 2),
    "hash(x)": lambda x: hash(x),
}
MISSING = {
    "x.sum(where=)": lambda x: x.sum(where=x > 0),
    "xp.sum(where=)": lambda x: strict.sum(x, where=x > 0),
    "x.max(initial=)": lambda x: x.max(initial=0),
    "xp.exp(where=)": lambda x: strict.exp(x, where=x > 0),
    "xp.add(casting=)": lambda x: strict.add(x, x, casting="unsafe"),
    "x @= y": lambda x: x.__imatmul__(strict.eye(3, dtype="float32")),
}
SILENT_FLOAT64 = {
    "np.float64 * x": lambda x: np.float64(2) * x,
    "x * np.float64": lambda x: x * np.float64(2),
    "x *= np.float64": lambda x: x.__imul__(np.float64(2)),
    "x * np.int64": lambda x: x * np.int64(2),
    "x * an array of float64": lambda x: x * strict.asarray(WIDE),
    "x * an array of int64": lambda x: x * strict.arange(3),
    "xp.minimum": lambda x: strict.minimum(x, np.float64(2)),
    "xp.concatenate": lambda x: strict.concatenate([x, strict.asarray(WIDE)]),
    "x @ float64": lambda x: x @ strict.asarray(WIDE).T,
    "x[:] = float64": lambda x: x.__setitem__(slice(None), strict.asarray(WIDE)),
    "mean of integers": lambda x: x.argmax(0).mean(),
    "integers / 2": lambda x: strict.arange(3) / 2,
    "xp.exp(number)": lambda x: strict.exp(2.0),
    "xp.zeros": lambda x: strict.zeros((2, 3)),
    "xp.ones": lambda x: strict.ones(3),
    "xp.empty": lambda x: strict.empty(3),
    "xp.full": lambda x: strict.full(3, 0.5),
    "xp.eye": lambda x: strict.eye(3),
    "xp.arange": lambda x: strict.arange(0.0, 3.0),
    "xp.asarray(list)": lambda x: strict.asarray([1.0, 2.0]),
}
REASONS = {  # so that nothing is refused by accident
    "asarray|__array|ufunc|holds no": HOST_ARRAYS,
    "__array|ufunc|memoryview": CONVERSIONS,
    ".": READS,  # Python has words of its own for some
    "CuPy": MISSING,
    "float64": SILENT_FLOAT64,
}
REFUSED = {name: (act, reason) for reason, acts in REASONS.items() for name, act in acts.items()}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str) -> None:
    act, reason = REFUSED[name]
    x = x32()
    with pytest.raises(TypeError, match=reason):
        act(x)


def test_what_cupy_lacks_is_not_there() -> None:
    for name in ("einsum", "errstate", "vdot", "random", "array", "nonsense"):
        assert not hasattr(strict, name)
    for name in ("__array_interface__", "__array_struct__", "__dlpack__", "__buffer__", "item"):
        assert not hasattr(x32(), name)
    with pytest.raises(AttributeError):
        x32().note = "nothing can be hung on to a device's array"


ALLOWED = {
    "arithmetic": (lambda x: 1 - 2 * x / 3 + x**2, lambda x: 1 - 2 * x / 3 + x**2),
    "a float of its own width": (lambda x: x * np.float32(2), lambda x: x * np.float32(2)),
    "in place": (lambda x: x.__imul__(2), lambda x: x * 2),
    "out": (lambda x: strict.exp(x, out=x), np.exp),
    "product": (lambda x: x @ x.T, lambda x: x @ x.T),
    "sum along rows": (lambda x: x.sum(-1, keepdims=True), lambda x: x.sum(-1, keepdims=True)),
    "mean of all": (lambda x: x.mean(), lambda x: x.mean()),
    "a wider dtype, named": (lambda x: x.astype("float64"), lambda x: x.astype("float64")),
    "a dtype by position": (lambda x: strict.zeros(3, x.dtype), lambda x: np.zeros(3, x.dtype)),
    "integers": (lambda x: strict.arange(3)[:, None] * 2, lambda x: np.arange(3)[:, None] * 2),
    "where": (lambda x: strict.where(x > 2, x, 0), lambda x: np.where(x > 2, x, 0)),
    "indices": (lambda x: x[:, strict.asarray([0, 2])], lambda x: x[:, [0, 2]]),
    "rows": (lambda x: [row * 2 for row in x][1], lambda x: x[1] * 2),
}


@pytest.mark.parametrize("pair", ALLOWED.values(), ids=ALLOWED)
def test_honest_work_is_done_as_numpy_does_it(pair: tuple[Callable, Callable]) -> None:
    on_device, on_host = pair
    expected = on_host(x32().get())
    found = on_device(x32())
    assert type(found) is StrictArray
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found.get(), expected)


def test_its_module_is_found_and_offers_all_that_numpy_calls_the_same() -> None:
    assert array_module(x32()) is strict
    assert all(hasattr(np, name) for name in strict.FUNCTIONS)


def test_upload_and_download_copy() -> None:
    host = HOST.copy()
    x = strict.asarray(host)
    host[:] = 7
    to_host(x)[:] = 8
    assert to_host(x).max() == 1
    assert strict.asarray(x) is x


def test_views_write_through_down_to_a_single_entry() -> None:
    x = x32()
    row, entry = x[0], x[1, 2]
    row += 10
    entry += 100
    x.T[0] = 5
    np.testing.assert_array_equal(x.get(), [[5, 12, 13], [5, 5, 106]])


def test_in_place_work_keeps_the_array() -> None:
    x = alias = x32()
    x += 1
    assert x is alias
    assert strict.exp(x, out=x) is x


def test_unwritten_memory_shows() -> None:
    assert np.isnan(strict.empty((2, 3), dtype="float32").get()).all()
    assert np.isnan(strict.empty_like(x32().T).get()).all()
    assert strict.empty(3, dtype="int64").get().all()


# --- the stand-ins beside CuPy itself, which needs no GPU for that -----------------------------


def test_the_stand_in_has_no_function_and_no_keyword_that_cupy_has_not() -> None:
    cupy = pytest.importorskip("cupy")
    for name, keywords in strict.FUNCTIONS.items():
        function = getattr(cupy, name)
        if not isinstance(function, cupy.ufunc):  # these have all that is in the tables
            known = inspect.signature(function).parameters
            assert set(keywords) <= set(known), name
    for name in (*strict.METHODS, *strict.METADATA, *strict.VIEWS, "get"):
        assert hasattr(cupy.ndarray, name), name
    for name in strict.CONSTANTS:
        assert hasattr(cupy, name), name


def test_the_emulated_cupy_has_nothing_that_cupy_has_not() -> None:
    cupy, cupyx = pytest.importorskip("cupy"), pytest.importorskip("cupyx")
    for room in ("cublas", "runtime"):
        try:
            real = getattr(cupy.cuda, room)
        except ImportError:  # cuBLAS itself is not installed
            continue
        for name, value in vars(getattr(emulated_cupy.cuda, room)).items():
            assert hasattr(real, name), name
            assert callable(value) or value == getattr(real, name), name
    for room in ("device", "memory", "Stream"):
        for name in vars(getattr(emulated_cupy.cuda, room)):
            assert name.startswith("_") or hasattr(getattr(cupy.cuda, room), name), name
    assert cupy.cuda.Stream.null.ptr == emulated_cupy.Stream.null.ptr == 0
    assert {name for name in vars(emulated_cupy.cupyx) if name[0] != "_"} <= set(dir(cupyx))
    for name in ("used_bytes", "total_bytes", "free_all_blocks"):
        assert hasattr(cupy.get_default_memory_pool(), name)
    for name in ("set", "data", "flags"):
        assert hasattr(cupy.ndarray, name)


# --- the layers -----------------------------------------------------------------------------


def in_dtype(thing: Any, dtype: str) -> Any:
    return convert(thing, lambda a: a.astype(dtype) if a.dtype.kind == "f" else a)


def upload(thing: Any) -> Any:
    return convert(thing, xp.asarray)


def assert_same(found: Any, expected: Any, dtype: str) -> None:
    """`found` is `expected`, but on the device, and all of it of this dtype."""
    if isinstance(expected, tuple):
        found, expected = list(found), list(expected)
    found, expected = minivit.flatten(found), minivit.flatten(expected)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert type(found[name]) is xp.ndarray, f"{name} came back to the host"
        assert found[name].dtype == array.dtype == dtype, f"{name} changed its dtype"
        tolerance = 100 * np.finfo(dtype).eps
        scale = float(np.abs(array).max(initial=0))
        np.testing.assert_allclose(
            found[name].get(), array, rtol=tolerance, atol=tolerance * scale, err_msg=name
        )


def run_on_both(f: Callable[..., Any], arguments: tuple[Any, ...], dtype: str) -> None:
    """f and its pullback, on NumPy and on the device, must agree and keep the dtype."""
    arguments = in_dtype(arguments, dtype)
    value, pullback = f(*arguments)
    device_value, device_pullback = f(*upload(arguments))
    assert_same(device_value, value, dtype)
    dy = np.random.default_rng(7).normal(size=value.shape)
    dy = np.asarray(dy).astype(dtype)
    assert_same(device_pullback(xp.asarray(dy)), pullback(dy), dtype)


LAYERS = {proof.name: proof for proof in proofs.layer_cases()}


def test_every_layer_is_in_the_list() -> None:
    assert {name.split(",")[0].split()[0] for name in LAYERS} >= set(layers.__all__)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYERS)
def test_layer_on_the_device(name: str, dtype: str) -> None:
    run_on_both(LAYERS[name].f, LAYERS[name].arguments, dtype)


@pytest.mark.parametrize("name", ["gelu, tanh", "gelu, erf", "layer_norm", "mlp, tanh"])
def test_layer_of_nothing_on_the_device(name: str) -> None:
    x, *rest = LAYERS[name].arguments
    run_on_both(LAYERS[name].f, (x[:0], *rest), "float32")


def test_labels_may_stay_on_the_host() -> None:
    logits, labels = np.ones((3, 5), dtype=np.float32), np.array([4, 0, 2])
    loss, pullback = layers.cross_entropy(logits, labels, 0.1)
    device_loss, device_pullback = layers.cross_entropy(xp.asarray(logits), labels, 0.1)
    assert_same(device_loss, loss, "float32")
    assert_same(device_pullback(), pullback(), "float32")


def test_the_gradient_checker_works_on_the_device() -> None:
    rng = np.random.default_rng(0)
    x, scale, bias = upload([rng.normal(size=shape) for shape in [(2, 3, 5), (5,), (5,)]])
    assert minivit.gradcheck(layers.layer_norm, x, scale, bias).worst < 1e-12


# --- the model ------------------------------------------------------------------------------


def tiny(**fields: Any) -> ViTConfig:
    sizes = {"image_size": (4, 6), "patch_size": 2, "channels": 2, "classes": 3}
    return ViTConfig(**sizes, width=8, depth=2, heads=2, mlp_width=7, **fields)


def kinds() -> dict[str, ViTConfig]:
    """Every kind of positions with every pooling; head and GELU change from one to the next."""
    configs = {}
    for i, (positions, pooling) in enumerate(itertools.product(POSITIONS, POOLINGS)):
        fields = {"positions": positions, "pooling": pooling}
        fields |= {"gelu": GELUS[(i + i // 2) % 2], "hidden_head": (None, 5)[i // 2 % 2]}
        configs[", ".join(map(str, fields.values()))] = tiny(**fields)
    return configs


def images_and_params(config: ViTConfig) -> tuple[np.ndarray, dict[str, Any]]:
    rng = np.random.default_rng(1)
    params = proofs.to_device(initialise(config, dtype="float64"), rng)
    return rng.normal(size=(3, *config.image_size, config.channels)), params


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("config", kinds().values(), ids=kinds())
def test_model_on_the_device(config: ViTConfig, dtype: str) -> None:
    run_on_both(lambda x, params: vit(x, params, config), images_and_params(config), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("config", kinds().values(), ids=kinds())
def test_inference_on_the_device(config: ViTConfig, dtype: str) -> None:
    arguments = in_dtype(images_and_params(config), dtype)
    expected, found, watched = infer(*arguments, config), {}, {}
    infer(*arguments, config, watch=watched.__setitem__)
    logits = infer(*upload(arguments), config, watch=found.__setitem__)
    assert_same({"logits": logits, **found}, {"logits": expected, **watched}, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("positions", POSITIONS)
def test_dropout_on_the_device(positions: str, dtype: str) -> None:
    config = tiny(positions=positions, dropout=0.3)

    def f(images: Any, params: Any) -> Any:
        return vit(images, params, config, np.random.default_rng(2))

    arguments = images_and_params(config)
    run_on_both(f, arguments, dtype)
    assert abs(f(*arguments)[0] - infer(*arguments, config)).max() > 0.01  # it was on


# --- training -------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_gradients_of_a_batch_in_shards_on_the_device(threads: int) -> None:
    config = tiny(dropout=0.1)
    images, params = in_dtype(images_and_params(config), "float32")
    labels, results = np.array([2, 0, 1]), []
    for x, tree in ((images, params), upload((images, params))):
        model = minivit.ViT(config, tree)
        results.append(
            loss_and_gradients(
                model, x, labels, label_smoothing=0.1, seed=(3,), shards=3, threads=threads
            )
        )
    (loss, gradients), (device_loss, device_gradients) = results
    assert type(device_loss) is float
    assert device_loss == pytest.approx(loss, rel=1e-6)
    assert_same(device_gradients, gradients, "float32")


def small_params(dtype: str) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    tree = {"a": {"kernel": rng.normal(size=(4, 3)), "bias": rng.normal(size=3)}, "b": [np.ones(2)]}
    return in_dtype(tree, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_pack_on_the_device(dtype: str) -> None:
    tree, device_tree = small_params(dtype), upload(small_params(dtype))
    vector, first = pack(tree, first=lambda name: name.endswith("kernel"))
    device_vector, device_first = pack(device_tree, first=lambda name: name.endswith("kernel"))
    assert (first, device_first) == (12, 12)
    assert_same(device_vector, vector, dtype)
    device_vector *= 2  # the tree holds views of it
    assert_same(device_tree, map_tree(lambda leaf: 2 * leaf, tree), dtype)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimiser", [AdamW, SGD])
def test_optimiser_on_the_device(optimiser: type, dtype: str, threads: int) -> None:
    tree, device_tree = small_params(dtype), upload(small_params(dtype))
    on_host, on_device = optimiser(tree, decay=0.1), optimiser(device_tree, decay=0.1)
    rng = np.random.default_rng(6)
    for rate in (0.1, 0.01, 0.1):
        gradient = rng.normal(size=17).astype(dtype)
        on_host.update(gradient, rate, threads)
        on_device.update(xp.asarray(gradient), rate, threads)
    assert_same(device_tree, tree, dtype)
    assert_same(on_device.state, on_host.state, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("limit", [1.0, 1000.0])  # it bites, and it does not
def test_clipping_on_the_device(dtype: str, limit: float) -> None:
    gradient = np.random.default_rng(6).normal(size=17).astype(dtype)
    on_device = xp.asarray(gradient)
    device_norm = clip_by_global_norm(on_device, limit)
    norm = clip_by_global_norm(gradient, limit)
    assert_same([on_device, device_norm], [gradient, norm], dtype)


# --- mistakes that NumPy forgives -----------------------------------------------------------

TABLE = np.linspace(0, 1, 3, dtype=np.float32)
TRAINED = {"scale": np.float64(0.5)}


def a_host_constant(x: Any) -> Any:
    return x + TABLE


def a_read(x: Any) -> Any:
    return x / max(float((x * x).sum()), 1.0)


def a_decision(x: Any) -> Any:
    return x / 2 if x.max() > 1 else x


def a_scalar_root(x: Any) -> Any:
    return x / math.sqrt((x * x).mean())


def a_wide_scalar(x: Any) -> Any:
    return x * np.sqrt(0.5)


def a_wide_scalar_from_a_file(x: Any) -> Any:
    return TRAINED["scale"] * x


def a_wide_buffer(x: Any) -> Any:
    return array_module(x).zeros(x.shape) + x


def a_wide_array(x: Any) -> Any:
    return x * array_module(x).arange(3, dtype="float64")


def a_numpy_function(x: Any) -> Any:
    return np.exp(x)


def a_numpy_reduction(x: Any) -> Any:
    return x - np.mean(x)


def a_missing_asarray(x: Any) -> Any:
    kept = np.random.default_rng(0).random(x.shape) > 0.5
    return x * kept


def an_index_of_the_host(x: Any) -> Any:
    return x[:, np.array([2, 1, 0])]


def a_sum_over_rows(x: Any) -> Any:
    return sum(x)


def a_where(x: Any) -> Any:
    return array_module(x).exp(x, where=x > 0, out=x.copy())


def an_einsum(x: Any) -> Any:
    return array_module(x).einsum("ij,kj->ik", x, x)


MISTAKES = [
    a_host_constant,
    a_read,
    a_decision,
    a_scalar_root,
    a_wide_scalar,
    a_wide_scalar_from_a_file,
    a_wide_buffer,
    a_wide_array,
    a_numpy_function,
    a_numpy_reduction,
    a_missing_asarray,
    an_index_of_the_host,
    a_sum_over_rows,
    a_where,
    an_einsum,
]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_that_numpy_forgives_is_found(mistake: Callable[[Any], Any]) -> None:
    assert np.isfinite(mistake(x32().get())).all()
    with pytest.raises((TypeError, AttributeError)):
        mistake(x32())


# What somebody might write into minivit's own files, where NumPy does not mind: in which file, in
# the place of what, and what the stand-in says to it.
PLANTED = {
    "a host constant in a layer": (
        "layers/linear.py", "y = rows @ kernel", "y = rows @ kernel + np.zeros(E, 'float32')",
        "ndarray",
    ),
    "a host constant in a pullback": (
        "layers/layer_norm.py", "dx *= rstd", "dx *= rstd * np.ones(D, x.dtype)", "ndarray",
    ),
    "a read of the loss": (
        "training/step.py", "return loss * share, dparams", "return float(loss) * share, dparams",
        "float",
    ),
    "a read of the gradient's norm": (
        "training/optimisers.py", "xp.minimum(1, limit / (norm + 1e-12))",
        "min(1, limit / (norm + 1e-12))", "wait for the GPU",
    ),
    "a float64 scalar in a layer": (
        "layers/attention.py", "scale = 1 / math.sqrt(Dh)", "scale = 1 / np.sqrt(Dh)",
        "mixes float(32 and float64|64 and float32)",
    ),
    "a float64 scalar in an update": (
        "training/optimisers.py", "passing = (1 - beta1) * its_g",
        "passing = np.float64(1 - beta1) * its_g", "mixes float(32 and float64|64 and float32)",
    ),
    "a buffer without a dtype": (
        "layers/heads.py", "dz = xp.zeros(z.shape, dtype=dy.dtype)", "dz = xp.zeros(z.shape)",
        "float64 that nobody asked for",
    ),
    "a missing xp": ("layers/softmax.py", "xp.exp(exps", "np.exp(exps", "__array|ufunc"),
    "a missing xp in a loss": (
        "layers/losses.py", "xp.log(norm)", "np.log(norm)", "__array|ufunc",
    ),
    "a missing asarray": (
        "layers/dropout.py", "mask = array_module(x).asarray(kept / kind.type(1 - rate))",
        "mask = kept / kind.type(1 - rate)", "ndarray",
    ),
    "a missing asarray of labels": (
        "layers/losses.py", "(xp.asarray(labels)[:, None]", "(labels[:, None]", "ndarray",
    ),
}  # fmt: skip


def a_training_step(xp: Any, config: ViTConfig) -> None:
    """All that a step does, on this module's arrays; the labels come from the host."""
    images, params = in_dtype(images_and_params(config), "float32")
    if xp is not np:
        images, params = upload((images, params))
    model = minivit.ViT(config, params)
    optimiser = AdamW(model.params, weight_decay=0.1)
    labels = np.array([2, 0, 1])
    _, _, gradient = packed_gradients(model, images, labels, seed=(3,), shards=2, threads=1)
    clip_by_global_norm(gradient, 1.0)
    optimiser.update(gradient, 0.1)


def planted(path: str, right: str, wrong: str, folder: Path) -> subprocess.CompletedProcess:
    """Take a step on NumPy, then on the stand-in, with a copy of minivit that has a mistake."""
    root = Path(minivit.__file__).parent
    shutil.copytree(root, folder / "minivit", ignore=shutil.ignore_patterns("*.npz", "__pycache__"))
    file = folder / "minivit" / path
    text = file.read_text()
    assert text.count(right) == 1
    file.write_text("import numpy as np\n" + text.replace(right, wrong))
    code = (
        "import numpy as np, strict, test_strict\n"
        "config = test_strict.tiny(dropout=0.1)\n"
        "test_strict.a_training_step(np, config)\n"
        "print('NumPy does not mind')\n"
        "test_strict.a_training_step(strict, config)\n"
    )
    paths = os.pathsep.join([str(folder), str(Path(__file__).parent)])
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": paths, "MINIVIT_TEST_DEVICE": "cpu"},
    )  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_mistake_planted_in_minivit_is_found(name: str, tmp_path: Path) -> None:
    path, right, wrong, reason = PLANTED[name]
    done = planted(path, right, wrong, tmp_path)
    assert done.stdout == "NumPy does not mind\n", done.stderr
    assert done.returncode == 1
    assert re.search(reason, done.stderr.splitlines()[-1]), done.stderr


def test_minivit_without_a_mistake_takes_the_step(tmp_path: Path) -> None:
    done = planted("layers/linear.py", "y = rows @ kernel", "y = rows @ kernel", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_mistake_inside_a_pullback_is_found() -> None:
    def layer(x: Any) -> tuple[Any, Callable[[Any], Any]]:
        return x * 2, lambda dy: dy * np.full(3, 2, dtype=np.float32)

    with pytest.raises(TypeError, match="ndarray"):
        run_on_both(layer, (HOST,), "float32")


def test_a_gradient_that_comes_back_to_the_host_is_found() -> None:
    def layer(x: Any) -> tuple[Any, Callable[[Any], Any]]:
        return x * 2, lambda dy: to_host(dy) * 2

    with pytest.raises(AssertionError, match="came back to the host"):
        run_on_both(layer, (HOST,), "float32")


def test_a_gradient_of_another_dtype_is_found() -> None:
    def layer(x: Any) -> tuple[Any, Callable[[Any], Any]]:
        return x * 2, lambda dy: dy.astype("float64") * 2

    with pytest.raises(AssertionError, match="changed its dtype"):
        run_on_both(layer, (HOST,), "float32")
