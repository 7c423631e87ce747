"""States of models, optimizers and the rest; a training that goes on from files."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.unit.checkpoints.test_payload import through_a_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from motet.checkpoints import (
    Checkpoints,
    DataPosition,
    payloads_of,
    random_generators,
    restore,
    restore_job,
    restore_random_generators,
    snapshot,
    state_of,
)
from motet.checkpoints.generators import same_generators
from motet.errors import CheckpointError, UsageError


@pytest.fixture(autouse=True)
def generators_as_before() -> Iterator[None]:
    saved = random_generators()
    yield
    restore_random_generators(saved)


@pytest.fixture
def group_of_one(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    yield
    dist.destroy_process_group()


class Training:
    """A small model with all that has a state."""

    def __init__(self, seed: int, width: int = 6) -> None:
        torch.manual_seed(seed)
        self.model: Any = nn.Sequential(
            nn.Linear(4, width), nn.BatchNorm1d(width), nn.Dropout(0.3), nn.Linear(width, 1)
        )
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.05, amsgrad=True)
        self.rates = lr_scheduler.CosineAnnealingLR(self.optimizer, 10)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
        x = torch.arange(80, dtype=torch.float32).view(20, 4).sin()
        self.data = DataPosition(DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), 3, shuffle=True))
        self.objects = {
            "model": self.model,
            "optimizer": self.optimizer,
            "rates": self.rates,
            "scaler": self.scaler,
            "data": self.data,
        }

    def steps(self) -> Iterator[int]:
        """Train three epochs, or what remains of them; yield the turn after each step."""
        for epoch in self.data.epochs(3):
            for x, y in self.data:
                self.optimizer.zero_grad()
                loss = nn.functional.mse_loss(self.model(x), y)
                self.scaler.scale(loss).backward()
                self.scaler.step(self.optimizer)
                self.scaler.update()
                self.rates.step()
                yield epoch * len(self.data) + self.data.batch


def same_state(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_state(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same_state, one, other))
    return bool(one == other)


def save(checkpoints: Checkpoints, turn: int, objects: dict[str, Any]) -> None:
    payloads = payloads_of(objects, checkpoints.worker)
    checkpoints.commit(turn, [checkpoints.write_part(turn, name, snapshot(each)) for name, each in payloads.items()])


@pytest.mark.parametrize("stop", [1, 6, 7, 8, 20])
def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path, stop: int) -> None:
    whole = Training(seed=1)
    for _ in whole.steps():
        pass
    generators = random_generators()
    part = Training(seed=1)
    checkpoints = Checkpoints(tmp_path, "narrow", worker=0, num_workers=1)
    for turn in part.steps():
        if turn == stop:
            save(checkpoints, turn, part.objects)
            break
    rest = Training(seed=2)
    found = checkpoints.latest()
    assert found is not None
    restored = restore_job(checkpoints, found, rest.objects)
    assert (restored.turn, restored.notes) == (stop, ())
    turns = list(rest.steps())
    assert turns == list(range(stop + 1, 22))
    for name in ("model", "optimizer", "rates", "scaler"):
        assert same_state(state_of(whole.objects)[name], state_of(rest.objects)[name]), name
    assert same_generators(random_generators(), generators)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"width": 7}, "model"),
        ({"drop": "rates"}, "rates"),
        ({"add": "more"}, "more"),
        ({"optimizer": "sgd"}, "optimizer"),
        ({"optimizer": "two groups"}, "optimizer"),
    ],
    ids=str,
)
def test_another_jobs_state_is_refused_by_name(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    first = Training(seed=1)
    next(first.steps())
    checkpoints = Checkpoints(tmp_path, "narrow", worker=0, num_workers=1)
    save(checkpoints, 1, first.objects)
    found = checkpoints.latest()
    assert found is not None
    other = Training(seed=1, width=change.get("width", 6))
    objects: dict[str, Any] = dict(other.objects)
    if "drop" in change:
        del objects[change["drop"]]
    if "add" in change:
        objects[change["add"]] = nn.Linear(1, 1)
    if change.get("optimizer") == "sgd":
        objects["optimizer"] = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    if change.get("optimizer") == "two groups":
        groups = [{"params": [each]} for each in other.model.parameters()]
        objects["optimizer"] = torch.optim.Adam(groups)
    with pytest.raises(CheckpointError, match=named):
        restore_job(checkpoints, found, objects)


def test_an_optimizers_shapes_are_checked() -> None:
    one, other = nn.Linear(2, 3), nn.Linear(3, 2)
    optimizers = [torch.optim.Adam(each.parameters()) for each in (one, other)]
    one(torch.ones(1, 2)).sum().backward()
    optimizers[0].step()
    with pytest.raises(CheckpointError, match=r"'adam' \(Adam\): exp_avg has shape \(3, 2\), its parameter \(2, 3\)"):
        restore({"adam": optimizers[1]}, state_of({"adam": optimizers[0]}))


@pytest.mark.usefixtures("group_of_one")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_names_do_not_depend_on_wrappers() -> None:
    plain = nn.Linear(2, 2)
    compiled: Any = torch.compile(nn.Linear(2, 2))
    wrapped = DistributedDataParallel(nn.Linear(2, 2))
    both = DistributedDataParallel(compiled)
    state = through_a_file(snapshot(state_of({"model": plain})))
    for target in (compiled, wrapped, both):
        assert state_of({"model": target})["model"].keys() == {"weight", "bias"}  # type: ignore[attr-defined]
        restore({"model": target}, state)
        assert torch.equal(next(target.parameters()), plain.weight)


def test_what_has_no_state_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'loss' cannot be saved.*float has no state_dict"):
        state_of({"loss": 0.5})


def test_what_each_worker_holds_for_itself_is_kept_apart(tmp_path: Path) -> None:
    gang = [Checkpoints(tmp_path, "narrow", worker=rank, num_workers=2) for rank in range(2)]
    trainings = [Training(seed=1) for _ in gang]
    parts = []
    for checkpoints, training in zip(gang, trainings, strict=True):
        torch.manual_seed(10 + checkpoints.worker)
        steps = training.steps()
        for _ in range(1 + checkpoints.worker):
            next(steps)
        payloads = payloads_of(training.objects, checkpoints.worker)
        assert ("shared" in payloads) == (checkpoints.worker == 0)
        parts += [checkpoints.write_part(1, name, snapshot(each)) for name, each in payloads.items()]
    gang[0].commit(1, parts)
    found = gang[1].latest()
    assert found is not None
    torch.manual_seed(11)
    fresh = Training(seed=3)
    assert restore_job(gang[1], found, fresh.objects).notes == ()
    assert torch.equal(fresh.model[0].weight, trainings[0].model[0].weight), "the model is worker 0's"
    assert torch.equal(fresh.model[1].running_mean, trainings[1].model[1].running_mean), "the buffers its own"
    assert fresh.data.batch == 2


def test_another_number_of_workers_is_reported(tmp_path: Path) -> None:
    (old,) = (Checkpoints(tmp_path, "narrow", worker=0, num_workers=1),)
    training = Training(seed=1)
    next(training.steps())
    save(old, 1, training.objects)
    new = Checkpoints(tmp_path, "narrow", worker=1, num_workers=2)
    found = new.latest()
    assert found is not None
    fresh = Training(seed=2)
    before = torch.get_rng_state()
    (note,) = restore_job(new, found, fresh.objects).notes
    assert "written by 1 workers and goes on with 2" in note
    assert torch.equal(torch.get_rng_state(), before), "two workers must not draw the same numbers"
    assert torch.equal(fresh.model[0].weight, training.model[0].weight)


@pytest.mark.parametrize("payload", [3, {}, {"objects": 1}, {"objects": {"model": 3}}])
def test_parts_that_hold_something_else(tmp_path: Path, payload: Any) -> None:
    checkpoints = Checkpoints(tmp_path, "narrow", worker=0, num_workers=1)
    parts = [checkpoints.write_part(1, name, payload) for name in ("shared", "worker-0")]
    found = checkpoints.commit(1, parts)
    with pytest.raises(CheckpointError):
        restore_job(checkpoints, found, {"model": nn.Linear(1, 1)})


def rates_of(optimizer: torch.optim.Optimizer) -> dict[str, lr_scheduler.LRScheduler]:
    """Return one of each of torch's schedulers."""
    made: dict[str, lr_scheduler.LRScheduler] = {
        "LambdaLR": lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step),
        "MultiplicativeLR": lr_scheduler.MultiplicativeLR(optimizer, lambda step: 0.9),
        "StepLR": lr_scheduler.StepLR(optimizer, 2),
        "MultiStepLR": lr_scheduler.MultiStepLR(optimizer, [2, 3]),
        "CyclicLR": lr_scheduler.CyclicLR(optimizer, 0.1, 0.2, step_size_up=2),
        "OneCycleLR": lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=9),
        "CosineAnnealingLR": lr_scheduler.CosineAnnealingLR(optimizer, 4),
        "CosineAnnealingWarmRestarts": lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 2),
        "ExponentialLR": lr_scheduler.ExponentialLR(optimizer, 0.9),
        "ConstantLR": lr_scheduler.ConstantLR(optimizer),
        "LinearLR": lr_scheduler.LinearLR(optimizer),
        "PolynomialLR": lr_scheduler.PolynomialLR(optimizer),
        "ReduceLROnPlateau": lr_scheduler.ReduceLROnPlateau(optimizer),
    }
    steps = [lr_scheduler.ConstantLR(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    made["SequentialLR"] = lr_scheduler.SequentialLR(optimizer, steps, [2])
    made["ChainedScheduler"] = lr_scheduler.ChainedScheduler(steps, optimizer)
    return made


@pytest.mark.filterwarnings("ignore:Detected call of:UserWarning", "ignore:The epoch parameter:UserWarning")
def test_torchs_schedulers_and_optimizers_can_be_saved() -> None:
    weight = nn.Parameter(torch.ones(3, 3))
    for kind, rates in rates_of(torch.optim.SGD([weight], lr=0.1, momentum=0.9)).items():
        args = (1.0,) if kind == "ReduceLROnPlateau" else ()
        rates.step(*args)
        state = through_a_file(snapshot(state_of({kind: rates})))
        restore({kind: rates}, state)
    kinds = {
        each for _, each in inspect.getmembers(torch.optim, inspect.isclass) if issubclass(each, torch.optim.Optimizer)
    }
    for each in kinds - {torch.optim.Optimizer, torch.optim.SparseAdam, torch.optim.LBFGS}:
        optimizers = [each([weight], lr=0.1) for _ in range(2)]  # type: ignore[call-arg]
        weight.grad = torch.ones(3, 3)
        optimizers[0].step()
        state = through_a_file(snapshot(state_of({"it": optimizers[0]})))
        restore({"it": optimizers[1]}, state)
        assert same_state(state["it"], optimizers[1].state_dict()), each
