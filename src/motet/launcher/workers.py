"""Start workers, stay until they have ended, and report how they ended."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.rendezvous import RendezvousHandler
from torch.distributed.run import determine_local_world_size

from motet.config import TIMEOUT_SECONDS
from motet.errors import GangError
from motet.launcher.agent import Agent
from motet.launcher.ends import Ends
from motet.launcher.guardian import Guardian
from motet.launcher.options import check_torchrun_options, on_one_machine, worker_spec
from motet.launcher.outcome import GangOutcome, how_it_ended
from motet.parent import PARENT
from motet.run_dir import RunDir
from motet.workers.sockets import room_for_store

# The last two are what batch systems are asked to send before the end: SLURM's --signal=USR1@60, submitit's USR2.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def run_workers(
    options: argparse.Namespace,
    arguments: Sequence[str],
    *,
    program: str = "motet.entry",
    notify: Callable[[str], None] = lambda text: None,
    explain: Callable[[], str] = str,
    run_dir: RunDir | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
    rendezvous: RendezvousHandler | None = None,
    last: bool = False,
) -> GangOutcome:
    """Start ``program`` (a module, or a path ending in ``.py``) as torchrun would, and wait until all have ended.

    Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 ask the workers to end, unless they are ignored (`nohup`); a second
    Ctrl-C, SIGQUIT, or 25 seconds, ends them. Ctrl-Z stops them, too, until this program goes on. When this returns or
    raises, none of their processes is left. ``notify`` gets the restarts, with what ``explain`` knows of the reason,
    and about what takes long. Where workers write in ``run_dir`` what they do, ``timeout_seconds`` holds for the two
    ends of the run. ``rendezvous``: how this host meets the others, where there are several. ``last``: afterwards this
    program only reports what came of it, and what asks it to stop comes too late; a second Ctrl-C, or SIGQUIT, ends it.
    """
    check_torchrun_options(options)
    begun = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="motet-logs-") as logs,
        _environment(options),
        _quiet(),
        Guardian() as guardian,
        contextlib.ExitStack() as stack,
    ):
        spec, config = worker_spec(options, program, arguments, logs, rendezvous)
        stack.enter_context(room_for_store(config.max_nodes * config.nproc_per_node))

        def before_restart(agent: Agent) -> None:
            how = "; ".join(how_it_ended(worker, status) for worker, status in agent.exits.items() if status)
            why = explain()
            notify(f"{how or 'machines joined or left'}; all workers start again" + (f" ({why})" if why else ""))

        ends = None if run_dir is None else Ends(run_dir, timeout_seconds, notify, rows=sys.stderr.isatty())
        agent = Agent(spec, config, before_restart, guardian, ends, notify)
        lost = None
        try:
            with _handling_signals(agent.on_signal, agent.on_pause, last=last):
                agent.run()
        except SignalException:
            pass  # the agent has ended the workers, and `stop_signals` shows it
        except GangError as error:  # the other hosts have not come back
            lost = error
        finally:
            spec.rdzv_handler.shutdown()
    return GangOutcome(
        num_workers=agent.num_workers,
        exits=dict(agent.exits),
        killed=frozenset(agent.killed),
        stopped_by=agent.stop_signals[0] if agent.stop_signals else None,
        wall_seconds=time.monotonic() - begun,
        overdue=agent.overdue,
        lost=lost,
    )


@contextlib.contextmanager
def _environment(options: argparse.Namespace) -> Iterator[None]:
    """Set what workers inherit and torch elastic reads, and put this process's environment back afterwards."""
    before = dict(os.environ)
    os.environ[PARENT] = str(os.getpid())
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = options.signals_to_handle = "none"  # the agent does
    if determine_local_world_size(options.nproc_per_node) > 1:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does
    if on_one_machine(options):
        loopback = "lo0" if sys.platform == "darwin" else "lo"
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = loopback
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _handling_signals(
    handler: Callable[[int, FrameType | None], None], pause: Callable[[int, FrameType | None], None], *, last: bool
) -> Iterator[None]:
    """Have ``handler`` take the signals that stop a run, and ``pause`` Ctrl-Z; only a main thread can.

    After the block what stops a run does nothing any more if it was the ``last`` one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (*STOP_SIGNALS, signal.SIGTSTP)}
    try:
        for number in STOP_SIGNALS:
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, handler)
        if before[signal.SIGTSTP] is signal.SIG_DFL:
            signal.signal(signal.SIGTSTP, pause)
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old if old is not None else signal.SIG_DFL)
            if last and number in STOP_SIGNALS and number != signal.SIGQUIT and old is not signal.SIG_IGN:
                signal.signal(number, _comes_too_late)


def _comes_too_late(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT:  # once more means it
        signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch elastic's own account of failures, which Motet gives with the job and the turn."""
    parts = ("torch.distributed.elastic", "torch.distributed.run", "torch.distributed.launcher")
    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict) if name.startswith(parts)]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
