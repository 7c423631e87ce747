"""Several hosts that run together: they find each other, see that they were given the same, and number themselves.

One host keeps the store, where the endpoint is; it leads: it begins the run, and settles who takes part. Nothing here
blocks for long in a call that no signal interrupts, and whoever waits says for whom, and until when.

::

    run                 the --rdzv-id
    about/N             what host N is, and was given; N counts those that have come
    begun               what the leading host has begun: its message to all others
    answer/N            whether host N sees the same directory, and reaches the others
    refused             why there is no run
    round, joined/R/I   which attempt is on; the I-th host that has joined it
    settled/R           the hosts that take part in it, in order
    beat/N              host N waits, and lives
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motet.errors import MotetError, UsageError, WorkerLostError, pack_error, unpack_error
from motet.launcher.given import differences
from motet.launcher.network import VARIABLE, Reachable, can_reach, choose_address, is_here
from motet.launcher.store_line import StoreLine

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

PAUSE_SECONDS = 0.1
NOTIFY_EVERY_SECONDS = 30.0
ALIVE_SECONDS = 10.0  # since the last beat


@dataclass(frozen=True)
class Meeting:
    """Where, and with whom: torchrun's options. ``number``: the host's place, where the options say it (static)."""

    host: str
    port: int
    run_id: str
    least: int
    most: int
    number: int | None = None
    keeps_store: bool | None = None
    join_seconds: float = 600.0
    last_call_seconds: float = 30.0
    name: str = field(default_factory=socket.gethostname)

    @property
    def where(self) -> str:
        """The endpoint, for people."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Settled:
    """An attempt that has been settled. ``members``: the numbers of its hosts, in order.

    ``separate``: some host does not see the leading one's directory.
    """

    attempt: int
    members: list[int]
    separate: bool = False


