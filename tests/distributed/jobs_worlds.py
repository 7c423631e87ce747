"""Functions that ask which world they are in, and threads that go on while another job has its turn."""

from __future__ import annotations

import gc
import os
import threading
import time
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from tests.distributed.identity import differences, find, seed_everything
from tests.distributed.jobs_plain import net
from torch.nn.parallel import DistributedDataParallel as DDP

from motet.events import Event, JobEnded
from motet.handle import current_job
from motet.results import Results
from motet.running import run


def _results(results: Results) -> dict[str, Any]:
    for job in results.jobs.values():
        assert job.status == "finished", job.error
    return {name: job.result for name, job in results.jobs.items()}


def asks(program: Any) -> list[Any]:
    """A function that begins in the program's world, makes one of its own, and leaves it."""
    found: list[Any] = [dist.is_initialized(), dist.group.WORLD is program]
    dist.init_process_group("gloo")
    found += [dist.group.WORLD is program, dist.get_world_size()]
    current_job().yield_turn()
    total = torch.ones(2) * dist.get_rank()
    dist.all_reduce(total)
    found += [dist.group.WORLD is program, total.tolist()]
    dist.destroy_process_group()
    return [*found, dist.is_initialized(), dist.group.WORLD is None]


def relies() -> list[Any]:
    """A function that never makes a group, and uses one."""
    found = [dist.is_initialized(), dist.get_world_size(), dist.is_initialized()]
    DDP(net())(torch.ones(2, 10)).sum().backward()
    dist.destroy_process_group()
    try:
        dist.get_rank()
    except ValueError as error:
        return [*found, dist.is_initialized(), type(error).__name__]
    return [*found, "there is a rank without a group"]


def in_a_program_with_a_group() -> tuple[dict[str, Any], bool]:
    """Run functions where the program has made a group; tell what they found, and whether it is there still."""
    program = dist.group.WORLD
    found = _results(run({"one": partial(asks, program), "two": partial(asks, program)}))
    total = torch.ones(1)
    dist.all_reduce(total)
    return found, dist.group.WORLD is program and total.item() == dist.get_world_size()


def in_a_program_without_one() -> tuple[dict[str, Any], bool]:
    """The same where Motet makes the run's group."""
    assert not dist.is_initialized()
    return _results(run({"one": partial(asks, None), "two": relies})), dist.is_initialized()


def thread_beside_another_job() -> dict[str, Any]:
    """Let a job's thread call collectives just when another job has its turn; tell in whose world it was."""
    go, done = threading.Event(), threading.Event()

    def with_a_thread() -> list[Any]:
        dist.init_process_group("gloo")
        mine, found = dist.group.WORLD, []

        def talk() -> None:
            go.wait()
            total = torch.ones(2)
            dist.all_reduce(total)
            group = dist.new_group()
            dist.all_reduce(total, group=group)
            found.extend([dist.group.WORLD is mine, total.tolist(), dist.get_world_size(group)])
            inner = threading.Thread(target=lambda: found.append(dist.group.WORLD is mine))
            inner.start()
            inner.join()
            done.set()

        thread = threading.Thread(target=talk)
        thread.start()
        while not done.is_set():
            current_job().yield_turn()
        thread.join()
        return found

    def beside() -> list[Any]:
        before = dist.group.WORLD
        go.set()
        done.wait()  # all of it happens in this turn
        return [dist.is_initialized(), dist.group.WORLD is before]

    return _results(run({"threaded": with_a_thread, "other": beside}, order="threaded,other"))


def model_in_a_world_of_its_own(name: str) -> list[str]:
    """Run a loop twice, each in a world of its own; tell where it differs from itself alone."""
    seed_everything()
    expected = find(name)()
    seed_everything()

    def whole() -> Any:
        dist.init_process_group("gloo")
        try:
            return find(name)()
        finally:
            dist.destroy_process_group()

    results = _results(run({"one": whole, "two": whole}))
    return [place for result in results.values() for place in differences(result, expected)]


class Counting:
    """Counts threads, open files and groups of this process whenever a job has ended."""

    def __init__(self) -> None:
        self.counts: list[list[int]] = []

    def observe(self, event: Event) -> None:
        if isinstance(event, JobEnded):
            self.counts.append(_counts())


