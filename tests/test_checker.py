"""The gradient checker is checked: what it passes, what it reports, and in which words."""

import functools
import math
import re
import tracemalloc

import numpy as np
import pytest

from minivit import ViTConfig, gradcheck, layers
from minivit.models import initialise, vit
from minivit.tree import map_tree

PASS = 1e-12


def draw(*shape):
    return np.random.default_rng(list(shape)).normal(size=shape)


def complaint(f, *arguments, **options):
    """What the checker says is wrong, whether it raises or reports."""
    try:
        return gradcheck(f, *arguments, **options).explanation
    except TypeError as reason:
        return str(reason)


def product(x, y):
    return x * y, lambda dy: (dy * y, dy * x)


def affine(x, kernel, bias):
    y = x @ kernel + bias
    return y, lambda dy: (dy @ kernel.T, {"kernel": x.T @ dy, "bias": dy.sum(0)})


AFFINE = draw(4, 3), draw(3, 2), draw(2)


def wrong(gradient):
    """f(x) = x³, with a gradient of one's own: gradient(right one, dy)."""

    def cube(x):
        return x**3, lambda dy: gradient(3 * x * x * dy, dy)

    return cube


# What passes


@pytest.mark.parametrize(("f", "arguments"), [(product, AFFINE[:1] * 2), (affine, AFFINE)])
@pytest.mark.parametrize("directions", [None, 3])
def test_right_gradients_pass(f, arguments, directions):
    errors = gradcheck(f, *arguments, directions=directions)
    assert errors.worst <= PASS
    assert errors.explanation == ""


def test_the_errors_are_a_dict_that_prints_as_a_table():
    errors = gradcheck(affine, *AFFINE)
    assert list(errors) == ["x", "kernel", "bias"]
    assert errors.worst == max(errors.values())
    lines = str(errors).splitlines()
    assert [line.split()[0] for line in lines] == ["x", "kernel", "bias"]
    assert [float(line.split()[1]) for line in lines] == [
        pytest.approx(error, rel=0.1) for error in errors.values()
    ]


def test_a_printed_failure_says_what_is_wrong():
    errors = gradcheck(wrong(lambda right, dy: -right), draw(3))
    assert str(errors).splitlines() == ["x  2.0e+00", errors.explanation]


def test_gradients_may_come_by_place_or_by_name():
    def by_place(x, kernel, bias):
        y, back = affine(x, kernel, bias)
        return y, lambda dy: (back(dy)[0], back(dy)[1]["kernel"], back(dy)[1]["bias"])

    def by_name(x, kernel, bias):
        y, back = affine(x, kernel, bias)
        return y, lambda dy: {**back(dy)[1], "x": back(dy)[0]}

    for f in (by_place, by_name):
        assert gradcheck(f, *AFFINE).worst <= PASS


def test_the_order_of_the_names_does_not_matter():
    def f(x, kernel, bias):
        y, back = affine(x, kernel, bias)
        return y, lambda dy: (back(dy)[0], dict(reversed(back(dy)[1].items())))

    assert gradcheck(f, *AFFINE).worst <= PASS


def test_a_number_is_an_array_without_axes():
    def scaled(x, factor):
        return (x * factor).sum(), lambda dy: (dy * factor * np.ones_like(x), (dy * x).sum())

    assert gradcheck(scaled, draw(3), np.array(2.0)).worst <= PASS


def test_everything_happens_in_float64():
    seen = []

    def square(x):
        seen.append(x.dtype.name)
        return x * x, lambda dy: 2 * x * dy

    assert gradcheck(square, draw(3).astype("float32")).worst <= PASS
    assert seen == ["float64", "complex128", "complex128", "complex128"]


# Names


def test_arguments_without_a_name_are_numbered():
    def f(x, *more):
        return product(x, *more)

    assert list(gradcheck(f, draw(3), draw(3))) == ["x", "argument 1"]


