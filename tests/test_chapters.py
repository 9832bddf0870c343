"""The book: chapters run, pages are current, links are valid, and the rules of form are followed.

Each chapter runs once, in a temporary copy of its folder. A rule of form is a function that yields
the violations in a chapter. It must yield none for every chapter, and find planted ones.
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
DATA = os.environ.get("MINIVIT_TEST_DATA")  # contains the model of the committed pages
TINY = Path(DATA or "", "vit-tiny-imagenet", "vit_tiny_patch16_224.npz").resolve()
TIMEOUT = 300  # seconds; a chapter takes less than 20
# Heading and parts of the last section. tests/test_language.py rejects the last one in texts.
LAST_SECTION, PARTS = "Exercises", ["Predict", "Write", "Ablation"]

every_chapter = pytest.mark.parametrize("stem", BOOK)


def test_every_chapter_has_a_page():
    assert [stem.partition("_")[0] for stem in BOOK] == NUMBERS
    assert {path.stem for path in PAGES.glob("*.md")} == set(BOOK)


# --- a new page compared with the committed one ------------------------------------------------

NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+(?:,\d{3})*(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?")
ANY_NUMBER = re.compile(r"[-+]?\d[\d.,]*(?:e[-+]?\d+)?")


def differences(new_page: str, committed: str) -> list[str]:
    """Describe the first difference. Text and code must be equal, output up to rounding."""
    lines = itertools.zip_longest(new_page.splitlines(), committed.splitlines())
    in_output = False
    for number, (new, old) in enumerate(lines, 1):
        equivalent = in_output and None not in (new, old) and same_output(new, old)
        if new != old and not equivalent:
            return [f"line {number}: the page has {old!r}, the chapter gives {new!r}"]
        in_output = new == "```text" or (in_output and new != "```")
    return []


def same_output(new: str, old: str) -> bool:
    """Return whether two printed lines have the same words and similar numbers.

    Numbers are not compared in a line with ~, because they differ from run to run, such as times.
    """
    pattern = ANY_NUMBER if "~" in new else NUMBER
    words = ["".join(pattern.sub("#", line).split()) for line in (new, old)]
    if words[0] != words[1]:
        return False
    pairs = zip(pattern.findall(new), pattern.findall(old), strict=True)
    return "~" in new or all(close(*pair) for pair in pairs)


def close(a: str, b: str) -> bool:
    """Return whether two numbers differ by at most 25%, or are both rounding errors."""
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
    [("2e-16", "-4.4e-12"), ("1,437", "1,400"), ("[ 2.3", "[2.3"), ("~12.3 ms", "~ 1,200.5 ms")],
)
def test_equivalent_output_passes(old, new):
    assert old in PAGE
    assert differences(PAGE.replace(old, new), PAGE) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("3 words", "4 words"),
        ("(x, 2)", "(x, 3)"),
        ("# ~ 12", "# ~ 13"),
        ("worst error", "best error"),
        ("2e-16", "2e-6"),
        ("2e-16", "nan"),
        ("1,437", "437"),
        ("[ 2.3  0.41]", "[-2.3  0.41]"),
        ("[ 2.3  0.41]", "[ 2.3]"),
        ("~12.3 ms", "12.3 ms"),
        ("took ~12.3 ms for 4 images\n", ""),
        ("The end ~ 5.", "The end ~ 6."),
    ],
)
def test_a_difference_is_found(old, new):
    assert old in PAGE
    assert differences(PAGE.replace(old, new, 1), PAGE)
    assert differences(PAGE, PAGE.replace(old, new, 1))


def without_file(page: str) -> str:
    """Remove the output of cells that use the file of a real model."""
    parts = re.split(r"^(```python\n.*?^```\n\n)(```text\n.*?^```\n\n)?", page, flags=re.M | re.S)
    triples = zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    kept = [
        code + (output or "") * (not build.USES_FILE.search(code)) + text
        for code, output, text in triples
    ]
    return "".join([parts[0], *kept])


# --- run every chapter --------------------------------------------------------------------------


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """Provide a copy of the chapters. `page(stem)` runs a chapter once and returns its page.

    With the test data, the chapters use the model of the committed pages.
    """
    root = tmp_path_factory.mktemp("book")
    shutil.copytree(CHAPTERS, root / "chapters", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "figures").mkdir()

    @functools.cache
    def page(stem):
        return build.page(root / "chapters" / f"{stem}.py", TIMEOUT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(build.WEIGHTS, str(TINY) if DATA else "")
        yield SimpleNamespace(page=page, figures=root / "figures")


@pytest.mark.book
@every_chapter
def test_a_chapter_runs_and_its_page_is_current(workspace, stem):
    file_is_missing = not DATA and build.uses_file(BOOK[stem])
    pages = workspace.page(stem), (PAGES / f"{stem}.md").read_text(encoding="utf-8")
    outdated = differences(*(map(without_file, pages) if file_is_missing else pages))
    command = f"python chapters/build.py {stem.partition('_')[0]}"
    assert not outdated, f"{outdated[0]}; run: {command}"
    assert (workspace.figures / f"{stem}.png").exists() is not file_is_missing
    assert (ROOT / "figures" / f"{stem}.png").is_file()


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
assert x == 1  # the cells share their variables
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
assert x == 1  # the cells share their variables
```

---

[Contents](../README.md) · Next: [8. Second](08_b.md)
"""
    )
    page = build.page(second)
    assert "['__builtins__', '__file__', '__name__']" in page  # chapters do not share variables
    assert page.endswith("---\n\nPrevious: [7. First](07_a.md) · [Contents](../README.md)\n")


