"""Hatch hook: the README of the package index, with absolute links to the repository."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class ReadmeHook(MetadataHookInterface):
    """Set `readme`. The address of the repository is that in [project.urls]."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Replace the relative links and images of README.md."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = absolute_links(text, metadata["urls"]["Repository"])
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def absolute_links(text: str, repository: str) -> str:
    """Replace the relative links in a Markdown text by links to the main branch.

    "../../" stands for the web pages of the repository, which are two levels above its files.
    """
    text = text.replace("](../../", f"]({repository}/")
    relative = r"\]\((?!https?:|#)"
    text = re.sub(rf"(!\[[^\]]*){relative}", rf"\1]({repository}/raw/main/", text)
    return re.sub(relative, f"]({repository}/blob/main/", text)
