"""Frozen weights of jobs that live together in a worker's process.

A job's are looked for when its first turn has ended: then its model is built, and nobody else has run meanwhile. The
job that is found to hold the same as an earlier one writes the file; both use it from then on, the earlier one between
two of its turns.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Collection

from torch import Tensor

from motet.frozen import pages
from motet.frozen.notices import BUSY, SavingNotices
from motet.frozen.register import ClaimAnswer, Register
from motet.frozen.weights import WITHOUT, JobWeights, Places, can_share, has_grown, modules_here, others_rest
from motet.memory.footprint import SETTLED_TURN, is_measured


class HeldOnce:
    """The frozen weights of all jobs of this worker; all calls come from the main thread, between turns."""

    def __init__(self, notice: Callable[[str | None, str], None], *, on: bool = True) -> None:
        self._notice = notice
        self._on = on
        self._notices = SavingNotices(notice)
        self._register = Register()
        self._jobs: dict[str, JobWeights] = {}
        self._known: dict[int, weakref.ref[Tensor]] = {}
        self._files: dict[int, tuple[int, Places]] = {}  # open files, by number
        self._notified = True
        self._allocated: int | None = 0

    def turn_begins(self, job: str) -> None:
        """Take note of what is there before a job's first turn."""
        if self._on and job not in self._jobs:
            self._allocated = pages.allocated_bytes()

    def turn_ended(self, job: str, num_synced: int, live: Collection[str], num_jobs: int) -> None:
        """Look for what the job holds, after its first turn; later now and then for what it has written to.

        ``live``: the jobs that are there now, of ``num_jobs`` that the run is known to have.
        """
        if not self._on or num_jobs < 2:
            return
        if not can_share():
            self._notice(None, WITHOUT)
            return
        weights = self._jobs.get(job)
        if weights is None:
            weights = self._jobs[job] = JobWeights(self._known)
            if has_grown(self._allocated):
                weights.find(modules_here())
        if weights.num_found and len(live) > 1:
            if others_rest():
                self._claim(job, weights)
            elif num_synced == SETTLED_TURN:
                self._notice(job, BUSY)
        elif weights.num_shared and is_measured(num_synced):
            self._close(self._register.owns(job, weights.written()))
        if not self._notified and all(name in self._jobs for name in live):
            self._notified = True
            self._notices.notify(self._register)

    def _claim(self, job: str, weights: JobWeights) -> None:
        self._notified = False
        found = weights.name()
        self._register.keeps(job, weights.fixed())
        answer = self._register.claim(job, found)
        for number, names in answer.share.items():
            self._share(job, number, names)
        if answer.write:
            self._write(job, weights, answer)

    def _write(self, job: str, weights: JobWeights, answer: ClaimAnswer) -> None:
        try:
            file, places = weights.write(answer.write)
        except OSError as error:
            self._register.wrote(job, 0, ())
            self._notices.no_room(str(error))
            return
        self._files[answer.number] = (file, places)
        for each, names in self._register.wrote(job, answer.number, places).items():
            self._share(each, answer.number, names)
        if not self._register.uses(answer.number):
            self._close([answer.number])

    def _share(self, job: str, number: int, names: Collection[str]) -> None:
        file, places = self._files[number]
        here = {name: places[name] for name in names}
        try:
            shared = self._jobs[job].share(file, here)
        except OSError as error:
            self._notices.no_room(str(error))
            shared = {}
        self._register.shares(job, shared)
        self._close(self._register.owns(job, here.keys() - shared.keys()))

    def ended(self, job: str) -> int:
        """Let go of what a job held; return how much of it was shared at most. Who uses the same goes on."""
        self._jobs.pop(job, None)
        self._close(self._register.ended(job))
        return self._register.most_shared_bytes(job)

    def close(self) -> None:
        """Close all files; what maps them stays as it is."""
        self._close(list(self._files))

    def _close(self, numbers: Collection[int]) -> None:
        for number in numbers:
            os.close(self._files.pop(number)[0])