@pytest.mark.parametrize(
    ("cell", "reasons"),
    [
        ("y = 1\nassert x == 2, 'no'", ["cell 3, line 14", "line 15", "    assert x == 2", "no"]),
        ("f(\n", ["cell 3, line 14", "SyntaxError"]),
        ("raise SystemExit(0)", ["cell 3, line 14", "SystemExit"]),
        ("import numpy as np\nnp.ones(2) @ np.ones(3)", ["line 15", "ValueError: matmul"]),
        ("import os\nos._exit(3)", ["exit status 3"]),
    ],
)
def test_a_failing_cell_is_reported(tmp_path, cell, reasons):
    text = FIRST[: FIRST.rindex("# %%")] + f"# %%\n{cell}\n"
    (path,) = small_book(tmp_path, **{"07_a": text})
    with pytest.raises(build.ChapterError) as caught:
        build.page(path)
    message = str(caught.value)
    assert message.startswith("07_a.py")
    assert all(reason in message for reason in reasons), message
    assert "build.py" not in message


def test_a_chapter_that_hangs_is_stopped(tmp_path):
    (path,) = small_book(tmp_path, **{"07_a": "# %%\nwhile True:\n    pass\n"})
    with pytest.raises(build.ChapterError, match=r"07_a\.py: not finished after 0\.5 seconds"):
        build.page(path, timeout=0.5)


def test_a_page_that_requires_a_file_is_not_built_without_it(monkeypatch, tmp_path):
    text = FIRST.replace("x = 1\n", "x = 1\nif FILE:\n    x = FILE\n")
    first, second = small_book(tmp_path, **{"07_a": text, "08_b": SECOND})
    assert build.uses_file(first)
    assert not build.uses_file(second)
    monkeypatch.setattr(build, "CHAPTERS", first.parent)
    monkeypatch.setattr(build, "PAGES", tmp_path / "pages")
    monkeypatch.delenv(build.WEIGHTS, raising=False)
    for numbers in ([], ["08", "07"]):
        with pytest.raises(
            SystemExit, match="chapter 07 uses a pretrained model; set MINIVIT_WEIGHTS"
        ):
            build.main(numbers)
    assert not (tmp_path / "pages").exists()