def test_a_tree_is_named_by_path():
    def f(x, params):
        blocks, head = params["blocks"], params["head"]
        y = x * blocks[0]["scale"] * blocks[1]["scale"] + head

        def pullback(dy):
            first = {"scale": (dy * x * blocks[1]["scale"]).sum(0)}
            second = {"scale": (dy * x * blocks[0]["scale"]).sum(0) * 2}
            dx = dy * blocks[0]["scale"] * blocks[1]["scale"]
            return dx, {"blocks": [first, second], "head": dy.sum(0)}

        return y, pullback

    params = {"blocks": [{"scale": draw(3)}, {"scale": draw(3) + 1}], "head": draw(3)}
    errors = gradcheck(f, draw(2, 3), params)
    names = ["x", "params/blocks/0/scale", "params/blocks/1/scale", "params/head"]
    assert list(errors) == names
    assert [error <= PASS for error in errors.values()] == [True, True, False, True]
    assert errors.explanation.startswith("params/blocks/1/scale: ")


def test_what_is_not_an_array_of_floats_is_handed_on():
    labels, sizes = np.array([1, 0]), [2, 3]
    seen = []

    def f(count, x, labels, kind, nothing, sizes, flag, y):
        seen.append((count, labels, kind, nothing, sizes, flag))
        return product(x, y)

    errors = gradcheck(f, 4, draw(3), labels, "tanh", None, sizes, True, draw(3) + 1)
    assert list(errors) == ["x", "y"]
    assert errors.worst <= PASS
    assert all(given[1] is labels and given[4] is sizes for given in seen)
    assert all((*given[:1], *given[2:4], given[5]) == (4, "tanh", None, True) for given in seen)


def test_the_floats_of_a_mixed_tree_are_not_overlooked():
    # Else a wrong gradient passes, because nobody looked.
    def f(x, params):
        power, factor = params["power"], params["factor"]
        return x**power * factor, lambda dy: (
            power * x ** (power - 1) * factor * dy, {"factor": (dy * x**power).sum() * 2}
        )  # fmt: skip

    text = complaint(f, draw(3), {"power": 3, "factor": np.array(1.5)})
    assert "factor" in text or "params" in text


def test_nothing_to_differentiate_is_refused():
    with pytest.raises(TypeError, match="nothing to differentiate"):
        gradcheck(product, 1, 2)


# Directions


def counted(f):
    calls = []

    @functools.wraps(f)
    def counting(*arguments):
        calls.append(1)
        return f(*arguments)

    return counting, calls


def test_every_entry_is_moved_or_all_along_a_few_directions():
    f, calls = counted(affine)
    assert gradcheck(f, *AFFINE).worst <= PASS
    assert len(calls) == 1 + 12 + 6 + 2
    f, calls = counted(affine)
    assert gradcheck(f, *AFFINE, directions=4).worst <= PASS
    assert len(calls) == 1 + 3 * 4


def test_a_direction_finds_a_single_wrong_entry():
    def f(x):
        def pullback(dy):
            dx = 2 * x * dy
            dx[3, 1] *= 1.0001
            return dx

        return x * x, pullback

    assert gradcheck(f, draw(5, 3), directions=1).worst > 1e-8
    assert "along direction 0, analytic" in complaint(f, draw(5, 3), directions=1)


@pytest.mark.parametrize("directions", [0, -1])
def test_no_directions_are_refused(directions):
    with pytest.raises(ValueError, match="directions"):
        gradcheck(product, draw(3), draw(3), directions=directions)


@pytest.mark.parametrize("positions", ["1d", "2d", "relative", "sincos2d"])
def test_the_whole_model_along_random_directions(positions):
    config = ViTConfig(
        image_size=(4, 6), patch_size=2, classes=5, width=12, depth=2, heads=4, mlp_width=7,
        positions=positions, hidden_head=5, gelu="erf", dropout=0.2,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    params = initialise(config, 0, "float64")
    params = map_tree(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape), params)

    def model(images, params, seed):
        return vit(images, params, config, np.random.default_rng(seed))

    errors = gradcheck(model, rng.normal(size=(2, 4, 6, 3)), params, 7, directions=2)
    assert errors.worst <= PASS, str(errors)
    assert "params/blocks/1/attention/qkv/kernel" in errors


# The cotangent


def test_the_cotangent_is_random_and_repeats_by_seed():
    seen = []

    def f(x):
        def pullback(dy):
            seen.append(dy.copy())
            return 2 * x * dy

        return x * x, pullback

    for seed in (0, 0, 1):
        gradcheck(f, draw(4), seed=seed)
    first, again, other = seen[0], seen[2], seen[4]
    assert len(set(first)) == 4  # ones would hide what sums to a constant, as softmax does
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


