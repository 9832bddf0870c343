"""The book: every chapter runs, every page is fresh, every rule of form holds, every link leads.

The chapters are run once, in a temporary copy of their folder, so nothing is written here. Each
rule of form is a function from a chapter to the list of places that break it; it is run over all
chapters, where the list must be empty, and over a small chapter with the mistake planted.
"""

import ast
import functools
import importlib.util
import io
import itertools
import os
import re
import shutil
import sys
import tokenize
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
CHAPTERS, PAGES = ROOT / "chapters", ROOT / "chapters" / "pages"
spec = importlib.util.spec_from_file_location("build", CHAPTERS / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)

BOOK = {path.stem: path for path in build.chapters(CHAPTERS)}
NUMBERS = [*(f"{n:02}" for n in range(19)), "A"]
DATA = os.environ.get("MINIVIT_TEST_DATA")  # with the model that pages were made with
TINY = Path(DATA or "", "vit-tiny-imagenet", "vit_tiny_patch16_224.npz").resolve()
TIMEOUT = 120  # seconds, of which a chapter takes under 20: only one that hangs is stopped
FASTEST = next(iter(BOOK))  # is run a second time

every_chapter = pytest.mark.parametrize("stem", BOOK)


def test_the_book_is_whole():
    assert [stem.partition("_")[0] for stem in BOOK] == NUMBERS
    assert {path.stem for path in PAGES.glob("*.md")} == set(BOOK)


# --- a fresh page beside the committed one -----------------------------------------------------

NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+(?:,\d{3})*(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?")
ANY_NUMBER = re.compile(r"[-+]?\d[\d.,]*(?:e[-+]?\d+)?")


def differences(fresh: str, committed: str) -> list[str]:
    """The first line of a page that is stale, or nothing: text and code exactly, output nearly."""
    lines = itertools.zip_longest(fresh.splitlines(), committed.splitlines())
    printed = False
    for number, (new, old) in enumerate(lines, 1):
        nearly = printed and None not in (new, old) and same_output(new, old)
        if new != old and not nearly:
            return [f"line {number}: the page has {old!r}, the chapter gives {new!r}"]
        printed = new == "```text" or (printed and new != "```")
    return []


def same_output(new: str, old: str) -> bool:
    """Whether two printed lines say the same: the same words, and numbers that are near.

    A line with ~ has a time, or another number that is not the same in every run.
    """
    pattern = ANY_NUMBER if "~" in new else NUMBER
    words = ["".join(pattern.sub("#", line).split()) for line in (new, old)]
    if words[0] != words[1]:
        return False
    pairs = zip(pattern.findall(new), pattern.findall(old), strict=True)
    return "~" in new or all(near(*pair) for pair in pairs)


def near(a: str, b: str) -> bool:
    """To a quarter of the larger, or both so small that they are rounding."""
    x, y = (float(number.replace(",", "")) for number in (a, b))
    return max(abs(x), abs(y)) < 1e-9 or abs(x - y) <= 0.25 * max(abs(x), abs(y))


PAGE = """\
Some text, $x^2$ and 3 words.

```python
print(x, 2)                                 # ~ 12
```

```text
worst error 2e-16, of 1,437 in float32
   loss [ 2.3  0.41]
took ~12.3 ms for 4 images
```

The end ~ 5.
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2e-16", "4e-16"),
        ("2e-16", "-4.4e-12"),
        ("1,437", "1,400"),
        ("[ 2.3  0.41]", "[ 2.1 0.405]"),
        ("[ 2.3", "[2.3"),
        ("~12.3 ms", "~7 ms"),
        ("~12.3 ms", "~ 1,200.5 ms"),
    ],
)
def test_output_that_says_the_same_passes(old, new):
    assert old in PAGE
    assert differences(PAGE.replace(old, new), PAGE) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Some text", "Some texts"),
        ("3 words", "4 words"),
        ("(x, 2)", "(x, 3)"),
        ("# ~ 12", "# ~ 13"),
        ("worst error", "best error"),
        ("2e-16", "2e-6"),
        ("2e-16", "nan"),
        ("1,437", "437"),
        ("float32", "float64"),
        ("[ 2.3  0.41]", "[ 2.3  0.62]"),
        ("[ 2.3  0.41]", "[-2.3  0.41]"),
        ("[ 2.3  0.41]", "[ 2.3]"),
        ("images", "pictures"),
        ("~12.3 ms", "12.3 ms"),
        ("took ~12.3 ms for 4 images\n", ""),
        ("took ~12.3 ms", "one more line\ntook ~12.3 ms"),
        ("The end ~ 5.\n", ""),
        ("The end ~ 5.", "The end ~ 6."),
        ("\n```text", "\n```python"),
    ],
)
def test_a_stale_page_is_found(old, new):
    assert old in PAGE
    assert differences(PAGE.replace(old, new, 1), PAGE)
    assert differences(PAGE, PAGE.replace(old, new, 1))


def without_file(page: str) -> str:
    """A page without what the cells print that show a real model."""
    parts = re.split(r"^(```python\n.*?^```\n\n)(```text\n.*?^```\n\n)?", page, flags=re.M | re.S)
    triples = zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    kept = [code + (output or "") * (not build.OF_A_FILE.search(code)) + text
            for code, output, text in triples]  # fmt: skip
    return "".join([parts[0], *kept])


def test_only_what_a_file_prints_is_left_out():
    page = PAGE.replace("The end", "```python\nif x:\n    y\n```\n\n```text\nz\n```\n\nThe end")
    assert without_file(page) == page
    of_a_file = page.replace("if x:", "x\nif FILE:")
    assert without_file(of_a_file) == of_a_file.replace("```text\nz\n```\n\n", "")
    silent = of_a_file.replace("```text\nz\n```\n\n", "")
    assert without_file(silent) == silent


# --- every chapter, run once -------------------------------------------------------------------


@pytest.fixture(scope="session")
def desk(tmp_path_factory):
    """A copy of the chapters to run, `figures` still empty, and pages that are made once.

    With the test data they are shown the model that the committed pages were made with, else none.
    """
    root = tmp_path_factory.mktemp("desk")
    shutil.copytree(CHAPTERS, root / "chapters", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "figures").mkdir()

    @functools.cache
    def run(stem):
        try:
            return build.page(root / "chapters" / f"{stem}.py", TIMEOUT)
        except build.ChapterError as error:
            return error

    def page(stem):
        if isinstance(run(stem), build.ChapterError):
            pytest.fail(str(run(stem)), pytrace=False)
        return run(stem)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(build.WEIGHTS, str(TINY) if DATA else "")
        yield SimpleNamespace(page=page, root=root, figures=root / "figures")


def shows_no_file(stem):
    """Whether a chapter lacks the model's file that some of its cells, and its figure, show."""
    return not DATA and build.asks_for_a_file(BOOK[stem])


@every_chapter
def test_a_chapter_runs_and_draws_its_figure(desk, stem):
    desk.page(stem)
    if shows_no_file(stem):
        assert not (desk.figures / f"{stem}.png").exists()
    else:
        assert (desk.figures / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
    assert (ROOT / "figures" / f"{stem}.png").is_file()


@every_chapter
def test_a_page_is_fresh(desk, stem):
    committed = PAGES / f"{stem}.md"
    command = f"python chapters/build.py {stem.partition('_')[0]}"
    assert committed.is_file(), f"no page yet: {command}"
    pages = desk.page(stem), committed.read_text(encoding="utf-8")
    stale = differences(*(map(without_file, pages) if shows_no_file(stem) else pages))
    assert not stale, f"{stale[0]}; run: {command}"


def test_a_chapter_gives_the_same_figure_again(desk):
    first = desk.page(FASTEST)
    figure = desk.figures / f"{FASTEST}.png"
    before = figure.read_bytes()
    figure.unlink()
    assert differences(build.page(desk.root / "chapters" / f"{FASTEST}.py", TIMEOUT), first) == []
    assert figure.read_bytes() == before


# --- the builder -------------------------------------------------------------------------------


def small_book(root: Path, **chapters: str) -> list[Path]:
    (root / "chapters").mkdir()
    for stem, text in chapters.items():
        (root / "chapters" / f"{stem}.py").write_text(text, encoding="utf-8")
    return build.chapters(root / "chapters")


FIRST = """\
# %% [markdown]
# # 7. First
#
# $$ x = σ $$
#
# ![A figure](../figures/a.png), [later](08_b.py), [a file](../README.md), [here](#x), [web](https://a.b),
# `f[0](x)`.

# %%
x = 1
print("x is", x)

# %%
assert x == 1

# %%
def f():
    return "the namespace is one: " + str(x)

print(f())
"""
SECOND = "# %% [markdown]\n# # 8. Second\n\n# %%\nprint(sorted(globals()))\n"


def test_a_page_has_text_code_output_and_links(tmp_path):
    first, second = small_book(tmp_path, **{"07_a": FIRST, "08_b": SECOND, "notes": "1 / 0"})
    assert (
        build.page(first)
        == """\
*Made from [07_a.py](../07_a.py) by `python chapters/build.py 07`.*

# 7. First

$$ x = σ $$

![A figure](../../figures/a.png), [later](08_b.md), [a file](../../README.md), [here](#x), [web](https://a.b),
`f[0](x)`.

```python
x = 1
print("x is", x)
```

```text
x is 1
```

```python
assert x == 1
```

```python
def f():
    return "the namespace is one: " + str(x)

print(f())
```

```text
the namespace is one: 1
```

---

[Contents](../README.md) · Next: [8. Second](08_b.md)
"""
    )
    page = build.page(second)
    assert "['__builtins__', '__file__', '__name__']" in page  # nothing is left of the first
    assert page.endswith("---\n\nBefore: [7. First](07_a.md) · [Contents](../README.md)\n")


@pytest.mark.parametrize(
    ("cell", "reasons"),
    [
        ("y = 1\nassert x == 2, 'no'", ["cell 4, line 17", "line 18", "    assert x == 2", "no"]),
        ("f(\n", ["cell 4, line 17", "SyntaxError"]),
        ("raise SystemExit(0)", ["cell 4, line 17", "SystemExit"]),
        ("import numpy as np\nnp.ones(2) @ np.ones(3)", ["line 18", "ValueError: matmul"]),
        ("import os\nos._exit(3)", ["ended with 3"]),
    ],
)
def test_a_cell_that_fails_is_named(tmp_path, cell, reasons):
    text = FIRST[: FIRST.rindex("# %%")] + f"# %%\n{cell}\n"
    (path,) = small_book(tmp_path, **{"07_a": text})
    with pytest.raises(build.ChapterError) as caught:
        build.page(path)
    message = str(caught.value)
    assert message.startswith("07_a.py")
    assert all(reason in message for reason in reasons), message
    assert "build.py" not in message  # the traceback is the chapter's


def test_a_chapter_that_does_not_end_is_named(tmp_path):
    (path,) = small_book(tmp_path, **{"07_a": "# %%\nwhile True:\n    pass\n"})
    with pytest.raises(build.ChapterError, match=r"07_a\.py: not finished after 0\.5 seconds"):
        build.page(path, timeout=0.5)


def test_the_page_of_a_real_model_is_not_made_without_its_file(monkeypatch, tmp_path):
    text = FIRST.replace("x = 1\n", "x = 1\nif FILE:\n    x = FILE\n")
    first, second = small_book(tmp_path, **{"07_a": text, "08_b": SECOND})
    assert build.asks_for_a_file(first)
    assert not build.asks_for_a_file(second)
    monkeypatch.setattr(build, "CHAPTERS", first.parent)
    monkeypatch.setattr(build, "PAGES", tmp_path / "pages")
    monkeypatch.delenv(build.WEIGHTS, raising=False)
    for numbers in ([], ["08", "07"]):
        with pytest.raises(SystemExit, match="chapter 07 shows a real model: let MINIVIT_WEIGHTS"):
            build.main(numbers)
    assert not (tmp_path / "pages").exists()


# --- the equations, mapped ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Equation 1:  z_0 = ...", {1}),
        ("(Equations 6 and 7)", {6, 7}),
        ("all of Equations 5 to 8.", {5, 6, 7, 8}),
        ("In Equations 2, 3 and 4 of the paper", {2, 3, 4}),
        ("Equations\n2 to\n4", {2, 3, 4}),
        ("Eq. 4, and then Equation 8", {4, 8}),
        ("Equation 12, section 3, equation 5, Equations", set()),
    ],
)
def test_the_equations_that_a_text_names(text, numbers):
    assert build.equations_named(text) == numbers


