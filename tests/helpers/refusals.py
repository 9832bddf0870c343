"""Errors about files that are not a valid model."""

import pytest

from minivit import ViT
from minivit.weights import CheckpointError


def refusal(load, *parts):
    """Return the message of a CheckpointError, which must be one line and contain all `parts`.

    load: a function, or the path of a file. The message must contain the path.
    """
    path, load = (None, load) if callable(load) else (load, lambda: ViT.load(path))
    with pytest.raises(CheckpointError) as error:
        load()
    message = str(error.value)
    assert len(message.splitlines()) == 1
    for part in (*parts, *[str(path)] * (path is not None)):
        assert part in message, message
    return message
