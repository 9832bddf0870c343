"""The grader of the exercises: is it right, and if not, what is wrong with it, in words?

What the reader wrote goes through steps, one after the other, and the first that fails ends the
grading. The reader's file runs in a process of its own, with a limit to its time: it may print,
exit or never come to an end, for the verdict comes back in a file.
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

import numpy as np

from .catalog import Exercise, find, frame
from .trial import Trial, Wrong, file_of, outline

FOLDER = Path("exercises")
LIMIT = 20.0  # seconds

STEPS = {
    "it runs": Trial.run,
    "it returns (value, pullback)": Trial.check_pair,
    "the value has the right shape and dtype": Trial.check_shape,
    "the value is right": Trial.check_value,
    "the pullback returns gradients of the right shapes": Trial.check_gradient_shapes,
    "it may be called again, and writes into nothing it was given": Trial.check_repeated,
    "the gradients are right": Trial.check_gradients,
}
WITH_PULLBACK = (Trial.check_pair, Trial.check_gradient_shapes, Trial.check_gradients)


class Verdict(NamedTuple):
    """The steps that went well, the one that did not, what is wrong, and a remark."""

    done: list[str]
    failed: str = ""
    words: str = ""
    note: str = ""

    def __str__(self) -> str:
        lines = [f"  ok  {step}" for step in self.done]
        if self.failed:
            lines += [f"  NO  {self.failed}", textwrap.indent(self.words, " " * 6)]
        return "\n".join([*lines, self.note] if self.note else lines)


def grade(
    written: Callable[..., Any],
    solution: Callable[..., Any],
    argument_sets: list[tuple],
    expected: Callable[..., Any] | None = None,
) -> Verdict:
    """Compare a function with its solution, step by step, on several sets of arguments.

    The solution returns (value, pullback); or a value or several, if there is nothing to go back
    through. The right value is that of `expected`, if it is given, or else the solution's.
    """
    trials = [Trial(written, solution, expected, arguments) for arguments in argument_sets]
    done: list[str] = []
    for step, check in STEPS.items():
        if check in WITH_PULLBACK and not trials[0].has_pullback:
            continue
        for trial in trials:
            try:
                check(trial)
            except (Exception, SystemExit) as error:  # Wrong, or what the reader's code raises
                words = str(error) if isinstance(error, Wrong) else told(error, file_of(written))
                given = ", ".join(outline(*item) for item in trial.given.items())
                return Verdict(done, step, f"{words}\nGiven: {given}")
        done.append(step)
    return Verdict(done, note=next((trial.note for trial in trials if trial.note), ""))


def told(error: BaseException, file: str) -> str:
    """A traceback of which only the reader's own lines are left."""
    whole = traceback.TracebackException.from_exception(error)
    frames = [frame for frame in whole.stack if frame.filename == file]
    lines = list(traceback.StackSummary.from_list(frames).format())
    text = "".join([*lines, *whole.format_exception_only()])
    if isinstance(error, SystemExit):
        return f"It ends Python:\n{text}"
    return text.rstrip()


def grade_file(exercise: Exercise, path: Path) -> Verdict:
    """Grade the function in a reader's file. What the file does, it does to this process."""
    steps = ["the file is there", "Python can run it", f"it has the function {exercise.name}"]
    if not path.is_file():
        words = f"there is no {path}: `{exercise.command} --start` makes it"
        return Verdict([], steps[0], words)
    names: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), names)
    except (Exception, SystemExit) as error:
        return Verdict(steps[:1], steps[1], told(error, str(path)))
    written = names.get(exercise.name)
    if words := what_is_not_the_function(written, exercise):
        return Verdict(steps[:2], steps[2], words)
    argument_sets = exercise.module.arguments(np.random.default_rng(0))
    verdict = grade(written, exercise.function, argument_sets, exercise.module.expected)
    return verdict._replace(done=[*steps, *verdict.done])


def what_is_not_the_function(written: Any, exercise: Exercise) -> str:
    """What is wrong with it before it is called, or nothing."""
    if written is None:
        return f"nothing in the file has the name {exercise.name}"
    if not inspect.isfunction(written):
        return f"{exercise.name} is of type {type(written).__name__}, it should be a function"
    wanted = list(inspect.signature(exercise.function).parameters)
    got = list(inspect.signature(written).parameters)
    if got != wanted:
        return f"its arguments are ({', '.join(got)}), they should be ({', '.join(wanted)})"
    return ""


def grade_apart(exercise: Exercise, folder: Path = FOLDER, limit: float = LIMIT) -> Verdict:
    """Grade the reader's file in a folder, in a process of its own that has `limit` seconds."""
    path = folder / exercise.file_name
    with tempfile.TemporaryDirectory() as out:
        verdict, stuck = Path(out, "verdict"), Path(out, "stuck")
        command = [sys.executable, "-m", __name__, exercise.chapter, str(path), str(limit), out]
        sys.stdout.flush()
        status = subprocess.run(command, stdin=subprocess.DEVNULL).returncode
        if verdict.exists():
            return Verdict(*json.loads(verdict.read_text(encoding="utf-8")))
        stack = stuck.read_text() if stuck.exists() else ""
    where = re.search(rf'{re.escape(path.name)}", (line \d+)', stack)
    if stack:
        words = f"after {limit:g} s it still runs: a loop that never ends?"
        words += f" It has come to {where[1]}" if where else ""
    else:
        words = f"its process ended, with status {status}, before the grading did"
    return Verdict([], "it comes to an end", words)


def judge(chapter: str, path: str, limit: str, out: str) -> None:
    """What that process does: it leaves a file with the verdict, or one that says where it was."""
    with Path(out, "stuck").open("w") as stuck, contextlib.suppress(KeyboardInterrupt):
        faulthandler.dump_traceback_later(float(limit), exit=True, file=stuck)
        verdict = grade_file(find(chapter), Path(path))
        Path(out, "verdict").write_text(json.dumps(verdict), encoding="utf-8")
        faulthandler.cancel_dump_traceback_later()


def report(exercise: Exercise, verdict: Verdict) -> str:
    """A verdict, and what to do next."""
    end = f"`{exercise.command} --hint` helps."
    if not verdict.failed:
        end = f"Right. `{exercise.command} --solution` shows how the book writes it."
    return f"{exercise.file_name}\n{verdict}\n{end}" if verdict.done else f"{verdict}"


def start(exercise: Exercise, folder: Path = FOLDER) -> Path:
    """Put the frame of an exercise into the folder. Raises ValueError if there is a file."""
    path = folder / exercise.file_name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(frame(exercise))
    except FileExistsError:
        raise ValueError(f"{path} is there already, and stays as it is") from None
    return path


if __name__ == "__main__":
    judge(*sys.argv[1:])
