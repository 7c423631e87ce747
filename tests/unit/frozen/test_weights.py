"""One job's frozen weights: what is found, moved to a file under all who use it, and given back where written to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from motet.frozen import pages, weights
from motet.frozen.in_use import Stillness
from motet.frozen.weights import JobWeights, Shared, Written, modules_here

SIDE = 520  # 1.08 MB


def frozen() -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Linear(SIDE, SIDE, bias=False).requires_grad_(False)


def share(*modules: nn.Module, error: str | None = None) -> list[JobWeights]:
    jobs = []
    for module in modules:
        job = JobWeights({})
        job.find(module.modules())
        job.name(Stillness())
        jobs.append(job)
    written = jobs[-1].write(jobs[-1].names, Stillness())
    assert written.file is not None
    assert written.error == error
    for job in jobs:
        job.share(written.file, written.places, Stillness())
    os.close(written.file)
    return jobs


def is_mapped(tensor: torch.Tensor) -> bool:
    rows = [row.split(maxsplit=5) for row in Path("/proc/self/maps").read_text(encoding="ascii").splitlines()]
    ends = [(*(int(end, 16) for end in row[0].split("-")), len(row) > 5 and "motet-frozen" in row[5]) for row in rows]
    return any(begin <= tensor.data_ptr() < end and ours for begin, end, ours in ends)


def num_mapped() -> int:
    rows = Path("/proc/self/maps").read_text(encoding="ascii").splitlines()
    return sum("motet-frozen" in row for row in rows)


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
    before = num_mapped()
    del one
    assert num_mapped() == before - 1
    assert is_mapped(other.weight)


def test_what_is_written_all_over_becomes_ordinary_memory() -> None:
    one, other = frozen(), frozen()
    jobs = share(one, other)
    one.weight.data.add_(1)
    other.weight.data[0] += 1
    assert len(jobs[0].written(Stillness())) == 1
    assert jobs[1].written(Stillness()) == []
    assert not is_mapped(one.weight)
    assert is_mapped(other.weight)
    assert torch.equal(one.weight[1:], other.weight[1:] + 1)
    assert jobs[0].written(Stillness()) == []


def test_what_has_changed_meanwhile_stays_its_own() -> None:
    one, other = frozen(), frozen()
    jobs = [JobWeights({}), JobWeights({})]
    for job, module in zip(jobs, (one, other), strict=True):
        job.find(module.modules())
        job.name(Stillness())
    written = jobs[1].write(jobs[1].names, Stillness())
    assert written.file is not None
    one.weight.data[5, 5] += 1
    assert jobs[0].share(written.file, written.places, Stillness()) == Shared()
    os.close(written.file)
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
    assert job.name(Stillness()) == {}


def test_memory_of_another_librarys_stays_where_it_is() -> None:
    module, job = frozen(), JobWeights({})
    module.weight.numpy()  # may be kept
    job.find(module.modules())
    assert job.name(Stillness()) == {}
    assert list(job.fixed().values()) == [4 * SIDE * SIDE]


def test_weights_inside_of_a_wrapper_are_found() -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    module, job = nn.Module(), JobWeights({})
    inner = [torch.ones(SIDE, SIDE), torch.full((SIDE, SIDE), 2.0)]
    module.weight = nn.Parameter(TwoTensor(*inner), requires_grad=False)
    job.find(module.modules())
    assert len(job.name(Stillness())) == 2


def test_modules_are_found_wherever_they_are() -> None:
    kept = {"anywhere": [frozen()]}
    assert any(each is kept["anywhere"][0] for each in modules_here())


class Names(nn.Module):
    """A module whose methods are its program's own."""

    def parameters(self, *args: object) -> Iterator[nn.Parameter]:  # type: ignore[override]
        raise AssertionError("called")

    buffers = parameters  # type: ignore[assignment]


class NotBuilt(nn.Module):
    def __init__(self) -> None:
        pass


def test_no_code_of_the_programs_is_called_to_find_weights() -> None:
    module, job = Names(), JobWeights({})
    module.weight = frozen().weight
    job.find([module, NotBuilt()])
    assert job.num_found == 1


