"""The gradient checker: correct gradients, its report, invalid functions and explanations."""

import functools
import math
import re
import tracemalloc

import numpy as np
import pytest

from minivit import gradcheck, layers

TOLERANCE = 1e-12


def draw(*shape):
    return np.random.default_rng(list(shape)).normal(size=shape)


def explain(f, *arguments, **options):
    """Return the explanation of the report, or the message of a TypeError."""
    try:
        return gradcheck(f, *arguments, **options).explanation
    except TypeError as error:
        return str(error)


def product(x, y):
    return x * y, lambda dy: (dy * y, dy * x)


def affine(x, kernel, bias):
    y = x @ kernel + bias
    return y, lambda dy: (dy @ kernel.T, {"kernel": x.T @ dy, "bias": dy.sum(0)})


AFFINE = draw(4, 3), draw(3, 2), draw(2)


def wrong_cube(gradient):
    """Return f(x) = x³ with the gradient gradient(correct, dy)."""

    def cube(x):
        return x**3, lambda dy: gradient(3 * x * x * dy, dy)

    return cube


# --- correct gradients ------------------------------------------------------------------------


def affine_reversed(x, kernel, bias):
    y, back = affine(x, kernel, bias)
    return y, lambda dy: (back(dy)[0], dict(reversed(back(dy)[1].items())))


@pytest.mark.parametrize(
    ("f", "arguments"),
    [
        (product, (draw(4, 3), draw(4, 3) + 1)),
        (affine, AFFINE),
        (affine_reversed, AFFINE),
        (lambda x: (2 * x, lambda dy: (2 * dy, {})), (draw(3),)),
        (
            lambda x, c: ((x * c).sum(), lambda dy: (dy * c + 0 * x, (dy * x).sum())),
            (draw(3), np.array(2.0)),
        ),
    ],
    ids=["tuple", "dict", "reversed", "empty dict", "array without axes"],
)
@pytest.mark.parametrize("directions", [None, 3])
def test_a_correct_gradient_passes(f, arguments, directions):
    report = gradcheck(f, *arguments, directions=directions)
    assert report.passed
    assert report.worst <= TOLERANCE
    assert report.explanation == ""


# --- the report -------------------------------------------------------------------------------


def test_the_report_is_a_mapping_that_prints_as_a_table():
    report = gradcheck(affine, *AFFINE)
    assert list(report) == ["x", "kernel", "bias"]
    assert report.worst == max(report.values())
    assert repr(report) == str(report)
    head, *rows, verdict = [line.split() for line in str(report).splitlines()]
    assert head == ["argument", "error"]
    assert [name for name, _, _ in rows] == ["x", "kernel", "bias"]
    errors = [pytest.approx(error, rel=0.1) for error in report.values()]
    assert [float(error) for _, error, _ in rows] == errors
    assert {word for _, _, word in rows} == {"ok"}
    assert " ".join(verdict) == "passed (tolerance 1e-12)"
    report = gradcheck(wrong_cube(lambda correct, dy: -correct), draw(3))
    assert not report.passed
    assert str(report).splitlines() == [
        "argument  error",
        "x         2.0e+00  wrong",
        "failed: 1 of 1 gradients wrong (tolerance 1e-12)",
        report.explanation,
    ]


def test_the_tolerance_decides_what_passes():
    f = wrong_cube(lambda correct, dy: correct * (1 + 1e-6))
    for tolerance, passed in ((1e-7, False), (1e-5, True)):
        report = gradcheck(f, draw(3), tolerance=tolerance)
        assert report.passed == passed == (report.explanation == "")


def test_the_leaves_of_a_tree_are_named_by_path():
    def f(x, params):
        first, second = (block["scale"] for block in params["blocks"])

        def pullback(dy):
            blocks = [{"scale": (dy * x * second).sum(0)}, {"scale": (dy * x * first).sum(0) * 2}]
            return dy * first * second, {"blocks": blocks, "head": dy.sum(0)}

        return x * first * second + params["head"], pullback

    blocks = [{"scale": draw(3)}, {"scale": draw(3) + 1}]
    params = {"blocks": blocks, "head": draw(3), "version": 1}  # integers are not checked
    errors = gradcheck(f, draw(2, 3), params)
    names = ["x", "params/blocks/0/scale", "params/blocks/1/scale", "params/head"]
    assert list(errors) == names
    assert [error <= TOLERANCE for error in errors.values()] == [True, True, False, True]
    assert errors.explanation.startswith("params/blocks/1/scale: ")


