"""Whether memory is in use: by threads in the middle of something, and by what holds tensors outside of Python."""

from __future__ import annotations

import asyncio
import gc
import queue
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from operator import call

import numpy as np
import pytest
import torch
from torch import nn

from motet.frozen import in_use
from motet.frozen.in_use import Stillness


@contextmanager
def in_thread(target: Callable[[], object]) -> Iterator[None]:
    thread = threading.Thread(target=target)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def must_become(wanted: bool) -> None:
    """Wait until a thread is where it waits, or is no more."""
    end = time.monotonic() + 60
    while bool(Stillness()) is not wanted:
        assert time.monotonic() < end


def test_threads_that_wait_are_still() -> None:
    stop, items, done = threading.Event(), queue.Queue[None](), threading.Event()

    def child() -> None:
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
            done.wait()
            assert process.stdin is not None
            process.stdin.close()
            process.wait()

    async def sleep() -> None:
        await asyncio.to_thread(stop.wait)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        with in_thread(stop.wait), in_thread(items.get), in_thread(child), in_thread(lambda: asyncio.run(sleep())):
            must_become(True)
            items.put(None)
            done.set()
            stop.set()


@pytest.mark.parametrize("by", ["pool", "thread", "own code"])
def test_a_thread_in_the_middle_of_something_is_not(by: str) -> None:
    """It has called C, which waits here, as an operation of torch's does that computes."""
    lock = threading.Lock()
    lock.acquire()

    def own_code() -> None:
        lock.acquire()

    with ThreadPoolExecutor(1) as pool:
        if by == "pool":
            pool.submit(lock.acquire)
        else:
            threading.Thread(target=lock.acquire if by == "thread" else own_code).start()
        must_become(False)
        assert not Stillness().is_free(torch.ones(3).untyped_storage())
        lock.release()
    must_become(True)


def test_threads_of_motets_own_do_not_count() -> None:
    lock = threading.Lock()
    lock.acquire()
    thread = threading.Thread(target=lock.acquire, name="motet-watch")
    thread.start()
    assert Stillness()
    lock.release()
    thread.join()


def test_nothing_is_done_once_a_thread_has_left_its_wait() -> None:
    stop, again, over = threading.Event(), threading.Event(), threading.Event()
    calls: list[int] = []

    def waits_twice() -> None:
        stop.wait()
        again.set()
        over.wait()

    with in_thread(waits_twice):
        must_become(True)
        still = Stillness()
        assert still
        assert still.at_once(calls.__len__) == []
        stop.set()
        again.wait()
        must_become(True)  # as before; but it has been elsewhere meanwhile
        assert still.at_once([].append) is None
        assert still, "a time of its own begins"
        assert still.at_once(int) == []
        over.set()


def test_a_thread_that_looks_round_now_and_then_does_not_stand_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves its wait while all tensors are looked for, which takes a while."""
    stop, left = threading.Event(), threading.Event()

    def looks_round() -> None:
        while not stop.wait(0.01):
            left.set()

    def looks_for_long() -> dict[int, dict[int, torch.Tensor]]:
        left.clear()
        left.wait()
        while not in_use._waiting_threads()[0]:
            time.sleep(0.001)
        return tensors()

    tensors, weight = in_use._tensors_here, torch.ones(5)
    monkeypatch.setattr(in_use, "_tensors_here", looks_for_long)
    with in_thread(looks_round):
        try:
            must_become(True)
            done = 0
            for _ in range(20):  # it may leave once more right then, but not every time
                still = Stillness()
                done += still.is_free(weight.untyped_storage()) and still.at_once(int) is not None
            assert done
        finally:
            stop.set()


def test_nothing_is_done_once_a_thread_has_come() -> None:
    still, over = Stillness(), threading.Event()
    assert still
    with in_thread(over.wait):
        must_become(True)
        assert still.at_once(int) is None
        over.set()


class Token:
    pass


def ask(kept: Token, *, leaves: bool) -> None:
    still = Stillness()
    assert still.is_free(torch.ones(3).untyped_storage())
    if leaves:
        still._threads.clear()
    assert (still.at_once(int) is None) is leaves


@pytest.mark.parametrize("leaves", [True, False])
def test_nothing_is_kept_by_asking(leaves: bool) -> None:
    """Frames refer to what their functions have: memory that was exchanged must go at once."""
    token = Token()
    gone = weakref.ref(token)
    gc.disable()
    try:
        ask(token, leaves=leaves)
        del token
        assert gone() is None
    finally:
        gc.enable()


def test_a_thread_that_never_rests_is_asked_for_a_few_times_only() -> None:
    still, over = Stillness(), threading.Event()
    for _ in range(in_use._MOST_LOOKS):
        assert still
        with in_thread(lambda: None):
            pass
        still._threads.clear()  # as if one had come
        assert still.at_once(int) is None
    assert not still
    over.set()


def test_what_was_done_is_returned() -> None:
    still = Stillness()
    assert still
    assert still.at_once(lambda: 7) == [7]
    assert still.at_once(lambda: None) == []


def use_nothing(weight: torch.Tensor) -> object:
    return weight[3:], weight.detach()[:2, :2], weight.data, weight.view(-1).view(4, 4), nn.Parameter(weight.detach())


def use_in_inference(weight: torch.Tensor) -> object:
    with torch.inference_mode():
        return weight[1:], weight.detach()[2:]


@pytest.mark.parametrize("use", [use_nothing, use_in_inference])
def test_views_do_not_use_it(use: Callable[[torch.Tensor], object]) -> None:
    weight = nn.Parameter(torch.ones(4, 4), requires_grad=False)
    kept = use(weight)
    assert Stillness().is_free(weight.untyped_storage())
    del kept
    assert Stillness().is_free(weight.untyped_storage())


class Strict(torch.Tensor):
    @classmethod
    def __torch_function__(cls, *args: object, **kwargs: object) -> object:  # type: ignore[override]
        raise LookupError("a program's own")


def test_no_code_of_the_programs_is_called() -> None:
    weight = torch.ones(4, 4).as_subclass(Strict)
    with torch._C.DisableTorchFunction():
        storage = weight.untyped_storage()
    lazy = nn.LazyLinear(3)
    assert Stillness().is_free(storage)
    del lazy


def graph(weight: torch.Tensor) -> object:
    return torch.nn.functional.linear(torch.ones(1, 4, requires_grad=True), weight)


def graph_of_a_view(weight: torch.Tensor) -> object:
    return graph(weight.data)


def array(weight: torch.Tensor) -> object:
    return np.from_dlpack(weight.detach())


def script(weight: torch.Tensor) -> object:
    layer = nn.Linear(4, 4, bias=False)
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return torch.jit.trace(layer, torch.ones(1, 4))  # type: ignore[no-untyped-call]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("use", [graph, graph_of_a_view, array, script])
def test_what_holds_it_outside_of_python_uses_it(use: Callable[[torch.Tensor], object]) -> None:
    weight = nn.Parameter(torch.ones(4, 4), requires_grad=False)
    kept = use(weight)
    assert not Stillness().is_free(weight.untyped_storage())
    del kept
    gc.collect()
    assert Stillness().is_free(weight.untyped_storage())


def test_call_is_no_function_of_pythons() -> None:
    """Between what `at_once` calls, no other thread may run."""
    assert type(call) is type(len)
