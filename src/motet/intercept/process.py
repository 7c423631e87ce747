"""What happens at the seams where a program uses what a process has one of: signals, its end, profiler, operators."""

from __future__ import annotations

import concurrent.futures.thread
import functools
import multiprocessing.context
import multiprocessing.process
import os
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from motet import patching
from motet.coroutines import RunningJob, Turns
from motet.intercept.exit_hooks import ExitHooks
from motet.intercept.job_limits import JobLimits
from motet.intercept.job_signals import JobSignals
from motet.intercept.profilers import Profilers
from motet.isolation import loggers, operators
from motet.isolation.interpreter import set_umask
from motet.isolation.ownership import is_own_code
from motet.patching import Call
from motet.workers.messages import SignalsReport

_THREAD = (
    "starts a thread: it goes on while other jobs have their turns, and finds their random generators, working "
    "directory, environment and streams then. If it draws random numbers, let it draw from generators of its own "
    "(random.Random, torch.Generator, numpy.random.default_rng), or run this job alone."
)
_MOTET = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")
_PATCHES = (os.path.join(os.path.dirname(__file__), ""), patching.__file__)
_TORCH = (os.path.join(os.path.dirname(torch.__file__), ""), functools.__file__)
_SPAWNERS = (multiprocessing.process.__file__, multiprocessing.context.__file__)
_STARTERS = (threading.__file__, concurrent.futures.thread.__file__)


