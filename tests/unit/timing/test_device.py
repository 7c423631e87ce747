"""Moments of a device, told in the host's time: with a device whose clock and streams the test moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from motet.events import Event, SyncEnded, TurnEnded
from motet.gradients.transfer import SyncTiming
from motet.pipeline.ledger import RunLedger
from motet.pipeline.recorder import Recorder
from motet.schedule.costs import COST_REPORT_LENGTH, Cost, CostReport, agreed_cost
from motet.schedule.replanner import Replanner
from motet.timing.device import RUN_AHEAD_SLOTS, DeviceClock, DeviceSums, DeviceTransfer, Journal, Moment, seconds_of

DEVICE = torch.device("cuda", 0)


class World:
    """The time, which passes only when told; a compute stream that is done with its work at ``busy_until``."""

    def __init__(self, *, ahead: float = 0.0, rate: float = 1.0) -> None:
        self.time = 100.0
        self.busy_until = 0.0
        self.network_until = 0.0
        self.ahead, self.rate = ahead, rate

    def host(self) -> float:
        return self.time

    def device(self, moment: float) -> float:
        """Return what the device's clock shows at a moment."""
        return self.rate * moment + self.ahead

    def compute(self, seconds: float) -> None:
        """Put work into the compute stream."""
        self.busy_until = max(self.busy_until, self.time) + seconds

    def send(self, seconds: float) -> None:
        """Put a collective behind what is in the compute stream, and behind earlier collectives."""
        self.network_until = max(self.network_until, self.busy_until, self.time) + seconds

    def wait(self) -> None:
        """Order the compute stream behind the network."""
        self.busy_until = max(self.busy_until, self.network_until)


class FakeEvent:
    def __init__(self, world: World, moment: float) -> None:
        self.world, self.moment = world, moment

    def query(self) -> bool:
        return self.world.time >= self.moment

    def elapsed_time(self, end: FakeEvent) -> float:
        assert self.query()
        assert end.query()
        return 1e3 * (self.world.device(end.moment) - self.world.device(self.moment))


class FakeStreams:
    def __init__(self, world: World) -> None:
        self.world = world

    def event(self) -> FakeEvent:
        return FakeEvent(self.world, max(self.world.busy_until, self.world.time))

    def behind(self, wait: Callable[[], object]) -> FakeEvent:
        busy, self.world.busy_until = self.world.busy_until, 0.0  # another stream, in which nothing is
        wait()
        event = self.event()
        self.world.busy_until = busy
        return event


def clock_of(world: World) -> DeviceClock:
    clock = DeviceClock(world.host)
    clock.use(DEVICE, lambda device: FakeStreams(world))
    return clock


def test_a_hosts_moment_is_known_at_once() -> None:
    world = World()
    moment = DeviceClock(world.host).now()
    assert moment.seconds == 100.0


def test_a_devices_moment_is_known_when_the_device_has_come_by() -> None:
    world = World(ahead=7.0)
    clock = clock_of(world)
    world.compute(2.0)
    moment = clock.now()
    assert moment.recorded == 100.0
    assert not clock.arrived(moment)
    world.time = 101.9
    assert not clock.arrived(moment)
    world.time = 105.0
    assert clock.arrived(moment)
    assert moment.seconds == pytest.approx(102.0)
    assert moment.event is None


def test_a_moment_behind_the_network_does_not_hold_up_the_compute_stream() -> None:
    world = World()
    clock = clock_of(world)
    world.compute(1.0)
    world.send(5.0)
    there = clock.behind(world.wait)
    assert world.busy_until == 101.0
    world.time = 200.0
    assert clock.arrived(there)
    assert there.seconds == pytest.approx(106.0)


@pytest.mark.parametrize("rate", [0.9, 1.1])
def test_a_device_whose_clock_drifts_is_set_right(rate: float) -> None:
    world = World(rate=rate, ahead=-3.0)
    clock = clock_of(world)
    for _ in range(50):
        world.compute(1.0)
        moment, true = clock.now(), world.busy_until
        world.time = world.busy_until
        assert clock.arrived(moment)
        assert seconds_of(moment) == pytest.approx(true, abs=1.0)  # by itself the clock would be 5 s off
        assert moment.recorded <= seconds_of(moment) <= world.time


def test_times_stay_exact_far_from_the_first_event() -> None:
    world = World(ahead=5.0)
    clock = clock_of(world)
    bases = set()
    for _ in range(40):
        world.compute(1.0)
        moment = clock.now()
        world.time = world.busy_until
        assert clock.arrived(moment)
        bases.add(clock._base_seconds)
    assert len(bases) > 3  # so that no event is compared with one that is far away


