"""Which job of a sweep did best: by a value that all log or return, and that says by its name what is better."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from motet.errors import UsageError
from motet.suggest import did_you_mean

BOOKKEEPING = 3  # the place of logged values that do not show how well a job does
Mode = Literal["min", "max"]
_LESS = {
    "loss",
    "error",
    "err",
    "perplexity",
    "ppl",
    "mae",
    "mse",
    "rmse",
    "nll",
    "wer",
    "cer",
    "fid",
    "bpb",
    "byte",
    "regret",
}
_MORE = {"acc", "accuracy", "auc", "auroc", "f1", "bleu", "rouge", "score", "reward", "return", "precision", "recall"}
_MORE |= {"map", "iou", "dice", "r2", "top1", "top5", "correct", "bleu4", "chrf", "ndcg", "psnr", "ssim", "mcc"}


@dataclass(frozen=True)
class Logged:
    """One value of one job before and after: means over the first and the last twentieth of what was logged, or
    what the job itself returned as ``{"metric": ..., "before": ..., "after": ...}``, perhaps with a ``"baseline"``."""

    name: str
    first: float
    last: float
    count: int
    baseline: float | None = None
    diverged: str = ""  # ``NaN since turn 9``, where it ends so


class Ranked(Protocol):
    """What is asked of a job."""

    @property
    def name(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def values(self) -> Mapping[str, Logged]: ...


@dataclass(frozen=True)
class Ranking:
    """The jobs by ``metric``, the best one first; those without it, or where it is not finite, come last."""

    metric: str
    mode: Mode
    names: tuple[str, ...]
    values: Mapping[str, float]

    @property
    def best(self) -> str:
        """The job that did best."""
        return self.names[0]


def mode_of(metric: str) -> Mode | None:
    """Return whether less or more of a value is better; None where its name does not say."""
    words = set(re.findall(r"[a-z]+[0-9]*", re.sub(r"([a-z])([A-Z])", r"\1_\2", metric).lower()))
    if words & _LESS:
        return "min"
    return "max" if words & _MORE else None


def ranking(jobs: Sequence[Ranked], metric: str | None = None, mode: Mode | None = None) -> Ranking | None:
    """Return which job did best; None where there is nothing to compare, or a name does not say what is better.

    Jobs of different programs are compared only where a ``metric`` is asked for: a loss of one says nothing about
    the other, and a value that is the same for all says nothing. Raises `UsageError` where no job has that metric.
    """
    counts: dict[str, int] = {}
    for job in jobs:
        for name in job.values:
            counts[name] = counts.get(name, 0) + 1
    if metric is None:
        if len(jobs) < 2 or len({job.target for job in jobs}) > 1:
            return None
        rated = [name for name, n in counts.items() if n >= 2 and mode_of(name) is not None and _differs(jobs, name)]
        metric = max(rated, key=lambda name: (counts[name], -rated.index(name)), default=None)
        if metric is None:
            return None
    elif metric not in counts:
        raise UsageError(f"--metric: no job has logged {metric!r}{did_you_mean(metric, counts)}")
    mode = mode or mode_of(metric)
    if mode is None:
        raise UsageError(f"--metric {metric}: say what is better with --mode min or --mode max")
    values = {job.name: _value(job, metric) for job in jobs}
    sign = 1.0 if mode == "min" else -1.0

    def key(job: Ranked) -> tuple[bool, bool, float]:
        value = values[job.name]
        return not math.isfinite(value), job.status == "failed", sign * value if math.isfinite(value) else 0.0

    names = tuple(job.name for job in sorted(jobs, key=key))
    return Ranking(metric, mode, names, values) if math.isfinite(values[names[0]]) else None


def _differs(jobs: Sequence[Ranked], metric: str) -> bool:
    """Whether a value tells jobs apart: where all have the same, none of them did best."""
    found = [value for job in jobs if math.isfinite(value := _value(job, metric))]
    return len(found) < 2 or len(set(found)) > 1


def _value(job: Ranked, metric: str) -> float:
    one = job.values.get(metric)
    return math.nan if one is None or one.diverged else one.last


def interest(name: str) -> tuple[int, str]:
    """Order logged values: validation before training, losses before other figures, bookkeeping last."""
    lowered = name.lower()
    held_out = any(word in lowered for word in ("val", "test", "eval"))
    quality = any(word in lowered for word in ("loss", "acc", "perplexity", "ppl", "error", "auc", "f1", "bleu"))
    loss = "loss" in lowered
    bookkeeping = any(word in lowered for word in ("lr", "learning_rate", "epoch", "step", "time", "norm", "second"))
    return (
        BOOKKEEPING if bookkeeping and not quality else 0 if held_out and quality else 1 if loss else 2 - quality,
        lowered,
    )
