"""The exercises and their grader: what passes, and which words meet which mistake."""

import inspect
import math
import textwrap

import numpy as np
import pytest
from helpers.commands import run
from test_style import captured_names_bound_again
from helpers.planted_mistakes import ZOO

from minivit import gradcheck
from minivit.exercises import catalog as exercises
from minivit.exercises import grader
from minivit.exercises.grader import Verdict, grade, grade_apart, grade_file

EVERY = exercises.every()
WITH_PULLBACK = [e for e in EVERY if e.chapter not in ("11", "12")]
RMS = exercises.find("4")
RUNS = ["the file is there", "Python can run it", "it has the function rms_norm", "it runs"]
PAIR = "it returns (value, pullback)"
SHAPE = "the value has the right shape and dtype"
VALUE = "the value is right"
GRADIENT_SHAPES = "the pullback returns gradients of the right shapes"
AGAIN = "it may be called again, and writes into nothing it was given"
GRADIENT = "the gradients are right"
STEPS = [*RUNS, PAIR, SHAPE, VALUE, GRADIENT_SHAPES, AGAIN, GRADIENT]


def each(some):
    return pytest.mark.parametrize("exercise", some, ids=lambda e: e.chapter)


def arguments_of(exercise):
    return exercise.module.arguments(np.random.default_rng(0))


def graded(folder, source, exercise=RMS):
    """The verdict on a file with this source."""
    path = folder / exercise.file_name
    path.write_text(textwrap.dedent(source), encoding="utf-8")
    return grade_file(exercise, path)


def changed(exercise, *changes):
    """The solution, with some of it replaced."""
    source = exercises.solution(exercise)
    for old, new in changes:
        assert source.count(old) == 1, (old, source)
        source = source.replace(old, new)
    return source


# --- the files -------------------------------------------------------------------------------


def test_there_is_one_for_each_chapter():
    chapters = [f"{n:02}" for n in range(19)] + ["A"]
    assert [exercise.chapter for exercise in EVERY] == chapters


@pytest.mark.parametrize("chapter", ["4", "04", "004"])
def test_a_chapter_is_found_by_its_number(chapter):
    assert exercises.find(chapter).name == "rms_norm"


def test_the_appendix_is_found_by_its_letter():
    assert exercises.find("a") == exercises.find("A") == EVERY[-1]


@pytest.mark.parametrize("chapter", ["19", "", "b", "-1", "rms_norm", "4.0"])
def test_an_unknown_chapter_is_refused(chapter):
    with pytest.raises(ValueError, match=r"there are 0, 1, .*, 18, A"):
        exercises.find(chapter)


def test_the_listing_has_a_line_for_each():
    lines = exercises.listing().splitlines()
    assert len(lines) == 20
    assert lines[4].startswith(" 4  RMS norm")
    assert all(len(line) <= 100 and line.endswith(".") for line in lines)


@each(EVERY)
def test_the_solution_passes(exercise, tmp_path):
    verdict = graded(tmp_path, exercises.solution(exercise), exercise)
    assert not verdict.failed, str(verdict)
    assert not verdict.note
    assert verdict.done[:2] == STEPS[:2]
    if exercise in WITH_PULLBACK:
        assert verdict.done[3:] == STEPS[3:]
    else:
        assert verdict.done[3:] == ["it runs", SHAPE, VALUE, AGAIN]


def test_the_value_is_compared_with_the_one_in_plain_loops(monkeypatch, tmp_path):
    monkeypatch.setattr(RMS.module, "expected", lambda x, scale, eps=1e-6: x**0)
    verdict = graded(tmp_path, exercises.solution(RMS))
    assert verdict.failed == VALUE
    assert "it should be 1;" in verdict.words


@each(EVERY)
def test_the_frame_is_met_with_friendly_words(exercise, tmp_path):
    verdict = graded(tmp_path, exercises.frame(exercise), exercise)
    if exercise.chapter == "14":
        assert verdict.failed == GRADIENT
    else:
        assert verdict.failed == SHAPE
        assert verdict.words.startswith("the value is still `...`: nothing is written there yet")


