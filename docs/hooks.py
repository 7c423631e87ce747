"""What MkDocs is told besides mkdocs.yml: the decisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """List every decision in ``adr/``."""
    docs = Path(config["docs_dir"])
    decisions = sorted(path.relative_to(docs).as_posix() for path in (docs / "adr").glob("*.md"))
    config["nav"].insert(-2, {"Decisions": decisions})
    return config
