"""The exercises and the grader: accepted solutions, and the explanations of mistakes."""

import inspect
import math
import re
import textwrap
from functools import wraps
from pathlib import Path

import numpy as np
import pytest
from helpers.closures import rebound_captures
from helpers.commands import run
from helpers.planted_mistakes import MISTAKES as PLANTED

from minivit import gradcheck
from minivit.exercises import catalog, grader
from minivit.exercises.grader import Verdict, grade, grade_file, grade_in_subprocess

EXERCISES = catalog.list_exercises()
WITH_PULLBACK = [e for e in EXERCISES if e.chapter not in ("11", "12")]
RMS = catalog.find("4")
RUNS = ["the file exists", "Python can execute it", "it defines rms_norm", "it runs"]
PAIR, SHAPE, VALUE, GRADIENT_SHAPES, AGAIN, GRADIENT = list(grader.STEPS)[1:]
STEPS = [*RUNS, PAIR, SHAPE, VALUE, GRADIENT_SHAPES, AGAIN, GRADIENT]


def each(exercises):
    return pytest.mark.parametrize("exercise", exercises, ids=lambda e: e.chapter)


def arguments_of(exercise):
    return exercise.module.arguments(np.random.default_rng(0))


def grade_source(folder, source, exercise=RMS):
    path = folder / exercise.file_name
    path.write_text(textwrap.dedent(source), encoding="utf-8")
    return grade_file(exercise, path)


def edit_solution(exercise, old, new):
    source = catalog.solution(exercise)
    assert source.count(old) == 1, (old, source)
    return source.replace(old, new)


# --- the catalogue ----------------------------------------------------------------------------


def test_there_is_one_exercise_per_chapter():
    assert [e.chapter for e in EXERCISES] == [*(f"{n:02}" for n in range(19)), "A"]
    assert catalog.find("4") == catalog.find("04") == catalog.find("004") == EXERCISES[4]
    assert catalog.find("a") == catalog.find("A") == EXERCISES[-1]
    *lines, total = grader.listing(Path("none")).splitlines()
    assert len(lines) == 20
    assert lines[4].startswith("   4  RMS norm")
    assert all(len(line) <= 100 and line.endswith(".") for line in lines)
    assert total == "0 of 20 solved"


@pytest.mark.parametrize("chapter", ["19", "", "b", "-1", "rms_norm", "4.0"])
def test_an_unknown_chapter_is_rejected(chapter):
    with pytest.raises(ValueError, match=r"choose one of 0, 1, .*, 18, A"):
        catalog.find(chapter)


@each(EXERCISES)
def test_the_solution_passes(exercise, tmp_path):
    verdict = grade_source(tmp_path, catalog.solution(exercise), exercise)
    assert not verdict.failed, str(verdict)
    assert not verdict.note
    after_runs = STEPS[4:] if exercise in WITH_PULLBACK else [SHAPE, VALUE, AGAIN]
    assert verdict.passed[3:] == ["it runs", *after_runs]


def test_the_expected_value_is_that_of_plain_loops(monkeypatch, tmp_path):
    monkeypatch.setattr(RMS.module, "expected", lambda x, scale, eps=1e-6: x**0)
    verdict = grade_source(tmp_path, catalog.solution(RMS))
    assert verdict.failed == VALUE
    assert "expected 1 (" in verdict.reason


@each(EXERCISES)
def test_the_template_has_the_task_and_the_signature_but_not_the_solution(exercise, tmp_path):
    template = catalog.template(exercise)
    assert template.startswith(f'"""{inspect.getdoc(exercise.module)}')
    docstring = textwrap.indent(inspect.getdoc(exercise.function), "    ").strip()
    assert docstring in template
    assert f"`{exercise.command}` grades this file" in template
    assert "Array" not in template.partition("import numpy")[2]
    assert max(map(len, template.splitlines())) <= 100
    names = {}
    exec(template, names)
    signatures = [
        [(p.name, p.default) for p in inspect.signature(f).parameters.values()]
        for f in (names[exercise.name], exercise.function)
    ]
    assert signatures[0] == signatures[1]
    expected = inspect.signature(exercise.module.expected).parameters
    assert list(expected) == [name for name, _ in signatures[0]]
    body, verdict = template.rpartition('"""\n')[2], grade_source(tmp_path, template, exercise)
    if exercise.chapter == "14":
        assert "along = (dy * x_hat)" in body
        assert verdict.failed == GRADIENT
    else:
        assert body == (catalog.VALUE_AND_PULLBACK if exercise in WITH_PULLBACK else catalog.VALUE)
        assert verdict.failed == SHAPE
        assert verdict.reason.startswith("the value is still `...`; replace it with your")


