"""When things happened on the device, in the host's time.

On an accelerator the host only puts work into streams: the moment at which ``backward()`` returns says nothing about
when its gradients were there. So every moment that costs, trace and progress show is an event in the stream that
the work is in, and becomes known later, when the device has come by. On a CPU a moment is known at once.

`Journal` keeps the moments in the order of the slots and reports what follows from them once they are known. It also
bounds how far the host runs ahead: `RUN_AHEAD_SLOTS`. What is reported after a slot is the same on every worker,
because it does not depend on which event happens to have passed (costs are compared turn by turn:
`motet.schedule.replanner`).

Device times and the host's are laid over each other without stopping the device: an event cannot have passed before
it was recorded, nor after it was seen to have passed; where the clocks have drifted beyond that, they are set right.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

RUN_AHEAD_SLOTS = 4
"""So many slots at most is the host ahead of the device: enough to keep it busy, few enough to stop in time."""
_COMPARISONS = 5  # of the two clocks, when a run begins
_REBASE_SECONDS = 10.0  # events hold milliseconds in 32 bits: 1 µs at 10 s, 0.25 ms at an hour


class Event(Protocol):
    """A place in a stream that the device comes by."""

    def query(self) -> bool:
        """Whether the device has come by."""

    def elapsed_time(self, end: Any, /) -> float:
        """Return the milliseconds from this event to ``end``; both have passed."""


class Streams(Protocol):
    """What is needed of a device."""

    def event(self) -> Event:
        """Return an event in the current stream, behind all that is in it."""

    def behind(self, wait: Callable[[], object]) -> Event:
        """Return an event in a stream of its own that ``wait``, called there, has ordered behind something."""


class TorchStreams:
    """The streams of an accelerator that torch knows."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = torch.Stream(device)

    def event(self) -> Event:
        """Return an event in this thread's current stream."""
        return self._recorded(torch.accelerator.current_stream(self._device))

    def behind(self, wait: Callable[[], object]) -> Event:
        """Return an event behind what ``wait`` waits for; the compute stream is not held up."""
        with self._side:
            wait()
        return self._recorded(self._side)

    def _recorded(self, stream: torch.Stream) -> Event:
        event = torch.Event(self._device, enable_timing=True)
        event.record(stream)
        return event


@dataclass(slots=True, eq=False)
class Moment:
    """A moment on this worker. ``recorded``: the host's time when it was asked for; ``seconds``: when it was, if known.

    Both are `time.perf_counter` values.
    """

    recorded: float
    seconds: float | None = None
    event: Event | None = None


@dataclass(slots=True, eq=False)
class DeviceTransfer:
    """One bucket's way over the network."""

    launched: Moment
    num_bytes: int
    completed: Moment | None = None


class DeviceClock:
    """Moments of this worker: the host's until `use` is called with a device, the device's from then on."""

    def __init__(self, host: Callable[[], float] = time.perf_counter) -> None:
        self._host = host
        self.device: torch.device | None = None  # the one whose moments these are
        self._streams: Streams | None = None
        self._base: Event | None = None
        self._base_seconds = 0.0

    @property
    def on_device(self) -> bool:
        """Whether moments are the device's."""
        return self._streams is not None

    def use(self, device: torch.device, make: Callable[[torch.device], Streams] = TorchStreams) -> None:
        """Take the moments of a device from now on. The first one stays: a worker computes on one device."""
        if self._streams is None:
            streams = make(device)
            self._base, self._base_seconds = self._compared(streams)
            self._streams, self.device = streams, device

    def _compared(self, streams: Streams) -> tuple[Event, float]:
        """Return an event, and when it passed in the host's time: of several tries the one known most precisely.

        The first one waits for whatever the driver does for the first time: milliseconds, by which all gradients
        would seem to leave too late.
        """
        tries = []
        for _ in range(_COMPARISONS):
            before = self._host()
            event = streams.behind(lambda: None)  # in an empty stream: passes at once
            while not event.query():
                pass
            after = self._host()
            tries.append((after - before, event, (before + after) / 2))
        _, event, seconds = min(tries, key=lambda one: one[0])
        return event, seconds

    def now(self) -> Moment:
        """Return the moment at which the device will have done what was asked of it so far."""
        now = self._host()
        if self._streams is None:
            return Moment(now, now)
        return Moment(now, None, self._streams.event())

    def host_now(self) -> Moment:
        """Return this moment of the host, whatever the device does."""
        now = self._host()
        return Moment(now, now)

    def behind(self, wait: Callable[[], object]) -> Moment:
        """Return the moment at which that will be there which ``wait`` orders the current stream behind."""
        assert self._streams is not None
        return Moment(self._host(), None, self._streams.behind(wait))

    def arrived(self, moment: Moment) -> bool:
        """Whether the moment has passed; ``moment.seconds`` is known then."""
        if moment.seconds is not None:
            return True
        assert moment.event is not None
        if not moment.event.query():
            return False
        self._resolve(moment, moment.event)
        return True

    def _resolve(self, moment: Moment, event: Event) -> None:
        assert self._base is not None
        seconds = self._base_seconds + self._base.elapsed_time(event) / 1e3
        possible = min(max(seconds, moment.recorded), self._host())
        self._base_seconds += possible - seconds
        moment.seconds, moment.event = possible, None
        if possible - self._base_seconds > _REBASE_SECONDS:
            self._base, self._base_seconds = event, possible


