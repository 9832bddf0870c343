"""`train @FILE`: read options from a file, such as the output of --print-config."""

import io
import re
import shlex
from collections.abc import Iterator, Sequence

from ..files import FileError
from ..terminal import escape, shorten

MAX_BYTES = 20_000  # `argparse` takes minutes for 100,000 options
MAX_VALUE, MAX_MESSAGE = 100, 400  # characters of a value in an error message, and of the message
LONG = re.compile(r"\S{200,}")
SEPARATORS = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")  # white space and comments
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
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FileError(f"{path}, line {line}: the text is not valid UTF-8") from None
    stream, line, end = io.StringIO(text), 1, 0
    lexer = shlex.shlex(stream, posix=True)
    lexer.whitespace_split = True
    while True:
        separators = SEPARATORS.match(text, end)
        assert separators  # it may be empty
        start = separators.end()  # the start of the next token
        line += text.count("\n", end, start)
        try:
            token = lexer.get_token()
        except ValueError:
            raise FileError(f"{path}, line {line}: a quotation mark is not closed") from None
        if token is None:
            return
        if token.startswith("@") or "\0" in token:
            raise FileError(f"{path}, line {line}: '{token:.40}' is neither an option nor a value")
        yield line, token
        end = stream.tell()
        line += text.count("\n", start, end)


def format_error(program: str, message: str, origins: Origins) -> str:
    """Return the line that reports an error. Long values in the message are shortened.

    If the first option in the message was read from a file, the file and line are added.
    """
    name = re.search(r"--[^\s'=:,;/]+", message)
    if name and name[0] in origins:
        message = f"{origins[name[0]]}: {message}"
    message = LONG.sub(lambda match: shorten(match[0], MAX_VALUE), message)
    return f"{program}: error: {shorten(escape(message), MAX_MESSAGE)}"