@each(EXERCISES)
def test_an_exercise_has_hints_and_several_inputs(exercise):
    assert rebound_captures(inspect.getsource(exercise.module)) == []
    assert len(exercise.module.HINTS) == 3
    for level, following in ((1, "--hint 2"), (2, "--hint 3"), (3, "--solution")):
        text = catalog.hint(exercise, level)
        assert text.endswith(f"{exercise.command} {following}")
        assert max(map(len, text.splitlines())) <= 100
    arrays = [[a for a in args if isinstance(a, np.ndarray)] for args in arguments_of(exercise)]
    assert len({tuple(a.shape for a in args) for args in arrays}) == len(arrays) >= 2
    assert all(a.dtype == "float64" for args in arrays for a in args)


def test_the_incorrect_layer_norm_is_correct_for_the_initial_parameters():
    layer_norm = catalog.find("14").module.incorrect
    x, scale = np.random.default_rng(0).normal(size=(2, 3, 5))
    assert gradcheck(layer_norm, x, np.ones(5), np.zeros(5)).passed
    errors = gradcheck(layer_norm, x, scale[0], np.zeros(5))
    assert errors["x"] > 1e-2
    assert max(errors["scale"], errors["bias"]) < 1e-12


def test_quick_gelu_approximates_the_normal_distribution_as_documented():
    x = np.linspace(-6, 6, 1001)
    cdf = np.array([0.5 * (1 + math.erf(n / math.sqrt(2))) for n in x])
    assert 0.009 < abs(1 / (1 + np.exp(-1.702 * x)) - cdf).max() < 0.01


# --- mistakes in each exercise ----------------------------------------------------------------