# --- the tables of chapters/README.md -------------------------------------------------------------


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
def test_equations_are_found_in_text(text, numbers):
    assert build.equations_named(text) == numbers


def test_the_table_of_equations_is_current_and_names_a_chapter_for_each():
    readme, table = (CHAPTERS / "README.md").read_text(encoding="utf-8"), build.equations(ROOT)
    command = "python chapters/build.py --equations"
    assert readme == build.with_equations(readme, table), f"run: {command}"
    assert [row for row in table.splitlines() if "|  |" in row] == []


def test_every_part_of_the_paper_is_listed_once():
    readme = (CHAPTERS / "README.md").read_text(encoding="utf-8")
    parts = {"section": [], "equation": [], "figure": [], "table": []}
    for line in readme.splitlines():
        cells = line.strip("|").split("|")
        if cells[0].strip() in parts:
            rows = parts[cells[0].strip()]
        elif line.startswith("| "):
            rows.append(cells[0].split()[0].strip("(),"))
            assert cells[-1].strip() or rows is parts["equation"], line
    sections = ["1", "2", *["3.1"] * 3, "3.2", *(f"4.{n}" for n in range(1, 7)), "5"]
    appendix = ["A", "B.1", "B.1.1", "B.1.2", "C", *(f"D.{n}" for n in range(1, 11))]
    assert parts["section"] == sections + appendix
    for name, count in {"equation": 8, "figure": 14, "table": 9}.items():
        assert parts[name] == [str(n) for n in range(1, count + 1)]


