"""The exercises of the book, one per chapter. Each is defined by the file of its solution.

`solutions/04_rms_norm.py` contains the task (its docstring), the solution (the function
`rms_norm`), three HINTS, `expected` (the same value in plain loops) and `arguments` (the inputs
for grading). The reader's template consists of the docstrings, the imports and the signature. In
a debugging exercise, `incorrect` is the function that the reader has to correct.
"""

import ast
import inspect
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

SOLUTIONS = Path(__file__).with_name("solutions")
VALUE_AND_PULLBACK = """\
    y = ...  # the value

    def pullback(dy):
        ...  # the gradients

    return y, pullback
"""
VALUE = """\
    return ...
"""


class Exercise(NamedTuple):
    """An exercise: its chapter, such as "04", and the name of its function."""

    chapter: str
    name: str

    @property
    def file_name(self) -> str:
        """Name of the solution's file and of the reader's file."""
        return f"{self.chapter}_{self.name}.py"

    @property
    def module(self) -> ModuleType:
        """The module of the solution."""
        return import_module(f".solutions.{self.chapter}_{self.name}", __package__)

    @property
    def function(self) -> Callable[..., Any]:
        """The function of the solution."""
        return getattr(self.module, self.name)

    @property
    def number(self) -> str:
        """The chapter without leading zeros, such as "4"."""
        return self.chapter.lstrip("0") or self.chapter[-1]

    @property
    def command(self) -> str:
        """The command that grades the exercise."""
        return f"python -m minivit exercise {self.number}"


def list_exercises() -> list[Exercise]:
    """Return all exercises in the order of the book."""
    files = SOLUTIONS.glob("[0-9A]*_*.py")
    return [Exercise(*file.stem.split("_", 1)) for file in sorted(files)]


def find(chapter: str) -> Exercise:
    """Return the exercise of a chapter, such as "4", "04" or "a".

    Raises ValueError if there is none.
    """
    name = f"{int(chapter):02}" if re.fullmatch("[0-9]{1,3}", chapter) else chapter.upper()
    exercises = list_exercises()
    for exercise in exercises:
        if exercise.chapter == name:
            return exercise
    numbers = ", ".join(exercise.number for exercise in exercises)
    raise ValueError(f"there is no exercise '{chapter:.40}'; choose one of {numbers}")


def hint(exercise: Exercise, level: int) -> str:
    """Return hint 1, 2 or 3 and the command for the next hint or the solution."""
    hints = exercise.module.HINTS
    more = f"--hint {level + 1}" if level < len(hints) else "--solution"
    return f"{hints[level - 1]}\n\nNext: {exercise.command} {more}"


def solution(exercise: Exercise) -> str:
    """Return the source of the solution with its imports and helper functions."""
    source, tree, functions = _parse(exercise)
    main = functions[exercise.name]
    parts = [*(f for name, f in functions.items() if name in _names(main)), main]
    return "\n\n\n".join([_imports(source, tree, parts), *(_text(source, part) for part in parts)])


def template(exercise: Exercise) -> str:
    """Return the reader's file: the task, the imports, the signature and placeholders."""
    source, tree, functions = _parse(exercise)
    function, incorrect = functions[exercise.name], functions.get("incorrect")
    if incorrect:
        body = _text(source, *incorrect.body[1:]) + "\n"
    else:
        body = VALUE_AND_PULLBACK if "Pullback" in _names(function.returns) else VALUE
    usage = f"`{exercise.command}` grades this file; add `--hint` for a hint."
    return (
        f'"""{ast.get_docstring(tree)}\n\n{usage}\n"""\n\n{_imports(source, tree, function.body)}'
        f"\n\n\ndef {exercise.name}({_arguments(source, function)}):\n"
        f"{_text(source, function.body[0])}\n{body}"
    )


def _parse(exercise: Exercise) -> tuple[str, ast.Module, dict[str, ast.FunctionDef]]:
    source = inspect.getsource(exercise.module)
    tree = ast.parse(source)
    return source, tree, {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}


def _names(*nodes: ast.AST | None) -> set[str]:
    """Return the names that occur in syntax trees."""
    parts = (part for node in nodes if node for part in ast.walk(node))
    return {part.id for part in parts if isinstance(part, ast.Name)}


def _text(source: str, *nodes: ast.stmt) -> str:
    """Return the lines from the first node to the last, with comments and indentation."""
    return "\n".join(source.splitlines()[nodes[0].lineno - 1 : nodes[-1].end_lineno])


def _imports(source: str, tree: ast.Module, parts: Sequence[ast.stmt]) -> str:
    """Return the imports of NumPy and of the names in `parts`, grouped as in the file."""
    used, groups, end = {"np"} | _names(*parts), [], 0
    for node in tree.body:
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        if node.lineno > end + 1:
            groups.append([])
        end = node.end_lineno or node.lineno
        if used & {alias.asname or alias.name for alias in node.names}:
            groups[-1].append(_text(source, node))
    return "\n\n".join("\n".join(group) for group in groups if group)


def _arguments(source: str, function: ast.FunctionDef) -> str:
    """Return the arguments with their default values and without their types."""
    arguments = [arg.arg for arg in function.args.args]
    for i, default in enumerate(reversed(function.args.defaults), start=1):
        arguments[-i] += f"={ast.get_source_segment(source, default)}"
    return ", ".join(arguments)