@each(EVERY)
def test_the_frame_has_the_task_and_the_solution_is_not_in_it(exercise):
    frame = exercises.frame(exercise)
    docstring = inspect.getdoc(exercise.function)
    assert frame.startswith(f'"""{inspect.getdoc(exercise.module)}')
    assert textwrap.indent(docstring, "    ").strip() in frame
    assert f"`{exercise.command}` grades this file" in frame
    assert "Array" not in frame.partition("import numpy")[2]
    assert max(map(len, frame.splitlines())) <= 100
    body = frame.rpartition('"""\n')[2]
    if exercise.chapter == "14":
        assert "along = (dy * x_hat)" in body
        assert "along = (g * x_hat)" in exercises.solution(exercise)
    else:
        with_pullback = exercise in WITH_PULLBACK
        assert body == (exercises.VALUE_AND_PULLBACK if with_pullback else exercises.VALUE)


@each(EVERY)
def test_the_frame_has_the_signature_of_the_solution(exercise):
    names = {}
    exec(exercises.frame(exercise), names)
    framed = inspect.signature(names[exercise.name]).parameters.values()
    solved = inspect.signature(exercise.function).parameters.values()
    assert [(p.name, p.default) for p in framed] == [(p.name, p.default) for p in solved]
    looped = inspect.signature(exercise.module.expected).parameters
    assert list(looped) == [p.name for p in solved]


@each(EVERY)
def test_it_is_graded_on_several_shapes(exercise):
    sets = arguments_of(exercise)
    arrays = [[a for a in given if isinstance(a, np.ndarray)] for given in sets]
    assert len({tuple(a.shape for a in given) for given in arrays}) == len(sets) >= 2
    assert all(a.dtype == "float64" for given in arrays for a in given)


@each(EVERY)
def test_three_hints_lead_on_to_the_solution(exercise):
    assert len(exercise.module.HINTS) == 3
    texts = [exercises.hint(exercise, level) for level in (1, 2, 3)]
    for text, following in zip(texts, ("--hint 2", "--hint 3", "--solution"), strict=True):
        assert text.endswith(f"{exercise.command} {following}")
        assert max(map(len, text.splitlines())) <= 100


@each(EVERY)
def test_a_solution_keeps_the_rule_of_closures(exercise):
    assert captured_names_bound_again("", inspect.getsource(exercise.module)) == []


def test_the_mistake_handed_over_cannot_be_seen_at_the_first_parameters():
    wrong = exercises.find("14").module.handed_over
    x, scale = np.random.default_rng(0).normal(size=(2, 3, 5))
    assert gradcheck(wrong, x, np.ones(5), np.zeros(5)).worst < 1e-12
    errors = gradcheck(wrong, x, scale[0], np.zeros(5))
    assert errors["x"] > 1e-2
    assert max(errors["scale"], errors["bias"]) < 1e-12


def test_the_sigmoid_of_quick_gelu_is_as_close_as_it_says():
    x = np.linspace(-6, 6, 1001)
    cdf = np.array([0.5 * (1 + math.erf(n / math.sqrt(2))) for n in x])
    assert 0.009 < abs(1 / (1 + np.exp(-1.702 * x)) - cdf).max() < 0.01


# --- mistakes --------------------------------------------------------------------------------

