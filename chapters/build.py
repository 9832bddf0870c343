"""Build the pages of the book: run each chapter, and write its text, code and output.

    python chapters/build.py               all chapters, and the table of equations
    python chapters/build.py 04 A          two chapters, and the table of equations
    python chapters/build.py --equations   only the table of equations

A chapter is a script in Jupytext's percent format. Its page is chapters/pages/NN_name.md. The table
in chapters/README.md lists, for each equation of the paper, the docstrings and chapters that
contain "Equation 5" or "Equations 5 to 7". `tests/test_chapters.py` detects outdated pages. This
script requires jupytext: `pip install -e .[book]`.

Cells that start with `if FILE:` use a pretrained model that is not included. Building the page of
such a chapter requires the environment variable MINIVIT_WEIGHTS, the path of the model's file.
"""

import argparse
import ast
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jupytext

from minivit.files import write_atomically

CHAPTERS = Path(__file__).resolve().parent
PAGES, README = CHAPTERS / "pages", CHAPTERS / "README.md"
BEGIN, END = "<!-- equations: made by chapters/build.py -->", "<!-- end of the equations -->"
LABEL = re.compile(r"\b(?:Equations?|Eqs?\.) (\d(?!\d)(?:(?:, | and | to )\d(?!\d))*)")
EQUATIONS = range(1, 9)
WEIGHTS = "MINIVIT_WEIGHTS"
USES_FILE = re.compile(r"^if FILE:", re.MULTILINE)