def test_arguments_without_a_name_are_numbered():
    report = gradcheck(lambda x, *more: product(x, *more), draw(3), draw(3))
    assert list(report) == ["x", "argument 1"]


def test_other_arguments_are_passed_on():
    others, calls = (4, np.array([1, 0]), "tanh", None, [2, 3], True), []

    def f(x, *arguments):
        calls.append(arguments[:-1])
        return product(x, arguments[-1])

    assert gradcheck(f, draw(3), *others, draw(3) + 1).passed
    for arguments in calls:
        assert all(a is b for a, b in zip(arguments, others, strict=True))


def test_errors_are_relative_to_the_largest_derivative():
    # A gradient that should be zero has rounding errors of the size of the others.
    cotangents = []

    def f(x, small, tiny):
        def pullback(dy):
            cotangents.append(dy.copy())
            return dy + np.array([0, 0.5, 0]), 0.01 * dy + 1e-5, 1e-6 * dy + 1e-5

        return x + 0.01 * small + 1e-6 * tiny, pullback

    errors = gradcheck(f, draw(3), draw(3), draw(3))
    largest = abs(cotangents[0]).max()
    assert errors["x"] == pytest.approx(0.5 / largest, rel=1e-9)
    assert errors["small"] == pytest.approx(1e-5 / (0.01 * largest), rel=1e-9)
    assert errors["tiny"] == pytest.approx(1e-5 / (1e-3 * largest), rel=1e-9)
    assert gradcheck(lambda x: (0 * x, lambda dy: np.full(3, 0.25)), draw(3))["x"] == 0.25


# --- the method ------------------------------------------------------------------------------


def count_calls(f):
    calls = []

    @functools.wraps(f)
    def counting(*arguments):
        calls.append([a.dtype.name for a in arguments])
        return f(*arguments)

    return counting, calls


def test_every_entry_or_a_few_directions_are_perturbed_in_float64():
    f, calls = count_calls(affine)
    assert gradcheck(f, *(a.astype("float32") for a in AFFINE)).passed
    assert calls == [["float64"] * 3] + [["complex128"] * 3] * (12 + 6 + 2)
    f, calls = count_calls(affine)
    assert gradcheck(f, *AFFINE, directions=4).passed
    assert len(calls) == 1 + 3 * 4


def test_a_direction_finds_a_single_wrong_entry():
    def change_one(correct, dy):
        correct[3, 1] *= 1.0001
        return correct

    report = gradcheck(wrong_cube(change_one), draw(5, 3), directions=1)
    assert report.worst > 1e-8
    assert "along direction 0: analytic" in report.explanation


def test_the_cotangent_is_random_and_repeats_by_seed():
    cotangents = []

    def f(x):
        def pullback(dy):
            cotangents.append(dy.copy())
            return 2 * x * dy

        return x * x, pullback

    for seed in (0, 0, 1):
        gradcheck(f, draw(4), seed=seed)
    dy, same_seed, other_seed = cotangents[::2]  # each check calls the pullback twice
    assert len(set(dy)) == 4  # ones would hide errors of softmax, whose outputs have a constant sum
    assert np.array_equal(dy, same_seed)
    assert not np.array_equal(dy, other_seed)


