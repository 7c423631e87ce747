"""Any function of a worker's, on a thread that is not the main one."""

from __future__ import annotations

import importlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def call(function: str, /, *args: Any, **kwargs: Any) -> Any:
    """Call ``module:name`` on a thread, as Ray calls a training function, and return or raise what came of it."""
    module, name = function.split(":")

    def on_thread() -> Any:
        assert threading.current_thread() is not threading.main_thread()
        return getattr(importlib.import_module(module), name)(*args, **kwargs)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(on_thread).result()