class ProcessSeams:
    """A part of `JobSeams`. ``notice`` notifies the user of something, once for each pair of arguments."""

    def __init__(self, turns: Turns, notice: Callable[[str, str], None], *, alone: bool = True) -> None:
        self._turns = turns
        self._notice = notice
        self._profilers = Profilers(notice)
        self._signals = JobSignals(turns, alone=alone)
        self._limits = JobLimits(turns, notice)
        self._exit_hooks = ExitHooks()
        self._children: dict[str, list[BaseProcess]] = {}  # that its own code has started, by job
        self._owners: weakref.WeakKeyDictionary[RunningJob, object] = weakref.WeakKeyDictionary()  # of operators

    def signal(self, original: Call, /, signalnum: int, handler: Any) -> Any:
        """Take a job's handler of a signal. Of one that asks the run to stop it is only remembered; the run's stays.

        Frameworks set handlers when a training begins and set what was there before when it ends. With several
        trainings that begin and end at different times, the last one to end would leave a dead one's handler. And a
        handler that talks to the other workers would do so at another moment on each. A stop that is asked for by a
        signal is raised inside each job instead, in the same turn everywhere.
        """
        return self._signals.set_handler(original, signalnum, handler)

    def getsignal(self, original: Call, /, signalnum: int) -> Any:
        """Return a job's handler."""
        job = self._turns.running_here()
        return original(signalnum) if job is None else self._signals.handler_of(job.name, signalnum)

    def setitimer(self, original: Call, /, *args: Any) -> Any:
        """Set a job's timer."""
        return self._signals.set_timer(original, *args)

    def getitimer(self, original: Call, /, *args: Any) -> Any:
        """Read a job's timer."""
        return self._signals.timer(original, *args)

    def alarm(self, original: Call, /, *args: Any) -> Any:
        """Set the timer of a job that sends SIGALRM."""
        return self._signals.alarm(original, *args)

    def handler_of(self, job: str, signalnum: int) -> Any:
        """Return the handler of a job's that is in no place here, but is in the processes that the job forks."""
        return self._signals.handler_of(job, signalnum)

    def pending_signals(self, names: Sequence[str]) -> SignalsReport:
        """Return what this worker reports to the others of signals that have come for jobs."""
        return self._signals.pending(names)

    def set_limit(self, original: Call, /, which: int, limits: tuple[int, int]) -> None:
        """Raise what a job asks the system for; what it lowers is remembered."""
        self._limits.set(original, which, limits)

    def limit(self, original: Call, /, which: int) -> tuple[int, int]:
        """Return a job's limit."""
        return self._limits.get(original, which)

    def set_umask(self, original: Call, /, mask: int) -> int:
        """Set a job's mask of new files."""
        return set_umask(original, mask)

    def register_exit(self, original: Call, function: Call, /, *args: Any, **kwargs: Any) -> Call:
        """Remember what a job wants to be called at the end of its process."""
        job = self._turns.running_here()
        if job is None or not self._exit_hooks.register(job.name, function, *args, **kwargs):
            original(function, *args, **kwargs)
        return function

    def unregister_exit(self, original: Call, function: Call, /) -> None:
        """Forget it."""
        if (job := self._turns.running_here()) is not None:
            self._exit_hooks.unregister(job.name, function)
        original(function)

    def end_of_process(self, job: str) -> None:
        """Do in a job's last turn what Python does at the end of a process: `atexit`'s hooks, then the log handlers."""
        try:
            self._exit_hooks.run(job)
        finally:
            loggers.shut_down()
            if (running := self._turns.running_here()) is not None:
                self.forget(running)

    def profile(self, original: Call, /, *args: Any, **kwargs: Any) -> Any:
        """Prepare, enable or disable torch's profiler, which one job has at a time."""
        return self._profile(original, self._profilers.disable, *args, **kwargs)

    def profile_legacy(self, original: Call, /, *args: Any, **kwargs: Any) -> Any:
        """Enable or disable the profiler that torch had before."""
        return self._profile(original, self._profilers.disable_legacy, *args, **kwargs)

    def _profile(self, original: Call, disable: Call, /, *args: Any, **kwargs: Any) -> Any:
        job = self._turns.running_here()
        if job is None:
            return original(*args, **kwargs)
        return self._profilers.call(job, original, disable, *args, **kwargs)

    def start_thread(self, original: Call, thread: threading.Thread, /) -> None:
        """Start a thread, and notify the user of what it shares if the job's own code starts it."""
        job = self._turns.running_here()
        if job is not None and _own_code_calls(_STARTERS):
            self._notice(job.name, _THREAD)
        original(thread)

    def start_process(self, original: Call, process: BaseProcess, /) -> None:
        """Start a process; that of a job's own code is waited for at the job's end, a library's the library ends."""
        job = self._turns.running_here()
        if job is not None and _own_code_calls(_SPAWNERS):
            self._children.setdefault(job.name, []).append(process)
        original(process)

    def open_library(self, original: Call, library: object, /, ns: str, kind: str, *args: Any, **kwargs: Any) -> None:
        """Open a library of operators, in a namespace of the job's own where another job has taken that name."""
        original(library, self._namespace(ns, defines=kind != "IMPL"), kind, *args, **kwargs)

    def define_operator(self, original: Call, operator: object, /, namespace: str, *args: Any, **kwargs: Any) -> None:
        """Define a custom operator, likewise."""
        original(operator, self._namespace(namespace, defines=True), *args, **kwargs)

    def parse_namespace(self, original: Call, /, qualname: str) -> tuple[str, str]:
        """Return namespace and name of an operator, as torch knows them."""
        namespace, name = original(qualname)
        return self._namespace(namespace, defines=False), name

    def find_operator(self, original: Call, /, operator: object) -> Any:
        """Find the definition of a custom operator."""
        return original(self._own_name(operator))

    def implement_operator(
        self, original: Call, library: object, /, op_name: object, *args: Any, **kwargs: Any
    ) -> None:
        """Implement an operator."""
        original(library, self._own_name(op_name), *args, **kwargs)

    def _own_name(self, operator: object) -> object:
        """Return how torch knows an operator, where it is given by its whole name."""
        if isinstance(operator, str) and operator.count("::") == 1:
            namespace, _, name = operator.partition("::")
            return f"{self._namespace(namespace, defines=False)}::{name}"
        return operator

    def _namespace(self, name: str, *, defines: bool) -> str:
        job = self._turns.running_here()
        if job is None:
            return name
        if defines and not _own_code_calls(_TORCH):  # a library that this job is the first to import
            operators.note_everyones(name)
            return name
        return operators.namespace_of(self._owners.setdefault(job, object()), name, defines=defines)

    def close(self) -> None:
        """Give the process back what jobs have taken of it, at the end of a run."""
        self._signals.close()

    def forget(self, job: RunningJob) -> None:
        """End what a job has left on, and forget what is kept for it; nothing to do the second time."""
        self._signals.forget(job.name)
        self._exit_hooks.forget(job.name)
        self._limits.forget(job.name)
        self._children.pop(job.name, None)
        self._profilers.end(job)
        if (owner := self._owners.pop(job, None)) is not None:
            operators.forget(owner)


def motet_starts_thread() -> bool:
    """Return whether it is Motet that has called `threading.Thread.start`, for purposes of its own."""
    file = _caller(_STARTERS)
    return file is not None and file.startswith(_MOTET)


def _own_code_calls(between: tuple[str, ...]) -> bool:
    """Return whether a program's own code has called what is patched, and not a library, or Motet for itself.

    ``between`` are the files and folders through which it calls.
    """
    file = _caller(between)
    return file is not None and not file.startswith(_MOTET) and is_own_code(file)


def _caller(between: tuple[str, ...]) -> str | None:
    """Return the file that has called what is patched, if need be through those in ``between``."""
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((*between, *_PATCHES)):
            return file
        frame = frame.f_back  # type: ignore[assignment]
    return None