def _counts() -> list[int]:
    gc.collect()
    world: Any = dist.distributed_c10d._world
    return [len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")), len(world.pg_map)]


def many(number: int) -> tuple[list[list[int]], list[int], list[int]]:
    """Run many jobs one after another; return what was counted after each, before the run and after it."""

    def job(ends: bool) -> None:
        dist.init_process_group("gloo")
        dist.new_group()
        model = DDP(net())
        for _ in range(2):
            model(torch.randn(4, 10)).sum().backward()
            model.zero_grad()
        if ends:
            dist.destroy_process_group()

    _results(run({"first": partial(job, True)}))
    before, counting = _counts(), Counting()
    _results(run({f"job{n}": partial(job, n % 2 == 0) for n in range(number)}, at_once=2, observers=[counting]))
    return counting.counts, before, _counts()


def shares_a_device() -> list[Any]:
    """Let the run's group carry a device, by a stand-in for its library; tell what a job's group has of it."""

    def make(store: Any, rank: int, size: int, timeout: Any) -> Any:
        return dist.ProcessGroupGloo(store, rank, size, timeout)

    dist.Backend.register_backend("library", make, devices=["cuda"])
    dist.init_process_group("cpu:gloo,cuda:library")
    program: Any = dist.group.WORLD
    cpu, device = torch.device("cpu"), torch.device("cuda")

    def job(backend: str | None) -> list[Any]:
        dist.init_process_group(backend)
        group: Any = dist.group.WORLD
        found = [
            group is program,
            group._get_backend(cpu) is program._get_backend(cpu),
            group._get_backend(device) is program._get_backend(device),
            dist.get_backend(),
            dist.get_backend_config(),
        ]
        model = DDP(net())
        model(torch.randn(4, 10)).sum().backward()
        total = torch.ones(1)
        dist.all_reduce(total)
        dist.destroy_process_group()
        return [*found, total.item()]

    found = _results(run({"gloo": partial(job, "gloo"), "all": partial(job, None)}))
    total = torch.ones(1)
    program._get_backend(device).allreduce([total]).wait()  # the device's half goes on
    return [found, total.item()]


def threads_in_another_order() -> dict[str, Any]:
    """Let threads of two jobs begin a collective each, on worker 0 in another order than on the others."""
    first = "one" if dist.get_rank() == 0 else "two"
    begun = threading.Event()

    def job(name: str, number: float) -> list[float]:
        dist.init_process_group("gloo")
        value = torch.full((4,), number)

        def talk() -> None:
            if name != first:
                begun.wait()
            work = dist.all_reduce(value, async_op=True)
            begun.set()
            assert work is not None
            work.wait()

        thread = threading.Thread(target=talk)
        thread.start()
        current_job().yield_turn()  # the other job's thread begins, too
        thread.join()
        return value.tolist()

    return _results(run({"one": partial(job, "one", 1.0), "two": partial(job, "two", 100.0)}))


def asks_in_a_callback() -> float:
    """A hook whose callback asks for the number of workers, on a thread of the process group, at whatever moment."""
    seed_everything()
    model = DDP(torch.nn.Linear(500, 500))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def hook(state, bucket):  # type: ignore[no-untyped-def]  # DDP wants types themselves, or none
        work = dist.all_reduce(bucket.buffer(), async_op=True)
        assert work is not None
        return work.get_future().then(lambda future: future.value()[0] / dist.get_world_size())

    model.register_comm_hook(None, hook)
    for _ in range(6):
        optimizer.zero_grad()
        model(torch.randn(4, 500)).sum().backward()
        optimizer.step()
    return model.module.weight.detach().sum().item()


def asks_late() -> bool:
    """A function that is on its way to its process group while others' gradients arrive."""
    begin = time.monotonic()
    while time.monotonic() - begin < 0.5:
        sum(range(1000))
    return dist.is_initialized()


def callbacks_beside_another_job() -> dict[str, Any]:
    """Let one job's callbacks run in the turn of a job that has no group yet."""
    return _results(run({"calls_back": asks_in_a_callback, "late": asks_late}))


def runs_one_after_another() -> list[dict[str, Any]]:
    """Run twice where the program has made no group: each run makes its own."""
    return [_results(run({"one": asks_in_a_callback})) for _ in range(3)]