# What has no derivative along an imaginary step


def into_a_real_buffer(x):
    y = np.zeros(x.shape)
    y[:] = x
    return y, lambda dy: dy


def through_a_real_buffer(x):
    y = np.zeros(x.shape)
    y[:] = x  # half of the derivative is lost here, and the value is still complex
    return x * y, lambda dy: 2 * x * dy


def onto_a_real_buffer(x):
    y = np.ones(x.shape)
    y *= x
    return y, lambda dy: dy


def by_float(x):
    return np.array(float(x.sum())), lambda dy: dy * np.ones(x.shape)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: (abs(x), lambda dy: dy * np.sign(x)),
        lambda x: (x.real, lambda dy: dy),
        lambda x: (np.array(x.var()), lambda dy: dy * (x - x.mean()) * 2 / x.size),
        lambda x: (np.ones(3), lambda dy: 0 * x),
        into_a_real_buffer,
        through_a_real_buffer,
        onto_a_real_buffer,
        by_float,
    ],
)
def test_losing_the_imaginary_part_is_refused(f):
    with pytest.raises(TypeError, match="f loses the imaginary part of its input"):
        gradcheck(f, draw(3))


def test_random_numbers_from_outside_are_refused():
    dice = np.random.default_rng(0)

    def f(x):
        noise = dice.normal(size=x.shape)
        return x * noise, lambda dy: dy * noise

    with pytest.raises(TypeError, match="another value when called again with the same numbers"):
        gradcheck(f, draw(3))


@pytest.mark.parametrize("result", [lambda x: x, lambda x: (x, x), lambda x: (x, len, len)])
def test_not_a_value_and_its_pullback_is_refused(result):
    with pytest.raises(TypeError, match=r"f must return \(value, pullback\)"):
        gradcheck(result, draw(3))


@pytest.mark.parametrize("value", [3.0, [1.0, 2.0], None, np.arange(3)])
def test_a_value_that_is_no_array_of_floats_is_refused(value):
    with pytest.raises(TypeError):
        gradcheck(lambda x: (value, lambda dy: 0 * x), draw(3))


# Gradients that are not there, not finite or of another shape


def test_a_missing_gradient_is_reported():
    for gradients in (
        lambda dy: dy * 3.0,
        lambda dy: (dy * 3.0,),
        lambda dy: (dy * 3.0, {}),
        lambda dy: (dy * 3.0, None),
        lambda dy: (dy * 3.0, {"bais": dy}),
    ):
        errors = gradcheck(lambda x, bias, g=gradients: (3 * x + bias, g), draw(3), draw(3))
        assert errors["x"] <= PASS
        assert errors["bias"] == math.inf
        assert errors.explanation == "bias: the pullback returns no gradient"


def test_a_missing_leaf_is_reported():
    def f(x, params):
        y, back = affine(x, params["kernel"], params["bias"])
        return y, lambda dy: (back(dy)[0], {"kernel": back(dy)[1]["kernel"]})

    errors = gradcheck(f, AFFINE[0], {"kernel": AFFINE[1], "bias": AFFINE[2]})
    assert errors["params/kernel"] <= PASS
    assert errors["params/bias"] == math.inf


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("directions", [None, 2])
def test_a_gradient_that_is_not_finite_is_reported(bad, directions):
    def f(x):
        return x * x, lambda dy: np.where(np.arange(3) == 1, bad, 2 * x * dy)

    errors = gradcheck(f, draw(3), directions=directions)
    assert errors["x"] == math.inf
    assert "It is not finite" in errors.explanation
    if directions is None:
        assert f"at index (1,), analytic {bad}" in errors.explanation


def test_a_gradient_of_another_shape_is_reported():
    def f(x):
        return x.sum(), lambda dy: dy * np.ones((2, 5))

    errors = gradcheck(f, draw(2, 3))
    assert errors["x"] == math.inf
    assert errors.explanation == "x: the gradient has shape (2, 5), the argument (2, 3)."


