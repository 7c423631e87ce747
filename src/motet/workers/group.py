"""This worker among the others: the process group, the lanes, agreement, and waits that can end.

`Workers.join` finds the process group that is already there, or makes one from the torchrun environment, or (with no
launcher at all) a group of one. Everything collective that is not gradients is here.

Order of issue. Collectives meet by the order in which each worker issues them on a group; nothing else tells them
apart. All that is issued from the main thread (or from autograd's, while the main thread waits for it) follows the
order of the turns, which is data and the same everywhere. With gloo each job's gradients have a group of their own, a
lane, so that they wait for nobody else's. With NCCL, whose kernels of several communicators can block each other on
a device, everything on the device goes through one: the group of all workers (`device_lane`; ADR 0020). What the
workers send each other goes by gloo on the CPU in any case, and waits for no device.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store

from motet.config import TIMEOUT_SECONDS
from motet.errors import GangError, SyncTimeoutError, WorkerFailedError, WorkerLostError, pack_error, unpack_error
from motet.timing.clocks import Waited
from motet.workers.asked_store import AskedStore
from motet.workers.deadlock import WaitsFor
from motet.workers.devices import chosen_here, has_device_backend, one_communicator, order_launches
from motet.workers.meeting import enter_tasks, is_task, meet
from motet.workers.sockets import clients_of_store, connecting, jobs_connect_lazily, longest_pause_seconds, make_room
from motet.workers.watch import Watch

SLICE_SECONDS = 0.25
FIRST_PAUSE_SECONDS = 0.0001  # between two looks for a decision of worker 0's
_num_runs = 0
ExceptHook = Callable[[type[BaseException], BaseException, TracebackType | None], object]
# A group's own timeout is destructive and knows nothing of who waits for whom: ours comes first.
GROUP_TIMEOUT = timedelta(days=7)


@dataclass
class Pending:
    """An agreement that is under way."""

    item: WaitsFor
    done: threading.Event
    work: dist.Work | None
    gathered: list[torch.Tensor]


class Workers:
    """The gang, seen from one of its workers. Make it with `join`; `leave` gives back what `join` made."""

    def __init__(self, store: Store, owns_group: bool, timeout_seconds: float, excepthook: ExceptHook) -> None:
        self.worker = dist.get_rank()
        self.num_workers = dist.get_world_size()
        self.timeout_seconds = timeout_seconds
        self._interrupted: Callable[[], GangError | None] = lambda: None
        self._owns_group = owns_group
        self._excepthook = excepthook
        self._store = AskedStore(store)
        # Before anything that can block.
        self.watch = Watch(self.worker, self.num_workers, store, timeout_seconds, asks=self._store.waits)
        self.board = self.watch.board
        self._num_broadcasts = 0
        self._lanes: list[dist.ProcessGroup] = []
        self._free_lanes: list[dist.ProcessGroup] = []
        self.backend_config = config = dist.get_backend_config()
        # Kept here: inside a job, torch returns the job's own.
        self._everybody = dist.group.WORLD
        self._shared = one_communicator(config)
        self.connects_jobs_lazily = False  # the groups that jobs make
        self._num_groups = 0
        self._num_agreements = 0
        try:
            self._control: dist.ProcessGroup | None = self._new_group("gloo" if has_device_backend(config) else None)
            self.finish_agreement(self.start_agreement([0.0]))  # connects it
        except BaseException:
            self.watch.close(done=False)  # it would end a program that catches this, once the store has gone
            raise

    @classmethod
    def join(cls, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Workers:
        """Join the workers of this run; blocks until all have. Collective."""
        owns_group, excepthook = not dist.is_initialized(), sys.excepthook
        if owns_group:
            _initialize()
        global _num_runs
        _num_runs += 1  # the same on every worker; a later run in this group must not read what an earlier one left
        store = PrefixStore(f"motet/{_num_runs}", dist.distributed_c10d._get_default_store())
        return cls(store, owns_group, timeout_seconds, excepthook)

    def heed(
        self, hopeless: Callable[[], GangError | None], check: Callable[[], GangError | None], stops: Callable[[], bool]
    ) -> None:
        """Have waits end when the run is interrupted and the other workers do not come along.

        ``hopeless()`` returns why; ``check()`` does so on the watch's thread, and first takes note of signals that the
        main thread has not seen; ``stops()`` says whether this worker was asked to stop.
        """
        self._interrupted = hopeless
        self.watch.heed(check, stops)

    def leave(self, *, orderly: bool = True) -> None:
        """Give back all groups. After an error (``orderly=False``) nothing is waited for."""
        self.watch.close(done=orderly)
        if not orderly:
            return
        for group in (*self._lanes, self._control):
            if group is not None:
                dist.destroy_process_group(group)
        # A group's threads and sockets live as long as anybody refers to it.
        self._lanes, self._free_lanes, self._control, self._everybody = [], [], None, None
        if self._owns_group:
            dist.destroy_process_group()
            sys.excepthook = self._excepthook  # torch puts the rank in front of it, and leaves that there

    def broadcast_from_0(
        self,
        decide: Callable[[], str],
        *,
        key: str | None = None,
        job: str | None = None,
        turn: int = 0,
        keep: bool = False,
    ) -> str:
        """Call ``decide`` on worker 0 and return the text that it returned, on every worker.

        What it raises there is raised on every worker: a `MotetError` as what it is, anything else on the others as a
        `WorkerFailedError` that names it. ``key`` tells this broadcast from all others of the run; without one they are
        counted, so all workers make them in the same order. Worker 0 waits for nobody: it costs it one message. The
        others block, in slices, until it has come to the same place, as `wait` does. The last one to read frees the
        store of it; with ``keep`` that is left to `forget_broadcasts`.
        """
        if self.num_workers == 1:
            return decide()
        if key is None:
            self._num_broadcasts += 1
            key = f"{self._num_broadcasts}"
        place = f"motet/broadcast/{key}"
        if self.worker == 0:
            try:
                text = decide()
            except BaseException as error:  # whatever it is: the others wait for a message
                with contextlib.suppress(RuntimeError):  # the store's host has gone
                    self._store.set(place, f"-{pack_error(error)}")
                raise
            self._store.set(place, f"+{text}")
            return text
        at = self.watch.position()
        message = self._wait_for_decision(place, WaitsFor("decision", job or at.job, turn or at.turn), keep)
        if message.startswith("-"):
            raise unpack_error(message[1:])
        return message[1:]

    def _wait_for_decision(self, place: str, item: WaitsFor, keep: bool) -> str:
        waited, pause = Waited(), FIRST_PAUSE_SECONDS
        try:
            with self.watch.waiting_for(item):
                # Not store.wait in slices: each slice that passes would put two warnings of torch's on stderr.
                while not self._store.check(place):
                    self._raise_if_hopeless(item, waited.seconds)
                    time.sleep(pause)
                    pause = min(1.5 * pause, longest_pause_seconds(self.num_workers))
                message = self._store.get(place)
                if not keep and self._store.add(f"{place}/read", 1) == self.num_workers - 1:
                    self._store.delete_key(place)
                    self._store.delete_key(f"{place}/read")
        except RuntimeError as error:
            raise self._lost(item, error) from error
        return message

    def forget_broadcasts(self, keys: Iterable[str]) -> None:
        """Free the store of broadcasts that were kept and that all workers have read."""
        if self.num_workers > 1 and self.worker == 0:
            for key in keys:
                self._store.delete_key(f"motet/broadcast/{key}")

    def publish(self, key: str, text: str) -> None:
        """Leave ``text`` where the other workers find it (`lookup`). Blocks for one message to the store."""
        self._store.set(f"motet/published/{key}", text)

    def lookup(self, key: str) -> str | None:
        """Return what a worker left under ``key``, or None if none has yet; waits for nobody."""
        if not self._store.check(f"motet/published/{key}"):
            return None
        return self._store.get(f"motet/published/{key}")

    def unpublish(self, key: str) -> None:
        """Free the store of a text that everybody who wants it has read."""
        self._store.delete_key(f"motet/published/{key}")

    def acquire_lane(self, *, meshed: bool = False) -> dist.ProcessGroup:
        """Return a process group for one job's gradients. Collective: all workers at the same place.

        ``meshed``: any worker sends to any other on it, and not only around the ring.
        """
        if self._free_lanes:
            return self._free_lanes.pop()
        lane = self._new_group("gloo" if self._shared else None, lazily=not meshed)
        self._lanes.append(lane)
        self._connect(lane.allreduce([torch.zeros(1, device="cpu")], _asynchronous(dist.AllreduceOptions())))
        return lane

    def new_broadcast_lane(self) -> dist.ProcessGroup:
        """Return a process group for what worker 0 sends to all. Collective: all workers at the same place."""
        lane = self._new_group("gloo" if self._shared else None)
        self._lanes.append(lane)
        self._connect(lane.broadcast([torch.zeros(1, device="cpu")], _asynchronous(dist.BroadcastOptions())))
        return lane

    def _new_group(self, backend: str | None, *, lazily: bool = True) -> dist.ProcessGroup:
        self._num_groups += 1
        with connecting(lazily=lazily):
            group = dist.new_group(timeout=GROUP_TIMEOUT, backend=backend)
        assert isinstance(group, dist.ProcessGroup)
        return group

    def _connect(self, work: dist.Work) -> None:
        """Block for a group's first collective, for which the workers connect.

        A worker that is inside the store's client, waiting for others, holds up whoever wants to connect: nobody may
        wait for that later on.
        """
        done = threading.Event()
        work.get_future().add_done_callback(lambda _: done.set())
        self.wait(WaitsFor("connections", None, self._num_groups), done, work.wait)

    def make_room(self, num_jobs: int) -> None:
        """Have files left for the sockets of so many jobs at once; `UsageError` where there cannot be as many."""
        served = clients_of_store(num_jobs, self.num_workers) if self.worker == 0 and is_task() else 0
        lazily = self.broadcast_from_0(lambda: "lazily" if jobs_connect_lazily(num_jobs, self.num_workers) else "")
        self.connects_jobs_lazily = bool(lazily)
        make_room(num_jobs, self.num_workers, lazily=self.connects_jobs_lazily, num_clients=served)

    @property
    def device_lane(self) -> dist.ProcessGroup | None:
        """The group that everything on a device is sent on; None where each job's own lane carries that, too."""
        return self._everybody if self._shared else None

    @property
    def found_group(self) -> bool:
        """Whether the program had made a process group before it began the run."""
        return not self._owns_group

    def store_for(self, what: str) -> Store:
        """Return a part of the store for groups that are not the run's, with a connection of its own.

        Whoever waits for the store through another one, to make a group, must not hold up this one.
        """
        return PrefixStore(what, self._store.clone())

    def release_lane(self, lane: dist.ProcessGroup) -> None:
        """Take back a lane on which nothing is in flight any more."""
        self._free_lanes.append(lane)

    def wait_arrived(self, item: WaitsFor, arrived: Callable[[], bool]) -> None:
        """Block, in slices, until a device has come by. Raises as `wait` does."""
        waited, pause = Waited(), 0.00002
        with self.watch.waiting_for(item):
            while not arrived():
                self._raise_if_hopeless(item, waited.seconds)
                time.sleep(pause)
                pause = min(1.5 * pause, 0.001)

    def start_agreement(self, values: Sequence[float], job: str | None = None, after: str = "") -> Pending:
        """Begin to send ``values`` to all workers; does not block. Collective: same place, same length."""
        self._num_agreements += 1
        self.watch.agrees(self._num_agreements)
        item = WaitsFor("agreement", job, self._num_agreements, after)
        mine = torch.tensor(values, dtype=torch.float64, device="cpu")
        gathered = [torch.empty_like(mine) for _ in range(self.num_workers)]
        done = threading.Event()
        if self.num_workers == 1:
            gathered[0].copy_(mine)
            done.set()
            return Pending(item, done, None, gathered)
        work = dist.all_gather(gathered, mine, group=self._control, async_op=True)
        assert work is not None
        work.get_future().add_done_callback(lambda _: done.set())
        return Pending(item, done, work, gathered)

    def finish_agreement(self, pending: Pending) -> list[list[float]]:
        """Block until all workers have sent theirs; return the values, by worker."""
        if pending.work is not None:
            self.wait(pending.item, pending.done, pending.work.wait)
        return [values.tolist() for values in pending.gathered]

    def wait(self, item: WaitsFor, done: threading.Event, finish: Callable[[], object]) -> None:
        """Block until ``done``, in slices, then ``finish`` (which raises what went wrong).

        Raises `GangError` when the watch has found that it will never be done, when it took longer than the
        timeout, when a peer is gone, or when this run was interrupted and the others do not come along.
        """
        if not done.is_set():
            with self.watch.waiting_for(item):
                waited = Waited()
                while not done.wait(SLICE_SECONDS):
                    self._raise_if_hopeless(item, waited.seconds)
        try:
            finish()
        except RuntimeError as error:
            raise self._lost(item, error) from error

    def _raise_if_hopeless(self, item: WaitsFor, waited_seconds: float) -> None:
        if self.watch.error is not None:
            raise self.watch.error
        if (interruption := self._interrupted()) is not None:
            raise interruption
        if waited_seconds > self.timeout_seconds:
            raise SyncTimeoutError(
                f"Worker {self.worker} waited {waited_seconds:.0f} s for {item}; the timeout is "
                f"{self.timeout_seconds:.0f} s. No worker contradicts another, so the network or a worker stalls. "
                f"Give a longer --timeout if such stalls are to be expected.\n{self.watch.others_stand()}".rstrip()
            )

    def _lost(self, item: WaitsFor, error: RuntimeError) -> GangError:
        if failed := self.board.failures(within_seconds=2.0):
            worker, text = sorted(failed.items())[0]
            return WorkerFailedError(f"Worker {worker} met an error that the other workers did not meet:\n{text}")
        why = str(error).split("This is typically")[0].strip()
        text = (
            f"Worker {self.worker} lost the connection to another worker while it waited for {item}: a worker died, or "
            f"the network failed ({why})\n{self.watch.others_stand()}"
        )
        return WorkerLostError(text.rstrip())


def store_of_program(what: str) -> Store:
    """Return a part of the store of the program's process group, with a connection of its own."""
    clone: Store = dist.distributed_c10d._get_default_store().clone()  # type: ignore[attr-defined]
    return PrefixStore(what, clone)


def _asynchronous(options: Any) -> Any:
    options.asyncOp = True
    return options


def _initialize() -> None:
    choice = chosen_here()
    backend = choice.backend
    order_launches(backend)
    if choice.device is not None:
        torch.accelerator.set_device_index(choice.device)  # as scripts do: before anything touches a device
    enter_tasks()
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1, timeout=GROUP_TIMEOUT)
        return
    # torch elastic keeps one store over restarts, with the addresses of the workers that are gone: a prefix for
    # every attempt keeps the new ones apart.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store, rank, world_size = meet()
    store = PrefixStore(f"motet/attempt/{attempt}/run/{_num_runs}", store)
    with connecting(lazily=True):
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=GROUP_TIMEOUT)