def test_the_equations_are_those_that_the_docstrings_and_chapters_name():
    readme = (CHAPTERS / "README.md").read_text(encoding="utf-8")
    stale = "stale rows; run: python chapters/build.py --equations"
    assert readme == build.with_equations(readme, build.equations(ROOT)), stale


@pytest.mark.parametrize(
    ("old", "new"),
    [("MSA (Equation 8)", "MSA"), ("def msa", "def sa"), ("Equation 1", "Equations 1 to 3")],
)
def test_a_stale_row_is_found(tmp_path, old, new):
    source = '"""Equation 1."""\ndef msa():\n    """MSA (Equation 8)"""\n'
    small_book(tmp_path, **{"07_a": FIRST.replace(" = σ $$", r" = σ \qquad (2) $$")})
    (tmp_path / "minivit").mkdir()
    file = tmp_path / "minivit" / "layer.py"
    file.write_text(source)
    table = build.equations(tmp_path)
    assert "| (8) | [`layer.py`](../minivit/layer.py) (`msa`) |  |" in table
    assert old in source
    assert "(2) |  | [7. First](pages/07_a.md) |" in table  # it writes the formula
    file.write_text(source.replace(old, new))
    assert build.equations(tmp_path) != table


def test_everything_in_the_paper_is_mapped_once():
    readme = (CHAPTERS / "README.md").read_text(encoding="utf-8")
    kinds = {"section": [], "equation": [], "figure": [], "table": []}
    for line in readme.splitlines():
        cells = line.strip("|").split("|")
        if cells[0].strip() in kinds:
            rows = kinds[cells[0].strip()]
        elif line.startswith("| "):
            rows.append(cells[0].split()[0].strip("(),"))
            assert cells[-1].strip() or rows is kinds["equation"], line
    sections = ["1", "2", *["3.1"] * 3, "3.2", *(f"4.{n}" for n in range(1, 7)), "5"]
    appendix = ["A", "B.1", "B.1.1", "B.1.2", "C", *(f"D.{n}" for n in range(1, 11))]
    assert kinds["section"] == sections + appendix
    for kind, count in {"equation": 8, "figure": 14, "table": 9}.items():
        assert kinds[kind] == [str(n) for n in range(1, count + 1)]


