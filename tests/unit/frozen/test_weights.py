"""One job's frozen weights: what is found, moved to a file under all who use it, and given back where written to."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from motet.frozen import weights
from motet.frozen.weights import JobWeights, modules_here

SIDE = 520  # 1.08 MB


def frozen() -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Linear(SIDE, SIDE, bias=False).requires_grad_(False)


def share(*modules: nn.Module) -> list[JobWeights]:
    jobs = []
    for module in modules:
        job = JobWeights({})
        job.find(module.modules())
        job.name()
        jobs.append(job)
    names = [piece.name for piece in jobs[-1]._pieces]
    file, places = jobs[-1].write(names)
    for job in jobs:
        job.share(file, places)
    os.close(file)
    return jobs


def is_mapped(tensor: torch.Tensor) -> bool:
    rows = [row.split(maxsplit=5) for row in Path("/proc/self/maps").read_text(encoding="ascii").splitlines()]
    ends = [(*(int(end, 16) for end in row[0].split("-")), len(row) > 5 and "motet-frozen" in row[5]) for row in rows]
    return any(begin <= tensor.data_ptr() < end and ours for begin, end, ours in ends)


def test_equal_weights_lie_in_one_file_under_all_who_use_them() -> None:
    one, other = frozen(), frozen()
    view, tied, before = one.weight[3:, 5], nn.Parameter(one.weight.detach(), requires_grad=False), one.weight.clone()
    share(one, other)
    for tensor in (one.weight, other.weight, view, tied):
        assert is_mapped(tensor)
    assert tied.data_ptr() == one.weight.data_ptr()
    assert torch.equal(one.weight, before)
    view.zero_()
    tied[0] = 7
    assert torch.equal(one.weight[3:, 5], torch.zeros(SIDE - 3))
    assert torch.equal(one.weight[0], torch.full((SIDE,), 7.0))
    assert torch.equal(other.weight, before)


def test_two_weights_of_one_job_with_equal_bytes_stay_two() -> None:
    ours, other = nn.ModuleList([frozen(), frozen(), frozen()]), frozen()
    before = other.weight.clone()
    share(ours, other)
    assert len({each.weight.data_ptr() for each in ours}) == 3
    assert all(is_mapped(each.weight) for each in ours)
    ours[0].weight.data.add_(1)
    for each in (ours[1], ours[2], other):
        assert torch.equal(each.weight, before)


def test_memory_goes_with_the_weights() -> None:
    one, other = frozen(), frozen()
    share(one, other)
    address = one.weight.data_ptr()
    del one
    rows = Path("/proc/self/maps").read_text(encoding="ascii").splitlines()
    begins = [int(row.split("-")[0], 16) for row in rows if "motet-frozen" in row]
    assert begins == [other.weight.data_ptr()] != [address]


def test_what_is_written_all_over_becomes_ordinary_memory() -> None:
    one, other = frozen(), frozen()
    jobs = share(one, other)
    one.weight.data.add_(1)
    other.weight.data[0] += 1
    assert len(jobs[0].written()) == 1
    assert jobs[1].written() == []
    assert not is_mapped(one.weight)
    assert is_mapped(other.weight)
    assert torch.equal(one.weight[1:], other.weight[1:] + 1)
    assert jobs[0].written() == []


def test_what_has_changed_meanwhile_stays_its_own() -> None:
    one, other = frozen(), frozen()
    jobs = [JobWeights({}), JobWeights({})]
    for job, module in zip(jobs, (one, other), strict=True):
        job.find(module.modules())
        job.name()
    file, places = jobs[1].write([piece.name for piece in jobs[1]._pieces])
    one.weight.data[5, 5] += 1
    assert jobs[0].share(file, places) == {}
    os.close(file)
    assert not is_mapped(one.weight)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(SIDE, SIDE),
        lambda: nn.Linear(8, 8).requires_grad_(False),
        lambda: nn.Linear(SIDE, SIDE, device="meta").requires_grad_(False),
        lambda: frozen().share_memory(),
        lambda: nn.LazyLinear(SIDE),
    ],
    ids=["trained", "small", "without memory", "shared with processes", "not there yet"],
)
def test_what_is_not_looked_at(make: Callable[[], nn.Module]) -> None:
    module, job = make(), JobWeights({})
    job.find(module.modules())
    assert job.num_found == 0


def test_a_storage_of_which_a_part_trains_is_not_frozen() -> None:
    module = frozen()
    module.part = nn.Parameter(module.weight.detach()[:3])
    job = JobWeights({})
    job.find(module.modules())
    assert job.num_found == 0


def test_empty_caches_are_left_out() -> None:
    module, job = nn.Module(), JobWeights({})
    module.register_buffer("cache", torch.zeros(SIDE, SIDE))
    job.find(module.modules())
    assert job.name() == {}


def test_memory_of_another_librarys_stays_where_it_is() -> None:
    module, job = frozen(), JobWeights({})
    module.weight.numpy()  # may be kept
    job.find(module.modules())
    assert job.name() == {}
    assert list(job.fixed().values()) == [4 * SIDE * SIDE]


def test_weights_inside_of_a_wrapper_are_found() -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    module, job = nn.Module(), JobWeights({})
    inner = [torch.ones(SIDE, SIDE), torch.full((SIDE, SIDE), 2.0)]
    module.weight = nn.Parameter(TwoTensor(*inner), requires_grad=False)
    job.find(module.modules())
    assert len(job.name()) == 2


def test_modules_are_found_wherever_they_are() -> None:
    kept = {"anywhere": [frozen()]}
    assert any(each is kept["anywhere"][0] for each in modules_here())


def test_memory_is_kept_while_a_thread_may_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = frozen(), frozen()
    monkeypatch.setattr(weights, "others_rest", lambda: False)
    jobs = share(one, other)
    assert jobs[0]._left
    jobs[0].written()
    assert jobs[0]._left
    monkeypatch.setattr(weights, "others_rest", lambda: True)
    jobs[0].written()
    assert not jobs[0]._left


def test_a_thread_that_waits_rests_and_one_that_is_elsewhere_does_not() -> None:
    stop, begun, over = threading.Event(), threading.Lock(), threading.Lock()

    def elsewhere() -> None:
        begun.release()
        over.acquire()  # in C, called from here: as an operation of torch's

    begun.acquire()
    over.acquire()
    waiting = threading.Thread(target=stop.wait)
    waiting.start()
    assert weights.others_rest()
    busy = threading.Thread(target=elsewhere)
    busy.start()
    begun.acquire()
    assert not weights.others_rest()
    over.release()
    stop.set()
    busy.join()
    waiting.join()
