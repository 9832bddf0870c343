"""The grader of the exercises: run the checks of a trial and report the first that fails.

The reader's file runs in a separate process with a time limit, because it may print, exit or loop
forever. The process writes the verdict to a file.
"""

import contextlib
import faulthandler
import inspect
import json
import re
import subprocess
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from ..files import write_atomically
from .catalog import Exercise, find, list_exercises, template
from .trial import CheckFailed, Trial, describe_argument, source_file

FOLDER = Path("exercises")
SOLVED = "solved.json"  # in the folder: {name of a correct file: checksum of its content}
TIME_LIMIT = 20.0  # seconds

STEPS = {
    "it runs": Trial.run,
    "it returns (value, pullback)": Trial.check_pair,
    "the value has the correct shape and dtype": Trial.check_shape,
    "the value is correct": Trial.check_value,
    "the gradients have the correct shapes": Trial.check_gradient_shapes,
    "it can be called again and modifies no argument": Trial.check_repeated,
    "the gradients are correct": Trial.check_gradients,
}
PULLBACK_CHECKS = (Trial.check_pair, Trial.check_gradient_shapes, Trial.check_gradients)


class Verdict(NamedTuple):
    """The checks that passed, the check that failed, the reason, and a note."""

    passed: list[str]
    failed: str = ""
    reason: str = ""
    note: str = ""

    def __str__(self) -> str:
        lines = [f"  ok    {step}" for step in self.passed]
        if self.failed:
            lines += [f"  FAIL  {self.failed}", textwrap.indent(self.reason, " " * 8)]
        return "\n".join([*lines, self.note] if self.note else lines)


def grade(
    function: Callable[..., Any],
    solution: Callable[..., Any],
    argument_sets: list[tuple],
    expected: Callable[..., Any] | None = None,
) -> Verdict:
    """Compare a function with its solution, check by check, on several sets of arguments.

    The solution returns (value, pullback), or one or more values without a pullback. If `expected`
    is given, it computes the correct value instead of the solution.
    """
    trials = [Trial(function, solution, expected, arguments) for arguments in argument_sets]
    passed: list[str] = []
    for step, check in STEPS.items():
        if check in PULLBACK_CHECKS and not trials[0].has_pullback:
            continue
        for trial in trials:
            try:
                check(trial)
            except CheckFailed as error:
                reason = str(error)
            except (Exception, SystemExit) as error:
                reason = format_error(error, source_file(function))
            else:
                continue
            arguments = ", ".join(map(describe_argument, trial.arguments, trial.arguments.values()))
            return Verdict(passed, step, f"{reason}\nArguments: {arguments}")
        passed.append(step)
    return Verdict(passed, note=next((trial.note for trial in trials if trial.note), ""))


def format_error(error: BaseException, file: str) -> str:
    """Format a traceback, restricted to the lines of one file."""
    exception = traceback.TracebackException.from_exception(error)
    frames = [frame for frame in exception.stack if frame.filename == file]
    lines = traceback.StackSummary.from_list(frames).format()
    text = "".join([*lines, *exception.format_exception_only()]).rstrip()
    return f"The code exits Python:\n{text}" if isinstance(error, SystemExit) else text


def grade_file(exercise: Exercise, path: Path) -> Verdict:
    """Grade the function in a reader's file. The file is executed in this process."""
    steps = ["the file exists", "Python can execute it", f"it defines {exercise.name}"]
    if not path.is_file():
        reason = f"{path} does not exist; create it with `{exercise.command} --start`"
        return Verdict([], steps[0], reason)
    names: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), names)
    except (Exception, SystemExit) as error:
        return Verdict(steps[:1], steps[1], format_error(error, str(path)))
    function: Any = names.get(exercise.name)
    if reason := check_signature(function, exercise):
        return Verdict(steps[:2], steps[2], reason)
    argument_sets = exercise.module.arguments(np.random.default_rng(0))
    verdict = grade(function, exercise.function, argument_sets, exercise.module.expected)
    return verdict._replace(passed=[*steps, *verdict.passed])


