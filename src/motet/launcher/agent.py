"""Workers under torch elastic: a rendezvous that stays on loopback, and an agent that lets workers end well.

torch elastic starts the processes, watches them and starts them again. What it does not do is here:

- its store listens on all interfaces, also for one machine: `LoopbackRendezvous` binds 127.0.0.1 itself;
- when one worker ends it signals the others at once, before they could say what they saw: `Agent` gives them a moment;
- it passes signals on to whole process groups, and so kills DataLoader workers in the middle of a turn that is to be
  ended in good order: `Agent` signals the workers alone, once, and ends everything when it has waited long enough.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from subprocess import Popen
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it is: torch documents it
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.api import SubprocessContext
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo
from torch.distributed.launcher.api import LaunchConfig

from motet.launcher.ends import Ends
from motet.launcher.guardian import Guardian

LOOPBACK = "127.0.0.1"
# How long the survivors of a lost worker may take to find out and to say so; a closed connection shows in well
# under a second, in 4 seconds with DataLoader workers.
FINAL_OUTPUT_SECONDS = 10.0
# How long this host waits, when its workers have ended well, for those of others.
OTHERS_SECONDS = 30.0
# How long all workers may take to end after a stop was asked for. The run as a whole has 30 seconds.
STOP_SECONDS = 25.0
# Signals that workers ignore, and every process that they start: only this process takes them for a stop.
PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2)
# How much later than a worker this process may be asked to stop, where every process is.
ECHO_SECONDS = 2.0


class LoopbackRendezvous(RendezvousHandler):
    """The rendezvous of a run on one machine: nobody to wait for, and a store that only this machine can reach.

    Every round gets a fresh store: the old one holds the addresses of workers that are gone.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._store: TCPStore | None = None
        self._closed = False

    def get_backend(self) -> str:
        return "motet-loopback"

    @property
    def use_agent_store(self) -> bool:
        return True  # the workers are clients of this store; none of them opens one of its own

    def next_rendezvous(self) -> RendezvousInfo:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.bind((LOOPBACK, 0))
        listener.listen(1024)
        port = listener.getsockname()[1]
        # The store owns the descriptor from here on. Left to itself it would listen on all interfaces.
        self._store = TCPStore(
            LOOPBACK, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
        )
        return RendezvousInfo(self._store, 0, 1, RendezvousStoreInfo(LOOPBACK, port))

    def is_closed(self) -> bool:
        return self._closed

    def set_closed(self) -> None:
        self._closed = True

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self._run_id

    def shutdown(self) -> bool:
        self._closed, self._store = True, None
        return True


