"""What a job finds in ``torch.distributed``, and its end: the seams at which it is a process among others.

A part of `motet.intercept.ddp.JobSeams`, which adds what happens to DDP.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch.distributed as dist

from motet.coroutines import RunningJob, Turns
from motet.errors import GangError, UnsupportedError
from motet.intercept import loader_workers
from motet.intercept.forked import end_forked
from motet.intercept.left_running import FAILED_SECONDS, alive, at_work, wait_for
from motet.intercept.process import ProcessSeams, motet_starts_thread
from motet.jobs import Script
from motet.patches import DEEPSPEED
from motet.patching import Call
from motet.same_files import about_to_start
from motet.workers import Workers
from motet.workers.agreement import Agreements
from motet.workers.interruption import Interruption
from motet.workers.sockets import connecting_for_job
from motet.workers.worlds import Worlds


class WorldSeams(ProcessSeams):
    """The doors to process groups, and a job as the whole of a process: its world, and what it leaves running."""

    def __init__(
        self, turns: Turns, notice: Callable[[str, str], None], workers: Workers, interruption: Interruption
    ) -> None:
        super().__init__(turns, notice, alone=workers.num_workers == 1)
        interruption.ask_for_handlers(self._handler_in_child)
        self._workers, self._interruption, self._watch = workers, interruption, workers.watch
        self._before_run = interruption.handler_before
        self._process = os.getpid()
        self._worlds = Worlds(
            workers,
            lambda: None if turns.current is None else turns.current.name,
            lambda: turns.current is not None and turns.current.gradients.depth > 0,
        )
        workers.watch.count_questions(lambda: self._worlds.num_asked)
        self._timeout_seconds = workers.timeout_seconds

    def init_process_group(self, original: Call, /, *args: Any, **kwargs: Any) -> None:
        """Make the job's default group, one of its own."""
        self._worlds.init(original, *args, **kwargs)

    def destroy_process_group(self, original: Call, /, *args: Any, **kwargs: Any) -> None:
        """End a group of the job's, or its world; those of the run and of other jobs stay."""
        job, group = self._turns.running_here(), args[0] if args else kwargs.get("group")
        if job is not None and group in job.groups:
            job.groups.remove(group)
        self._worlds.destroy(original, *args, **kwargs)

    def new_group(self, original: Call, /, *args: Any, **kwargs: Any) -> Any:
        """Make a group for the job's own collectives; it ends with the job."""
        if _called_by("deepspeed"):  # every engine makes groups, before anything is trained
            self.refuse(DEEPSPEED.answer, DEEPSPEED.instead)
        job = self._turns.running_here()
        if job is None:
            return original(*args, **kwargs)
        with connecting_for_job(lazily=self._workers.connects_jobs_lazily):
            group = original(*args, **kwargs)
        if isinstance(group, dist.ProcessGroup) and self.world_values() is None:
            job.groups.append(group)
        return group

    # The worker that calls it is found on the stack: nothing may stand in between.
    begin_loader_worker = staticmethod(loader_workers.begin)
    loader_worker_failed = staticmethod(loader_workers.leave_to_loaders)

    def default_group(self, original: Call, /) -> Any:
        """Return the default group of whoever calls."""
        return self._worlds.default_group(original)

    def group_name(self, original: Call, /, *args: Any, **kwargs: Any) -> Any:
        """Name a group so that no other job has one of the same name."""
        return self._worlds.group_name(original, *args, **kwargs)

    def world_values(self) -> dict[str, Any] | None:
        """Return what torch knows of process groups for whoever calls, if that is a job with a world of its own."""
        return self._worlds.values()

    def start_thread(self, original: Call, thread: threading.Thread, /) -> None:
        """Start a thread in the world of whoever starts it; the user is notified of what else it shares.

        Motet's own are nobody's: the one that writes checkpoints does so for all jobs, whichever is the first to save.
        """
        if motet_starts_thread():
            original(thread)
            return
        about_to_start(thread)
        super().start_thread(partial(self._worlds.start_thread, original), thread)

    def send_signal(self, original: Call, /, *args: Any, **kwargs: Any) -> Any:
        """Leave a signal that a job sends to its own process to that job; it may have been sent from a thread of it."""
        to_itself = len(args) < 2 or args[0] == self._process
        world = self._worlds.here() if to_itself and os.getpid() == self._process else None
        number = args[-1] if args else kwargs.get("signum", signal.SIGINT)
        if world is None or number == 0 or not self._signals.send(world.job, number):
            return original(*args, **kwargs)
        return None

    def receive_signals(self, agreements: Agreements, names: Sequence[str]) -> None:
        """Take in what all workers have reported of signals, so that a job handles them in the same turn everywhere."""
        if reports := agreements.take_signals():
            self._signals.agreed(reports, names)

    def end_groups(self, job: RunningJob) -> None:
        """End the groups that a job has left, once nothing of it is in flight; forget one that was abandoned."""
        self.forget(job)
        for group in job.groups:
            dist.destroy_process_group(group)
        self._worlds.end(job.name)

    def whole(self, job: str, call: Callable[[], object]) -> Callable[[], object]:
        """Return what calls ``call`` as the whole of a process: in a world of its own, with what runs at its end.

        What the job registered with `atexit` is called however it ended.
        """

        self._signals.begin()
        self._worlds.begin(job, is_script=isinstance(call, Script))
        leave = partial(self.end_of_process, job)
        if isinstance(call, Script):
            call.leave_sys()  # what still runs, and what is called at the end, finds the script's

        def from_begin_to_end() -> object:
            try:
                result = call()
                end_forked(self._process, None, leave)
                self._wait_for_what_runs(job, self._timeout_seconds / 2)
                return result
            except GangError:
                raise  # the run has ended: nobody answers a thread any more
            except BaseException as error:
                end_forked(self._process, error, leave)
                self._wait_for_what_runs(job, min(FAILED_SECONDS, self._timeout_seconds / 2))
                raise
            finally:
                leave()

        return from_begin_to_end

    def _wait_for_what_runs(self, job: str, most_seconds: float) -> None:
        """Block until nothing runs any more that a process would wait for at its end, and that the job has started.

        Not for ever, as a process would: a thread that hangs must not take the other jobs along.
        """
        deadline = time.monotonic() + most_seconds

        def find() -> list[str]:
            return [*at_work(self._worlds.threads(job)), *alive(self._children.get(job, ()))]

        if (running := self._turns.current) is not None and find():
            self._watch.at("waiting for what its loop has left running", job, running.turn)

            def seconds_left() -> float:
                if self._watch.error is not None:  # the run has ended: nobody answers a thread any more
                    return 0.0
                return min(self._interruption.seconds_to_end, deadline - time.monotonic())

            wait_for(find, seconds_left, partial(self._notice, job))

    def _handler_in_child(self, number: int) -> Any:
        world = self._worlds.here()
        return self._before_run(number) if world is None else self.handler_of(world.job, number)

    def refuse(self, what: str, instead: str) -> None:
        """Raise inside a job."""
        job = self._turns.running_here()
        if job is not None:
            raise UnsupportedError(f"job '{job.name}': {what} cannot be pipelined. {instead}")


def _called_by(package: str) -> bool:
    """Return whether a package's code is on the stack."""
    frame = sys._getframe(1)
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
