"""Readable layers, models and training on strict arrays, which have the restrictions of CuPy."""

import inspect
import math

import numpy as np
import pytest
from helpers import emulated_cupy, strict
from helpers.on_device import assert_close, cast, convert, run_layer, xp

import minivit
from minivit import ViT, layers, training
from minivit.checking.cases import layer_cases, model_cases
from minivit.models import ViTConfig, infer
from minivit.models.config import GELUS, POSITIONS
from minivit.tree import flatten, map_tree, pack

LAYERS = {case.name: case for case in layer_cases()}
MODELS = {case.name: case for case in model_cases()}
TOLERANCE = {"float16": 1e-2, "float32": 1e-5, "float64": 2e-14}  # of the largest entry

HOST = np.ones((2, 3), dtype=np.float32)
REJECTED = {
    "a host array": (lambda x: x + HOST, "asarray"),
    "a host array on the left": (lambda x: HOST @ x.T, "asarray"),
    "a host array in place": (lambda x: x.__iadd__(HOST), "asarray"),
    "a host array as an index": (lambda x: x[:, np.array([0, 2])], "asarray"),
    "a list": (lambda x: x * [1, 2, 3], "asarray"),
    "np.asarray": (np.asarray, "__array__"),
    "a NumPy function": (np.exp, "ufunc"),
    "float": (lambda x: float(x[0, 0]), "float"),
    "if": (lambda x: 1 if x.any() else 0, "__bool__"),
    "math.sqrt": (lambda x: math.sqrt(x.sum()), "real number"),
    "iteration over a vector": (lambda x: list(x[0]), "kernel per entry"),
    "Python's sum": (lambda x: sum(x), "use .sum()"),
    "where=": (lambda x: strict.exp(x, where=x > 0), "no keyword where"),
    "where= of a method": (lambda x: x.sum(where=x > 0), "no keyword where"),
    "where with a mask alone": (lambda x: strict.where(x > 0), "waits for the GPU"),
    "a float64 scalar": (lambda x: x * np.float64(2), "mixes float"),
    "a dtype by default": (lambda x: strict.zeros(3), "float64 by default"),
}  # fmt: skip


@pytest.mark.parametrize("name", REJECTED)
def test_strict_arrays_have_the_restrictions_of_cupy(name: str) -> None:
    operation, reason = REJECTED[name]
    with pytest.raises(TypeError, match=reason):
        operation(strict.asarray(HOST))


def test_the_strict_module_has_no_other_functions_and_fills_empty_arrays_with_nan() -> None:
    for name in ("errstate", "einsum", "random", "array"):
        assert not hasattr(strict, name)
    assert not hasattr(strict.asarray(HOST), "__array_interface__")
    assert np.isnan(strict.empty((2, 3), dtype="float32").get()).all()


def test_cupy_has_every_function_of_the_strict_and_the_emulated_module() -> None:
    cupy, cupyx = pytest.importorskip("cupy"), pytest.importorskip("cupyx")
    for name, keywords in strict.FUNCTIONS.items():
        function = getattr(cupy, name)
        if not isinstance(function, cupy.ufunc):  # a ufunc has all keywords of the table
            assert set(keywords) <= set(inspect.signature(function).parameters), name
    for name in (*strict.METHODS, *strict.METADATA, *strict.VIEWS, "get", "set", "data", "flags"):
        assert hasattr(cupy.ndarray, name), name
    for name in strict.CONSTANTS:
        assert hasattr(cupy, name), name
    for module in ("cublas", "runtime", "device", "memory"):
        try:
            real = getattr(cupy.cuda, module)
        except ImportError:  # cuBLAS is not installed
            continue
        for name, value in vars(getattr(emulated_cupy.cuda, module)).items():
            assert callable(value) or value == getattr(real, name), name
            assert hasattr(real, name), name
    assert {"record", "wait_event", "synchronize", "ptr"} <= set(dir(cupy.cuda.Stream.null))
    assert {name for name in vars(emulated_cupy.cupyx) if name[0] != "_"} <= set(dir(cupyx))
    for name in ("used_bytes", "total_bytes", "free_all_blocks"):
        assert hasattr(cupy.get_default_memory_pool(), name)


