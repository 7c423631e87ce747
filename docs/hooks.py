"""What MkDocs is told besides mkdocs.yml: the changelog stands outside of its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Return a page as it is built: the changelog in the place of the words that lead to it."""
    if page.file.src_uri != "changelog.md":
        return markdown
    return Path(config["docs_dir"], "..", "CHANGELOG.md").read_text(encoding="utf-8")
