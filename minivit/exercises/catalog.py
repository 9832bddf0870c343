"""The exercises of the book, one file for each chapter. The file is the solution.

`04_rms_norm.py` holds the task as its docstring, the solution, a function `rms_norm`, three
HINTS, `expected`, the same value in plain loops, and `arguments`, the inputs it is graded on.
What the reader begins with is made of it: the docstrings, the imports, the signature. Where the
reader has a mistake to find, `handed_over` is the function with the mistake.
"""

import ast
import inspect
from collections.abc import Callable
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
    """An exercise: the name of its chapter, "04", and that of the function to write."""

    chapter: str
    name: str

    @property
    def file_name(self) -> str:
        """The name of its file, here and where the reader writes."""
        return f"{self.chapter}_{self.name}.py"

    @property
    def module(self) -> ModuleType:
        """The file that is its solution."""
        return import_module(f".solutions.{self.chapter}_{self.name}", __package__)

    @property
    def function(self) -> Callable[..., Any]:
        """The solution."""
        return getattr(self.module, self.name)

    @property
    def short(self) -> str:
        """The chapter as one says it: "4"."""
        return self.chapter.lstrip("0") or self.chapter[-1]

    @property
    def command(self) -> str:
        """What the reader types to have it graded."""
        return f"python -m minivit exercise {self.short}"


def every() -> list[Exercise]:
    """All exercises, in the order of the book."""
    files = SOLUTIONS.glob("[0-9A]*_*.py")
    return [Exercise(*file.stem.split("_", 1)) for file in sorted(files)]


def find(chapter: str) -> Exercise:
    """The exercise of a chapter: "4", "04" or "a". Raises ValueError if there is none."""
    name = f"{int(chapter):02}" if chapter.isdecimal() else chapter.upper()
    for exercise in every():
        if exercise.chapter == name:
            return exercise
    names = ", ".join(exercise.short for exercise in every())
    raise ValueError(f"there is no exercise {chapter}: there are {names}")


def listing() -> str:
    """One line for each exercise."""
    return "\n".join(
        f"{exercise.short:>2}  {inspect.getdoc(exercise.module).splitlines()[0]}"
        for exercise in every()
    )


def hint(exercise: Exercise, level: int) -> str:
    """Hint 1, 2 or 3, and what to ask for after it."""
    hints = exercise.module.HINTS
    more = f"--hint {level + 1}" if level < len(hints) else "--solution"
    return f"{hints[level - 1]}\n\nIf that is not enough: {exercise.command} {more}"


def solution(exercise: Exercise) -> str:
    """The source of the solution, with what it uses."""
    source, tree = _parsed(exercise)
    functions = _functions(tree)
    used = [f for name, f in functions.items() if name in _names(functions[exercise.name])]
    parts = [*used, functions[exercise.name]]
    return "\n\n\n".join([_imports(source, tree, parts), *(_text(source, part) for part in parts)])


def frame(exercise: Exercise) -> str:
    """What the reader begins with: the task, the imports, the signature, and room to write."""
    source, tree = _parsed(exercise)
    functions = _functions(tree)
    function, mistaken = functions[exercise.name], functions.get("handed_over")
    body = VALUE_AND_PULLBACK if "Pullback" in _names(function.returns) else VALUE
    if mistaken:
        body = _text(source, *mistaken.body[1:]) + "\n"
    how = f"`{exercise.command}` grades this file, `--hint` helps."
    return (
        f'"""{ast.get_docstring(tree)}\n\n{how}\n"""\n\n{_imports(source, tree, function.body)}'
        f"\n\n\ndef {exercise.name}({_arguments(source, function)}):\n"
        f"{_text(source, function.body[0])}\n{body}"
    )


def _parsed(exercise: Exercise) -> tuple[str, ast.Module]:
    source = inspect.getsource(exercise.module)
    return source, ast.parse(source)


def _functions(tree: ast.Module) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def _names(node: ast.AST) -> set[str]:
    """The names read in a piece of code."""
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _text(source: str, *nodes: ast.AST) -> str:
    """The lines from the first node to the last, with comments and indentation."""
    return "\n".join(source.splitlines()[nodes[0].lineno - 1 : nodes[-1].end_lineno])


def _imports(source: str, tree: ast.Module, parts: list[ast.AST]) -> str:
    """The imports of NumPy and of whatever these pieces of code use, grouped as in the file."""
    wanted = {"np"}.union(*map(_names, parts))
    nodes = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    groups, end = [], 0
    for node in nodes:
        groups += [[]] if node.lineno > end + 1 else []
        end = node.end_lineno
        if wanted & {alias.asname or alias.name for alias in node.names}:
            groups[-1].append(_text(source, node))
    return "\n\n".join("\n".join(group) for group in groups if group)


def _arguments(source: str, function: ast.FunctionDef) -> str:
    """The arguments with their defaults, without their types."""
    names, defaults = [arg.arg for arg in function.args.args], function.args.defaults
    given = [f"={ast.get_source_segment(source, default)}" for default in defaults]
    endings = [""] * (len(names) - len(given)) + given
    return ", ".join(map("".join, zip(names, endings, strict=True)))