def test_the_first_event_of_a_device_may_be_slow() -> None:
    """A driver that loads itself with the first event: the clocks are compared by another one."""
    world = World(ahead=7.0)

    class SlowAtFirst(FakeStreams):
        num_events = 0

        def behind(self, wait: Callable[[], object]) -> FakeEvent:
            event = super().behind(wait)
            self.num_events += 1
            world.time += 0.5 if self.num_events == 1 else 0.00002  # until the host sees it
            return event

    clock = DeviceClock(world.host)
    clock.use(DEVICE, lambda device: SlowAtFirst(world))
    world.compute(2.0)
    start, moment = world.time, clock.now()
    world.time += 5.0
    assert clock.arrived(moment)
    assert moment.seconds == pytest.approx(start + 2.0, abs=0.0001)


class Told:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str) -> Callable[[], None]:
        return lambda: self.lines.append(line)


def test_the_journal_reports_at_once_what_is_known() -> None:
    report = Told()
    journal = Journal(DeviceClock(), lambda moment: pytest.fail("there is nothing to wait for"))
    journal.note(1, [Moment(1.0, 1.0)], report("first"))
    assert report.lines == ["first"]


def test_the_journal_reports_in_order_and_not_before_the_slot_is_settled() -> None:
    world, report = World(), Told()
    clock = clock_of(world)

    def wait(moment: Moment) -> None:
        world.time = world.busy_until
        assert clock.arrived(moment)

    journal = Journal(clock, wait)
    world.compute(1.0)
    journal.note(1, [clock.now()], report("late"))
    journal.note(1, [clock.host_now()], report("known"))
    world.compute(1.0)
    journal.note(2, [clock.now()], report("next"))
    world.time = 110.0  # everything has passed; but what is told must not depend on that
    assert report.lines == []
    journal.settle(0)
    assert report.lines == []
    journal.settle(1)
    assert report.lines == ["late", "known"]
    journal.flush()
    assert report.lines == ["late", "known", "next"]


def test_the_host_waits_for_a_device_that_is_far_behind() -> None:
    world = World()
    waits: list[float] = []
    ledger = RunLedger()

    def wait_device(arrived: Callable[[], bool]) -> None:
        while not arrived():
            world.time += 0.5
        waits.append(world.time)

    recorder = Recorder(ledger, Replanner(None, ["a"]), lambda event: None, wait_device)
    recorder.clock = clock_of(world)
    recorder._journal = Journal(recorder.clock, lambda moment: wait_device(lambda: recorder.clock.arrived(moment)))
    for slot in range(1, 12):
        start = recorder.turn_begins()
        world.compute(1.0)  # the host itself takes no time
        over = recorder.turn_ends(start)
        recorder.turn_ended(slot, "a", slot, over, synchronizing=True, ended=False, transfers=())
        recorder.slot_over(slot)
        ahead = (world.busy_until - world.time) / 1.0
        assert ahead <= RUN_AHEAD_SLOTS + 0.5
    assert len(waits) >= 11 - RUN_AHEAD_SLOTS
    recorder.flush()
    assert ledger.totals["a"].compute_seconds == pytest.approx(11.0)


def turn_of(
    world: World, recorder: Recorder, slot: int, job: str, turn: int, compute: float, sync: float
) -> SyncTiming:
    """Let a job compute and send its gradients, as the pipeline and the hook do; return the figures of its sync."""
    start = recorder.turn_begins()
    world.compute(compute)
    world.send(sync)
    transfer = DeviceTransfer(recorder.clock.now(), 1000)
    until, mine = world.network_until, world.busy_until

    def wait() -> None:
        world.busy_until = max(world.busy_until, until)

    transfer.completed = recorder.clock.behind(wait)
    assert world.busy_until == mine
    over = recorder.turn_ends(start)
    recorder.turn_ended(slot, job, turn, over, synchronizing=True, ended=False, transfers=[transfer])
    figures = SyncTiming(num_bytes=1000, num_collectives=1, transfers=[transfer])
    figures.launched = until  # remembered for `finish_sync`
    return figures


def finish_sync(world: World, recorder: Recorder, slot: int, job: str, turn: int, figures: SyncTiming) -> None:
    begin, until = recorder.wait_begins(), figures.launched
    world.busy_until = max(world.busy_until, until)
    recorder.synced(slot, job, turn, begin, figures)


