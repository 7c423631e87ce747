"""NaN and infinity in gradients: found when they have landed, where all workers see the same numbers.

A synchronized gradient is the same on every worker, so every worker decides alike and nothing is sent. Costs one pass
over the gradients of each turn, and nothing where it is not asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from motet.errors import NonFiniteError, UsageError
from motet.turns import JobStopped

OnNan = Literal["ignore", "stop-job", "raise"]


def check_on_nan(value: str) -> None:
    """Raise `UsageError` unless ``value`` says what to do."""
    if value not in get_args(OnNan):
        raise UsageError(f"on_nan (--on-nan) takes {', '.join(get_args(OnNan))}; it was given {value!r}")


def answer_to(on_nan: OnNan, job: str, turn: int, models: Iterable[DistributedDataParallel]) -> BaseException | None:
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