def assert_same_on_both(function, arguments, dtype):
    """Assert that a layer and its pullback agree on NumPy and on strict arrays."""
    expected = run_layer(function, arguments, dtype)
    actual = run_layer(function, arguments, dtype, asarray=xp.asarray)
    assert_close(actual, expected, dtype, TOLERANCE[dtype], xp.ndarray)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_agrees_on_numpy_and_strict_arrays(name: str, dtype: str) -> None:
    if (name, dtype) == ("standardise, small weights", "float16"):
        pytest.skip("the gradient overflows in float16")
    assert_same_on_both(LAYERS[name].function, LAYERS[name].arguments, dtype)


def test_cross_entropy_accepts_labels_on_the_host() -> None:
    labels = np.array([4, 0, 2])
    assert_same_on_both(
        lambda x: layers.cross_entropy(x, labels, 0.1), (np.ones((3, 5)),), "float32"
    )


def test_gradcheck_accepts_arrays_on_a_device() -> None:
    arguments = convert(LAYERS["layer_norm"].arguments, xp.asarray)
    assert minivit.gradcheck(layers.layer_norm, *arguments).worst < 1e-12


@pytest.mark.parametrize("name", MODELS)
def test_a_model_agrees_on_numpy_and_strict_arrays(name: str) -> None:
    assert_same_on_both(MODELS[name].function, MODELS[name].arguments, "float64")


TINY = {"image_size": (4, 6), "patch_size": 2, "channels": 2, "classes": 3}
TINY |= {"width": 8, "depth": 2, "heads": 2, "mlp_width": 7}


def tiny_images_and_params(config: ViTConfig, dtype: str):
    params = ViT.create(config, dtype="float64").params
    rng = np.random.default_rng(1)
    params = map_tree(lambda p: p + 0.5 * rng.normal(size=p.shape), params)
    return cast((rng.normal(size=(3, 4, 6, 2)), params), dtype)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_inference_and_watched_arrays_agree_on_numpy_and_strict_arrays(
    positions: str, pooling: str
) -> None:
    gelu = GELUS[pooling == "mean"]
    config = ViTConfig(**TINY, positions=positions, pooling=pooling, gelu=gelu)
    arguments = tiny_images_and_params(config, "float64")
    expected, actual = {}, {}
    for asarray, watched in ((np.asarray, expected), (xp.asarray, actual)):
        on_device = convert(arguments, asarray)
        watched["logits"] = infer(*on_device, config, watch=watched.__setitem__)
    assert_close(actual, expected, "float64", TOLERANCE["float64"], xp.ndarray)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("optimiser", training.OPTIMISERS)
def test_training_agrees_on_numpy_and_strict_arrays(optimiser: str, threads: int) -> None:
    config = ViTConfig(**TINY, dropout=0.1, drop_path=0.1, qkv_bias=False)
    arguments = tiny_images_and_params(config, "float32")
    fields = {"label_smoothing": 0.1, "grad_accumulation": 2, "shards": 2, "threads": threads}
    options = training.StepOptions(**fields)
    results, steps, losses, labels = [], [], [], np.array([2, 0, 1])
    for asarray in (np.array, xp.asarray):
        images, params = convert(arguments, asarray)
        parameters = pack(params)
        update = training.OPTIMISERS[optimiser](parameters, weight_decay=0.1).update
        average = training.EMA(parameters, 0.9)
        for t in range(1, 4):
            model = ViT(config, parameters.tree)
            batch = images, labels, options
            loss, gradients = training.loss_and_gradients(model, *batch, seed=(3, t))
            losses.append(loss)
            gradient = pack(gradients).vector
            norm = training.clip_by_global_norm(gradient, 1.0)
            steps += [{"norm": norm, "gradient": gradient}] if t == 1 else []
            update(gradient, 0.01, threads)
            average.update(parameters.vector, t, threads)
        results.append({"average": average.parameters.vector, **flatten(params)})
    assert {type(loss) for loss in losses} == {float}
    assert losses[3] == pytest.approx(losses[0], rel=1e-6)
    assert_close(*steps[::-1], "float32", TOLERANCE["float32"], xp.ndarray)
    assert_close(*results[::-1], "float32", 1e-4, xp.ndarray)