def test_a_number_in_place_of_an_array_is_reported():
    errors = gradcheck(lambda x: (x.sum(), lambda dy: float(dy)), draw(2, 3))
    assert errors["x"] == math.inf


# The error


def test_the_error_is_measured_against_the_largest_of_its_argument():
    seen = []

    def f(x, y):
        def pullback(dy):
            seen.append(dy.copy())
            return dy + np.array([0, 0.5, 0]), 2 * dy + np.array([0, 0, 0.25])

        return x + 2 * y, pullback

    errors = gradcheck(f, draw(3), draw(3))
    largest = abs(seen[0]).max()
    assert errors["x"] == pytest.approx(0.5 / largest, rel=1e-9)
    assert errors["y"] == pytest.approx(0.25 / (2 * largest), rel=1e-9)


def test_the_error_of_a_small_gradient_is_measured_against_a_thousandth_of_the_largest():
    # Where a gradient is nought, as at the key bias, the rounding of others is all there is.
    seen = []

    def f(x, small, tiny):
        def pullback(dy):
            seen.append(dy.copy())
            return dy, 0.01 * dy + 1e-5, 1e-6 * dy + 1e-5

        return x + 0.01 * small + 1e-6 * tiny, pullback

    errors = gradcheck(f, draw(3), draw(3), draw(3))
    largest = abs(seen[0]).max()
    assert errors["x"] <= PASS
    assert errors["small"] == pytest.approx(1e-5 / (0.01 * largest), rel=1e-9)
    assert errors["tiny"] == pytest.approx(1e-5 / (1e-3 * largest), rel=1e-9)


def test_where_nothing_depends_on_anything_the_error_is_absolute():
    errors = gradcheck(lambda x: (0 * x, lambda dy: np.full(3, 0.25)), draw(3))
    assert errors["x"] == 0.25


def test_a_key_bias_passes():
    q, keys, bias = draw(4, 3), draw(4, 3) * 2, draw(3)

    def f(keys, bias):
        y, back = layers.attend(q.astype(keys.dtype), keys + bias, keys)

        def pullback(dy):
            _, dk, dv, _ = back(dy)
            return dk + dv, dk.sum(0)

        return y, pullback

    assert gradcheck(f, keys, bias).worst <= PASS


# The words


def test_the_worst_entry_is_named():
    def f(x):
        def pullback(dy):
            dx = dy.copy()
            dx[1, 2] += 1
            dx[0, 1] += 0.5
            return dx

        return 1.0 * x, pullback

    text = complaint(f, draw(2, 3))
    match = re.fullmatch(
        r"x: worst at index \(1, 2\), analytic (.+), numeric (.+)\. .*4 of 6.*", text
    )
    assert float(match[1]) == pytest.approx(float(match[2]) + 1, abs=1e-5)


RATIOS = [
    (-1.0, "Every entry is -1 times what it should be: a sign."),
    (2.0, "2 times what it should be: counted more than once, or a sum where"),
    (3.0, "3 times what it should be: counted more than once, or a sum where"),
    (0.5, "0.5 times what it should be: a part of it missing, or a mean where"),
    (1 / 3, "0.333333 times what it should be: a part of it missing, or a mean where"),
    (math.sqrt(3), "1.73205 times what it should be, which is √3: look for a factor like 1/√Dh"),
    (1 / math.sqrt(5), "0.447214 times what it should be, which is 1/√5: look for a factor"),
    (1.234, "Every entry is 1.234 times what it should be."),
]


@pytest.mark.parametrize("directions", [None, 3])
@pytest.mark.parametrize(("ratio", "words"), RATIOS)
def test_a_factor_is_recognised(ratio, words, directions):
    assert words in complaint(
        wrong(lambda right, dy: ratio * right), draw(2, 3), directions=directions
    )


def test_the_missing_scale_of_attention_is_recognised():
    def f(q, k, v):
        y, back = layers.attend(q / math.sqrt(3), k, v)
        return y, lambda dy: back(dy)[:3]

    text = complaint(f, draw(4, 3), draw(5, 3), draw(5, 3) * 2)
    assert text.startswith("q: ")
    assert "√3: look for a factor like 1/√Dh" in text


