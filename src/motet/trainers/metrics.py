"""What a framework's trainer logs of a training goes to ``job.log`` by itself: how well the job does.

Nothing is imported and nothing is patched: a trainer is found on the stack of a backward, and read from then on.
Lightning's ``callback_metrics`` are read every ``log_every_n_steps`` steps, entries of Transformers' ``log_history`` as
they come; both once more at the end of the job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

from motet.trainers.length import owner_on_stack

# Of a log_history: what counts on, or describes the machine.
_NO_METRIC = {"epoch", "step", "total_flos", "num_input_tokens_seen"}
_NO_METRIC_SUFFIXES = ("_runtime", "_per_second")
LIGHTNING_STEPS = 50


class Reported:
    """Follows the trainer of one job; ``log`` takes what it logs. ``silent()``: the job logs by itself."""

    def __init__(self, log: Callable[[dict[str, float]], None], silent: Callable[[], bool]) -> None:
        self._log = log
        self._silent = silent
        self._num_looks = 0
        self._owner: object = None
        self._read: Iterator[Mapping[str, Any]] | None = None

    def look(self, frame: FrameType | None) -> None:
        """Log what is new. Called in each backward; the stack is searched in the 1st, 2nd, 4th, 8th, …"""
        self._num_looks += 1
        if self._num_looks & (self._num_looks - 1) == 0:
            kind, owner = owner_on_stack(frame)
            if owner is not None and owner is not self._owner:
                self.flush()
                self._owner, self._read = owner, _SOURCES[kind](owner)
        if self._read is not None:
            self._log_plain(next(self._read, None))

    def flush(self) -> None:
        """Log what the trainer knows at the end, and let it go."""
        read, self._read, self._owner = self._read, None, None
        if read is not None:
            try:
                self._log_plain(read.send(True))  # type: ignore[attr-defined]
            except Exception:  # another version of the framework
                return

    def _log_plain(self, values: Mapping[str, Any] | None) -> None:
        plain: dict[str, float] = {}
        for name, value in (values or {}).items():
            try:
                plain[str(name)] = float(value)
            except Exception:  # a tensor of several values, a text
                continue
        if plain and not self._silent():
            self._log(plain)


def _of_lightning(loop: Any) -> Iterator[Mapping[str, Any]]:
    """Yield what is to be logged; what is sent in asks for the last values."""
    last, ends = -1, None
    while True:
        values: Mapping[str, Any] = {}
        try:
            trainer = loop.trainer
            step = trainer.global_step
            every = getattr(trainer, "log_every_n_steps", None) or LIGHTNING_STEPS
            if ends or (step != last and step > 0 and step % every == 0):
                last, values = step, dict(trainer.callback_metrics)
        except Exception:  # another version of the framework: nothing is logged then
            values = {}
        ends = yield values


def _of_transformers(trainer: Any) -> Iterator[Mapping[str, Any]]:
    """Yield new entries, those that came together as one; those of before a resume have been logged then."""
    history = trainer.state.log_history
    count = len(history) if trainer.state.global_step > 0 else 0
    while True:
        values: dict[str, Any] = {}
        for entry in history[count:]:
            values.update({name: value for name, value in entry.items() if _is_metric(name)})
        count = len(history)
        yield values


def _is_metric(name: str) -> bool:
    return name not in _NO_METRIC and not name.endswith(_NO_METRIC_SUFFIXES)


_SOURCES = {"lightning": _of_lightning, "transformers": _of_transformers}