MISTAKES = [
    ("0", "y * (1 - sigmoid)", "sigmoid * (1 - sigmoid)", GRADIENT, "x: worst at index"),
    ("0", "np.exp(-x)", "np.exp(x)", VALUE, "the value is off in 5 of 5 entries"),
    ("1", "+= dpatches", "= dpatches", GRADIENT, "entries are right, the others are not"),
    ("1", "W - P + 1", "W - P", SHAPE, "has shape (2, 4, 9), it should have (2, 6, 9)"),
    ("2", 'down.T, {"down": ddown, "up": dup}', "down.T, ddown, dup", GRADIENT_SHAPES,
     'returns (array, array, array), it should return (array, {"down": array, "up": array})'),
    ("2", "x.reshape(-1, D).T @ dh.reshape(-1, r)", "dh.reshape(-1, r).T @ x.reshape(-1, D)",
     GRADIENT_SHAPES, "down: the gradient has shape (2, 5), the argument (5, 2). Is a transpose"),
    ("3", "[:, :R].sum(0)", "[:, :R]", GRADIENT_SHAPES, "is a sum over the batch missing?"),
    ("3", ".sum(0)", ".mean(0)", GRADIENT, "registers: worst at index"),
    ("3", "[front, x]", "[x, front]", VALUE, "the value is off in"),
    ("4", "(g - x_hat * along) / rms", "g / rms", GRADIENT, "x: worst at index"),
    ("4", " + eps) ** 0.5 ", ") ** 0.5 + eps ", VALUE, "the value is off in"),
    ("5", "-(ds * x)", "(ds * x)", GRADIENT, "-1 times what it should be: a sign."),
    ("5", "_back = softmax(x / temp", "_back = softmax(x * temp", VALUE, "the value is off in"),
    ("6", "(du - u * (u * du).sum(-1, keepdims=True))", "du", GRADIENT, "q: worst at index"),
    ("6", ".sum().reshape(1)", ".sum()", GRADIENT_SHAPES,
     "scale: the gradient has shape (), the argument (1,)"),
    ("7", " @ scaled).sum(1) ", " @ scaled) ", GRADIENT_SHAPES,
     "k: the gradient has shape (2, 3, 4, 2), the argument (2, 4, 2)"),
    ("7", "@ keys / root, dk", "@ keys, dk", GRADIENT, "which is √2: look for a factor"),
    ("8", "1.702 * y", "y", GRADIENT, "x: worst at index"),
    ("8", "-1.702", "-1.7", VALUE, "the value is off in 5 of 5 entries"),
    ("9", "dy, dy * gain", "dy, dy * branch", GRADIENT, "branch: worst at index"),
    ("9", ".sum(0)", ".mean(0)", GRADIENT, "gain: worst at index"),
    ("10", " + ds[..., None] * probe", "", GRADIENT, "z: worst at index"),
    ("10", "probe / root)", "probe)", VALUE, "the value is off in 6 of 6 entries"),
    ("11", "f(x + 1j * h * v).imag / h", "(f(x + 1e-6 * v) - f(x - 1e-6 * v)) / 2e-6", VALUE,
     "the value is off in 6 of 6 entries"),
    ("11", "h = 1e-20", "h = 1e-5", VALUE, "the value is off in"),
    ("11", ".imag / h", " / h", SHAPE, "has dtype complex128, it should have float64"),
    ("12", "beta2 * momentum + (1 - beta2)", "beta1 * momentum + (1 - beta1)", VALUE,
     "value 2 of 2 is off in 20 of 20 entries"),
    ("12", "moved = params - rate", "moved = params; moved -= rate", AGAIN,
     "it writes into params, which belongs to the caller"),
    ("12", "update + decay * params", "update", VALUE, "value 1 of 2 is off"),
    ("13", ".mean(-1), pull", ".sum(-1), pull", VALUE, "the value is off in 6 of 6 entries"),
    ("13", "(logs + 1)", "logs", GRADIENT, "A: worst at index"),
    ("14", "(g * x_hat)", "(dy * x_hat)", GRADIENT, "x: worst at index"),
    ("14", "dy.reshape(-1, D).sum(0)\n", "dy.reshape(-1, D).mean(0)\n", GRADIENT,
     "bias: worst at index"),
    ("15", "(*x.shape[:-1], k, Dh) + bias", "(*x.shape[:-1], Dh, k).swapaxes(-1, -2) + bias",
     VALUE, "the value is off in"),
    ("15", "rows.sum(0).reshape(bias.shape)", "rows.sum(0)", GRADIENT_SHAPES,
     "bias: the gradient has shape (6,), the argument (3, 2)"),
    ("15", "(tokens.T @ rows)", "(rows.T @ tokens)", GRADIENT, "kernel: worst at index"),
    ("16", ".clip(0, old - 1)", "", VALUE, "the value is off in"),
    ("16", "[dy[:1], dp", "[0 * dy[:1], dp", GRADIENT, "entries are right, the others are not"),
    ("17", "total * shrink", "total", VALUE, "the value is off in"),
    ("17", "-2) - along)", "-2))", GRADIENT, "q: worst at index"),
    ("17", "dq + dscores", "dscores", GRADIENT, "q: worst at index"),
    ("18", "gap * gap * some * share", "gap * gap * share", VALUE, "the value is off in"),
    ("18", "while far:", "while far > 1:", VALUE, "the value is off in 6 of 6 entries"),
    ("18", "squares[..., :1] / n, pull",
     "(x * x).mean(-1, keepdims=True) - x.mean(-1, keepdims=True) ** 2, pull", VALUE,
     "Given: x (3, 40), lanes 32"),
    ("18", "dy * 2 * (x", "dy * (x", GRADIENT, "Every entry is 0.5 times what it should be"),
    ("A", "@ keys / root, ", "@ keys, ", GRADIENT, "which is √3: look for a factor"),
    ("A", "-1, window, q", "window, -1, q", VALUE, "the value is off in"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("chapter", "old", "new", "step", "words"), MISTAKES, ids=[f"{m[0]}: {m[2]}" for m in MISTAKES]
)
def test_a_mistake_fails_where_it_is_made(chapter, old, new, step, words, tmp_path):
    exercise = exercises.find(chapter)
    verdict = graded(tmp_path, changed(exercise, (old, new)), exercise)
    assert verdict.failed == step
    assert words in verdict.words
    assert verdict.words.splitlines()[-1].startswith("Given: ")
    assert "Traceback" not in verdict.words


@each(EVERY)
def test_every_exercise_has_two_mistakes_here(exercise):
    assert sum(exercises.find(chapter) == exercise for chapter, *_ in MISTAKES) >= 2


def test_what_is_too_large_for_exp_is_among_the_inputs(tmp_path):
    naive = "np.exp(x / temperature) / np.exp(x / temperature).sum(-1, keepdims=True), None"
    source = changed(exercises.find("5"), ("_back = softmax(x / temperature)", f"_back = {naive}"))
    with np.errstate(all="ignore"):
        verdict = graded(tmp_path, source, exercises.find("5"))
    assert verdict.failed == VALUE
    assert "\nnan, it should be 0." in verdict.words


@pytest.mark.parametrize("specimen", ZOO, ids=lambda s: s.wrong.__name__)
def test_the_grader_knows_every_mistake_of_the_zoo(specimen):
    assert exercises.find(str(specimen.chapter))
    verdict = grade(specimen.wrong, specimen.right, [specimen.arguments])
    assert verdict.failed in (VALUE if specimen.refused else GRADIENT, GRADIENT_SHAPES, AGAIN)
    assert verdict.words
    verdict = grade(specimen.right, specimen.right, [specimen.arguments])
    assert verdict == Verdict(verdict.done)
    assert verdict.done[-1] == GRADIENT


def test_the_zoo_has_mistakes_of_every_chapter_up_to_the_whole_model():
    assert {s.chapter for s in ZOO} == {*range(11), "A"}


# --- the steps, one after the other ----------------------------------------------------------


def rms(body):
    """A file with a function rms_norm of this body."""
    code = textwrap.indent(textwrap.dedent(body).strip(), "    ")
    return f"import numpy as np\n\n\ndef rms_norm(x, scale, eps=1e-6):\n{code}\n"


RIGHT = """
rms = ((x * x).mean(-1, keepdims=True) + eps) ** 0.5
x_hat = x / rms

def pullback(dy):
    g = dy * scale
    dscale = (dy * x_hat).reshape(-1, x.shape[-1]).sum(0)
    return (g - x_hat * (g * x_hat).mean(-1, keepdims=True)) / rms, {"scale": dscale}

return scale * x_hat, pullback
"""


def test_the_file_is_not_there(tmp_path):
    verdict = grade_file(RMS, tmp_path / "04_rms_norm.py")
    assert verdict.failed == "the file is there"
    assert verdict.words.endswith("`python -m minivit exercise 4 --start` makes it")


NOT_TO_BE_RUN = {
    "syntax": ("x = (1\ndef f(:\n", "line 2", "SyntaxError"),
    "indentation": ("if 1:\nx = 2\n", "line 2", "IndentationError"),
    "an error": ("x = 1\ny = x / 0\n", "line 2, in <module>\n    y = x / 0", "ZeroDivisionError"),
    "a module": ("import nosuchmodule\n", "line 1", "No module named 'nosuchmodule'"),
    "an exit": ("import sys\nsys.exit(0)\n", "It ends Python:", "line 2", "SystemExit: 0"),
    "a null": ("x = '\0'\n", "null bytes"),
}


@pytest.mark.parametrize("source", NOT_TO_BE_RUN, ids=NOT_TO_BE_RUN)
def test_a_file_that_cannot_be_run_is_shown_its_own_lines(source, tmp_path):
    text, *words = NOT_TO_BE_RUN[source]
    verdict = graded(tmp_path, text)
    assert verdict.done == RUNS[:1]
    assert verdict.failed == "Python can run it"
    for word in words:
        assert word in verdict.words
    assert "exercise.py" not in verdict.words


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def rms(x, scale): pass", "nothing in the file has the name rms_norm"),
        ("rms_norm = 3", "rms_norm is of type int, it should be a function"),
        ("import numpy as np\nrms_norm = np.exp", "rms_norm is of type ufunc, it should"),
        ("def rms_norm(x, gamma): pass",
         "its arguments are (x, gamma), they should be (x, scale, eps)"),
    ],
)  # fmt: skip
def test_it_must_be_the_function_that_was_asked_for(source, words, tmp_path):
    verdict = graded(tmp_path, source)
    assert verdict.failed == RUNS[2]
    assert words in verdict.words


