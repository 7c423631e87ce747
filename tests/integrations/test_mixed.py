"""All kinds of loops in one run, and what becomes of the others when some of them fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

ALL = [f"loops_{kind}:train" for kind in ("lightning", "fabric", "accelerate", "hugging_face", "plain")]


def test_all_kinds_together(equal_alone: Callable[..., dict[str, Any]]) -> None:
    report = equal_alone(*ALL)
    assert report["turns"] == [8, 16, 16, 8, 8]
    assert report["notices"] == []


def test_loops_that_fail_leave_the_others_unharmed(equal_alone: Callable[..., dict[str, Any]]) -> None:
    report = equal_alone(*(f"{name}?fail" for name in ALL), *ALL, fails=range(5))
    assert report["turns"][5:] == [8, 16, 16, 8, 8]
    assert all("this loop fails" in error for error in report["errors"][:5])
