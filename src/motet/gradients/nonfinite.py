"""NaN and infinity in gradients: found when they have arrived, where all workers see the same numbers.

A synchronized gradient is the same on every worker, so every worker decides alike and nothing is sent. Costs one pass
over the gradients of each turn, and nothing where it is not asked for.
"""

from __future__ import annotations

import math
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from motet.config import OnNan
from motet.divergence import GRADIENTS, State, kind_of
from motet.errors import NonFiniteError
from motet.events import Diverged, Event
from motet.jobs.outcome import JobStopped


def error_for(on_nan: OnNan, job: str, turn: int, models: Iterable[DistributedDataParallel]) -> BaseException | None:
    """Return what to raise inside ``job`` after ``turn``, None if all its gradients are finite.

    ``raise``: a `NonFiniteError`, which the loop may catch; ``stop-job``: what ends the job as failed.
    """
    found = next((text for model in models if (text := _first(model)) is not None), None)
    if found is None:
        return None
    text = f"job '{job}', turn {turn}: the synchronized gradient of {found}, on all workers"
    if on_nan == "raise":
        return NonFiniteError(f"{text}. Lower the learning rate, clip gradients, or look at the data of this turn")
    return JobStopped("failed", f"{text}; the job was ended, as --on-nan stop-job asks")


class FiniteCheck:
    """Reports when a job's values are not finite any more: what it logs, and its gradients on a CPU.

    Of the gradients it looks at one small tensor a turn, which costs microseconds: NaN in a loss spreads to all of
    them. On a device that look would make the host wait. ``notice`` notifies the user of a job once it has lasted.
    """

    def __init__(self, observe: Callable[[Event], None], notice: Callable[[str, str], None]) -> None:
        self._observe = observe
        self._notice = notice
        self._states: defaultdict[str, State] = defaultdict(State)
        self._smallest: weakref.WeakKeyDictionary[DistributedDataParallel, weakref.ref[Tensor]]
        self._smallest = weakref.WeakKeyDictionary()

    def logged(self, job: str, turn: int, values: Mapping[str, float]) -> None:
        """Take note of what a job logged."""
        for name, value in values.items():
            self.note(job, name, turn, kind_of(value))

    def synced(self, job: str, turn: int, models: Iterable[DistributedDataParallel]) -> None:
        """Take note of the gradients of a turn."""
        kinds = [_kind(grad) for model in models if (grad := self._small_gradient(model)) is not None]
        if kinds:
            self.note(job, GRADIENTS, turn, next(filter(None, kinds), ""))

    def note(self, job: str, name: str, turn: int, kind: str) -> None:
        """Take note of how one value of a job is not finite; ``kind`` is empty if it is."""
        state = self._states[job]
        before = state.now.get(name)
        if state.note(name, turn, kind):
            self._notice(job, _DIVERGED.format(state.text()))
        after = state.now.get(name)
        if before != after:
            since = None if after is None else after.since_turn
            self._observe(Diverged(time=time.perf_counter(), job=job, name=name, value=kind, since_turn=since))

    def ended(self, job: str) -> dict[str, dict[str, object]] | None:
        """Notify the user if the job ends so, and return what `motet.results.JobResult.nonfinite` holds."""
        state = self._states.pop(job, State())
        if state.now:
            self._notice(job, _DIVERGED.format(state.text()))
        return state.to_json()

    def _small_gradient(self, model: DistributedDataParallel) -> Tensor | None:
        """Return the gradient of the model's smallest parameter that has one on the CPU."""
        reference = self._smallest.get(model)
        parameter = reference() if reference is not None else None
        if parameter is None or parameter.grad is None:
            own = [p for p in model.parameters() if p.grad is not None and p.grad.layout == torch.strided]
            parameter = min(own, key=lambda one: one.numel(), default=None)
            if parameter is None:
                return None
            self._smallest[model] = weakref.ref(parameter)
        grad = parameter.grad
        return grad.detach() if grad is not None and grad.device.type == "cpu" else None


_DIVERGED = "has diverged: {}. (--on-nan stop-job ends such a job.)"


def _kind(grad: Tensor) -> str:
    try:
        total = grad.sum().item()
        if math.isfinite(abs(total)) or torch.isfinite(grad).all():  # the sum alone is quick, and may overflow
            return ""
        return "NaN" if torch.isnan(grad).any() else "infinity"
    except Exception:  # a type for which torch has no such function: the training is none the worse
        return ""


def _first(model: DistributedDataParallel) -> str | None:
    """Say which parameter's gradient is the first that is not finite, and what it holds."""
    named = [
        (name, parameter.grad)
        for name, parameter in model.module.named_parameters()
        if parameter.grad is not None and name not in model.parameters_to_ignore
    ]
    if not named or _finite([grad for _, grad in named]):
        return None
    for name, grad in named:
        values = _values(grad)
        if not torch.isfinite(values).all():
            what = "NaN" if torch.isnan(values).any() else "infinity"
            return f"parameter '{name}' holds {what}"
    return None  # the sum of finite gradients was too large for their type


def _finite(gradients: list[Tensor]) -> bool:
    norms = torch._foreach_norm([_values(grad) for grad in gradients], 1)
    return bool(torch.isfinite(torch.stack([norm.float() for norm in norms]).sum()))


def _values(grad: Tensor) -> Tensor:
    return grad.coalesce().values() if grad.layout == torch.sparse_coo else grad.detach()
