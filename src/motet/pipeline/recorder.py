"""When each turn computed and when its gradients were in flight, for the accounts, the plan and those who observe.

One for a run, on each worker. On a CPU everything is known when it has happened and reported at once. On a device the
host only knows what it has asked for: moments are then the device's (`motet.timing.device`), and a turn is reported
when they are known, at most `motet.timing.device.RUN_AHEAD_SLOTS` slots later, in the same slot on every worker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from motet.events import Event, SyncEnded, TurnEnded
from motet.gradients.transfer import SyncTiming
from motet.pipeline.ledger import RunLedger
from motet.schedule.replanner import Replanner, SyncSample
from motet.timing.clocks import LinkMeter, Stopwatch
from motet.timing.device import RUN_AHEAD_SLOTS, DeviceClock, DeviceSums, DeviceTransfer, Journal, Moment, seconds_of


@dataclass(frozen=True, slots=True)
class TurnStart:
    """A turn or a wait that has begun: when, and what the host had waited and the network been busy until then."""

    begin: Moment
    waited_seconds: float
    busy_seconds: float


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """A turn that is over. ``waited_seconds`` and ``busy_seconds`` are the host's."""

    begin: Moment
    end: Moment
    waited_seconds: float
    busy_seconds: float


class Recorder:
    """What the pipeline notes down.

    ``wait_device(arrived)`` blocks until ``arrived()``, or raises what makes that hopeless.
    """

    def __init__(
        self,
        ledger: RunLedger,
        planning: Replanner,
        observe: Callable[[Event], None],
        wait_device: Callable[[Callable[[], bool]], None],
    ) -> None:
        self.stopwatch, self.link, self.clock = Stopwatch(), LinkMeter(), DeviceClock()
        self._ledger = ledger
        self._planning = planning
        self._observe = observe
        self._sums = DeviceSums()
        self._journal = Journal(self.clock, lambda moment: wait_device(lambda: self.clock.arrived(moment)))
        self._training: set[str] = set()  # jobs that have come to a backward
        self._turn_ends: dict[str, float] = {}
        self._yielded: dict[str, tuple[float, float]] = {}  # computing and busy seconds of turns given up

    def turn_begins(self) -> TurnStart:
        """Note that a job computes from now on."""
        begin = self.clock.now()
        return TurnStart(begin, self.stopwatch.total_seconds, self.link.busy_seconds(begin.recorded))

    def turn_ends(self, start: TurnStart) -> TurnEnd:
        """Note that it has stopped."""
        end = self.clock.now()
        waited = self.stopwatch.total_seconds - start.waited_seconds
        return TurnEnd(start.begin, end, waited, self.link.busy_seconds(end.recorded) - start.busy_seconds)

    def turn_ended(
        self,
        slot: int,
        job: str,
        turn: int,
        over: TurnEnd,
        *,
        synchronizing: bool,
        ended: bool,
        transfers: Sequence[DeviceTransfer],
        first: Moment | None = None,
    ) -> None:
        """Note what came of it: its gradients are in flight, or the job has ended, or it has only given up its turn.

        Until the job's ``first`` backward begins it starts up: imports, building, its first forward. A job that ends
        without any has computed all the time.
        """
        self._sums.transfers.extend(transfers)
        starts = job not in self._training and not ((ended or synchronizing) and first is None)
        if first is not None:
            self._training.add(job)

        def report() -> None:
            begin, end = seconds_of(over.begin), seconds_of(over.end)
            waited, busy = over.waited_seconds, over.busy_seconds
            if self.clock.on_device:
                waited = self._sums.waited_seconds(begin, end)
                busy = self._sums.busy_seconds(begin, end, self.clock)
            startup = 0.0
            if starts:
                until = end if first is None else seconds_of(first)
                startup = min(max(until - begin, 0.0), max(end - begin - waited, 0.0))
            computed = end - begin - waited - startup
            self._ledger.computed(job, computed, startup)
            self._turn_ends[job] = end
            # What came before the turn was given up belongs to it as well.
            earlier = self._yielded.pop(job, (0.0, 0.0))
            seconds, busy = earlier[0] + computed, earlier[1] + busy
            if synchronizing:
                self._planning.computed(job, end - seconds, seconds, busy)
            elif not ended:
                self._yielded[job] = seconds, busy
            self._observe(
                TurnEnded(
                    time=end,
                    job=job,
                    turn=turn,
                    begin=begin,
                    synchronizing=synchronizing,
                    waited_seconds=waited,
                    startup_seconds=startup,
                )
            )

        moments = [over.begin, over.end]
        if starts and first is not None:
            moments.append(first)
        self._journal.note(slot, moments, report)

    def wait_begins(self) -> Moment:
        """Note that nothing is computed until gradients have arrived."""
        begin = self.clock.now()
        self.stopwatch.wait_begins()
        return begin

    def synced(self, slot: int, job: str, turn: int, wait_begin: Moment, figures: SyncTiming) -> None:
        """Note that they have."""
        self.stopwatch.wait_ends()
        moments = [wait_begin, self.clock.now()]
        for transfer in figures.transfers:
            assert transfer.completed is not None
            moments += [transfer.launched, transfer.completed]

        def report() -> None:
            if figures.transfers:
                self._in_device_time(figures, seconds_of(wait_begin))
            hidden = self._ledger.synced(job, figures, self._turn_ends.get(job))
            seconds = figures.completed - figures.launched
            self._planning.synced(
                job, SyncSample(seconds, figures.link_seconds, figures.num_bytes, tuple(figures.launches))
            )
            self._observe(
                SyncEnded(
                    time=seconds_of(moments[1]),
                    job=job,
                    turn=turn,
                    launched=figures.launched,
                    completed=figures.completed,
                    wait_begin=seconds_of(wait_begin),
                    hidden_seconds=hidden,
                    num_bytes=figures.num_bytes,
                    num_collectives=figures.num_collectives,
                    ready=figures.launches[0][0],
                    link_seconds=figures.link_seconds,
                )
            )

        self._journal.note(slot, moments, report)

    def _in_device_time(self, figures: SyncTiming, wait_begin: float) -> None:
        """Fill in the figures of a synchronization on a device, now that its moments are known.

        A bucket leaves in the device's time and may arrive in the host's (gloo): where these two differ by more than
        the bucket took, it counts as having taken no time.
        """
        transfers = figures.transfers
        completed = [seconds_of(transfer.completed) for transfer in transfers]
        launches = [seconds_of(transfer.launched) for transfer in transfers]
        launched = [min(left, there) for left, there in zip(launches, completed, strict=True)]
        link_seconds = sum(
            self._sums.link_seconds(left, there) for left, there in zip(launched, completed, strict=True)
        )
        self._sums.waited(wait_begin, max(completed))
        figures.took(
            [(left, transfer.num_bytes) for left, transfer in zip(launched, transfers, strict=True)],
            max(completed),
            link_seconds,
            self._sums.waited_seconds(min(launched), max(completed)),
        )

    def slot_over(self, slot: int) -> None:
        """Report what happened so many slots ago; blocks for a device that is further behind."""
        self._journal.settle(slot - RUN_AHEAD_SLOTS)

    def flush(self) -> None:
        """Report everything that has happened; blocks until the device has done it."""
        self._journal.flush()