STOPS = {
    "raises": ("raise NotImplementedError", "it runs", "in rms_norm", "NotImplementedError"),
    "raises in numpy": ("return x.sum(axis=7)", "it runs", "return x.sum(axis=7)", "AxisError"),
    "exits": ("import sys\nsys.exit('no')", "it runs", "It ends Python:", "SystemExit: no"),
    "recursion": ("return rms_norm(x, scale)", "it runs", "repeated", "RecursionError"),
    "returns nothing": ("y = x", PAIR, "it returns None, not (array, function); is the last line"),
    "returns the value": ("return x", PAIR, "it returns array, not (array, function)"),
    "returns the order": ("return (lambda dy: dy), x", PAIR, "it returns (function, array)"),
    "returns three": ("return x, x, (lambda dy: dy)", PAIR, "it returns (array, array, function)"),
    "a number": ("return 1.0, lambda dy: dy", SHAPE, "the value is float, it should be array"),
    "a list": ("return [x], lambda dy: dy", SHAPE, "the value is [array], it should be array"),
    "shape": ("return x.T, lambda dy: dy", SHAPE, "has shape (5, 3, 2), it should have (2, 3, 5)"),
    "dtype": ("return x.astype('f'), lambda dy: dy", SHAPE, "has dtype float32, it should have"),
    "not a number": ("return x * np.nan, None.__eq__", VALUE, "nan, it should be "),
    "infinite": ("return x * np.inf, None.__eq__", VALUE, "inf, it should be "),
}