def test_every_chapter_is_in_the_contents():
    readme = (CHAPTERS / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- \[((\w+)\. .+)\]\[\2\]: .+\.$", readme, re.MULTILINE)
    assert [title for title, _ in listed] == [build.title(path) for path in BOOK.values()]
    targets = re.findall(r"^\[(\w+)\]: pages/(\w+)\.md$", readme, re.MULTILINE)
    assert targets == list(zip([number for _, number in listed], BOOK, strict=True))


# --- the form of a chapter ---------------------------------------------------------------------

LIBRARIES = {"numpy", "matplotlib", "minivit", *sys.stdlib_module_names}
WITHOUT_GRADCHECK = ("12_", "13_", "17_", "A_")


class Chapter:
    """The text of a chapter, its cells and its syntax trees."""

    def __init__(self, stem: str, text: str) -> None:
        self.stem = stem
        self.text = text
        self.number = stem.partition("_")[0].removeprefix("0") or "0"
        self.cells = build.cells(text)
        self.prose = [cell.source for cell in self.cells if cell.cell_type == "markdown"]
        self.code = [cell.source for cell in self.cells if cell.cell_type == "code"]
        self.nodes = [node for source in self.code for node in ast.walk(ast.parse(source))]


def is_short_enough(chapter: Chapter) -> Iterator[str]:
    lines = chapter.text.splitlines()
    if len(lines) > 310:
        yield f"{len(lines)} lines"
    for number, line in enumerate(lines, 1):
        if len(line) > 100:
            yield f"line {number}: {len(line)} columns"
    for cell in chapter.cells:
        first, *_ = source = cell.source.strip().splitlines() or [""]
        limit = 30 if cell.cell_type == "code" else 12
        if len(source) > limit:
            yield f"{len(source)} lines in the {cell.cell_type} cell that starts {first!r}"


def starts_with_its_title(chapter: Chapter) -> Iterator[str]:
    start = f"# %% [markdown]\n# # {chapter.number}. "
    if not chapter.text.startswith(start):
        yield f"does not start with {start!r}"
    if sum(line.startswith("# ") for text in chapter.prose for line in text.splitlines()) != 1:
        yield "it must have one heading of the first level"


def without_code(text: str) -> str:
    """Remove code blocks and `code` from Markdown."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`]*`", "", text)


def tex_renders(chapter: Chapter) -> Iterator[str]:
    for text in map(without_code, chapter.prose):
        if text.replace("$$", "$").count("$") % 2:
            yield f"an unpaired $ in the cell that starts {text.splitlines()[0]!r}"
        for line in text.splitlines():
            if "$$" in line and not re.fullmatch(r"\$\$ .+ \$\$", line):
                yield f"$$ is not on a line of its own: {line!r}"
        for match in re.finditer(r"(.?)\$([^$]+)\$(.?)", re.sub(r"\$\$.+?\$\$", "", text)):
            before, formula, after = match.groups()
            if formula != formula.strip() or before.strip() or after.isalnum():
                yield f"GitHub does not render {match[0]!r}"
        for formula in re.findall(r"\$\$(.+?)\$\$|\$([^$]+)\$", text):
            if re.search(r"\\[,;!{]", "".join(formula)):
                yield f"GitHub breaks the spacing commands in {formula!r}"


def has_no_prose_in_strings(chapter: Chapter) -> Iterator[str]:
    bodies = [node.body for node in chapter.nodes if isinstance(node, ast.FunctionDef)]
    docstrings = {id(body[0]) for body in bodies}
    for node in chapter.nodes:
        is_constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_constant and isinstance(node.value.value, str) and id(node) not in docstrings:
            yield f"a string that is not used: {node.value.value[:40]!r}"
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
    for text in ("sys.path", "if __name__", "__file__"):
        if text in "\n".join(chapter.code):
            yield text


def ends_with_exercises(chapter: Chapter) -> Iterator[str]:
    headings = [n for n, text in enumerate(chapter.prose) if re.search("^## ", text, re.MULTILINE)]
    text = "\n\n".join(chapter.prose[headings[-1] :]) if headings else ""
    section = text[text.rfind("\n## ") + 1 :]
    if not section.startswith(f"## {LAST_SECTION}\n"):
        yield f"the last section is not ## {LAST_SECTION}"
    parts = re.findall(rf"^\*\*({'|'.join(PARTS)})\.\*\* \S", section, re.MULTILINE)
    if parts != PARTS:
        yield f"its parts are {parts}"
    for cell, after in itertools.pairwise(chapter.cells):
        if f"**{PARTS[0]}.**" in cell.source and after.cell_type != "code":
            yield "no code answers the prediction"
    if f"`python -m minivit exercise {chapter.number}`" not in " ".join(section.split()):
        yield "it does not name the command that grades the exercise"


def shows_its_figure(chapter: Chapter) -> Iterator[str]:
    path = f"figures/{chapter.stem}.png"
    for before, cell in itertools.pairwise(chapter.cells):
        if cell.cell_type != "markdown":
            continue
        captions = re.findall(rf"!\[([^\]]*)\]\(\.\./{re.escape(path)}\)", cell.source)
        if captions and len(captions[0]) >= 20 and path in before.source:
            return
    yield f"no caption with {path} after the code that saves it"


def asserts_its_claims(chapter: Chapter) -> Iterator[str]:
    if not any(isinstance(node, ast.Assert) for node in chapter.nodes):
        yield "asserts nothing"
    names = {getattr(node, "attr", getattr(node, "id", "")) for node in chapter.nodes}
    if "gradcheck" not in names and not chapter.stem.startswith(WITHOUT_GRADCHECK):
        yield "checks no gradient"


RULES = [
    is_short_enough,
    starts_with_its_title,
    tex_renders,
    has_no_prose_in_strings,
    imports_the_installed_package,
    ends_with_exercises,
    shows_its_figure,
    asserts_its_claims,
]
every_rule = pytest.mark.parametrize("rule", RULES, ids=[rule.__name__ for rule in RULES])


@every_rule
@every_chapter
def test_a_chapter_follows_the_rules_of_form(stem, rule):
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
# ## SECTION
#
# **PART 0.** What comes?

# %%
print(f"{1 + 1} and "
      "so on")

# %% [markdown]
# Two.
#
# **PART 1.** A function. `python -m minivit
# exercise 4` grades it.
#
# **PART 2.** This.
"""
GOOD = re.sub(r"PART (\d)", lambda match: PARTS[int(match[1])], GOOD)
GOOD = GOOD.replace("SECTION", LAST_SECTION)


@every_rule
def test_a_good_chapter_passes(rule):
    assert list(rule(Chapter("04_good", GOOD))) == []


def test_some_chapters_check_no_gradient():
    text = GOOD.replace("gradcheck", "check")
    assert list(asserts_its_claims(Chapter("13_good", text))) == []
    assert list(asserts_its_claims(Chapter("04_good", text)))


PLANTED = [
    (is_short_enough, "import math\n", "import math\n" + "x = 1\n\n# %%\n" * 110),
    (is_short_enough, "# Two.\n", "# Two.\n" * 8),
    (starts_with_its_title, "# # 4. A", "# # 5. A"),
    (tex_renders, "`$5`", "$5"),
    (tex_renders, "$x ∈ ℝ^D$", "$ x ∈ ℝ^D$"),
    (tex_renders, "$x ∈ ℝ^D$,", "$x ∈ ℝ^D$s,"),
    (tex_renders, "# $$ ", "# So $$ "),
    (tex_renders, r"\qquad", r"\,"),
    (has_no_prose_in_strings, "import math\n", '"Some prose."\n'),
    (has_no_prose_in_strings, "import math\n", 'x = """Some\nprose."""\n'),
    (imports_the_installed_package, "import math\n", "import torch\n"),
    (imports_the_installed_package, "import math\n", "import sys\nsys.path.append('.')\n"),
    (ends_with_exercises, f"**{PARTS[1]}.**", "**Do.**"),
    (ends_with_exercises, "exercise 4`", "exercise 5`"),
    (shows_its_figure, '"figures/04_good.png"', '"figures/04_bad.png"'),
    (shows_its_figure, "![A caption that says\n# what to see]", "![]"),
    (asserts_its_claims, "assert gradcheck", "gradcheck"),
]


@pytest.mark.parametrize(("rule", "old", "new"), PLANTED)
def test_a_planted_violation_is_found(rule, old, new):
    assert old in GOOD
    assert list(rule(Chapter("04_good", GOOD.replace(old, new, 1))))


def test_every_rule_has_a_planted_violation():
    assert {rule for rule, *_ in PLANTED} == set(RULES)


# --- links ----------------------------------------------------------------


def broken_links(text: str, folder: Path) -> list[str]:
    """List the targets of relative links in Markdown that do not exist."""
    text = without_code(text)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[\w+\]: (\S+)", text, re.M)
    targets = [link.partition("#")[0] for link in links if not re.match(r"\w+:", link)]
    return [target for target in targets if target and not (folder / target).exists()]


DOCUMENTS = [path for folder in (ROOT, CHAPTERS, PAGES) for path in sorted(folder.glob("*.md"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_links_of_a_page_are_valid(path):
    links = broken_links(path.read_text(encoding="utf-8"), path.parent)
    assert [link for link in links if not link.startswith("../../actions/")] == []  # web pages


@every_chapter
def test_the_links_of_a_chapter_are_valid(stem):
    chapter = Chapter(stem, BOOK[stem].read_text(encoding="utf-8"))
    assert broken_links("\n\n".join(chapter.prose), CHAPTERS) == []


@pytest.mark.parametrize(
    "text", ["[a](b.md)", "![a\nb](../b.png)", "[`a`](b.md#c)", "[a][1]\n\n[1]: b.md"]
)
def test_a_broken_link_is_found(tmp_path, text):
    (tmp_path / "c").mkdir()
    assert broken_links(text, tmp_path / "c")
    for name in ("c/b.md", "b.png"):
        (tmp_path / name).touch()
    assert broken_links(text, tmp_path / "c") == []


def test_other_links_and_code_pass(tmp_path):
    text = "[a](https://b.c/d) [a](#b) `[a](b.md)`\n\n```python\nf[1](2)\nf[x](y)\n```\n"
    assert broken_links(text, tmp_path) == []
