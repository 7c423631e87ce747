"""What a training loop can ask and say while it runs: ``motet.current_job()``.

A loop need not use it at all. One that does still runs alone under plain torchrun: there `current_job` gives a
handle on which every call is accepted and nothing happens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

DEFAULT_EVERY_MINUTES = 10.0


class JobPruned(Exception):
    """Raised by a loop, on all workers in the same turn, to end its job early: it was not worth going on with.

    The job's status is then ``pruned``, the other jobs go on, and the next one takes its place.
    """


class Keeper(Protocol):
    """Who saves and restores a job (`motet.checkpoints.coordinator`)."""

    def begin(
        self, objects: Mapping[str, object], every_turns: int | None, every_minutes: float | None, keep: int
    ) -> int:
        """Take note of what is to be saved, restore it if there is something to restore; return the turns done."""

    def save_point(self) -> None:
        """The loop could start again here."""


class Resume(int):
    """How many turns the job has done: 0 in a new run, more in one that goes on from a checkpoint. An ``int``."""

    _keeper: Keeper | None

    def __new__(cls, turns: int, keeper: Keeper | None = None) -> Resume:
        """Make it of the turns done, and of who saves."""
        resume = super().__new__(cls, turns)
        resume._keeper = keeper
        return resume

    def save_point(self) -> None:
        """Say that the loop could start again here; what `JobHandle.save_point` does."""
        if self._keeper is not None:
            self._keeper.save_point()


class JobHandle:
    """One job, as its own loop sees it."""

    def __init__(
        self,
        name: str,
        job_dir: Path | None = None,
        on_log: Callable[[dict[str, float]], None] = lambda values: None,
        on_expect: Callable[[int], None] = lambda turns: None,
        on_parameters: Callable[[Mapping[str, object]], None] = lambda values: None,
        on_yield: Callable[[], bool] = lambda: False,
    ) -> None:
        self.name = name
        self._job_dir = job_dir
        self._on_log = on_log
        self._on_expect = on_expect
        self._on_parameters = on_parameters
        self._on_yield = on_yield
        self.logs_itself = False
        self._keeper: Keeper | None = None

    def saved_by(self, keeper: Keeper) -> None:
        """For the runtime: have ``keeper`` save what the loop registers."""
        self._keeper = keeper

    @property
    def job_dir(self) -> Path:
        """The folder for this job's own files: ``RUN_DIR/jobs/NAME``, or the current folder without a run directory."""
        return self._job_dir if self._job_dir is not None else Path.cwd()

    def log(self, **values: float) -> None:
        """Log numbers (floats, ints, or tensors of one element) for progress, ``metrics.jsonl`` and the report.

        Raises TypeError for anything else. A tensor on an accelerator is brought to the host, which waits for it.
        """
        plain: dict[str, float] = {}
        for key, value in values.items():
            try:
                plain[key] = float(value)
            except (TypeError, ValueError, RuntimeError) as error:
                raise TypeError(f"job.log({key}=...) takes a number; it was given {value!r:.80}") from error
        self.logs_itself = True
        self._on_log(plain)

    def log_for_trainer(self, values: dict[str, float]) -> None:
        """Log what is no word of the job's own: a trainer's, on its behalf (`motet.trainers.metrics`)."""
        self._on_log(values)

    def expect(self, turns: int) -> None:
        """Say how many turns (synchronized steps) this job will take in all, for the order and the time left."""
        if not isinstance(turns, int) or turns < 1:
            raise ValueError(f"job.expect(turns=...) takes a number of turns, at least 1; it was given {turns!r}")
        self._on_expect(turns)

    def checkpoint(
        self, *, every_turns: int | None = None, every_minutes: float | None = None, keep: int = 2, **objects: object
    ) -> Resume:
        """Have ``objects`` saved from now on, restore them if this run saved them before; return the turns done.

        ::

            start = motet.current_job().checkpoint(model=ddp, optimizer=optimizer, every_turns=100)
            for step in range(start, num_steps):
                ...                      # forward, backward, optimizer.step()
                start.save_point()       # here the loop could start again

        ``objects``: whatever has ``state_dict`` and ``load_state_dict``, and random generators of the loop's own
        (`torch.Generator`); the global ones are saved in any case. ``every_turns`` and ``every_minutes`` say when the
        next save point saves (by default every 10 minutes); so does the end of the loop, and a request to stop. A
        registered `DataPosition` says by itself where the loop could start again: at its next batch, once the
        optimizer has stepped. ``keep``: how many stay, the newest.

        Call it once, on all workers, when all objects are built (models in DDP) and all seeds are set: seeding later
        would undo what is restored of the global generators. Blocks to read what is restored.
        Raises `CheckpointError` if that does not fit or nothing that was saved is whole. Outside of a run with a run
        directory nothing is saved or restored, and 0 is returned: the loop still runs under plain torchrun.
        """
        if not objects:
            raise ValueError("job.checkpoint(...) takes the objects to save, by name: model=..., optimizer=...")
        if every_turns is not None and (not isinstance(every_turns, int) or every_turns < 1):
            raise ValueError(
                f"job.checkpoint(every_turns=...) takes a number of turns, at least 1, not {every_turns!r}"
            )
        if every_minutes is not None and not every_minutes > 0:
            raise ValueError(f"job.checkpoint(every_minutes=...) takes minutes, above 0, not {every_minutes!r}")
        if not isinstance(keep, int) or keep < 1:
            raise ValueError(f"job.checkpoint(keep=...) takes a number of checkpoints, at least 1, not {keep!r}")
        if every_turns is None and every_minutes is None:
            every_minutes = DEFAULT_EVERY_MINUTES
        done = 0 if self._keeper is None else self._keeper.begin(objects, every_turns, every_minutes, keep)
        return Resume(done, self._keeper)

    def save_point(self) -> None:
        """Say that the loop could start again here: everything that it needs is in the registered objects.

        Saves if a checkpoint is due. A run that is to stop ends the loop here, once it has saved. Not in the middle of
        an accumulation of gradients: gradients are not saved.
        """
        if self._keeper is not None:
            self._keeper.save_point()

    def yield_turn(self) -> bool:
        """Give up the turn here; returns when the next one begins. Returns whether it could be given up.

        For long stretches in which nothing is synchronized, an evaluation or many steps under ``no_sync()``: other
        jobs that wait for the network can use it meanwhile. All workers must call it at the same places, never
        under an ``if`` on the rank: the order of the turns would differ, and the run end with an error that says so.
        Where a turn cannot end (inside a forward, a backward, or an autocast block), nothing happens.
        """
        return self._on_yield()

    def set_parameters(self, **values: object) -> None:
        """Say what this job was made with (learning rate, width), for trackers; those of its call are known already."""
        self._on_parameters(values)


_SOLO = JobHandle("solo")
_current: JobHandle | None = None


def current_job() -> JobHandle:
    """Return the job that is running now; a handle that does nothing where no run is under way."""
    return _SOLO if _current is None else _current


def running_job() -> str | None:
    """Return the name of the job whose turn it is, None between turns and outside of runs. For the runtime."""
    return None if _current is None else _current.name


def set_current(handle: JobHandle | None) -> None:
    """Note whose turn it is. For the runtime."""
    global _current
    _current = handle
