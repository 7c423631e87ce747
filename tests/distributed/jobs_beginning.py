"""How workers begin a run together, each in its own time. For workers that have joined no group."""

from __future__ import annotations

import os
import time

from motet import entry
from motet.errors import UsageError
from motet.workers.meeting import meet


def refused_before_the_others_are_here() -> list[str]:
    """Have worker 0 refuse the run at once; worker 1 comes when worker 0 has had time to. Return what each is told."""
    notices: list[str] = []

    def begin() -> None:
        notices.append("asked with all here" if store.check(["motet/here/0/1"]) else "asked alone")
        raise UsageError("the run is still going on")

    store, _, _ = meet()
    if os.environ["RANK"] == "1":
        while not any(store.check([word]) for word in ("motet/here/0/0", "motet/begin/0")):
            time.sleep(0.01)  # until worker 0 waits for this one, or has refused without it
    try:
        entry.begin_together(begin)  # type: ignore[arg-type]  # it never returns
    except UsageError as error:
        notices.append(str(error))
    return notices