@pytest.mark.parametrize("name", STOPS, ids=STOPS)
def test_it_stops_at_the_first_step_that_fails(name, tmp_path):
    body, step, *words = STOPS[name]
    verdict = graded(tmp_path, rms(body))
    assert verdict.failed == step
    assert verdict.done == STEPS[: STEPS.index(step)]
    for word in words:
        assert word in verdict.words
    assert "trial.py" not in verdict.words
    assert "numpy/" not in verdict.words
    assert verdict.words.splitlines()[-1] == "Given: x (2, 3, 5), scale (5,)"


PULLBACKS = {
    "raises": ("return dy @ dy", GRADIENT_SHAPES, "line 9, in pullback", "ValueError"),
    "exits": ("raise SystemExit", GRADIENT_SHAPES, "It ends Python:", "line 9, in pullback"),
    "forgotten": ("dx = dy", GRADIENT_SHAPES, 'returns None, it should return (array, {"scale"'),
    "still dots": ("return ...", GRADIENT_SHAPES, 'returns ..., it should return (array, {"scale"'),
    "dx alone": ("return dy", GRADIENT_SHAPES, 'returns array, it should return (array, {"scale"'),
    "a tuple": ("return dy, scale", GRADIENT_SHAPES, "returns (array, array), it should return"),
    "a name": ('return dy, {"gain": scale}', GRADIENT_SHAPES, 'returns (array, {"gain": array})'),
    "a list": ('return [dy, {"scale": scale}]', GRADIENT_SHAPES, 'returns [array, {"scale": '),
    "a number": ('return dy, {"scale": 1.0}', GRADIENT_SHAPES, '(array, {"scale": float})'),
    "dx's shape": ('return dy[0], {"scale": scale}', GRADIENT_SHAPES,
                   "x: the gradient has shape (3, 5), the argument (2, 3, 5)."),
    "zeros": ('return 0 * dy, {"scale": 0 * scale}', GRADIENT, "x: worst", "all zeros"),
    "not a number": ('return np.nan * dy, {"scale": scale}', GRADIENT, "x: worst", "not finite"),
    "float32": ('dx, d = right(dy)\nreturn dx.astype("f").astype(float), d', GRADIENT,
                "Every entry is nearly right: does float32 slip in"),
    "both": ('return dy, {"scale": scale}', GRADIENT, "x: worst at index", "scale: worst at index"),
    "writes into dy": ("dy *= 1.5\nreturn right(dy)", AGAIN,
                       "it writes into dy, which belongs to the caller", "make a new one"),
    "writes into x": ("x[:] = 0\nreturn right(dy)", AGAIN, "it writes into x, which belongs"),
    "uses it up": ("scale.setflags()\nkept.append(1)\ndx, d = right(dy)\nreturn dx * len(kept), d",
                   AGAIN, "x: the pullback, called a second time, gives another gradient"),
}  # fmt: skip


