"""The command line, run in this process."""

import contextlib
import io
from typing import NamedTuple

from minivit.cli import main


class Run(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


def run(*words):
    """`python -m minivit` and these words."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(word) for word in words])
        except SystemExit as end:  # how argparse ends
            status = end.code
    return Run(status, out.getvalue(), err.getvalue())


def printed(*words):
    """What a command prints that has no trouble."""
    status, out, err = run(*words)
    assert (status, err) == (0, "")
    return out
