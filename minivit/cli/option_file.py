"""`train @FILE`: read options from a file, such as the output of --print-config."""

import re
import shlex
from collections.abc import Iterator, Sequence

from ..files import FileError

MAX_BYTES = 1_000_000
Origins = dict[str, str]  # {option: the file and the line that contain it}


def expand(arguments: Sequence[str]) -> tuple[list[str], Origins]:
    """Replace each @FILE argument with the options in the file.

    Also returns the file and line of each option. Raises FileError if a file is not a valid option
    file, OSError if it cannot be read.
    """
    expanded: list[str] = []
    origins: Origins = {}
    for argument in arguments:
        path = argument[1:]
        tokens = read_tokens(path) if argument.startswith("@") else [(0, argument)]
        for line, token in tokens:
            name = token.partition("=")[0]
            origins.pop(name, None)  # a later option replaces an earlier one
            if line and name.startswith("--"):
                origins[name] = f"{path}, line {line}"
            expanded.append(token)
    return expanded, origins


def read_tokens(path: str) -> Iterator[tuple[int, str]]:
    """Yield the pairs (line number, token) of a file, which are quoted as in a shell."""
    with open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise FileError(f"{path} has more than {MAX_BYTES:,} bytes, too many for an option file")
    start, pending = 1, ""
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            pending += line.decode()
            tokens = shlex.split(pending, comments=True)
        except UnicodeDecodeError:
            raise FileError(f"{path}, line {number}: the text is not valid UTF-8") from None
        except ValueError:  # a quoted string that continues on the next line
            pending += "\n"
            continue
        for token in tokens:
            if token.startswith("@") or "\0" in token:
                raise FileError(f"{path}, line {start}: '{token}' is neither an option nor a value")
            yield start, token
        start, pending = number + 1, ""
    if pending:
        raise FileError(f"{path}, line {start}: a quotation mark is not closed")


def locate(message: str, origins: Origins) -> str:
    """Add the file and line to an error message about an option that was read from a file."""
    names = re.findall(r"--[a-z-]+", message)
    return f"{origins[names[0]]}: {message}" if names and names[0] in origins else message
