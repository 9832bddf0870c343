"""Errors about files that are not a complete, valid model."""

import pytest

from minivit import ViT
from minivit.weights import CheckpointError


def refusal(load, *parts):
    """Return the message of a refusal, which is one line and contains all `parts`.

    load: a function, or the path of a file, which the message must contain.
    """
    path, load = (None, load) if callable(load) else (load, lambda: ViT.load(path))
    with pytest.raises(CheckpointError) as error:
        load()
    message = str(error.value)
    assert len(message.splitlines()) == 1
    for part in (*parts, *[str(path)] * (path is not None)):
        assert part in message, message
    return message