def check_signature(function: Any, exercise: Exercise) -> str:
    """Return the error in the reader's definition, or an empty string."""
    if function is None:
        return f"the file does not define {exercise.name}"
    if not inspect.isfunction(function):
        return f"{exercise.name} has type {type(function).__name__}, expected a function"
    got, expected = (
        f"({', '.join(inspect.signature(f).parameters)})" for f in (function, exercise.function)
    )
    return "" if got == expected else f"the arguments are {got}, expected {expected}"


def grade_in_subprocess(
    exercise: Exercise, folder: Path = FOLDER, limit: float = TIME_LIMIT
) -> Verdict:
    """Grade the reader's file in a separate process, with a limit in seconds."""
    path = folder / exercise.file_name
    with tempfile.TemporaryDirectory() as out:
        verdict, timeout = Path(out, "verdict"), Path(out, "timeout")
        command = [sys.executable, "-m", __name__, exercise.chapter, str(path), str(limit), out]
        sys.stdout.flush()
        status = subprocess.run(command, stdin=subprocess.DEVNULL).returncode
        if verdict.exists():
            return Verdict(*json.loads(verdict.read_text(encoding="utf-8")))
        stack = timeout.read_text() if timeout.exists() else ""
    reason = f"the process exited with status {status} during grading"
    if stack:
        line = re.search(rf'{re.escape(path.name)}", (line \d+)', stack)
        where = f" at {line[1]}" if line else ""
        reason = f"still running after {limit:g} s{where}; is there an infinite loop?"
    return Verdict([], "it finishes", reason)


def run_subprocess(chapter: str, path: str, limit: str, out: str) -> None:
    """Grade in the separate process. Write the verdict or, at the time limit, the stack."""
    with Path(out, "timeout").open("w") as stack, contextlib.suppress(KeyboardInterrupt):
        faulthandler.dump_traceback_later(float(limit), exit=True, file=stack)
        verdict = grade_file(find(chapter), Path(path))
        Path(out, "verdict").write_text(json.dumps(verdict), encoding="utf-8")
        faulthandler.cancel_dump_traceback_later()


def report(exercise: Exercise, verdict: Verdict) -> str:
    """Format a verdict, followed by the next command to run."""
    if not verdict.passed:
        return str(verdict)
    advice = f"`{exercise.command} --hint` shows a hint."
    if not verdict.failed:
        advice = f"Correct. `{exercise.command} --solution` shows the book's solution."
    return f"{exercise.file_name}\n{verdict}\n{advice}"


def listing(folder: Path = FOLDER) -> str:
    """Return a table of all exercises, one line each. A check mark precedes the solved ones."""
    solved, lines = read_solved(folder), []
    for exercise in list_exercises():
        checksum = solved.get(exercise.file_name)
        is_solved = checksum is not None and checksum == file_checksum(folder / exercise.file_name)
        title = (exercise.module.__doc__ or "").splitlines()[0]
        lines.append(f"{'✓' if is_solved else ' '} {exercise.number:>2}  {title}")
    count = sum(line.startswith("✓") for line in lines)
    return "\n".join([*lines, f"{count} of {len(lines)} solved"])


def record(exercise: Exercise, verdict: Verdict, folder: Path = FOLDER) -> None:
    """Record whether the reader's file, with its present content, is correct."""
    solved = read_solved(folder)
    solved.pop(exercise.file_name, None)
    if not verdict.failed:
        solved[exercise.file_name] = file_checksum(folder / exercise.file_name)
    if folder.is_dir():
        content = json.dumps(solved, indent=2).encode()
        write_atomically(folder / SOLVED, lambda file: file.write(content))


def read_solved(folder: Path) -> dict[str, int | None]:
    """Return {name of a correct file: checksum}. A missing or damaged record is empty."""
    try:
        solved = json.loads((folder / SOLVED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return solved if isinstance(solved, dict) else {}


def file_checksum(path: Path) -> int | None:
    """Return the checksum of a file, or None if it cannot be read."""
    try:
        return crc32(path.read_bytes())
    except OSError:
        return None


def start(exercise: Exercise, folder: Path = FOLDER) -> Path:
    """Write the template of an exercise to the folder. Raises ValueError if the file exists."""
    path = folder / exercise.file_name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(template(exercise))
    except FileExistsError:
        raise ValueError(f"{path} already exists; it was not changed") from None
    return path


if __name__ == "__main__":
    run_subprocess(*sys.argv[1:])
