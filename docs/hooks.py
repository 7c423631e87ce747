"""What MkDocs is told besides mkdocs.yml: the decisions, and pages that others add without listing them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# Pages that come with a feature: where one is missing, what leads there is plain text.
COMING = re.compile(r"\[([^\]]+)\]\(([\w./]*(?:failures|checkpoints|search|trackers)\.md)(#[\w-]+)?\)")


def on_config(config: Any) -> Any:
    """List every decision in ``adr/``, and in their section every guide that mkdocs.yml does not list."""
    docs = Path(config["docs_dir"])
    listed = str(config["nav"])
    for section in config["nav"]:
        for title, pages in section.items():
            if title == "Guides":
                found = sorted(path.relative_to(docs).as_posix() for path in (docs / "guides").glob("*.md"))
                pages += [page for page in found if page not in listed]
    if (docs / "failures.md").exists() and "failures.md" not in listed:
        next(section for section in config["nav"] if "Concepts" in section)["Concepts"].append("failures.md")
    decisions = sorted(path.relative_to(docs).as_posix() for path in (docs / "adr").glob("*.md"))
    config["nav"].insert(-2, {"Decisions": [page for page in decisions if page not in listed]})
    return config


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Leave out links to pages that are not there yet."""
    folder = Path(page.file.abs_src_path).parent
    return COMING.sub(lambda link: link[0] if (folder / link[2]).exists() else link[1], markdown)
