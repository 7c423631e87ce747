"""Equal frozen weights of the jobs of this worker, each in a process of its own (ADR 29): the worker's side.

The worker keeps the register of what each job holds and the files that jobs have written, and passes these on; it maps
none of them. It is asked and answers over the jobs' channels.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping

from motet.frozen.notices import SavingNotices
from motet.frozen.register import Register
from motet.processes.channel import Channel
from motet.processes.job_messages import FrozenAnswer, FrozenClaim, FrozenFailure, FrozenFile, FrozenReport, FrozenUse

QUIET_SECONDS = 1.0
"""So long has nothing more been shared when users are notified of what is saved."""

TOO_MANY_OPEN = "too many files are open (ulimit -n)"


class SharedWeights:
    """What all jobs of this worker hold, and the files of it. ``channel_of(job)``: the way to a job that lives."""

    def __init__(self, notice: Callable[[str | None, str], None], channel_of: Callable[[str], Channel]) -> None:
        self._register = Register()
        self._notices = SavingNotices(notice)
        self._channel_of = channel_of
        self._files: dict[int, tuple[int, Mapping[str, int]]] = {}
        self._changed_at: float | None = None

    def receive(self, job: str, report: FrozenReport) -> None:
        """Take note of what a job reports, and answer it."""
        self._changed_at = time.monotonic()
        match report:
            case FrozenClaim(claims, fixed):
                self._register.keeps(job, fixed)
                answer = self._register.claim(job, claims)
                for number, names in answer.share.items():
                    self._offer(job, number, names)
                self._channel_of(job).send(FrozenAnswer(answer.number, answer.write))
            case FrozenFile(number, places):
                self._written(job, number, places)
            case FrozenUse(shares, owns):
                self._register.shares(job, shares)
                self._close(self._register.owns(job, owns))
            case FrozenFailure(error):
                self._notices.failed(job, error)
        self._ask_others()

    def _written(self, job: str, number: int, places: Mapping[str, int]) -> None:
        file = self._channel_of(job).take_file()
        if file is None:
            self._notices.failed(job, TOO_MANY_OPEN)
            self._close(self._register.owns(job, places))
            return
        self._files[number] = (file, places)
        for each, names in self._register.wrote(job, number, places).items():
            self._offer(each, number, names)  # to its writer as well: another part of it may have the same bytes
        if not self._register.uses(number):
            self._close([number])

    def _offer(self, job: str, number: int, names: Collection[str]) -> None:
        file, places = self._files[number]
        try:
            self._channel_of(job).send(FrozenFile(number, {name: places[name] for name in names}), file)
        except OSError as error:
            self._notices.failed(job, str(error))
            self._register.owns(job, names)

    def _ask_others(self) -> None:
        """Have somebody else write what a job was asked for that has ended, or failed."""
        for job, answer in self._register.unwritten().items():
            self._channel_of(job).send(FrozenAnswer(answer.number, answer.write))

    def look(self) -> None:
        """Notify the user of what is saved, once nothing has changed for a while."""
        if self._changed_at is not None and time.monotonic() - self._changed_at > QUIET_SECONDS:
            self._changed_at = None
            self._notices.notify(self._register)

    def ended(self, job: str) -> int:
        """Let go of what a job held; return how much of it was shared at most."""
        if self._changed_at is not None:
            self._notices.notify(self._register)
        self._close(self._register.ended(job))
        self._ask_others()
        return self._register.most_shared_bytes(job)

    def close(self) -> None:
        """Close all files."""
        self._close(list(self._files))

    def _close(self, numbers: Collection[int]) -> None:
        for number in numbers:
            os.close(self._files.pop(number)[0])