class Composed(torch.Tensor):
    """A tensor made of others, which does not say so."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Composed:
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)  # type: ignore[no-any-return, attr-defined]

    @classmethod
    def __torch_dispatch__(cls, func: object, types: object, args: object = (), kwargs: object = None) -> object:
        raise AssertionError(func)


def test_a_tensor_that_has_no_memory_and_does_not_say_so_is_left_out() -> None:
    module, job = nn.Module(), JobWeights({})
    module._buffers["weight"] = Composed(torch.ones(SIDE, SIDE))
    job.find([module])
    assert job.num_found == 0


def test_weights_that_are_known_can_be_swapped() -> None:
    one, other = frozen(), frozen()
    share(one, other)
    fresh = nn.Parameter(torch.zeros(SIDE, SIDE), requires_grad=False)
    torch.utils.swap_tensors(one.weight, fresh)
    assert is_mapped(fresh)
    assert not is_mapped(one.weight)


def test_a_device_or_a_mode_of_the_programs_does_not_matter() -> None:
    with torch.device("meta"):
        one, other = frozen().to_empty(device="cpu"), frozen().to_empty(device="cpu")
        for each in (one, other):
            each.weight.data.copy_(torch.arange(SIDE * SIDE, device="cpu").view(SIDE, SIDE))
        share(one, other)
    assert is_mapped(one.weight)
    assert is_mapped(other.weight)


def test_what_is_gone_or_has_changed_is_not_written() -> None:
    one, other = frozen(), frozen()
    job = JobWeights({})
    job.find([one, other])
    other.weight.data[0, 0] += 1
    assert len(job.name(Stillness())) == 2
    names = job.names
    del one
    other.weight.data[0, 0] += 1
    assert job.write(names, Stillness()) == Written(None, {}, None)
    del other
    assert job.write(names, Stillness()) == Written(None, {}, None)


def test_of_equal_weights_the_one_that_can_move_is_written() -> None:
    ours, other = nn.ModuleList([frozen(), frozen()]), frozen()
    ours[0].weight.numpy()
    share(other, ours)
    assert is_mapped(ours[1].weight)
    assert is_mapped(other.weight)
    assert not is_mapped(ours[0].weight)


def test_without_memory_for_all_the_rest_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, other = nn.ModuleList([frozen(), frozen()]), nn.ModuleList([frozen(), frozen()])
    for each in (ours, other):
        each[1].weight.data.add_(1)
    write = pages.write

    def full(file: int, offset: int, address: int, num_bytes: int) -> None:
        if offset:
            raise OSError(28, "No space left on device")
        write(file, offset, address, num_bytes)

    monkeypatch.setattr(pages, "write", full)
    share(ours, other, error="[Errno 28] No space left on device")
    assert [is_mapped(each.weight) for each in (*ours, *other)] == [True, False, True, False]


def test_what_is_in_use_is_shared_later(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = frozen(), frozen()
    jobs = [JobWeights({}), JobWeights({})]
    for job, module in zip(jobs, (one, other), strict=True):
        job.find(module.modules())
        job.name(Stillness())
    written = jobs[1].write(jobs[1].names, Stillness())
    assert written.file is not None
    x = torch.ones(1, SIDE, requires_grad=True)
    graph = one(x)  # holds the weight, as a collective under way does
    assert jobs[0].share(written.file, written.places, Stillness()) == Shared(later=set(written.places))
    assert not is_mapped(one.weight)
    graph.sum().backward()
    assert jobs[0].share(written.file, written.places, Stillness()).later == set()
    assert is_mapped(one.weight)
    os.close(written.file)


def test_what_is_in_use_is_found_and_given_back_later() -> None:
    one, other = frozen(), frozen()
    x = torch.ones(1, SIDE, requires_grad=True)
    graph, job = one(x), JobWeights({})
    job.find([one])
    assert job.name(Stillness()) == {}
    assert job.num_found == 1
    graph.sum().backward()
    assert len(job.name(Stillness())) == 1
    jobs = share(one, other)
    one.weight.data.add_(1)
    graph = one(x)
    assert jobs[0].written(Stillness()) == []
    graph.sum().backward()
    assert len(jobs[0].written(Stillness())) == 1


def test_memory_that_a_device_has_registered_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = frozen(), frozen()
    jobs = share(one, other)
    one.weight.data.add_(1)
    third = JobWeights({})
    third.find([frozen_one := frozen()])
    third.name(Stillness())
    monkeypatch.setattr(weights, "_is_pinned", lambda storage: True)
    assert jobs[0].written(Stillness()) == []
    written = third.write(third.names, Stillness())
    assert written.file is not None
    os.close(written.file)
    assert not is_mapped(frozen_one.weight)


def test_what_is_gone_is_forgotten() -> None:
    known: dict[int, StorageWeakRef] = {}
    job, kept = JobWeights(known), frozen()
    job.find([kept, frozen()])
    assert len(known) == 2
    job.find([])
    assert len(known) == 1


class Restless(Stillness):
    """Other threads go on after so many questions of whether something is free."""

    def __init__(self, num_free: int) -> None:
        super().__init__()
        self.left = num_free

    def is_free(self, storage: torch.UntypedStorage) -> bool:
        self.left -= 1
        return self.left >= 0 and super().is_free(storage)


def test_nothing_is_written_of_what_cannot_be_exchanged_then() -> None:
    ours = nn.ModuleList([nn.Linear(SIDE, SIDE, bias=False).requires_grad_(False) for _ in range(3)])
    job = JobWeights({})
    job.find(ours.modules())
    names = job.name(Stillness())
    written = job.write(list(names), Restless(1))
    assert written.file is not None
    assert list(written.places) == list(names)[:1]
    assert os.fstat(written.file).st_size == pages.whole_pages(4 * SIDE * SIDE)
    assert [is_mapped(each.weight) for each in ours] == [True, False, False]
    assert job.num_found == 2
    assert list(job.name(Stillness())) == list(names)[1:], "they are claimed once more"
    os.close(written.file)


def test_nothing_is_written_while_a_thread_is_in_the_middle_of_something() -> None:
    one, before = frozen(), num_mapped()
    job = JobWeights({})
    job.find([one])
    names = job.name(Stillness())

    class Never(Stillness):
        def __bool__(self) -> bool:
            return False

    assert job.write(list(names), Never()) == Written(None, {}, None)
    assert num_mapped() == before
    assert job.name(Stillness()) == names


def test_what_takes_time_is_looked_at_once_for_each_measured_turn() -> None:
    job = JobWeights({})
    assert [turn for turn in [1, 1, 1, 2, 3, 3, 5, 6, 6, 11, 13, 13, 23, 25, 47] if job.is_due(turn)] == [
        1, 3, 6, 13, 25,
    ]  # fmt: skip
    stepping = JobWeights({})
    assert [turn for turn in range(5, 60, 5) if stepping.is_due(turn)] == [5, 10, 15, 25, 50]
