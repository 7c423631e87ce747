"""Whether anybody uses memory that is about to be exchanged: other threads, and what torch holds outside of Python.

An operation takes the address of a tensor's memory, lets go of Python's lock, and computes; so does a collective that
is under way, in a thread of gloo's. Neither can be asked. But a thread that waits in one of a few functions of Python's
library does nothing else, and whatever holds a tensor outside of Python (a collective, a graph that is kept, a module
of TorchScript) is counted by it.
"""

from __future__ import annotations

import gc
import os
import sys
import sysconfig
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import chain, takewhile, tee
from operator import call
from types import FrameType
from typing import Any

import torch
from torch import Tensor

_LIBRARY = sysconfig.get_path("stdlib")
_WAITS = {
    os.path.join(_LIBRARY, *file.split("/")): names.split()
    for file, names in {
        "threading.py": "Condition.wait Thread._wait_for_tstate_lock Thread.join",
        "selectors.py": "SelectSelector._select SelectSelector.select _PollLikeSelector.select EpollSelector.select",
        "concurrent/futures/thread.py": "_worker",
        "multiprocessing/connection.py": "Connection._recv",
        "multiprocessing/popen_fork.py": "Popen.poll",
        "socket.py": "socket.accept",
        "subprocess.py": "Popen._try_wait",
    }.items()
}
"""Functions that wait, by file, and that call nothing of a program's: queues and futures wait in one of these."""
_OWN = "motet-"  # threads of Motet's: none of them has to do with weights
_MOST_LOOKS = 8


class Stillness:
    """A time in which all other threads wait, as far as it is asked for: `is_free`, and then `at_once`.

    Where a thread has left its wait meanwhile, a new such time begins with the next question; after a few in vain there
    is none any more.
    """

    def __init__(self) -> None:
        self._looks_left = _MOST_LOOKS
        self._waiting: dict[int, FrameType] | None = None
        self._threads: set[int] = set()
        self._tensors: dict[int, dict[int, Tensor]] | None = None

    def __bool__(self) -> bool:
        """Whether all other threads wait now, or did when it was asked last."""
        if self._waiting is None and self._looks_left:
            self._looks_left -= 1
            self._waiting, self._threads = _waiting_threads()
        return self._waiting is not None

    def is_free(self, storage: torch.UntypedStorage) -> bool:
        """Whether all other threads wait, and nothing outside of Python holds a tensor of this storage."""
        if not self:
            return False
        if self._tensors is None:
            # Once, as it takes long: threads that look round now and then would leave their waits meanwhile. What comes
            # later is held outside of this, so it counts as use.
            self._tensors = _tensors_here()
            self._waiting = None
            if not self:
                return False
        tensors = self._tensors.get(storage._cdata, {})
        with torch._C.DisableTorchFunction():  # of classes of a program's own
            views = Counter(id(tensor._base) for tensor in tensors.values())  # a view holds what it is a view of
            counted = all(
                Tensor._use_count(tensor) == 1 + views[key]  # type: ignore[attr-defined]
                and Tensor.untyped_storage(tensor)._cdata == storage._cdata  # it may have been given another
                for key, tensor in tensors.items()
            )
        return counted and torch._C._storage_Use_Count(storage._cdata) == len(tensors) + 1

    def at_once(self, step: Callable[[], Any]) -> list[Any] | None:
        """Call ``step``, of which no part may be Python, if no thread has left its wait since `is_free` was asked.

        Return a list with what it returned, which is empty for what is false; None if it was not called. Python lets
        other threads run between its own instructions: here are none, from looking at the threads to the call.
        """
        if self._waiting is None:
            return None
        frames, again = tee(map(call, (sys._current_frames,)))
        steps = chain(
            map(self._waiting.items().__le__, map(dict.items, frames)),
            map(self._threads.issuperset, again),
            map(call, (step,)),
        )
        collects = gc.isenabled()
        gc.disable()  # it calls whatever has to be called at an object's end
        try:
            done = list(takewhile(bool, steps))
        finally:
            del frames, again, steps  # among the frames is that of this call
            if collects:
                gc.enable()
        if len(done) < 2:
            self._waiting = None
            return None
        self._looks_left = _MOST_LOOKS
        return done[2:]


def _waiting_threads() -> tuple[dict[int, FrameType] | None, set[int]]:
    """Return where each other thread waits, None if one does not, and all threads; Motet's are only among these."""
    own = {thread.ident for thread in threading.enumerate() if thread.name.startswith(_OWN)}
    frames = sys._current_frames()
    threads = set(frames)
    del frames[threading.get_ident()]  # this very call: it would refer to itself
    waiting = {thread: frame for thread, frame in frames.items() if thread not in own}
    return waiting if all(map(_waits, waiting.values())) else None, threads


def _waits(frame: FrameType) -> bool:
    return frame.f_code.co_qualname in _WAITS.get(frame.f_code.co_filename, ())


def _tensors_here() -> dict[int, dict[int, Tensor]]:
    """Return all tensors that Python has, by their storages' addresses and their ids."""
    found: defaultdict[int, dict[int, Tensor]] = defaultdict(dict)
    with torch._C.DisableTorchFunction():
        for tensor in objects_of(Tensor):
            try:
                for each in (tensor, tensor._base):
                    if each is not None:
                        found[Tensor.untyped_storage(each)._cdata][id(each)] = each
            except Exception:  # it has no storage
                continue
    return found


def objects_of(kind: type) -> list[Any]:
    """Return all objects of a kind that Python's garbage collector knows."""
    objects = gc.get_objects()
    types = {id(each): each for each in map(type, objects)}
    # Not isinstance, which some objects answer with code of their own.
    kinds = {key for key, each in types.items() if issubclass(each, kind)}
    return [each for each in objects if id(type(each)) in kinds]
