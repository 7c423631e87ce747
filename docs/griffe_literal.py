"""Docstrings as Markdown: a line that ends in two colons begins a block of code, as it does in the source."""

from __future__ import annotations

import re
from typing import Any

import griffe

_LITERAL = re.compile(r"::[ ]*(?=\n\s*\n)")


class Literal(griffe.Extension):
    """Turn ``text::`` into ``text:``, and a bare ``::`` into nothing, before the docstring is rendered."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of ``obj``, if it has one."""
        if obj.docstring is not None:
            text = re.sub(r"(?m)^::[ ]*$", "", obj.docstring.value)
            obj.docstring.value = _LITERAL.sub(":", text)