MISTAKES = [
    ("0", "y * (1 - sigmoid)", "sigmoid * (1 - sigmoid)", GRADIENT, "x: largest error at index"),
    ("0", "np.exp(-x)", "np.exp(x)", VALUE, "the value is wrong in 5 of 5 entries"),
    ("1", "+= dpatches", "= dpatches", GRADIENT, "entries are correct."),
    ("1", "W - P + 1", "W - P", SHAPE, "has shape (2, 4, 9), expected (2, 6, 9)"),
    ("2", 'down.T, {"down": ddown, "up": dup}', "down.T, ddown, dup", GRADIENT_SHAPES,
     'returns (array, array, array), expected (array, {"down": array, "up": array})'),
    ("2", "x.reshape(-1, D).T @ dh.reshape(-1, r)", "dh.reshape(-1, r).T @ x.reshape(-1, D)",
     GRADIENT_SHAPES, "shape (2, 5), but the argument has shape (5, 2). Is a transpose missing?"),
    ("3", "[:, :R].sum(0)", "[:, :R]", GRADIENT_SHAPES, "Is a sum over the batch missing?"),
    ("3", "[front, x]", "[x, front]", VALUE, "the value is wrong in"),
    ("4", "(g - x_hat * along) / rms", "g / rms", GRADIENT, "x: largest error at index"),
    ("4", " + eps) ** 0.5 ", ") ** 0.5 + eps ", VALUE, "the value is wrong in"),
    ("5", "-(ds * x)", "(ds * x)", GRADIENT, "-1 times the correct value. Check the sign."),
    ("5", "_back = softmax(x / temp", "_back = softmax(x * temp", VALUE, "the value is wrong in"),
    ("6", "(du - u * (u * du).sum(-1, keepdims=True))", "du", GRADIENT, "q: largest error at"),
    ("6", ".sum().reshape(1)", ".sum()", GRADIENT_SHAPES,
     "scale: the gradient has shape (), but the argument has shape (1,)"),
    ("7", " @ scaled).sum(1) ", " @ scaled) ", GRADIENT_SHAPES,
     "k: the gradient has shape (2, 3, 4, 2), but the argument has shape (2, 4, 2)"),
    ("7", "@ keys / root, dk", "@ keys, dk", GRADIENT, "√2. Check scale factors"),
    ("8", "1.702 * y", "y", GRADIENT, "x: largest error at index"),
    ("8", "-1.702", "-1.7", VALUE, "the value is wrong in 5 of 5 entries"),
    ("9", "dy, dy * gain", "dy, dy * branch", GRADIENT, "branch: largest error at index"),
    ("9", ".sum(0)", ".mean(0)", GRADIENT, "gain: largest error at index"),
    ("10", " + ds[..., None] * probe", "", GRADIENT, "z: largest error at index"),
    ("10", "probe / root)", "probe)", VALUE, "the value is wrong in 6 of 6 entries"),
    ("11", "f(x + 1j * h * v).imag / h", "(f(x + 1e-6 * v) - f(x - 1e-6 * v)) / 2e-6", VALUE,
     "the value is wrong in 6 of 6 entries"),
    ("11", ".imag / h", " / h", SHAPE, "has dtype complex128, expected float64"),
    ("12", "beta2 * momentum + (1 - beta2)", "beta1 * momentum + (1 - beta1)", VALUE,
     "value 2 of 2 is wrong in 20 of 20 entries"),
    ("12", "new_params = params - learning", "new_params = params; new_params -= learning", AGAIN,
     "params is modified"),
    ("13", ".mean(-1), pull", ".sum(-1), pull", VALUE, "the value is wrong in 6 of 6 entries"),
    ("13", "(logs + 1)", "logs", GRADIENT, "A: largest error at index"),
    ("14", "(g * x_hat)", "(dy * x_hat)", GRADIENT, "x: largest error at index"),
    ("14", "dy.reshape(-1, D).sum(0)\n", "dy.reshape(-1, D).mean(0)\n", GRADIENT,
     "bias: largest error at index"),
    ("15", "(*x.shape[:-1], h, Dh) + bias", "(*x.shape[:-1], Dh, h).swapaxes(-1, -2) + bias",
     VALUE, "the value is wrong in"),
    ("15", "(tokens.T @ rows)", "(rows.T @ tokens)", GRADIENT, "kernel: largest error at index"),
    ("16", ".clip(0, old - 1)", "", VALUE, "the value is wrong in"),
    ("16", "[dy[:1], dp", "[0 * dy[:1], dp", GRADIENT, "entries are correct."),
    ("17", "total * rescale", "total", VALUE, "the value is wrong in"),
    ("17", "dq + dscores", "dscores", GRADIENT, "q: largest error at index"),
    ("18", "squares[..., :1] / n, pull",
     "(x * x).mean(-1, keepdims=True) - x.mean(-1, keepdims=True) ** 2, pull", VALUE,
     "Arguments: x (3, 40), lanes 32"),
    ("18", "dy * 2 * (x", "dy * (x", GRADIENT, "Every entry is 0.5 times the correct value"),
    ("A", "@ keys / root, ", "@ keys, ", GRADIENT, "√3. Check scale factors"),
    ("A", "-1, window, q", "window, -1, q", VALUE, "the value is wrong in"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("chapter", "old", "new", "step", "reason"),
    MISTAKES,
    ids=[f"{mistake[0]}: {mistake[2]}" for mistake in MISTAKES],
)
def test_a_mistake_fails_at_its_step(chapter, old, new, step, reason, tmp_path):
    exercise = catalog.find(chapter)
    verdict = grade_source(tmp_path, edit_solution(exercise, old, new), exercise)
    assert verdict.failed == step
    assert reason in verdict.reason
    assert verdict.reason.splitlines()[-1].startswith("Arguments: ")
    assert "Traceback" not in verdict.reason


def test_scores_that_overflow_exp_are_among_the_inputs(tmp_path):
    exercise = catalog.find("5")
    naive = "np.exp(x / temperature) / np.exp(x / temperature).sum(-1, keepdims=True), None"
    source = edit_solution(exercise, "_back = softmax(x / temperature)", f"_back = {naive}")
    with np.errstate(all="ignore"):
        verdict = grade_source(tmp_path, source, exercise)
    assert verdict.failed == VALUE
    assert "\nnan, expected 0." in verdict.reason


@pytest.mark.parametrize("name", PLANTED)
def test_the_grader_finds_every_planted_mistake(name):
    mistake = PLANTED[name]
    verdict = grade(mistake.wrong, mistake.correct, [mistake.arguments])
    assert verdict.failed in (VALUE if mistake.refused else GRADIENT, GRADIENT_SHAPES, AGAIN)
    assert verdict.reason
    verdict = grade(mistake.correct, mistake.correct, [mistake.arguments])
    assert verdict == Verdict(verdict.passed)
    assert verdict.passed[-1] == GRADIENT


# --- the steps --------------------------------------------------------------------------------


def rms(body):
    """Return the source of a file that defines `rms_norm` with this body."""
    code = textwrap.indent(textwrap.dedent(body).strip(), "    ")
    return f"import numpy as np\n\n\ndef rms_norm(x, scale, eps=1e-6):\n{code}\n"


CORRECT = """
rms = ((x * x).mean(-1, keepdims=True) + eps) ** 0.5
x_hat = x / rms

def pullback(dy):
    g = dy * scale
    dscale = (dy * x_hat).reshape(-1, x.shape[-1]).sum(0)
    return (g - x_hat * (g * x_hat).mean(-1, keepdims=True)) / rms, {"scale": dscale}

return scale * x_hat, pullback
"""


def edit_correct(old, new):
    assert CORRECT.count(old) == 1
    return rms(CORRECT.replace(old, new))


def test_another_correct_function_passes(tmp_path):
    assert grade_source(tmp_path, rms(CORRECT)) == Verdict(STEPS)


FILES = {
    "syntax": (1, "x = (1\ndef f(:\n", "line 2", "SyntaxError"),
    "an error": (1, "x = 1\ny = x / 0\n", "line 2, in <module>\n    y = x / 0", "ZeroDivision"),
    "a module": (1, "import nosuchmodule\n", "line 1", "No module named 'nosuchmodule'"),
    "an exit": (1, "import sys\nsys.exit(0)\n", "The code exits Python:", "line 2", "SystemExit"),
    "a null": (1, "x = '\0'\n", "null bytes"),
    "another name": (2, "def rms(x, scale): pass", "the file does not define rms_norm"),
    "a ufunc": (2, "import numpy as np\nrms_norm = np.exp", "has type ufunc, expected a function"),
    "other arguments": (2, "def rms_norm(x, gamma): pass",
                        "the arguments are (x, gamma), expected (x, scale, eps)"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_the_error_of_a_file_shows_only_lines_of_this_file(name, tmp_path):
    step, source, *reasons = FILES[name]
    verdict = grade_source(tmp_path, source)
    assert verdict.passed == STEPS[:step]
    assert verdict.failed == STEPS[step]
    assert all(reason in verdict.reason for reason in reasons), verdict.reason
    assert "grader.py" not in verdict.reason


def with_pullback(body):
    """Return `rms_norm` with this body of its pullback, which may call the pullback `correct`."""
    lines = [
        "from minivit.exercises.catalog import find",
        "calls = []",
        "x_hat = x / ((x * x).mean(-1, keepdims=True) + eps) ** 0.5",
        "correct = find('4').function(x.copy(), scale, eps)[1]",
        f"def pullback(dy):\n{textwrap.indent(body, '    ')}",
        "return scale * x_hat, pullback",
    ]
    return rms("\n".join(lines))


STOPS = {
    "raises": (rms("raise NotImplementedError"), "it runs", "in rms_norm", "NotImplementedError"),
    "raises in numpy": (rms("return x.sum(axis=7)"), "it runs", "x.sum(axis=7)", "AxisError"),
    "exits": (rms("import sys\nsys.exit('no')"), "it runs", "exits Python:", "SystemExit: no"),
    "recursion": (rms("return rms_norm(x, scale)"), "it runs", "repeated", "RecursionError"),
    "returns nothing": (rms("y = x"), PAIR, "None, expected (array, function); is the last line"),
    "another order": (rms("return (lambda dy: dy), x"), PAIR, "it returns (function, array)"),
    "a list": (rms("return [x], lambda dy: dy"), SHAPE, "the value is [array], expected array"),
    "shape": (rms("return x.T, lambda dy: dy"), SHAPE, "shape (5, 3, 2), expected (2, 3, 5)"),
    "dtype": (rms("return x.astype('f'), lambda dy: dy"), SHAPE, "has dtype float32, expected"),
    "nan": (rms("return x * np.nan, None.__eq__"), VALUE, "nan, expected "),
    "pullback raises": (with_pullback("return dy @ dy"), GRADIENT_SHAPES, "in pullback", "Value"),
    "no gradient": (with_pullback("dx = dy"), GRADIENT_SHAPES,
                    'returns None, expected (array, {"scale": array})'),
    "dots": (with_pullback("return ..."), GRADIENT_SHAPES, "returns ..., expected (array, {"),
    "a name": (with_pullback('return dy, {"gain": scale}'), GRADIENT_SHAPES, '{"gain": array})'),
    "a float": (with_pullback('return dy, {"scale": 1.0}'), GRADIENT_SHAPES, '{"scale": float})'),
    "dx's shape": (with_pullback('return dy[0], {"scale": scale}'), GRADIENT_SHAPES,
                   "x: the gradient has shape (3, 5), but the argument has shape (2, 3, 5)."),
    "writes to dy": (with_pullback("dy *= 1.5\nreturn correct(dy)"), AGAIN, "dy is modified",
                     "Create a new array"),
    "writes to x late": (with_pullback("x[:] = 0\nreturn correct(dy)"), AGAIN, "x is modified"),
    "writes to x": (edit_correct("x_hat = x / rms", "x /= rms\nx_hat = x.copy()"), AGAIN,
                    "x is modified"),
    "counts its calls": ("calls = []\n" + edit_correct("x_hat = x / rms", "calls.append(1)\n"
                         "x_hat = x / rms * (1 + 1e-6 * (len(calls) > 3))"), AGAIN,
                         "f returns another value when it is called again"),
    "pullback counts": (with_pullback("calls.append(1)\ndx, d = correct(dy)\n"
                                      "return dx * len(calls), d"), AGAIN,
                        "x: the pullback returns another gradient when it is called again"),
    "zeros": (with_pullback('return 0 * dy, {"scale": 0 * scale}'), GRADIENT, "gradient is zero"),
    "nan gradient": (with_pullback('return np.nan * dy, {"scale": scale}'), GRADIENT,
                     "x: largest error", "not finite"),
    "float32": (with_pullback('dx, d = correct(dy)\nreturn dx.astype("f").astype(float), d'),
                GRADIENT, "Every entry is nearly correct"),
    "both wrong": (with_pullback('return dy, {"scale": scale}'), GRADIENT, "x: largest error",
                   "scale: largest error"),
}  # fmt: skip


@pytest.mark.parametrize("name", STOPS)
def test_grading_stops_at_the_first_step_that_fails(name, tmp_path):
    source, step, *reasons = STOPS[name]
    verdict = grade_source(tmp_path, source)
    assert verdict.failed == step
    assert verdict.passed == STEPS[: STEPS.index(step)]
    assert all(reason in verdict.reason for reason in reasons), verdict.reason
    assert "trial.py" not in verdict.reason
    assert "numpy/" not in verdict.reason
    assert verdict.reason.splitlines()[-1] == "Arguments: x (2, 3, 5), scale (5,)"


def test_every_argument_set_must_pass(tmp_path):
    source = edit_correct(".reshape(-1, x.shape[-1]).sum(0)", ".sum((0, 1))")  # for three axes
    verdict = grade_source(tmp_path, source)
    assert verdict.failed == GRADIENT_SHAPES
    assert "scale: the gradient has shape (), but the argument has shape (3,)" in verdict.reason
    assert verdict.reason.endswith("Arguments: x (4, 3), scale (3,)")


# --- code that does not accept complex numbers ------------------------------------------------

NOT_COMPLEX = {
    "abs": ("(x * x)", "(abs(x) ** 2)", "line 5: `abs`"),
    "abs after real": ("(x * x)", "(x.real.any() * abs(x) ** 2)", "line 5: `abs`"),
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


@pytest.mark.parametrize("name", NOT_COMPLEX)
def test_code_without_complex_support_is_checked_by_central_differences(name, tmp_path):
    old, new, where = NOT_COMPLEX[name]
    source = edit_correct(old, new)
    verdict = grade_source(tmp_path, source)
    assert not verdict.failed, str(verdict)
    assert verdict.note.startswith("The imaginary part of the input is lost")
    assert f"({where}" in verdict.note
    assert "confirm the gradients to 1e-07" in verdict.note
    assert str(verdict).endswith(verdict.note)
    wrong = source.replace("keepdims=True)) / rms", "keepdims=True)) / rms * 3")
    verdict = grade_source(tmp_path, wrong)
    assert verdict.failed == GRADIENT
    assert "Every entry is 3 times the correct value" in verdict.reason


@each(WITH_PULLBACK)
def test_central_differences_confirm_each_solution_and_find_an_error_of_1e_6(exercise):
    solution, sets = exercise.function, arguments_of(exercise)

    @wraps(solution)
    def wrong(*arguments):
        value, pullback = solution(*arguments)

        def scaled_pullback(dy):
            gradients = pullback(dy)
            if not isinstance(gradients, tuple):
                return gradients * 1.000001
            return gradients[0] * 1.000001, *gradients[1:]

        return value, scaled_pullback

    def reject_complex(function):
        @wraps(function)
        def real_function(*arguments):
            if any(np.iscomplexobj(a) for a in arguments):
                raise TypeError("no complex numbers")
            return function(*arguments)

        return real_function

    verdict = grade(reject_complex(solution), solution, sets, exercise.module.expected)
    assert not verdict.failed, str(verdict)
    assert "raise TypeError" in verdict.note
    for function in (wrong, reject_complex(wrong)):
        assert grade(function, solution, sets).failed == GRADIENT


# --- the separate process ---------------------------------------------------------------------


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a function that writes the reader's file in `exercises/` of the working directory."""
    monkeypatch.chdir(tmp_path)
    long_limit = grader.FOLDER, 600.0  # seconds, even on a busy machine
    monkeypatch.setattr(grade_in_subprocess, "__defaults__", long_limit)
    path = grader.FOLDER / RMS.file_name

    def write(source):
        path.parent.mkdir(exist_ok=True)
        path.write_text(source, encoding="utf-8")

    return write


def test_an_infinite_loop_is_stopped_and_located(write):
    write(rms("while True:\n    x = x + 0\n"))
    for limit in (1, 10, 100):  # a busy machine may not reach the loop within a second
        verdict = grade_in_subprocess(RMS, limit=limit)
        assert verdict.failed == "it finishes"
        if " at line" in verdict.reason:
            break
    pattern = rf"still running after {limit} s at line [56]; is there an infinite loop\?"
    assert re.fullmatch(pattern, verdict.reason)


def test_output_is_shown_and_does_not_affect_the_verdict(write, capfd):
    write('import os, sys\nprint("{}")\nos.write(1, b"[[], null]\\n")\nsys.stderr.write("so\\n")\n'
          + rms('print("called")\n' + CORRECT))  # fmt: skip
    assert grade_in_subprocess(RMS) == Verdict(STEPS)
    out, err = capfd.readouterr()
    assert "{}" in out
    assert "[[], null]" in out
    assert err == "so\n"
    assert out.count("called") == len(arguments_of(RMS))


def test_a_file_that_exits_the_process_fails(write, capfd):
    write("import os\nos._exit(0)\n")
    verdict = grade_in_subprocess(RMS)
    assert verdict.failed == "it finishes"
    assert verdict.reason == "the process exited with status 0 during grading"
    assert capfd.readouterr() == ("", "")


# --- the command line -------------------------------------------------------------------------


def test_the_command_starts_grades_and_solves_an_exercise(write, capfd):
    status, out, _ = run("exercise", "4")
    assert status == 1
    path = grader.FOLDER / "04_rms_norm.py"
    assert f"{path} does not exist; create it with `python -m minivit exercise 4 --start`" in out
    assert "--hint" not in out

    status, out, _ = run("exercise", "4", "--start")
    assert status == 0
    assert path.read_text(encoding="utf-8") == catalog.template(RMS)
    assert str(path) in out
    assert run("exercise", "4", "--start") == (
        1, "", f"minivit exercise: error: {path} already exists; it was not changed\n"
    )  # fmt: skip
    assert path.read_text(encoding="utf-8") == catalog.template(RMS)

    status, out, _ = run("exercise", "4")
    assert status == 1
    assert out.splitlines()[:2] == ["04_rms_norm.py", "  ok    the file exists"]
    assert f"  FAIL  {SHAPE}\n        the value is still" in out
    assert out.endswith("`python -m minivit exercise 4 --hint` shows a hint.\n")

    status, solution, _ = run("exercise", "4", "--solution")
    assert status == 0
    write(solution)
    status, out, err = run("exercise", "04")
    assert status == 0
    assert out.splitlines()[1:-1] == [f"  ok    {step}" for step in STEPS]
    assert out.splitlines()[-1].startswith("Correct. `python -m minivit exercise 4 --solution`")
    assert err == "".join(capfd.readouterr()) == ""


def test_the_list_marks_the_exercises_whose_files_are_correct(write, monkeypatch):
    def marks():
        return [line[:4] for line in run("exercise").out.splitlines() if line[0] == "✓"]

    verdicts = {"right": Verdict(["it runs"]), "wrong": Verdict([], "it runs", "an error")}
    exercise = EXERCISES[4]
    path = grader.FOLDER / exercise.file_name
    monkeypatch.setattr(
        grader, "grade_in_subprocess", lambda exercise: verdicts[path.read_text().strip()]
    )
    assert run("exercise", "4", "--start").status == 0
    assert marks() == []
    for content, expected in (("right", ["✓  4"]), ("wrong", []), ("right", ["✓  4"])):
        path.write_text(content)
        assert run("exercise", "4").status == (content == "wrong")
        assert marks() == expected
    path.write_text("right ")  # changed after it was graded
    assert marks() == []
    path.write_text("right")
    assert marks() == ["✓  4"]
    for damage in ("{", "[]", ""):
        (grader.FOLDER / grader.SOLVED).write_text(damage)
        assert marks() == []
    assert run("exercise", "4").status == 0
    assert marks() == ["✓  4"]


def test_the_command_lists_exercises_and_prints_hints():
    assert run("exercise") == (0, grader.listing() + "\n", "")
    for options, level in (([], 1), (["1"], 1), (["2"], 2), (["3"], 3)):
        hint = catalog.hint(EXERCISES[-1], level)
        assert run("exercise", "a", "--hint", *options) == (0, f"{hint}\n", "")


@pytest.mark.parametrize(
    "words", [["19"], ["4", "--hint", "4"], ["4", "--start", "--hint"], ["--start"], ["--solution"]]
)
def test_invalid_usage_of_the_command_is_rejected(words, write):
    status, out, err = run("exercise", *words)
    assert (status, out) == (2, "")
    assert err
    assert not grader.FOLDER.exists()