@pytest.mark.parametrize("digits", [1e-7, -1e-7, 1e-10])
def test_a_gradient_that_is_nearly_right_was_not_counted_twice(digits):
    text = complaint(wrong(lambda right, dy: right * (1 + digits)), draw(3))
    assert text
    assert "more than once" not in text


def test_a_path_that_does_not_reach_is_recognised():
    text = complaint(wrong(lambda right, dy: 0 * right), draw(3))
    assert "It is all zeros: does this path reach the argument at all?" in text


def test_a_gradient_of_something_unused_is_recognised():
    def f(x, unused):
        return x * x, lambda dy: (2 * x * dy, dy)

    text = complaint(f, draw(3), draw(3) + 1)
    assert text.startswith("unused: ")
    assert "The output does not depend on this argument." in text


@pytest.mark.parametrize(("part", "words"), [(-1, "-1"), (1, "1"), (0.5, "0.5")])
def test_a_residual_is_recognised(part, words):
    text = complaint(wrong(lambda right, dy: right + part * dy), draw(2, 3))
    assert f"The difference is {words} times dy: look at the residual connection." in text


def test_a_transpose_is_recognised_by_the_numbers_of_a_square():
    def f(x):
        return x @ x.T, lambda dy: ((dy + dy.T) @ x).T

    text = complaint(f, draw(3, 3))
    assert "It is the right gradient, transposed." in text


def test_a_transpose_is_recognised_by_the_shape():
    def f(x, kernel):
        return x @ kernel, lambda dy: (dy @ kernel.T, dy.T @ x)

    assert complaint(f, draw(4, 3), draw(3, 2)) == (
        "kernel: the gradient has shape (2, 3), the argument (3, 2). Is a transpose missing?"
    )


@pytest.mark.parametrize(("batch", "own"), [((4,), (3,)), ((4, 2), (3,)), ((4,), (2, 3))])
def test_a_missing_sum_over_the_batch_is_recognised(batch, own):
    def f(x, bias):
        return x + bias, lambda dy: (dy, dy)

    text = complaint(f, draw(*batch, *own), draw(*own))
    assert "is a sum over the batch missing?" in text


def test_numbers_in_other_places_are_recognised():
    text = complaint(wrong(lambda right, dy: right[::-1].copy()), draw(4, 3))
    assert "These are the right numbers in other places" in text


# A pullback's manners


def scaling_dy(x):
    def pullback(dy):
        dy *= 2
        return dy

    return 2 * x, pullback


def masking_dy(x):
    # Written twice, it is as if written once: only the caller's array tells.
    mask = x.real > 0

    def pullback(dy):
        dy[~mask] = 0
        return dy

    return x * mask, pullback


def writing_into_x(x):
    def pullback(dy):
        np.copyto(x, 2 * x * dy)
        return x

    return x * x, pullback


def shifting_x(x):
    # softmax forgets the shift, so the value never shows it.
    x -= x.real.max()
    p, back = layers.softmax(x)
    return p, back


def adding_up(x):
    total = np.zeros(x.shape)

    def pullback(dy):
        total.__iadd__(2 * x * dy)
        return total

    return x * x, pullback


def using_up_the_value(x):
    p, back = layers.softmax(x)

    def pullback(dy):
        dx = back(dy)
        p.__imul__(0.5)
        return dx

    return p, pullback


@pytest.mark.parametrize("f", [scaling_dy, masking_dy, writing_into_x, shifting_x])
def test_writing_into_what_belongs_to_the_caller_is_found(f):
    assert re.search(r"\bwrit", complaint(f, draw(3, 4)))


@pytest.mark.parametrize("f", [adding_up, using_up_the_value])
def test_a_second_call_that_differs_is_found(f):
    text = complaint(f, draw(3, 4))
    assert "called a second time, gives another gradient" in text


def test_the_caller_keeps_its_arrays():
    x = draw(3, 4)
    before = x.copy()
    complaint(writing_into_x, x)
    complaint(shifting_x, x)
    assert np.array_equal(x, before)


def test_a_large_argument_needs_little_memory():
    x = draw(1500)
    tracemalloc.start()
    gradcheck(lambda x: (x.sum(), lambda dy: dy * np.ones(len(x))), x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2e6  # one array of directions, not 1500 of them