def seconds_of(moment: Moment | None) -> float:
    """Return when a moment was that is known to have passed."""
    assert moment is not None
    assert moment.seconds is not None
    return moment.seconds


@dataclass(slots=True)
class DeviceSums:
    """What the device's time went to: the part of `motet.timing.clocks` for moments that are known late, in order."""

    waits: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=1024))
    transfers: deque[DeviceTransfer] = field(default_factory=lambda: deque(maxlen=1024))
    _link_until: float = 0.0

    def waited(self, begin: float, end: float) -> None:
        """Note that the compute stream stood still. Waits do not overlap, and are noted in their order."""
        if end > begin:
            self.waits.append((begin, end))

    def waited_seconds(self, begin: float, end: float) -> float:
        """Return how long the compute stream stood still between two moments."""
        return sum(max(0.0, min(end, high) - max(begin, low)) for low, high in self.waits)

    def link_seconds(self, launched: float, completed: float) -> float:
        """Return a bucket's share of the network's busy time: what no bucket that was asked about before has had.

        On one communicator buckets are sent one after the other, so this is what each took. Where several lanes share
        the network, all shares still add up to the time during which anything was in flight.
        """
        share = max(0.0, completed - max(launched, self._link_until))
        self._link_until = max(self._link_until, completed)
        return share

    def busy_seconds(self, begin: float, end: float, clock: DeviceClock) -> float:
        """Return for how long anything was in flight between two moments that have passed."""
        while self.transfers and (over := self.transfers[0].completed) is not None and clock.arrived(over):
            if seconds_of(over) > begin:
                break
            self.transfers.popleft()
        busy, until = 0.0, begin
        for transfer in self.transfers:
            if not clock.arrived(transfer.launched):
                continue
            completed = transfer.completed
            known = completed is not None and clock.arrived(completed)
            low, high = max(seconds_of(transfer.launched), until), min(seconds_of(completed) if known else end, end)
            if high > low:
                busy, until = busy + high - low, high
        return busy


@dataclass(slots=True)
class _Entry:
    slot: int
    moments: Sequence[Moment]
    report: Callable[[], None]


class Journal:
    """What happened in each slot, reported when it is known, in order.

    ``wait(moment)`` blocks until a moment has passed (`DeviceClock.arrived`), or raises what makes it hopeless.
    """

    def __init__(self, clock: DeviceClock, wait: Callable[[Moment], None]) -> None:
        self._clock = clock
        self._wait = wait
        self._entries: deque[_Entry] = deque()

    def note(self, slot: int, moments: Sequence[Moment], report: Callable[[], None]) -> None:
        """Have ``report`` called when all moments are known: at once where they are, as always on a CPU."""
        if not self._entries and all(moment.seconds is not None for moment in moments):
            report()
        else:
            self._entries.append(_Entry(slot, moments, report))

    def settle(self, slot: int) -> None:
        """Report everything up to ``slot``; blocks while the device has not come by."""
        while self._entries and self._entries[0].slot <= slot:
            entry = self._entries[0]
            for moment in entry.moments:
                if not self._clock.arrived(moment):
                    self._wait(moment)
            self._entries.popleft()
            entry.report()

    def flush(self) -> None:
        """Report everything; blocks until the device has come by."""
        while self._entries:
            self.settle(self._entries[-1].slot)