def test_a_large_argument_needs_little_memory():
    x = draw(1500)
    tracemalloc.start()
    gradcheck(lambda x: (x.sum(), lambda dy: dy * np.ones(len(x))), x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2e6  # 1500 directions at once would take 18 MB


# --- invalid functions ------------------------------------------------------------------------


@pytest.mark.parametrize("directions", [0, -1])
def test_fewer_than_one_direction_is_rejected(directions):
    with pytest.raises(ValueError, match="directions must be at least 1"):
        gradcheck(product, draw(3), draw(3), directions=directions)


@pytest.mark.parametrize("arguments", [(1, 2), ()])
def test_arguments_without_floats_are_rejected(arguments):
    with pytest.raises(TypeError, match="nothing to differentiate"):
        gradcheck(lambda *args: None, *arguments)


def to_real_buffer(x):
    y = np.zeros(x.shape)
    y[:] = x
    return y, lambda dy: dy


def through_real_buffer(x):
    y = np.zeros(x.shape)
    y[:] = x  # half of the derivative is lost here, and the value is still complex
    return x * y, lambda dy: 2 * x * dy


@pytest.mark.parametrize(
    "f",
    [
        lambda x: (abs(x), lambda dy: dy * np.sign(x)),
        lambda x: (x.real, lambda dy: dy),
        lambda x: (np.array(x.var()), lambda dy: dy * (x - x.mean()) * 2 / x.size),
        lambda x: (np.ones(3), lambda dy: 0 * x),
        lambda x: (np.array(float(x.sum())), lambda dy: dy * np.ones(x.shape)),
        lambda x: (np.multiply(2, x, out=np.ones(3)), lambda dy: 2 * dy),
        to_real_buffer,
        through_real_buffer,
    ],
)
def test_losing_the_imaginary_part_is_rejected(f):
    with pytest.raises(TypeError, match="f loses the imaginary part of its input"):
        gradcheck(f, draw(3))


def test_a_shared_random_generator_is_rejected():
    rng = np.random.default_rng(0)

    def f(x):
        noise = rng.normal(size=x.shape)
        return x * noise, lambda dy: dy * noise

    with pytest.raises(TypeError, match="another value when it is called again with the same"):
        gradcheck(f, draw(3))


@pytest.mark.parametrize("f", [lambda x: x, lambda x: (x, x), lambda x: (x, len, len)])
def test_a_result_without_a_pullback_is_rejected(f):
    with pytest.raises(TypeError, match=r"f must return \(value, pullback\)"):
        gradcheck(f, draw(3))


@pytest.mark.parametrize("value", [3.0, [1.0, 2.0], None, np.arange(3)])
def test_a_value_that_is_not_a_float_array_is_rejected(value):
    with pytest.raises(TypeError, match="the value must be a floating-point array"):
        gradcheck(lambda x: (value, lambda dy: 0 * x), draw(3))


def scale_dy(x):
    def pullback(dy):
        dy *= 2
        return dy

    return 2 * x, pullback


def mask_dy(x):
    mask = x.real > 0  # masking twice gives the same gradient, but modifies the caller's array

    def pullback(dy):
        dy[~mask] = 0
        return dy

    return x * mask, pullback


def overwrite_x(x):
    def pullback(dy):
        np.copyto(x, 2 * x * dy)
        return x

    return x * x, pullback


def shift_x(x):
    x -= x.real.max()  # softmax is invariant to this shift, so its value is correct
    return layers.softmax(x)


@pytest.mark.parametrize(
    ("f", "name"), [(scale_dy, "dy"), (mask_dy, "dy"), (overwrite_x, "x"), (shift_x, "x")]
)
def test_modifying_an_array_of_the_caller_is_rejected(f, name):
    x = draw(3, 4)
    assert f"f or its pullback modifies {name}." in explain(f, x)
    assert np.array_equal(x, draw(3, 4))


# --- gradients that cannot be compared --------------------------------------------------------


@pytest.mark.parametrize(
    "pullback",
    [
        lambda dy: dy * 3.0,
        lambda dy: (dy * 3.0,),
        lambda dy: (dy * 3.0, {}),
        lambda dy: (dy * 3.0, None),
        lambda dy: (dy * 3.0, {"bais": dy}),
    ],
)
def test_a_missing_gradient_is_reported(pullback):
    errors = gradcheck(lambda x, bias: (3 * x + bias, pullback), draw(3), draw(3))
    assert errors["x"] <= TOLERANCE
    assert errors["bias"] == math.inf
    assert errors.explanation == "bias: the pullback returns no gradient"


def test_a_missing_leaf_is_reported():
    def f(params):
        return params["a"] + params["b"], lambda dy: {"a": dy}

    errors = gradcheck(f, {"a": draw(3), "b": draw(3)})
    assert errors["params/a"] <= TOLERANCE
    assert errors["params/b"] == math.inf


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("directions", [None, 2])
def test_a_gradient_that_is_not_finite_is_reported(bad, directions):
    f = wrong_cube(lambda correct, dy: np.where(np.arange(3) == 1, bad, correct))
    errors = gradcheck(f, draw(3), directions=directions)
    assert errors["x"] == math.inf
    assert "The gradient is not finite" in errors.explanation
    if directions is None:
        assert f"at index (1,): analytic {bad}" in errors.explanation


def accumulate(x):
    total = np.zeros(x.shape)

    def pullback(dy):
        total.__iadd__(2 * x * dy)
        return total

    return x * x, pullback


def modify_the_value(x):
    p, back = layers.softmax(x)

    def pullback(dy):
        dx = back(dy)
        p.__imul__(0.5)
        return dx

    return p, pullback


@pytest.mark.parametrize("f", [accumulate, modify_the_value])
def test_a_pullback_that_changes_after_a_call_is_reported(f):
    assert "the pullback returns another gradient when it is called again" in explain(f, draw(3, 4))


# --- explanations -----------------------------------------------------------------------------

SHAPES = "the gradient has shape {}, but the argument has shape {}."


@pytest.mark.parametrize(
    ("gradient", "argument", "text"),
    [
        ((2, 5), (2, 3), SHAPES),
        ((2, 3), (3, 2), SHAPES + " Is a transpose missing?"),
        ((4, 3), (3,), SHAPES + " Is a sum over the batch missing?"),
        ((4, 2, 3), (2, 3), SHAPES + " Is a sum over the batch missing?"),
    ],
)
def test_a_wrong_shape_is_explained(gradient, argument, text):
    report = gradcheck(lambda x: (x.sum(), lambda dy: dy * np.ones(gradient)), draw(*argument))
    assert report["x"] == math.inf
    assert report.explanation == "x: " + text.format(gradient, argument)


def test_the_worst_entry_is_located():
    def change_two(correct, dy):
        correct[1, 2] += 1
        correct[0, 1] += 0.5
        return correct

    text = explain(wrong_cube(change_two), draw(2, 3))
    pattern = (
        r"x: largest error at index \(1, 2\): analytic (.+), numerical (.+)\. 4 of 6 entries are .*"
    )
    analytic, numeric = map(float, re.fullmatch(pattern, text).groups())
    assert analytic == pytest.approx(numeric + 1, abs=1e-5)


@pytest.mark.parametrize("directions", [None, 3])
@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (-1.0, "Every entry is -1 times the correct value. Check the sign."),
        (2.0, "2 times the correct value. Is a term added twice, or is a sum used"),
        (3.0, "3 times the correct value. Is a term added twice, or is a sum used"),
        (
            0.5,
            "0.5 times the correct value. Is a term missing, or is a mean used instead of a sum?",
        ),
        (1 / 3, "0.333333 times the correct value. Is a term missing, or is a mean"),
        (
            math.sqrt(3),
            "1.73205 times the correct value, a factor of √3. Check scale factors such as 1/√Dh.",
        ),
        (
            1 / math.sqrt(5),
            "0.447214 times the correct value, a factor of 1/√5. Check scale factors such as",
        ),
        (1.234, "Every entry is 1.234 times the correct value."),
        (1 + 1e-7, "Every entry is nearly correct. Is there another epsilon, or a float32 result?"),
        (1 - 1e-7, "Every entry is nearly correct."),
        (1 + 1e-10, "Every entry is nearly correct."),
        (0.0, "The gradient is zero. Does the backward pass reach this argument?"),
    ],
)
def test_a_constant_factor_is_explained(ratio, text, directions):
    f = wrong_cube(lambda correct, dy: ratio * correct)
    assert text in explain(f, draw(2, 3), directions=directions)


@pytest.mark.parametrize("part", ["-1", "1", "0.5"])
def test_a_wrong_residual_connection_is_explained(part):
    f = wrong_cube(lambda correct, dy: correct + float(part) * dy)
    assert f"The difference is {part} times dy. Check the residual" in explain(f, draw(2, 3))


@pytest.mark.parametrize(
    ("f", "shape", "text"),
    [
        (lambda x: (x @ x.T, lambda dy: ((dy + dy.T) @ x).T), (3, 3), "The gradient is transposed"),
        (wrong_cube(lambda correct, dy: correct[::-1].copy()), (4, 3), "in the wrong order"),
        (
            lambda x: (0 * x.sum() + 1.0, lambda dy: np.ones(3)),
            (3,),
            "The output does not depend on this argument, so its gradient should be zero.",
        ),
    ],
)
def test_other_patterns_are_explained(f, shape, text):
    assert text in explain(f, draw(*shape))