@pytest.mark.parametrize("name", PULLBACKS, ids=PULLBACKS)
def test_a_pullback_stops_at_the_first_step_that_fails(name, tmp_path):
    body, step, *words = PULLBACKS[name]
    lines = [
        "kept = []",
        "x_hat = x / ((x * x).mean(-1, keepdims=True) + eps) ** 0.5",
        "right = solved(x.copy(), scale, eps)[1]",
        f"def pullback(dy):\n{textwrap.indent(body, '    ')}",
        "return scale * x_hat, pullback",
    ]
    source = rms("\n".join(lines))
    helper = "from minivit.exercises import find\nsolved = find('4').function\n"
    verdict = graded(tmp_path, source.replace("\n\n\n", f"\n{helper}"))
    assert verdict.failed == step
    assert verdict.done == STEPS[: STEPS.index(step)]
    for word in words:
        assert word in verdict.words


FORWARDS = {
    "writes into x": ("x_hat = x / rms", "x /= rms\nx_hat = x.copy()", "it writes into x, which"),
    "writes into scale": ("return scale * x_hat", "y = scale * x_hat\nscale *= 2\nreturn y",
                          "it writes into scale, which"),
    "counts its calls": ("x_hat = x / rms",
                         "calls.append(1)\nx_hat = x / rms * (1 + 1e-6 * (len(calls) > 3))",
                         "f gives another value when called again"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORWARDS, ids=FORWARDS)
def test_a_function_must_leave_its_inputs_and_repeat_itself(name, tmp_path):
    old, new, words = FORWARDS[name]
    assert RIGHT.count(old) == 1
    verdict = graded(tmp_path, "calls = []\n" + rms(RIGHT.replace(old, new)))
    assert verdict.done == STEPS[:8]
    assert verdict.failed == AGAIN
    assert words in verdict.words


def test_the_right_function_passes_in_other_words_too(tmp_path):
    verdict = graded(tmp_path, rms(RIGHT))
    assert verdict == Verdict(STEPS)


def test_the_first_argument_set_alone_does_not_decide(tmp_path):
    # Right for three axes, and only there.
    old, new = ".reshape(-1, x.shape[-1]).sum(0)", ".sum((0, 1))"
    verdict = graded(tmp_path, rms(RIGHT.replace(old, new)))
    assert verdict.failed == GRADIENT_SHAPES
    assert "scale: the gradient has shape (), the argument (3,)" in verdict.words
    assert verdict.words.endswith("Given: x (4, 3), scale (3,)")


# --- what complex numbers do not pass through ------------------------------------------------

NOT_COMPLEX = {
    "abs": ("(x * x)", "(abs(x) ** 2)", "line 5: `abs`"),
    "norm": ("((x * x).mean(-1, keepdims=True)",
             "(np.linalg.norm(x, axis=-1, keepdims=True) ** 2 / x.shape[-1]", "line 5: `norm`"),
    "a float array": ("x_hat = x / rms", "x_hat = np.zeros(x.shape)\nx_hat[:] = x / rms",
                      "line 7: `x_hat[:] = x / rms`"),
    "float": ("x_hat = x / rms", "x_hat = x / np.array([[float(r) for r in rms.ravel()]]).reshape("
              "rms.shape)", "line 6: `x_hat = x / np.array([[float(r)"),
    "real": ("x_hat = x / rms", "x_hat = x.real / rms.real", "line 6: `real`"),
    "an assertion": ("x_hat = x / rms", "assert x.dtype == float\nx_hat = x / rms",
                     "line 6: `assert x.dtype == float`"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_COMPLEX, ids=NOT_COMPLEX)
def test_right_code_that_takes_no_complex_numbers_passes_and_is_told(name, tmp_path):
    old, new, where = NOT_COMPLEX[name]
    assert RIGHT.count(old) == 1
    verdict = graded(tmp_path, rms(RIGHT.replace(old, new)))
    assert not verdict.failed, str(verdict)
    assert verdict.note.startswith("The imaginary part of its input gets lost")
    assert f"({where}" in verdict.note
    assert "agree with them to 1e-07" in verdict.note
    assert str(verdict).endswith(verdict.note)


@pytest.mark.parametrize("name", NOT_COMPLEX, ids=NOT_COMPLEX)
def test_wrong_code_that_takes_no_complex_numbers_fails_with_the_right_numbers(name, tmp_path):
    old, new, _ = NOT_COMPLEX[name]
    wrong = RIGHT.replace(old, new).replace("keepdims=True)) / rms", "keepdims=True)) / rms * 3")
    verdict = graded(tmp_path, rms(wrong))
    assert verdict.failed == GRADIENT
    assert "Every entry is 3 times what it should be" in verdict.words


def refusing_complex(function):
    def refusing(*arguments):
        if any(np.iscomplexobj(a) for a in arguments):
            raise TypeError("no complex numbers")
        return function(*arguments)

    refusing.__signature__ = inspect.signature(function)
    return refusing


@each(WITH_PULLBACK)
def test_central_differences_are_good_enough_for_every_exercise(exercise):
    written = refusing_complex(exercise.function)
    verdict = grade(written, exercise.function, arguments_of(exercise), exercise.module.expected)
    assert not verdict.failed, str(verdict)
    assert "raise TypeError" in verdict.note


@each(WITH_PULLBACK)
def test_central_differences_see_an_error_of_a_millionth(exercise):
    def wrong(*arguments):
        value, pullback = exercise.function(*arguments)

        def a_bit_too_large(dy):
            gradients = pullback(dy)
            first = gradients[0] if isinstance(gradients, tuple) else gradients
            rest = gradients[1:] if isinstance(gradients, tuple) else None
            return first * 1.000001 if rest is None else (first * 1.000001, *rest)

        return value, a_bit_too_large

    wrong.__signature__ = inspect.signature(exercise.function)
    for written in (wrong, refusing_complex(wrong)):
        verdict = grade(written, exercise.function, arguments_of(exercise))
        assert verdict.failed == GRADIENT


def test_what_is_right_to_seven_digits_only_is_wrong_where_complex_numbers_pass(tmp_path):
    verdict = graded(tmp_path, rms(RIGHT.replace("/ rms, {", "/ rms * (1 + 1e-8), {")))
    assert verdict.failed == GRADIENT
    assert "Every entry is nearly right" in verdict.words


# --- the process of its own ------------------------------------------------------------------


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes the reader's file, in a folder that is the current one's `exercises`."""
    monkeypatch.chdir(tmp_path)
    path = grader.FOLDER / RMS.file_name

    def write(source):
        path.parent.mkdir(exist_ok=True)
        path.write_text(source, encoding="utf-8")

    return write


def test_a_loop_that_never_ends_is_stopped_where_it_is(write):
    write(rms("while True:\n    x = x + 0\n"))
    verdict = grade_apart(RMS, limit=1)
    assert verdict.failed == "it comes to an end"
    assert verdict.words.startswith("after 1 s it still runs: a loop that never ends?")
    assert verdict.words.endswith(("It has come to line 5", "It has come to line 6"))


def test_what_is_printed_is_shown_and_takes_no_part_in_the_verdict(write, capfd):
    write('import os, sys\nprint("{}")\nos.write(1, b"[[], null]\\n")\nsys.stderr.write("so\\n")\n'
          + rms('print("called")\n' + RIGHT))  # fmt: skip
    assert grade_apart(RMS) == Verdict(STEPS)
    out, err = capfd.readouterr()
    assert "{}" in out
    assert "[[], null]" in out
    assert err == "so\n"
    assert out.count("called") == len(arguments_of(RMS))


def test_a_file_that_ends_its_process_gets_no_verdict(write, capfd):
    write("import os\nos._exit(0)\n")
    verdict = grade_apart(RMS)
    assert verdict.failed == "it comes to an end"
    assert verdict.words == "its process ended, with status 0, before the grading did"
    assert capfd.readouterr() == ("", "")


# --- the command line ------------------------------------------------------------------------


def test_from_the_frame_to_the_solution(write, capfd):
    status, out, _ = run("exercise", "4")
    assert status == 1
    assert "there is no exercises/04_rms_norm.py: `python -m minivit exercise 4 --start`" in out
    assert "--hint" not in out

    status, out, _ = run("exercise", "4", "--start")
    assert status == 0
    path = grader.FOLDER / "04_rms_norm.py"
    assert path.read_text(encoding="utf-8") == exercises.frame(RMS)
    assert out == f"{path}: write there, then `python -m minivit exercise 4`\n"

    status, out, _ = run("exercise", "4")
    assert status == 1
    assert out.splitlines()[:2] == ["04_rms_norm.py", "  ok  the file is there"]
    assert "  NO  the value has the right shape and dtype\n      the value is still" in out
    assert out.endswith("`python -m minivit exercise 4 --hint` helps.\n")

    status, solution, _ = run("exercise", "4", "--solution")
    assert status == 0
    write(solution)
    status, out, err = run("exercise", "04")
    assert status == 0
    assert out.splitlines()[1:-1] == [f"  ok  {step}" for step in STEPS]
    assert out.splitlines()[-1].startswith("Right. `python -m minivit exercise 4 --solution`")
    assert err == "".join(capfd.readouterr()) == ""


def test_what_was_written_is_never_overwritten(write):
    write("mine = 1\n")
    status, out, err = run("exercise", "4", "--start")
    assert status == 1
    assert out == ""
    assert err == "minivit: error: exercises/04_rms_norm.py is there already, and stays as it is\n"
    assert (grader.FOLDER / "04_rms_norm.py").read_text() == "mine = 1\n"


def test_without_a_chapter_it_lists_them(write):
    assert run("exercise") == (0, exercises.listing() + "\n", "")


@pytest.mark.parametrize(("words", "level"), [((), 1), (("1",), 1), (("2",), 2), (("3",), 3)])
def test_hints(words, level):
    hint = exercises.hint(EVERY[-1], level)
    assert run("exercise", "a", "--hint", *words) == (0, f"{hint}\n", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["19"], "there is no exercise 19: there are 0, 1, "),
        (["4", "--hint", "4"], "invalid choice: 4"),
        (["4", "--start", "--hint"], "not allowed with"),
        (["--start"], "of which exercise? Name its chapter"),
        (["--solution"], "of which exercise? Name its chapter"),
        (["--hint"], "of which exercise? Name its chapter"),
    ],
)
def test_bad_usage(words, message, write):
    status, out, err = run("exercise", *words)
    assert status == 2
    assert out == ""
    assert message in err
    assert not grader.FOLDER.exists()