class Hosts:
    """This host among the others, from `open` on. ``notify`` shows the user a notice.

    ``begin`` begins the run, once, on the leading host, and returns its message to the others; ``take`` receives it.
    """

    def __init__(
        self,
        meeting: Meeting,
        about: Mapping[str, Any],
        notify: Callable[[str], None],
        begin: Callable[[], dict[str, Any]],
        take: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self.meeting = meeting
        self.leads = False
        self.number = 0
        self.begun: dict[str, Any] = {}
        self.settled: Settled | None = None
        self.everybody: dict[int, dict[str, Any]] = {}
        self.shares_disk = True  # with the leading host
        self._begin = begin
        self._take = take
        self._about = dict(about)
        self._notify = notify
        self._line: StoreLine
        self._reachable: Reachable | None = None
        self._notified = ("", 0.0)
        self._beats: dict[int, tuple[str | None, float]] = {}
        self._enough_since: float | None = None
        self._answered = False

    def open(self) -> None:
        """Find the store, or keep it, and check in. Raises `WorkerLostError` when the time is over."""
        deadline = time.monotonic() + self.meeting.join_seconds
        listener = self._listen()
        self.leads = listener is not None
        towards = self._wait_for_store(deadline) if listener is None else _own_address(self.meeting.host)
        address = choose_address(towards)
        self._line = StoreLine(self.meeting.host, self.meeting.port, listener)
        self._check_in(address)

    def _listen(self) -> socket.socket | None:
        """Return a listening socket if the store is to be here. On this host somebody may have been first."""
        meeting = self.meeting
        here = meeting.keeps_store
        if here is None:
            here = meeting.number == 0 if meeting.number is not None else is_here(meeting.host)
        if not here:
            return None
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            # Where the name is not this host's own (a service that leads here), on all of its addresses.
            listener.bind((meeting.host if is_here(meeting.host) else "", meeting.port))
            listener.listen(1024)
            return listener
        except OSError as error:
            listener.close()
            if meeting.number == 0 or meeting.keeps_store:
                raise WorkerLostError(f"This host cannot listen at {meeting.where}: {error.strerror}") from None
            return None  # another host of the run that lives on this machine

    def _wait_for_store(self, deadline: float) -> str:
        """Wait until somebody listens at the endpoint; return this host's address on the way there."""
        while True:
            try:
                with socket.create_connection((self.meeting.host, self.meeting.port), timeout=3.0) as found:
                    return str(found.getsockname()[0])
            except socket.gaierror:
                why = f"there is no host of the name {self.meeting.host}"
            except OSError as error:
                why = error.strerror or str(error)
            self._progress(f"waiting for the host at {self.meeting.where} ({why})", deadline)
            if time.monotonic() > deadline:
                raise WorkerLostError(
                    f"No host of the run could be reached at {self.meeting.where} within "
                    f"{self.meeting.join_seconds:.0f} s: {why}. Was --rdzv-endpoint (--master-addr) given alike "
                    "everywhere, and has its host been started?"
                )
            time.sleep(0.5)

    def _check_in(self, address: str) -> None:
        meeting, line = self.meeting, self._line
        line.advance("run", "", meeting.run_id)
        kept = line.get("run")
        if kept != meeting.run_id:
            text = f"{meeting.name} came with --rdzv-id {meeting.run_id}; at {meeting.where} is the run {kept}"
            raise WorkerLostError(text)
        self.number = line.add("num_hosts", 1)
        self._reachable = Reachable(address)
        self._about |= {"name": meeting.name, "number": meeting.number, "at": self._reachable.at}
        line.set(f"about/{self.number}", json.dumps(self._about))
        line.advance("round", "", "1")
        if self.leads:
            line.set("leader", str(self.number))

    @property
    def store(self) -> Store:
        """The store at the endpoint."""
        return self._line.store

    def join(self) -> Settled:
        """Take part in the next attempt; blocks until it is settled.

        Raises `UsageError` where the hosts were not given the same, `WorkerLostError` where not enough of them come.
        """
        before = self.settled.attempt if self.settled is not None else 0
        deadline = time.monotonic() + self.meeting.join_seconds
        self._enough_since, joined = None, 0
        beat = 0
        while True:
            attempt = int(self._line.get("round") or "1")
            if attempt <= before:
                self._line.advance("round", str(attempt), str(before + 1))
                continue
            if attempt != joined:
                joined = attempt
                self._line.set(f"joined/{attempt}/{self._line.add(f'num_joined/{attempt}', 1)}", str(self.number))
            beat += 1
            self._line.set(f"beat/{self.number}", str(beat))
            if (settled := self._look(attempt)) is not None:
                self.settled = settled
                return settled
            self._answer()
            if self.leads:
                self._lead(attempt)
            self._raise_if_over(attempt, deadline)
            time.sleep(PAUSE_SECONDS)

    def _look(self, attempt: int) -> Settled | None:
        """Return what was settled of an attempt, if this host takes part in it; a late one asks for another attempt."""
        packed = self._line.get(f"settled/{attempt}")
        if packed is None:
            return None
        settled = Settled(attempt, **json.loads(packed))
        if self.number in settled.members:
            return settled
        names = [self._of(number)["name"] for number in settled.members]
        if len(names) >= self.meeting.most and self.meeting.name not in names:
            raise WorkerLostError(
                f"The run at {self.meeting.where} has its {len(names)} hosts already: {', '.join(names)}"
            )
        self._line.advance("round", str(attempt), str(attempt + 1))
        return None

    def _answer(self) -> None:
        """Report to the leading host whether all is well here, once it has begun the run."""
        if self._answered or (packed := self._line.get("begun")) is None:
            return
        self._answered = True
        self.begun = json.loads(packed)
        leader = self._of(int(self._line.get("leader") or "0"))
        if not self.leads:
            self._compare(leader)
            self._try_network(leader)
            probe = self.begun["probe"]
            try:
                self.shares_disk = Path(probe["path"]).read_text(encoding="utf-8") == probe["text"]
            except OSError:
                self.shares_disk = False
            try:
                self._take(self.begun)
            except MotetError as error:
                self._refuse(type(error)(f"{self.meeting.name}: {error}"))
        self._line.set(f"answer/{self.number}", json.dumps({"shared": self.shares_disk}))

    def _try_network(self, leader: Mapping[str, Any]) -> None:
        """Refuse where this host and the leading one do not reach each other at the addresses that gloo will use."""
        address, port = leader["at"]
        if not can_reach(address, port):
            text = (
                f"{self.meeting.name} reaches {self.meeting.where}, but not {leader['name']} at {address}, where its "
                f"workers will listen: is {VARIABLE} right on both?"
            )
            self._refuse(WorkerLostError(text))

    def _compare(self, leader: Mapping[str, Any]) -> None:
        ours, theirs = self._about["given"], leader["given"]
        if (
            ours is None
            or theirs is None
            or not (found := differences(ours, theirs, self.meeting.name, leader["name"]))
        ):
            return
        unlike = "; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")
        if self._about["allow_different"]:
            self._notify(f"the hosts were not given the same, and go on: {unlike}")
            return
        text = f"the hosts were not given the same: {unlike}. Give them the same, or --allow-different on each of them"
        self._refuse(UsageError(text))

    def _refuse(self, error: MotetError) -> None:
        """Raise an error, on all hosts that wait for the first attempt."""
        if not self._line.get("settled/1"):
            self._line.advance("refused", "", pack_error(error))
        raise error

    def _lead(self, attempt: int) -> None:
        """Settle an attempt once its hosts are there, and have answered."""
        here = self._here(attempt)
        if len(here) < self.meeting.least:
            self._enough_since = None
            return
        now = time.monotonic()
        self._enough_since = self._enough_since or now
        if len(here) < self.meeting.most and now - self._enough_since < self.meeting.last_call_seconds:
            return
        here = here[: self.meeting.most]
        if not self.begun:
            try:
                self._line.set("begun", json.dumps(self._begin()))
            except MotetError as error:
                self._refuse(error)
            return
        if not all(self._line.get(f"answer/{number}") for number in here):
            return
        for other in (self._of(number) for number in here if number != self.number):
            if attempt == 1 and not can_reach(*other["at"]):
                text = f"{self.meeting.name} does not reach {other['name']} at {other['at'][0]}: is {VARIABLE} right?"
                self._refuse(WorkerLostError(text))
        places = {number: self._of(number)["number"] for number in here}
        if len(set(places.values()) - {None}) < len([place for place in places.values() if place is not None]):
            text = f"two hosts have the same --node-rank: {', '.join(str(self._of(n)['name']) for n in here)}"
            self._refuse(UsageError(text))
        separate = any(not json.loads(self._line.get(f"answer/{number}") or "{}")["shared"] for number in here)
        order = sorted(here, key=lambda number: (number != self.number, places[number] or 0, number))
        self._line.set(f"settled/{attempt}", json.dumps({"members": order, "separate": separate}))

    def _here(self, attempt: int) -> list[int]:
        """Return the hosts that have joined an attempt and live."""
        count = int(self._line.add(f"num_joined/{attempt}", 0))
        found = [self._line.get(f"joined/{attempt}/{index}") for index in range(1, count + 1)]
        here, now = [], time.monotonic()
        for number in dict.fromkeys(int(text) for text in found if text is not None):
            beat = self._line.get(f"beat/{number}")
            known, since = self._beats.get(number, (None, now))
            self._beats[number] = (beat, now if beat != known else since)
            if number == self.number or now - self._beats[number][1] < ALIVE_SECONDS:
                here.append(number)
        return here

    def _raise_if_over(self, attempt: int, deadline: float) -> None:
        if (refused := self._line.get("refused")) and self.settled is None:
            raise unpack_error(refused)
        count = int(self._line.add(f"num_joined/{attempt}", 0))
        found = (self._line.get(f"joined/{attempt}/{index}") for index in range(1, count + 1))
        names = [self._of(int(text))["name"] for text in found if text is not None]
        wanted = self.meeting.most if self.meeting.least == self.meeting.most else self.meeting.least
        at_least = "" if self.meeting.least == self.meeting.most else "at least "
        text = f"{len(names)} of {at_least}{wanted} hosts at {self.meeting.where} ({', '.join(names)})"
        self._progress(text, deadline)
        if time.monotonic() > deadline:
            raise WorkerLostError(
                f"Only {text} have come within {self.meeting.join_seconds:.0f} s. Was the command started on the "
                "others, with the same --rdzv-endpoint and --nnodes?"
            )

    def _progress(self, text: str, deadline: float) -> None:
        """Say for whom this host waits: at once when it changes, and now and then."""
        before, when = self._notified
        if text != before or time.monotonic() - when > NOTIFY_EVERY_SECONDS:
            self._notified = (text, time.monotonic())
            until = time.strftime("%H:%M:%S", time.localtime(time.time() + deadline - time.monotonic()))
            self._notify(f"{text}, until {until}")

    def _of(self, number: int) -> dict[str, Any]:
        if number not in self.everybody:
            self.everybody[number] = json.loads(self._line.get(f"about/{number}") or '{"name": "?", "number": null}')
        return self.everybody[number]

    def wants_another(self) -> bool:
        """Whether some host asks for another attempt: it has come back, or come late, or its workers have failed."""
        return self.settled is not None and int(self._line.get("round") or "0") > self.settled.attempt

    def close(self) -> None:
        """Leave; the store of the leading host ends with its process."""
        if self._reachable is not None:
            self._reachable.close()
        if self.number:
            self._line.close()


def _own_address(host: str) -> str:
    try:
        address = socket.gethostbyname(host)
    except OSError:
        address = ""
    if address and is_here(address):
        return address
    with contextlib.suppress(OSError):  # a service leads here: what the name of this host says
        return socket.gethostbyname(os.uname().nodename)
    return "127.0.0.1"
