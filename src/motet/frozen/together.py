"""Frozen weights of jobs that live together in a worker's process.

A job's are looked for when its first turn has ended: then its model is built, and nobody else has run meanwhile. The
job that is found to hold the same as an earlier one writes the file; both use it from then on, the earlier one between
two of its turns.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from motet.frozen import pages
from motet.frozen.in_use import Stillness
from motet.frozen.notices import BUSY, SavingNotices
from motet.frozen.register import ClaimAnswer, Register
from motet.frozen.weights import WITHOUT, JobWeights, Places, can_share, has_grown, modules_here
from motet.memory.footprint import SETTLED_TURN


class HeldOnce:
    """The frozen weights of all jobs of this worker; all calls come from the main thread, between turns."""

    def __init__(self, notice: Callable[[str | None, str], None], *, on: bool = True) -> None:
        self._notice = notice
        self._on = on
        self._notices = SavingNotices(notice)
        self._register = Register()
        self._jobs: dict[str, JobWeights] = {}
        self._known: dict[int, StorageWeakRef] = {}
        self._files: dict[int, tuple[int, Places]] = {}  # open files, by number
        self._later: dict[str, dict[int, set[str]]] = {}  # what lies in files, and is in use now
        self._failed: set[str] = set()
        self._allocated: dict[str, int | None] = {}
        self._notified = True

    def turn_begins(self, job: str) -> None:
        """Take note of what is there before a job's first turn."""
        if self._on and job not in self._jobs and job not in self._allocated:
            self._allocated[job] = pages.allocated_bytes()

    def turn_ended(self, job: str, num_synced: int, live: Collection[str], num_jobs: int) -> None:
        """Look for what the job holds, after its first turn; later now and then for what it has written to.

        ``live``: the jobs that are there now, of ``num_jobs`` that the run is known to have. The run does not end with
        what fails here: the job goes on with what it has.
        """
        if not self._on or num_jobs < 2 or num_synced == 0 or job in self._failed:
            return
        if not can_share():
            self._on = False
            self._notice(None, WITHOUT)
            return
        try:
            with torch._C.DisableTorchFunction():
                self._look(job, num_synced, live)
        except Exception as error:
            self._failed.add(job)
            self._later.pop(job, None)
            self._jobs.setdefault(job, JobWeights(self._known))
            self._notices.failed(job, f"{type(error).__name__}: {error}")
            self._close(self._register.ended(job))
        if not self._notified and all(name in self._jobs for name in live):
            self._notified = True
            self._notices.notify(self._register)

    def _look(self, job: str, num_synced: int, live: Collection[str]) -> None:
        weights = self._jobs.get(job)
        if weights is None:
            weights = self._jobs[job] = JobWeights(self._known)
            if has_grown(self._allocated.pop(job, None)):
                weights.find(modules_here())
        measured = weights.is_due(num_synced)
        if len(live) > 1 and (weights.num_found or job in self._later) and (measured or not weights.in_use):
            self._claim(job, weights)
            if weights.in_use and num_synced >= SETTLED_TURN:
                self._notice(job, BUSY)
        elif weights.num_shared and measured:
            self._close(self._register.owns(job, weights.written(Stillness())))

    def _claim(self, job: str, weights: JobWeights) -> None:
        self._notified = False
        still = Stillness()
        for number, names in self._later.pop(job, {}).items():
            self._share(job, number, names, still)
        found = weights.name(still)
        self._register.keeps(job, weights.fixed())
        answer = self._register.claim(job, found)
        for number, several in answer.share.items():
            self._share(job, number, several, still)
        if answer.write:
            self._write(job, answer, still)
        weights.in_use = weights.num_found > 0 or job in self._later

    def _write(self, job: str, answer: ClaimAnswer, still: Stillness) -> None:
        written = self._jobs[job].write(answer.write, still)
        if written.error is not None:
            self._notices.failed(job, written.error)
        if written.file is not None:
            self._files[answer.number] = (written.file, written.places)
        for each, names in self._register.wrote(job, answer.number, written.places).items():
            self._share(each, answer.number, names, still)
        self._close(self._register.owns(job, set(answer.write) - written.places.keys()))

    def _share(self, job: str, number: int, names: Collection[str], still: Stillness) -> None:
        file, places = self._files[number]
        done = self._jobs[job].share(file, {name: places[name] for name in names}, still)
        if done.error is not None:
            self._notices.failed(job, done.error)
        if done.later:
            self._later.setdefault(job, {})[number] = done.later
            self._jobs[job].in_use = True
        self._register.shares(job, done.shared)
        self._close(self._register.owns(job, set(names) - done.shared.keys() - done.later))

    def ended(self, job: str) -> int:
        """Let go of what a job held; return how much of it was shared at most. Who uses the same goes on."""
        self._jobs.pop(job, None)
        self._later.pop(job, None)
        self._allocated.pop(job, None)
        self._close(self._register.ended(job))
        return self._register.most_shared_bytes(job)

    def close(self) -> None:
        """Close all files; what maps them stays as it is."""
        self._close(list(self._files))

    def _close(self, numbers: Collection[int]) -> None:
        for number in numbers:
            os.close(self._files.pop(number)[0])