class Agent(LocalElasticAgent):
    """Starts the workers of this machine and stays until they have ended.

    ``exits`` holds the exit status of each worker of the current attempt (negative: the signal that ended it), in
    the order in which they were seen to end; ``killed`` names those that this agent killed, ``overdue`` says why if
    that was because they held up an end of the run.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        config: LaunchConfig,
        before_restart: Callable[[Agent], None],
        guardian: Guardian,
        ends: Ends | None,
        notify: Callable[[str], None],
    ) -> None:
        assert config.logs_specs is not None
        super().__init__(
            spec,
            config.logs_specs,
            start_method=config.start_method,
            exit_barrier_timeout=OTHERS_SECONDS,
            log_line_prefix_template=config.log_line_prefix_template,
        )
        self.exits: dict[int, int] = {}
        self.killed: set[int] = set()
        self.stop_signals: list[signal.Signals] = []
        self.num_workers = 0
        self.attempt = 0
        self.overdue = ""
        self._before_restart = before_restart
        self._guardian, self._ends, self._notify = guardian, ends, notify
        self._starting = self._ends_now = False
        self._paused_at_start: int | None = None
        self._asked_to_stop_at: float | None = None
        self._first_failure_at: float | None = None

    def on_signal(self, number: int, frame: object) -> None:
        """Note a request to stop; Ctrl-C after another one, or SIGQUIT, ends everything at once.

        Without workers nothing is waited for. What batch systems send comes more than once: by the step's daemon, and
        by whoever started the step.
        """
        self._ends_now |= number == signal.SIGQUIT or (bool(self.stop_signals) and number == signal.SIGINT)
        self.stop_signals.append(signal.Signals(number))
        if not self._starting and not any(process.poll() is None for process in self._processes().values()):
            raise SignalException(f"signal {number} before any worker ran", signal.Signals(number))

    def on_pause(self, number: int, frame: object) -> None:
        """Stop everything that the workers run, then this process, as the terminal asks; let all go on together.

        The workers are not in the terminal's foreground: they would go on, and wait in vain for this process's store.
        """
        if self._starting:  # torch elastic has not given away yet whom it has started
            self._paused_at_start = number
            return
        begun, own = time.monotonic(), signal.getsignal(number)
        self._signal_groups(signal.SIGSTOP)
        signal.signal(number, signal.SIG_DFL)
        blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        os.kill(os.getpid(), number)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(number, own)
        self._signal_groups(signal.SIGCONT)
        seconds = time.monotonic() - begun
        if self._asked_to_stop_at is not None:
            self._asked_to_stop_at += seconds
        if self._first_failure_at is not None:
            self._first_failure_at += seconds
        self._notify(f"was stopped ({signal.Signals(number).name}) for {seconds:.0f} s; the run goes on")

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self.exits, self.killed, self.overdue = {}, set(), ""
        self._asked_to_stop_at = self._first_failure_at = None
        self.num_workers = worker_group.workers[0].world_size
        self._starting = True
        if (attempt := getattr(worker_group.spec.rdzv_handler, "attempt", None)) is not None:
            os.environ["MOTET_ATTEMPT"] = str(attempt)  # torch counts this host's failures, and not those of others
        # A batch system may send it to every process: a worker ignores it as soon as it can (`motet.entry`), and until
        # then it is held back. This process receives it, and passes it on.
        held_back = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
        if self._ends is not None:
            self._ends.begin([worker.global_rank for worker in worker_group.workers])
        try:
            started: dict[int, Any] = super()._start_workers(worker_group)
            self._guardian.watch(process.pid for process in self._processes().values())
            return started
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held_back)
            self._starting = False
            if self._paused_at_start is not None:
                number, self._paused_at_start = self._paused_at_start, None
                self.on_pause(number, None)

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        now = time.monotonic()
        running = self._note_exits(worker_group)
        if self.stop_signals and self._asked_to_stop_at is None:
            self._asked_to_stop_at = now
            for process in running.values():
                process.send_signal(signal.SIGTERM)
        if self._ends is not None and not self.stop_signals:
            self.overdue = self._ends.look(running) or self.overdue
        if running and (self.overdue or self._patience_is_over(now)):
            self.killed |= set(running)
            self._kill_groups()
        elif running and any(self.exits.values()):
            return RunResult(state=WorkerState.HEALTHY)  # the others may still say what they saw
        result: RunResult = super()._monitor_workers(worker_group)
        self._note_exits(worker_group)
        if result.state is WorkerState.FAILED and {-signal.SIGTERM, -signal.SIGQUIT} & {*self.exits.values()}:
            self._wait_for_a_stop()
        if self.stop_signals and result.state is WorkerState.FAILED:
            raise SignalException("stopped", self.stop_signals[0])  # in particular: start nothing again
        return result

    def _wait_for_a_stop(self) -> None:
        """Wait a moment for the signal that ended a worker: where every process gets it, they do in any order."""
        deadline = time.monotonic() + ECHO_SECONDS
        while not self.stop_signals and time.monotonic() < deadline:
            time.sleep(0.02)

    def _patience_is_over(self, now: float) -> bool:
        if any(self.exits.values()) and self._first_failure_at is None:
            self._first_failure_at = now
        return (
            self._ends_now
            or (self._asked_to_stop_at is not None and now - self._asked_to_stop_at > STOP_SECONDS)
            or (self._first_failure_at is not None and now - self._first_failure_at > FINAL_OUTPUT_SECONDS)
        )

    def _note_exits(self, worker_group: WorkerGroup) -> dict[int, Popen[bytes]]:
        """Note who has ended; return the processes that run, by worker."""
        running: dict[int, Popen[bytes]] = {}
        processes = self._processes()
        for worker in worker_group.workers:
            process = processes.get(worker.local_rank)
            if process is None:
                continue
            status = process.poll()
            if status is None:
                running[worker.global_rank] = process
            else:
                self.exits.setdefault(worker.global_rank, status)
        return running

    def _restart_workers(self, worker_group: WorkerGroup) -> None:
        self._before_restart(self)
        self.attempt += 1
        super()._restart_workers(worker_group)

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        if self._pcontext is not None:  # torch itself takes this time only from 2.13 on; closed twice is closed
            self._pcontext.close(death_sig, int(FINAL_OUTPUT_SECONDS))
        super()._shutdown(death_sig)
        self._kill_groups()  # what the workers themselves had started, where they could not end it

    def _kill_groups(self) -> None:
        """End all processes of all workers."""
        self._signal_groups(signal.SIGKILL)

    def _signal_groups(self, number: signal.Signals) -> None:
        """Send a signal to all processes of all workers; each worker leads a process group of its own."""
        for process in self._processes().values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)

    def _processes(self) -> dict[int, Popen[bytes]]:
        """Return the processes of the current attempt by local rank."""
        if not isinstance(self._pcontext, SubprocessContext):
            return {}
        return {rank: handler.proc for rank, handler in self._pcontext.subprocess_handlers.items()}
