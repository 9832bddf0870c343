"""`train @FILE` and --print-config: quoting, and errors that name the file and the line."""

import shlex
from pathlib import Path

import pytest
from helpers.commands import TINY, error_of, output_of
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minivit.cli.option_file import MAX_BYTES, expand
from minivit.cli.print_config import format_option

ERRORS = {
    "unbalanced quotes": ("--epochs 2\n\n--out 'a\n", "opts, line 3: a quotation mark is not "
        "closed"),
    "binary": (b"--epochs 2\n\xff\xfe", "opts, line 2: the text is not valid UTF-8"),
    "NUL": (b"--out a\0b", r"opts, line 1: 'a\x00b' is neither an option nor a value"),
    "another file": ("--epochs 2\n@opts", "opts, line 2: '@opts' is neither an option nor a value"),
    "a value": ("# a comment\n--epochs x\n", "opts, line 2: argument --epochs: expected a positive "
        "integer, not 'x'"),
    "a missing value": ("--flip\n--out", "opts, line 2: argument --out: expected one argument"),
    "an unknown option": ("\n\n\n--xyz 3", "opts, line 4: unknown option '--xyz'; see `minivit "
        "train --help`"),
    "a value of the model": ("--depth 2\n--width 9\n--heads 2", None),
    "a range": ("--flip\n--dropout 3", "opts, line 2: --dropout must be in [0, 1), not 3.0"),
    "too long": (" " * (MAX_BYTES + 1), "opts has more than 20,000 bytes, too many for an "
        "option file"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Provide the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("case", ERRORS)
def test_an_error_names_the_file_and_the_line(case):
    content, expected = ERRORS[case]
    Path("opts").write_bytes(content if isinstance(content, bytes) else content.encode())
    message = error_of("train", "@opts", status=2)
    assert message == (expected or "width 9 is not a multiple of 2 heads")


def test_a_file_that_cannot_be_read_is_an_error():
    assert error_of("train", "@none", status=2) == "@none: No such file or directory"
    assert error_of("train", "@.", status=2) == "@.: Is a directory"
    assert error_of("train", "@", status=2) == "@: No such file or directory"


def test_an_error_in_an_overriding_option_does_not_name_the_file():
    Path("opts").write_text("--epochs 2\n")
    message = error_of("train", "@opts", "--epochs", "x", status=2)
    assert message == "argument --epochs: expected a positive integer, not 'x'"


def test_only_train_reads_option_files():
    Path("opts").write_text("linear\n")
    assert "words: @opts" in error_of("gradcheck", "@opts", status=2)


PATHS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@settings(derandomize=True, database=None)
@given(path=PATHS)
@example("a b")
@example("it's #1")
@example("two\nlines")
@example("-out")
@example("@file")
@example("  ")
def test_every_path_is_read_as_it_was_printed(path):
    line = format_option("out", Path(path))
    Path("opts").write_text(line + "\n", encoding="utf-8", newline="")
    tokens, _ = expand(["train", "@opts"])
    assert " ".join(tokens[1:]).replace("--out=", "--out ", 1) == f"--out {Path(path)}"


def test_a_printed_configuration_with_unusual_names_is_read_back():
    line = ["train", *TINY, "--print-config", "--out=-a 'b'\n#c"]
    text = output_of(*line)
    Path("opts").write_text(text)
    again = output_of("train", "@opts", "--print-config")
    assert again.replace("--warmup 5.0", "--warmup 5") == text
    assert shlex.quote("-a 'b'\n#c") in text