def test_records_hold_device_time_and_not_enqueue_time() -> None:
    """Two jobs, 2 s of computing and 3 s of network a turn: the network is always busy, 2 of 3 s hidden."""
    world = World(ahead=1000.0)
    seen: list[Event] = []
    ledger = RunLedger()

    def wait_device(arrived: Callable[[], bool]) -> None:
        while not arrived():
            world.time += 0.25

    recorder = Recorder(ledger, Replanner(None, ["a", "b"]), seen.append, wait_device)
    recorder.clock = clock_of(world)
    recorder._journal = Journal(recorder.clock, lambda moment: wait_device(lambda: recorder.clock.arrived(moment)))
    flying: dict[str, SyncTiming] = {}
    for slot in range(1, 9):
        job, turn = "ab"[(slot - 1) % 2], (slot + 1) // 2
        if job in flying:
            finish_sync(world, recorder, slot, job, turn - 1, flying.pop(job))
        flying[job] = turn_of(world, recorder, slot, job, turn, compute=2.0, sync=3.0)
        recorder.slot_over(slot)
    recorder.flush()
    turns = [event for event in seen if isinstance(event, TurnEnded)]
    syncs = [event for event in seen if isinstance(event, SyncEnded)]
    assert [(turn.job, turn.turn) for turn in turns] == [("ab"[i % 2], i // 2 + 1) for i in range(8)]
    assert all(turn.time - turn.begin == pytest.approx(2.0) for turn in turns)
    assert turns[0].begin == pytest.approx(100.0)
    assert turns[1].begin == pytest.approx(102.0)
    # The gradients of a's first turn are there at 105, so its second turn begins then: 1 s was waited for them.
    assert (syncs[0].launched, syncs[0].completed) == (pytest.approx(102.0), pytest.approx(105.0))
    assert syncs[0].hidden_seconds == pytest.approx(2.0)
    assert turns[2].begin == pytest.approx(105.0)
    assert syncs[0].wait_begin == pytest.approx(104.0)
    assert syncs[0].time == pytest.approx(105.0)
    # On one communicator the shares are what each bucket took, also where it stood behind another job's.
    assert ledger.totals["a"].link_seconds == pytest.approx(3.0 * ledger.totals["a"].num_turns)
    assert ledger.totals["b"].link_seconds == pytest.approx(3.0 * ledger.totals["b"].num_turns)
    assert ledger.totals["a"].compute_seconds == pytest.approx(8.0)


def test_a_bucket_that_arrives_in_the_hosts_time_never_takes_less_than_nothing() -> None:
    """Gloo's sums are there in the host's time, and leave in the device's: compared clocks are off by microseconds."""
    world, seen = World(), list[Event]()
    planning = Replanner(None, ["a", "b"])
    recorder = Recorder(RunLedger(), planning, seen.append, lambda arrived: None)
    recorder.clock = clock_of(world)
    recorder._journal = Journal(recorder.clock, lambda moment: None)
    for turn in range(1, 5):
        left = DeviceTransfer(Moment(world.time, world.time + 0.0003), 1000, Moment(world.time, world.time + 0.0001))
        begin = recorder.wait_begins()
        world.time += 1.0
        recorder.synced(turn, "a", turn, begin, SyncTiming(num_bytes=1000, num_collectives=1, transfers=[left]))
    recorder.flush()
    syncs = [event for event in seen if isinstance(event, SyncEnded)]
    assert [sync.completed - sync.launched for sync in syncs] == [0.0] * 4
    planning.computed("a", 0.0, 1.0, 0.0)
    planning.computed("a", 0.0, 1.0, 0.0)
    planning.computed("a", 0.0, 1.0, 0.0)
    report = CostReport.unpack(planning.report_costs({"a": None, "b": None})[:COST_REPORT_LENGTH])
    assert agreed_cost([report, report]) == Cost(1.0, 0.0, 1000)


def test_busy_seconds_count_what_is_in_flight_once() -> None:
    world = World()
    clock, sums = clock_of(world), DeviceSums()
    world.time = 200.0
    sums.transfers.append(DeviceTransfer(Moment(0.0, 101.0), 1, Moment(0.0, 103.0)))
    sums.transfers.append(DeviceTransfer(Moment(0.0, 102.0), 1, Moment(0.0, 104.0)))
    sums.transfers.append(DeviceTransfer(Moment(0.0, 106.0), 1))  # not there yet
    assert sums.busy_seconds(102.0, 107.0, clock) == pytest.approx(3.0)
    assert sums.busy_seconds(103.5, 103.75, clock) == pytest.approx(0.25)
    assert len(sums.transfers) == 2