def test_every_equation_has_a_chapter():
    rows = build.equations(ROOT).splitlines()[2:]
    assert [row for row in rows if "|  |" in row] == []


def test_every_chapter_is_in_the_contents():
    readme = (CHAPTERS / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- \[((\w+)\. .+)\]\[\2\]: .+\.$", readme, re.MULTILINE)
    assert [title for title, _ in listed] == [build.title(path) for path in BOOK.values()]
    targets = re.findall(r"^\[(\w+)\]: pages/(\w+)\.md$", readme, re.MULTILINE)
    assert targets == list(zip([number for _, number in listed], BOOK, strict=True))


# --- the form of a chapter ---------------------------------------------------------------------

LIBRARIES = {"numpy", "matplotlib", "minivit", *sys.stdlib_module_names}
COMMANDS = {"\\hat", "\\sqrt", "\\mathrm", "\\qquad"}
WITHOUT_GRADCHECK = ("12_", "13_", "17_", "A_")


class Chapter:
    """A chapter's text, taken apart."""

    def __init__(self, stem: str, text: str) -> None:
        self.stem = stem
        self.text = text
        self.number = stem.partition("_")[0].removeprefix("0") or "0"
        self.cells = build.cells(text)
        self.prose = [cell.source for cell in self.cells if cell.cell_type == "markdown"]
        self.code = [cell.source for cell in self.cells if cell.cell_type == "code"]
        self.nodes = [node for source in self.code for node in ast.walk(ast.parse(source))]


def short_enough(chapter: Chapter) -> Iterator[str]:
    lines = chapter.text.splitlines()
    if len(lines) > 250:
        yield f"{len(lines)} lines"
    for number, line in enumerate(lines, 1):
        if len(line) > 100:
            yield f"line {number}: {len(line)} columns"
    for cell in chapter.cells:
        first, *_ = source = cell.source.strip().splitlines() or [""]
        limit = 15 if cell.cell_type == "code" else 12
        if len(source) > limit:
            yield f"{len(source)} lines in the {cell.cell_type} cell that starts {first!r}"


def begins_with_its_title(chapter: Chapter) -> Iterator[str]:
    start = f"# %% [markdown]\n# # {chapter.number}. "
    if not chapter.text.startswith(start):
        yield f"does not start with {start!r}"
    if sum(line.startswith("# ") for text in chapter.prose for line in text.splitlines()) != 1:
        yield "one heading of the first level, please"


def without_code(text: str) -> str:
    """Markdown without its code blocks and its `code`."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`]*`", "", text)


def formulas(text: str) -> list[str]:
    """What stands between $ and $, or $$ and $$, in a cell's prose."""
    return [a or b for a, b in re.findall(r"\$\$(.+?)\$\$|\$([^$]+)\$", without_code(text))]


def tex_of_the_house(chapter: Chapter) -> Iterator[str]:
    for text in chapter.prose:
        if without_code(text).replace("$$", "$").count("$") % 2:
            yield f"a $ without its other in the cell that starts {text.splitlines()[0]!r}"
        for formula in formulas(text):
            commands = set(re.findall(r"\\(?:[A-Za-z]+|.)", formula, re.DOTALL))
            for command in sorted(commands - COMMANDS):
                yield f"{command} in {formula!r}"
            for letter in sorted(filter(odd_in_tex, set(formula))):
                yield f"{letter!a} in {formula!r}"


def odd_in_tex(letter: str) -> bool:
    """What TeX has its own signs for: superscripts, subscripts, roots and combining marks."""
    raised = unicodedata.decomposition(letter).startswith(("<super>", "<sub>"))
    return raised or letter in "√∛∜" or bool(unicodedata.combining(letter))


def inline_tex_renders(chapter: Chapter) -> Iterator[str]:
    for text in chapter.prose:
        for line in without_code(text).splitlines():
            if "$$" in line and not re.fullmatch(r"\$\$ .+ \$\$", line):
                yield f"$$ does not have a line of its own: {line!r}"
        for match in re.finditer(r"(.?)\$([^$]+)\$(.?)", re.sub(r"\$\$.+?\$\$", "", text)):
            before, formula, after = match.groups()
            if formula != formula.strip() or before.strip() or after.isalnum():
                yield f"GitHub does not read {match[0]!r} as TeX"


def no_prose_in_strings(chapter: Chapter) -> Iterator[str]:
    bodies = [node.body for node in chapter.nodes if isinstance(node, ast.FunctionDef)]
    docstrings = {id(body[0]) for body in bodies}
    for node in chapter.nodes:
        alone = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if alone and isinstance(node.value.value, str) and id(node) not in docstrings:
            yield f"a string on its own: {node.value.value[:40]!r}"
    for source in chapter.code:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.STRING and "\n" in token.string:
                yield f"a string of several lines: {token.string[:40]!r}"


def imports_the_installed_package(chapter: Chapter) -> Iterator[str]:
    for node in chapter.nodes:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = ["." * node.level + (node.module or "")]
        yield from (name for name in names if name.split(".")[0] not in LIBRARIES)
    for trick in ("sys.path", "if __name__", "__file__"):
        if trick in "\n".join(chapter.code):
            yield trick


def ends_with_yours(chapter: Chapter) -> Iterator[str]:
    headings = [n for n, text in enumerate(chapter.prose) if re.search("^## ", text, re.MULTILINE)]
    text = "\n\n".join(chapter.prose[headings[-1] :]) if headings else ""
    yours = text[text.rfind("\n## ") + 1 :]
    if not yours.startswith("## Yours\n"):
        yield "the last section is not ## Yours"
    parts = re.findall(r"^\*\*(Predict|Write|Take away)\.\*\* \S", yours, re.MULTILINE)
    if parts != ["Predict", "Write", "Take away"]:
        yield f"its parts are {parts}"
    for cell, after in itertools.pairwise(chapter.cells):
        if "**Predict.**" in cell.source and after.cell_type != "code":
            yield "no code answers the prediction"
    if f"`python -m minivit exercise {chapter.number}`" not in " ".join(yours.split()):
        yield "it does not say how the exercise is graded"


def shows_its_figure(chapter: Chapter) -> Iterator[str]:
    path = f"figures/{chapter.stem}.png"
    for before, cell in itertools.pairwise(chapter.cells):
        if cell.cell_type != "markdown":
            continue
        captions = re.findall(rf"!\[([^\]]*)\]\(\.\./{re.escape(path)}\)", cell.source)
        if captions and len(captions[0]) >= 20 and path in before.source:
            return
    yield f"no caption with {path} after the code that saves it"


def claims_are_asserted(chapter: Chapter) -> Iterator[str]:
    if not any(isinstance(node, ast.Assert) for node in chapter.nodes):
        yield "asserts nothing"
    names = {getattr(node, "attr", getattr(node, "id", "")) for node in chapter.nodes}
    if "gradcheck" not in names and not chapter.stem.startswith(WITHOUT_GRADCHECK):
        yield "checks no gradient"


RULES = [
    short_enough,
    begins_with_its_title,
    tex_of_the_house,
    inline_tex_renders,
    no_prose_in_strings,
    imports_the_installed_package,
    ends_with_yours,
    shows_its_figure,
    claims_are_asserted,
]
every_rule = pytest.mark.parametrize("rule", RULES, ids=[rule.__name__ for rule in RULES])


@every_rule
@every_chapter
def test_a_chapter_keeps_the_rules_of_form(stem, rule):
    chapter = Chapter(stem, BOOK[stem].read_text(encoding="utf-8"))
    assert "\n".join(rule(chapter)) == ""


GOOD = r"""# %% [markdown]
# # 4. A title
#
# A token $x ∈ ℝ^D$, cut at $x_{i+1}$, costs `$5`. One formula stands alone:
#
# $$ \hat x = \sqrt{x^2} / σ, \qquad μ = \mathrm{mean}(x) $$

# %%
import math

import numpy as np

from minivit import gradcheck

# %%
def f(x):
    "One line is enough."
    return x, lambda dy: dy

assert gradcheck(f, np.ones(3)).worst < 1e-12
save_figure(figure, "figures/04_good.png")

# %% [markdown]
# ![A caption that says
# what to see](../figures/04_good.png)
#
# ## Yours
#
# **Predict.** What comes?

# %%
print(f"{1 + 1} and "
      "so on")

# %% [markdown]
# Two.
#
# **Write.** A function. `python -m minivit
# exercise 4` grades it.
#
# **Take away.** This.
"""


@every_rule
def test_a_good_chapter_passes(rule):
    assert list(rule(Chapter("04_good", GOOD))) == []


def test_a_chapter_that_trains_or_looks_need_not_check_a_gradient():
    text = GOOD.replace("gradcheck", "check")
    assert list(claims_are_asserted(Chapter("13_good", text))) == []
    assert list(claims_are_asserted(Chapter("04_good", text)))


PLANTED = [
    (short_enough, "import math\n", "import math\n" + "x = 1\n\n# %%\n" * 90),
    (short_enough, "import math\n", "import math\n" + "x = 1\n" * 12),
    (short_enough, "# Two.\n", "# Two.\n" * 8),
    (short_enough, "# Two.\n", "# Two." + "." * 95 + "\n"),
    (short_enough, "import math\n", "import math" + " " * 90 + "\n"),
    (begins_with_its_title, "# %% [markdown]\n# # 4", "# ---\n# ---\n# %% [markdown]\n# # 4"),
    (begins_with_its_title, "# # 4. A", "# # 5. A"),
    (begins_with_its_title, "# # 4. A", "# ## 4. A"),
    (begins_with_its_title, "# ## Yours", "# # Yours"),
    (tex_of_the_house, "/ σ", r"/ \sigma"),
    (tex_of_the_house, "x^2", r"\frac{x}{2}"),
    (tex_of_the_house, r"\qquad", r"\,"),
    (tex_of_the_house, "ℝ^D", "ℝ²"),
    (tex_of_the_house, "ℝ^D", "ℝᵀ"),
    (tex_of_the_house, "x_{i+1}", "x₁"),
    (tex_of_the_house, r"\sqrt{x^2}", "√x"),
    (tex_of_the_house, r"\hat x", "x\u0302"),
    (tex_of_the_house, "`$5`", "$5"),
    (inline_tex_renders, "$x ∈ ℝ^D$", "$ x ∈ ℝ^D$"),
    (inline_tex_renders, "$x ∈ ℝ^D$", "$x ∈ ℝ^D $"),
    (inline_tex_renders, "$x ∈ ℝ^D$,", "$x ∈ ℝ^D$s,"),
    (inline_tex_renders, "at $x", "at$x"),
    (inline_tex_renders, "# $$ ", "# So $$ "),
    (inline_tex_renders, " $$\n", " $$.\n"),
    (no_prose_in_strings, "import math\n", '"Some prose."\n'),
    (no_prose_in_strings, "import math\n", 'x = """Some\nprose."""\n'),
    (no_prose_in_strings, "    return x, lambda", '    "More."\n    return x, lambda'),
    (imports_the_installed_package, "import math\n", "import torch\n"),
    (imports_the_installed_package, "import math\n", "from scipy.special import erf\n"),
    (imports_the_installed_package, "import math\n", "from . import build\n"),
    (imports_the_installed_package, "import math\n", "import build\n"),
    (imports_the_installed_package, "import math\n", "import sys\nsys.path.append('.')\n"),
    (imports_the_installed_package, "import math\n", "if __name__ == '__main__':\n    pass\n"),
    (ends_with_yours, "## Yours", "## Mine"),
    (ends_with_yours, "# Two.\n", "# Two.\n#\n# ## More\n#\n"),
    (ends_with_yours, "**Predict.**", "Predict."),
    (ends_with_yours, "**Write.**", "**Do.**"),
    (ends_with_yours, "**Take away.**", "Take away."),
    (ends_with_yours, "comes?\n\n# %%\n", "comes?\n\n# %% [markdown]\n# Two.\n\n# %%\n"),
    (ends_with_yours, "exercise 4`", "exercise 5`"),
    (shows_its_figure, '"figures/04_good.png"', '"figures/04_bad.png"'),
    (shows_its_figure, "(../figures/04_good.png)", "(figures/04_good.png)"),
    (shows_its_figure, "![A caption that says\n# what to see]", "![]"),
    (claims_are_asserted, "assert gradcheck", "gradcheck"),
    (claims_are_asserted, "gradcheck(f", "check(f"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "old", "new"), PLANTED)
def test_a_planted_violation_is_found(rule, old, new):
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    if rule is claims_are_asserted:
        text = text.replace("import gradcheck", "import check")
    assert list(rule(Chapter("04_good", text)))


def test_no_rule_is_without_its_violation():
    assert {rule for rule, *_ in PLANTED} == set(RULES)


# --- every link leads to a file ----------------------------------------------------------------


def dead_links(text: str, folder: Path) -> list[str]:
    """The relative links of a Markdown text that lead to no file."""
    text = without_code(text)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[\w+\]: (\S+)", text, re.M)
    places = [link.partition("#")[0] for link in links if not re.match(r"\w+:", link)]
    return [place for place in places if place and not (folder / place).exists()]


DOCUMENTS = [*sorted(ROOT.glob("README*")), CHAPTERS / "README.md", *sorted(PAGES.glob("*.md"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_leads_to_a_file(path):
    assert dead_links(path.read_text(encoding="utf-8"), path.parent) == []


@every_chapter
def test_every_link_of_a_chapter_leads_to_a_file(stem):
    chapter = Chapter(stem, BOOK[stem].read_text(encoding="utf-8"))
    assert dead_links("\n\n".join(chapter.prose), CHAPTERS) == []


@pytest.mark.parametrize(
    "text", ["[a](b.md)", "![a\nb](../b.png)", "[`a`](b.md#c)", "[a][1]\n\n[1]: b.md"]
)
def test_a_dead_link_is_found(tmp_path, text):
    (tmp_path / "c").mkdir()
    assert dead_links(text, tmp_path / "c")
    for name in ("c/b.md", "b.png"):
        (tmp_path / name).touch()
    assert dead_links(text, tmp_path / "c") == []


def test_what_is_no_relative_link_passes(tmp_path):
    text = "[a](https://b.c/d) [a](#b) `[a](b.md)`\n\n```python\nf[1](2)\nf[x](y)\n```\n"
    assert dead_links(text, tmp_path) == []
