"""Where this worker stands, published for whoever needs to know; and a thread that notices when nobody can go on.

`Watch` costs next to nothing while all is well: a few attributes, and one line in a small memory-mapped file that
the launcher reads if this process is killed. Only when the run's thread has stood still for some seconds does the
thread publish its position in the store, read the others', and look for a cycle (`motet.workers.deadlock`).
Where nobody has moved for the whole timeout, nobody is going to, whatever each says it does: that ends the run, too.
A wait of ours is sliced and raises what the thread found; a blocking collective of a user's cannot be sliced, so
there the thread prints the error itself and ends the process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import mmap
import os
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType

from torch._C._distributed_c10d import Store

from motet.config import TIMEOUT_SECONDS
from motet.errors import GangError, SyncTimeoutError
from motet.run_dir import make_folder, opener
from motet.timing.clocks import Waited
from motet.workers.board import STORE_SECONDS, Board
from motet.workers.deadlock import (
    Position,
    WaitsFor,
    describe,
    failed_elsewhere,
    find_cycle,
    find_divergence,
    verdict,
)
from motet.workers.sockets import seconds_between_looks
from motet.workers.stack import position_text

STATE_BYTES = 256
EXIT_STATUS = 4
# How long after the timeout a worker that cannot ask the store ends, and how long after its error one that ignores it.
LAST_SECONDS = 5.0
# A run, and a job, begins with imports and data: a short timeout does not mean these.
LONGEST_BEGIN_SECONDS = 60.0


class Watch:
    """One worker's position, and the thread that compares it with the others'.

    ``suspicion_seconds``: how long the run's thread may stand still before anything is published.
    ``certainty_seconds``: how long before a collective that others have passed counts as never met.
    ``asks``: whether the run's thread waits for an answer of the store.
    """

    def __init__(
        self,
        worker: int,
        num_workers: int,
        store: Store | None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        suspicion_seconds: float = 3.0,
        certainty_seconds: float = 15.0,
        asks: Callable[[], bool] = lambda: False,
    ) -> None:
        self.worker = worker
        self.num_workers = num_workers
        self.error: GangError | None = None
        self.launched: dict[str, int] = {}
        self._ended: dict[str, str] = {}
        self._num_agreements = 0
        self.blocking = False  # the run's thread is inside a synchronization that cannot be sliced
        self._asks = asks
        self._job: str | None = None
        self._turn = 0
        self._phase = "starting"
        self._item: WaitsFor | None = None
        self._epoch = 0
        self._beat = 0
        self._seen: dict[int, tuple[int, int]] = {}
        self._known: dict[int, Position] = {}
        self._last: deque[tuple[str, int]] = deque(maxlen=6)
        self._num_sent, self._sent = 0, 0  # turns, and what they sent, one after the other
        self._history: deque[tuple[int, int]] = deque(maxlen=64)
        self._still_seconds = 0.0  # that were watched: a worker that was stopped meanwhile stood by no fault
        self._timeout_seconds = timeout_seconds
        self._suspicion_seconds = suspicion_seconds
        self._certainty_seconds = certainty_seconds
        self._thread = threading.get_ident()  # the run's: the main one, or whichever calls motet.run
        self._closing = threading.Event()
        self._between_looks = 0.9 * seconds_between_looks(num_workers)
        self._gave_up = (0.0, 0)  # when, and in which epoch
        self._state: mmap.mmap | None = None
        self.board = Board(worker, num_workers, store)
        self._threads: list[threading.Thread] = []
        self._check_signals: Callable[[], GangError | None] = lambda: None  # why this run is to be given up, if it is
        self._stops: Callable[[], bool] = lambda: False  # whether this worker was asked to stop
        self._ask_num_asked: Callable[[], int] = lambda: 0  # how often loops have asked for torch's process groups
        self.before_exit: Callable[[GangError], None] = lambda error: None
        if num_workers > 1 and store is not None:
            self.board.own_connection()  # the run's thread may block inside the other client
            # Two: where the network is down, the one that asks the store may not come back for minutes.
            self._threads = [
                threading.Thread(target=run, name="motet-watch", daemon=True) for run in (self._run, self._listen)
            ]
            for thread in self._threads:
                thread.start()

    def write_down_in(self, path: Path) -> None:
        """From now on keep the position in a small file, which the launcher reads if this process is killed."""
        make_folder(path.parent)
        with open(path, "wb", opener=opener) as empty:
            empty.write(b"\n" * STATE_BYTES)
        with path.open("r+b") as file:
            self._state = mmap.mmap(file.fileno(), STATE_BYTES)

    def heed(self, check_signals: Callable[[], GangError | None], stops: Callable[[], bool]) -> None:
        """From now on ask these why the run is to be given up, and whether this worker was asked to stop."""
        self._check_signals, self._stops = check_signals, stops

    def count_questions(self, num_asked: Callable[[], int]) -> None:
        """From now on count as moves how often loops have asked for torch's process groups."""
        self._ask_num_asked = num_asked

    def block(self, blocking: bool) -> None:
        """Note that the run's thread enters a synchronization that cannot be sliced, or has left it."""
        self.blocking = blocking

    def agrees(self, number: int) -> None:
        """Note that the run's thread has come to the ``number``-th agreement."""
        self._num_agreements = number

    def job_ended(self, job: str, how: str) -> None:
        """Note how a job has ended on this worker."""
        self._ended[job] = how

    def at(self, phase: str, job: str | None = None, turn: int = 0) -> None:
        """Note what the run's thread does from now on."""
        self._job, self._turn, self._phase, self._item = job, turn, phase, None
        self._moved()

    def whereabouts(self) -> str:
        """Say what the run's thread does: ``in turn 9 of job 'a' (computing)``."""
        if self._job is not None:
            return f"in turn {self._turn} of job '{self._job}' ({self._phase})"
        last = f"after turn {self._last[-1][1]} of job '{self._last[-1][0]}', " if self._last else ""
        return f"{last}{self._phase}"

    @contextlib.contextmanager
    def waiting_for(self, item: WaitsFor) -> Iterator[None]:
        """Note what the run's thread waits for inside the block."""
        self._item = item
        self._moved()
        try:
            yield
        finally:
            self._item = None
            self._moved()

    def turn_ended(self, job: str, turn: int, signature: int) -> None:
        """Note that a turn's gradients are on their way, or queue for it; ``signature``: of what was sent."""
        self.launched[job] = turn
        self._last.append((job, turn))
        self._num_sent += 1
        self._sent = zlib.crc32(f"{job} {turn} {signature}".encode(), self._sent)
        self._history.append((self._num_sent, self._sent))

    def _moved(self) -> None:
        self._epoch += 1
        self.blocking = False
        if self._state is not None:
            line = f"{self._job or '-'} {self._turn} {self._phase.replace(' ', '-')}"
            self._state[:STATE_BYTES] = line.encode()[: STATE_BYTES - 1].ljust(STATE_BYTES, b"\n")

    def position(self) -> Position:
        """Return where this worker stands."""
        item = self._item
        if item is None and self._job is not None and (self.blocking or self._in_collective()):
            item = WaitsFor("collective", self._job, self._turn)
        return Position(
            worker=self.worker,
            epoch=self._epoch + self._ask_num_asked(),
            beat=self._beat,
            job=self._job,
            turn=self._turn,
            phase=self._phase,
            item=item,
            launched=dict(self.launched),
            ended=dict(self._ended),
            num_agreements=self._num_agreements,
            last_turns=[f"{job} {turn}" for job, turn in self._last],
            history=dict(self._history),
            still_seconds=self._still_seconds,
            where="" if item is not None and item.kind != "collective" else position_text(self._frame()),
            stops=self._stops(),
        )

    def others_stand(self) -> str:
        """Return a line for each worker of which it is known where it stood last; the store is asked for it once."""
        self._known = {**self._known, **self.board.last_positions(), self.worker: self.position()}
        return describe(self._known) if len(self._known) > 1 else ""

    def _frame(self) -> FrameType | None:
        return sys._current_frames().get(self._thread)

    def others_stop(self) -> bool:
        """Whether another worker is known to have been asked to stop; nothing is asked for."""
        return any(position.stops for position in self._known.values())

    def _in_collective(self) -> bool:
        frame = self._frame()
        for _ in range(3):
            if frame is None:
                return False
            name = frame.f_code.co_filename
            if name.endswith(("distributed_c10d.py", os.path.join("parallel", "distributed.py"))):
                return True
            frame = frame.f_back
        return False

    def _run(self) -> None:
        with contextlib.suppress(Exception):  # tried again when this worker stands still
            self.board.join(self.position())
        epoch, stood, compared = self._num_moves(), Waited(), 0.0
        while not self._closing.wait(1.0):
            moves, now = self._num_moves(), time.monotonic()
            if moves != epoch:
                stood.begin_again()
            epoch, still = moves, stood.seconds
            self._still_seconds = still
            if still < self._suspicion_seconds or self.error is not None:
                self._seen.clear()
                compared = 0.0
                continue
            if now - compared < self._between_looks:
                continue
            compared = now
            try:
                self._compare(still)
            except Exception as error:  # the store's host has gone: nobody is left to compare with
                if self._closing.is_set():
                    return
                self._give_up(GangError(f"Worker {self.worker} lost the store that all workers share: {error}"))

    def _num_moves(self) -> int:
        """Return what changes whenever the run's thread moves; a loop that makes collectives of its own moves, too."""
        return self._epoch + self._ask_num_asked()

    def _listen(self) -> None:
        """Do what needs no store: look for signals and at how long a stop takes, end a thread that nothing else can."""
        moves, stood = self._num_moves(), Waited()
        while not self._closing.wait(1.0):
            self._stops()
            before, moves, epoch = moves, self._num_moves(), self._epoch
            if moves != before:
                stood.begin_again()
            still = stood.seconds
            if still < self._suspicion_seconds:
                continue
            if self.error is not None:
                gave_up, then = self._gave_up
                if epoch == then and time.monotonic() - gave_up > LAST_SECONDS:
                    self._end(self.error)  # it waits in slices, but is inside the store's client
            elif self._is_blocked():
                if (error := self._check_signals()) is not None:
                    self._give_up(error)
                elif still > self._longest([self.position()]) + LAST_SECONDS:
                    table = describe({self.worker: self.position(), **self._known})
                    self._give_up(
                        SyncTimeoutError(
                            f"Nothing has moved here for {still:.0f} s; the timeout is {self._timeout_seconds:.0f} s. "
                            f"The network is down, or another worker or the host of the store stalls.\n{table}"
                        )
                    )

    def _is_blocked(self) -> bool:
        """Whether the run's thread waits for other workers or for the store, and not in code of its own."""
        return self._asks() or self._item is not None or self.blocking or self._in_collective()

    def _compare(self, still: float) -> None:
        """Publish where this worker stands, and see whether that ends the run: worker 0 judges, the others read it."""
        self._beat += 1
        mine = self.position()
        self.board.join(mine)
        if self.worker == 0:
            self._judge(mine)
        elif (error := self.board.verdict(waits=mine.item is not None)) is not None:
            self._give_up(error)
        if self.error is not None:
            return
        # In its own code for so long, it will not come back, either.
        if (mine.item is not None or still > self._timeout_seconds + 2.0) and (left := self.board.exits()):
            self._give_up(failed_elsewhere(self.board.failures() or left))
        elif mine.item is not None and still > self._longest([mine]) + 2.0:  # a sliced wait has its own, sooner
            self._give_up(SyncTimeoutError(f"Nothing has moved for {still:.0f} s:\n{self.others_stand()}"))

    def _judge(self, mine: Position) -> None:
        """Read where all stand. A verdict counts only workers that renewed their position and have not moved."""
        positions = {**self.board.positions(), self.worker: mine}
        self._known = positions
        stable = {worker: position for worker, position in positions.items() if self._stands(position)}
        waited = min((position.still_seconds for position in stable.values() if position.item is not None), default=0.0)
        cycle = find_cycle(stable, certain=waited < self._certainty_seconds) or find_divergence(positions)
        if cycle and any(position.item is not None for position in positions.values()):
            error = verdict(positions, cycle, self.board.failures())
            self.board.publish_verdict(error, for_all=False)
            if mine.item is not None:
                self._give_up(error)
        elif len(stable) == self.num_workers and (shortest := self._all_still(positions)) is not None:
            standstill = SyncTimeoutError(
                f"No worker has moved for {shortest:.0f} s, and none waits for another; the timeout is "
                f"{self._timeout_seconds:.0f} s. The loops wait for something that never comes (a thread, a lock, "
                f"what a thread wants to receive from other workers), or a turn takes longer than that:\n"
                f"{describe(positions)}\nWhere a turn may take so long, give a longer --timeout, or call "
                "motet.current_job().yield_turn() in between, on all workers alike."
            )
            self.board.publish_verdict(standstill, for_all=True)
            self._give_up(standstill)

    def _all_still(self, positions: Mapping[int, Position]) -> float | None:
        """Return for how long no worker at all has moved, if that is longer than the timeout."""
        shortest = min(position.still_seconds for position in positions.values())
        return shortest if shortest > self._longest(positions.values()) + 2.0 else None

    def _longest(self, positions: Iterable[Position]) -> float:
        """Return for how long a worker may stand still: where any of them begins, for as long as imports take."""
        begins = any(not (p.launched.get(p.job, 0) if p.job else p.launched) for p in positions)
        return max(self._timeout_seconds, LONGEST_BEGIN_SECONDS if begins else 0.0)

    def _stands(self, position: Position) -> bool:
        """Whether a worker has renewed a position, without having moved, since it was first read."""
        epoch, beat = self._seen.get(position.worker, (-1, 0))
        if epoch != position.epoch:
            self._seen[position.worker] = (position.epoch, position.beat)
            return False
        return position.beat > beat

    def _give_up(self, error: GangError) -> None:
        self._gave_up, self.error = (time.monotonic(), self._epoch), error
        if self._item is None:  # otherwise the run's thread waits in slices: it raises the error itself
            self._end(error)

    def _end(self, error: GangError) -> None:
        """End this process: the run's thread is inside a call that never returns, and cannot be interrupted there."""
        self.before_exit(error)
        print(f"motet: worker {self.worker}: {error}", file=sys.__stderr__, flush=True)
        if "MOTET_DEBUG" in os.environ:
            faulthandler.dump_traceback()
        os._exit(EXIT_STATUS)

    def close(self, *, done: bool = True) -> None:
        """End the thread; the state file keeps the last line."""
        if done:  # otherwise the state shows what it was doing
            self.at("done")
        self._closing.set()
        for thread in self._threads:
            thread.join(timeout=STORE_SECONDS + 1.0)
        self._threads.clear()
        self.board.close()
        if self._state is not None:
            self._state.close()
            self._state = None