class ChapterError(Exception):
    """A chapter failed. The message contains the cell, the line and the traceback."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("chapters", nargs="*", help="numbers such as 04 or A (default: all)")
    parser.add_argument(
        "--equations", action="store_true", help="build only the table of equations"
    )
    parser.add_argument("--outputs", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.outputs:
        print(json.dumps(run(args.outputs)))
        return
    by_number = {path.stem.partition("_")[0]: path for path in chapters(CHAPTERS)}
    if unknown := set(args.chapters) - set(by_number):
        numbers = ", ".join(sorted(unknown))
        parser.error(f"unknown chapter {numbers}; choose from {' '.join(by_number)}")
    numbers = [] if args.equations else args.chapters or by_number
    for number in numbers:
        if uses_file(by_number[number]) and not os.environ.get(WEIGHTS):
            sys.exit(
                f"chapter {number} uses a pretrained model; set {WEIGHTS} to the path of its file"
            )
    PAGES.mkdir(exist_ok=True)
    for number in numbers:
        path = by_number[number]
        try:
            write(PAGES / f"{path.stem}.md", page(path))
        except ChapterError as error:
            sys.exit(str(error))
    text = with_equations(README.read_text(encoding="utf-8"), equations(CHAPTERS.parent))
    write(README, text)


def write(path: Path, text: str) -> None:
    """Write a page atomically."""
    write_atomically(path, lambda file: file.write(text.encode()))


def chapters(folder: Path) -> list[Path]:
    """Return the chapters in order: the files named 00_... to 18_..., then A_..."""
    return sorted(path for path in folder.glob("*.py") if re.match(r"(\d\d|[A-Z])_", path.name))


def cells(text: str) -> list[Any]:
    """Return the cells of a percent script; each has `cell_type` and `source`."""
    return jupytext.reads(text, fmt="py:percent").cells


def title(path: Path) -> str:
    """Return the first heading of a chapter, such as "4. Layer norm"."""
    return re.search(r"^# # (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)[1]


def uses_file(path: Path) -> bool:
    """Return whether a chapter has cells that use the file of a pretrained model."""
    return bool(USES_FILE.search(path.read_text(encoding="utf-8")))


def run(path: Path) -> list[str] | str:
    """Run a chapter in this process. Return the output of each code cell, or an error message."""
    text = path.read_text(encoding="utf-8")
    namespace, printed, end = {"__name__": "__main__", "__file__": str(path)}, [], 0
    for number, cell in enumerate(cells(text), 1):
        if cell.cell_type != "code":
            continue
        start = max(text.find(f"# %%\n{cell.source}", end), end) + len("# %%\n")
        end = start + len(cell.source)
        line = text.count("\n", 0, start)
        try:
            with contextlib.redirect_stdout(io.StringIO()) as out:
                # The blank lines make the line numbers of a traceback correct.
                exec(compile("\n" * line + cell.source, str(path), "exec"), namespace)
        except (Exception, SystemExit) as error:
            error.__traceback__ = error.__traceback__.tb_next  # omit this file's frame
            message = f"{path.name}, cell {number}, line {line + 1}: failed\n\n"
            return message + "".join(traceback.format_exception(error))
        printed.append(out.getvalue())
    return printed


def outputs(path: Path, timeout: float | None = None) -> list[str]:
    """Run a chapter in a new process and return the output of each code cell.

    Raises ChapterError if a cell fails, or after `timeout` seconds.
    """
    command = [sys.executable, "-X", "utf8", __file__, "--outputs", str(path)]
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    try:
        process = subprocess.run(
            command, cwd=path.parent.parent, env=environment, timeout=timeout,
            capture_output=True, encoding="utf-8",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ChapterError(f"{path.name}: not finished after {timeout:g} seconds") from None
    if process.returncode:
        message = f"{path.name}: exit status {process.returncode}\n\n{process.stderr.strip()}"
        raise ChapterError(message)
    result = json.loads(process.stdout.splitlines()[-1])
    if isinstance(result, str):
        raise ChapterError(result)
    return result


def page(path: Path, timeout: float | None = None) -> str:
    """Run a chapter and return its page as Markdown. Raises ChapterError as `outputs` does."""
    number = path.stem.partition("_")[0]
    printed = iter(outputs(path, timeout))
    parts = [f"*Made from [{path.name}](../{path.name}) by `python chapters/build.py {number}`.*"]
    for cell in cells(path.read_text(encoding="utf-8")):
        if cell.cell_type != "code":
            parts.append(adapt_links(cell.source))
            continue
        parts.append(f"```python\n{cell.source.strip()}\n```")
        if output := "\n".join(line.rstrip() for line in next(printed).splitlines()).strip("\n"):
            parts.append(f"```text\n{output}\n```")
    return "\n\n".join([*parts, "---", neighbours(path)]) + "\n"


def adapt_links(text: str) -> str:
    """Adapt the links of a cell to the folder `pages`. A link to a chapter links to its page."""
    text = re.sub(r"(?<!\w)(\[[^]]*\]\()(?!\w+:|#)", r"\1../", text)
    return re.sub(r"\]\(\.\./((?:\d\d|[A-Z])_\w+)\.py\)", r"](\1.md)", text)


def neighbours(path: Path) -> str:
    """Return links to the previous page, the contents and the next page."""
    book = chapters(path.parent)
    i = book.index(path)
    before = [f"Previous: [{title(p)}]({p.stem}.md)" for p in book[:i][-1:]]
    after = [f"Next: [{title(p)}]({p.stem}.md)" for p in book[i + 1 :][:1]]
    return " · ".join([*before, "[Contents](../README.md)", *after])


def with_equations(readme: str, table: str) -> str:
    """Insert a table between the two markers of chapters/README.md."""
    before, _, tail = readme.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{tail.partition(END)[2]}"


def equations(root: Path) -> str:
    """Return a table of the equations, with the files and chapters that mention each."""
    rows = ["| equation | in the library | in the book |", "|---|---|---|"]
    labels = list(library_labels(root)), list(book_labels(root))
    for n in EQUATIONS:
        links = [", ".join(link for number, link in pairs if number == n) for pairs in labels]
        rows.append(f"| ({n}) | {links[0]} | {links[1]} |")
    return "\n".join(rows)


def equations_named(text: str) -> set[int]:
    """Return the numbers in "Equation 1", "Eq. 4", "Equations 6 and 7" and "Equations 5 to 8"."""
    equations = set()
    for label in LABEL.findall(" ".join(text.split())):
        numbers = [int(n) for n in re.findall(r"\d", label)]
        equations |= set(range(numbers[0], numbers[-1] + 1) if " to " in label else numbers)
    return equations


def library_labels(root: Path) -> Iterator[tuple[int, str]]:
    """Yield (equation, link) for each file of minivit whose docstrings mention it."""
    library = root / "minivit"
    for path in sorted(set(library.rglob("*.py")) - set(library.glob("exercises/**/*"))):
        file = path.relative_to(library).as_posix()
        tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        nodes = [n for n in tree if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef))]
        docs = [(getattr(n, "name", ""), ast.get_docstring(n) or "") for n in nodes]
        for n in EQUATIONS:
            if names := [name for name, doc in docs if n in equations_named(doc)]:
                functions = ", ".join(f"`{name}`" for name in names if name)
                yield n, f"[`{file}`](../minivit/{file})" + f" ({functions})" * bool(functions)


def book_labels(root: Path) -> Iterator[tuple[int, str]]:
    """Yield (equation, link) for each chapter that mentions or displays it, as $$ ... (5) $$."""
    for path in chapters(root / "chapters"):
        markdown = [c for c in cells(path.read_text(encoding="utf-8")) if c.cell_type == "markdown"]
        text = "\n".join(cell.source for cell in markdown)
        for n in equations_named(text) | set(map(int, re.findall(r"\(([1-8])\) \$\$", text))):
            yield n, f"[{title(path)}](pages/{path.stem}.md)"


if __name__ == "__main__":
    main()
