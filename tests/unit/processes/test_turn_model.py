"""Workers and jobs with waits that are seen and waits that are not: every job always goes on, whatever the orders.

Tables and seats are the real ones, in threads. Of what takes the turn from those who wait unseen
(`motet.processes.unseen`) only the eyes are replaced: here it is told who waits, and errs at random. Processes are
killed at random moments, wherever they are at the table: one of a job, whose others are ended then, or all at once, as
when a run is stopped. A job that was killed starts again in the same seats, or does not.
"""

from __future__ import annotations

import os
import random
import select
import threading
import time
from dataclasses import dataclass, field
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.processes.turn_bench import Bench

from motet.processes.turn_table import NOBODY

LONGEST_SECONDS = 30.0
STEPS = ("seen", "unseen", "aside")
"""A turn's end, where the gradients are waited for; a wait of all workers with the turn; a wait for something else."""
read_event = os.eventfd_read


class Killed(Exception):
    """Stands for the end of a process in the middle of whatever it does."""


@dataclass
class Process:
    """One job's process on one worker. ``meet``: where it waits for those on the others."""

    worker: int
    job: int
    meet: list[threading.Barrier]
    killed: bool = False
    waits_unseen: bool = False
    over: bool = False


@dataclass
class Gang:
    """W workers, K jobs: ``programs`` says what each job does, the same on all workers; ``orders`` each worker's.

    ``kills``: at which looks whose process is killed (None: all processes); ``again``: those jobs start again.
    """

    programs: list[list[str]]
    orders: list[list[int]]
    strict: bool
    errs: bool
    again: bool
    seed: int
    kills: dict[int, tuple[int, int] | None] = field(default_factory=dict)
    benches: list[Bench] = field(default_factory=list)
    live: dict[tuple[int, int], Process] = field(default_factory=dict)
    left: set[int] = field(default_factory=set)
    errors: list[BaseException] = field(default_factory=list)
    computing: list[int] = field(default_factory=list)
    overlaps: int = 0
    num_killed: int = 0

    def run(self) -> None:
        """Run all programs to their ends."""
        self.benches = [Bench(len(self.programs), strict=self.strict) for _ in self.orders]
        self.computing = [0] * len(self.benches)
        self.owners = {bench.wake[job]: (w, job) for w, bench in enumerate(self.benches) for job in self.jobs}
        for bench, order in zip(self.benches, self.orders, strict=True):
            bench.follow(order)
        self.left = set(self.jobs)
        with mock.patch.object(os, "eventfd_read", self._woken):
            for job in self.jobs:
                self._start(job)
            deadline, chance, looks = time.monotonic() + LONGEST_SECONDS, random.Random(self.seed), 0
            while self.left and time.monotonic() < deadline and not self.errors:
                self._kill(looks)
                self._look(chance)
                looks += 1
                time.sleep(0.0001)
        stuck = sorted(self.live)
        assert not self.errors, self.errors
        assert not self.left, (self.left, stuck, [bench.table.holder() for bench in self.benches])
        for bench in self.benches:
            bench.close()

    @property
    def jobs(self) -> range:
        """The jobs' numbers: also their seats."""
        return range(len(self.programs))

    def _start(self, job: int) -> None:
        meet = [threading.Barrier(len(self.orders)) for _ in self.programs[job]]
        for worker in range(len(self.orders)):
            process = self.live[worker, job] = Process(worker, job, meet)
            threading.Thread(target=self._lives, args=(process,), daemon=True).start()

    def _kill(self, look: int) -> None:
        if look not in self.kills:
            return
        found = self.kills[look]
        for each, process in self.live.items():
            if found is None or each == found:
                process.killed = True
                self.num_killed += 1

    def _look(self, chance: random.Random) -> None:
        """Do what each worker's loop does: take turns away, end strict orders' cycles, clear up after the dead."""
        for job in sorted(self.left):
            processes = [process for (_, each), process in self.live.items() if each == job]
            if any(process.killed for process in processes):
                for process in processes:
                    process.killed = True
                for barrier in processes[0].meet if processes else ():
                    barrier.abort()
            again = self.again and bool(processes) and processes[0].killed
            for process in [process for process in processes if process.over]:
                table = self.benches[process.worker].table
                table.close_seat(job, self.benches[process.worker].wake)
                del self.live[process.worker, job]
                if again and not any(each == job for _, each in self.live):
                    for bench in self.benches:
                        bench.table.open_seat(job, max(bench.order.count(job), 1))
                        bench.follow(bench.order)
                    self._start(job)
            if not any(each == job for _, each in self.live):
                self.left.discard(job)
        for worker, bench in enumerate(self.benches):
            holder = bench.holder
            if holder == NOBODY:
                bench.table.pass_over(bench.wake)
                continue
            process = self.live.get((worker, holder))
            if (process is not None and process.waits_unseen) or (self.errs and chance.random() < 0.1):
                bench.table.take_away(holder, bench.wake)

    def _woken(self, wake: int) -> int:
        """Stand for `os.eventfd_read`: a process that waits for its turn can be killed there, too."""
        process = self.live[self.owners[wake]]
        while not select.select([wake], [], [], 0.001)[0]:
            if process.killed:
                raise Killed
        return read_event(wake)

    def _lives(self, process: Process) -> None:
        try:
            self._trains(process)
        except (Killed, threading.BrokenBarrierError):
            process.killed = True
        except BaseException as error:
            self.errors.append(error)
        process.over = True

    def _trains(self, process: Process) -> None:
        seat = self.benches[process.worker].seats[process.job]
        seat.acquire()
        for number, step in enumerate(self.programs[process.job]):
            self._computes(process)
            if step == "seen":
                seat.release(synchronizes=True)
                process.meet[number].wait(LONGEST_SECONDS)
                seat.acquire()
            elif step == "unseen":
                process.waits_unseen = True
                process.meet[number].wait(LONGEST_SECONDS)
                process.waits_unseen = False
            elif step == "aside":
                seat.release()
                seat.acquire()
        self._computes(process)
        seat.release()

    def _computes(self, process: Process) -> None:
        if process.killed:
            raise Killed
        self.computing[process.worker] += 1
        time.sleep(0.0002)  # others may run now, if they do not keep to the table
        self.overlaps += self.computing[process.worker] > 1
        self.computing[process.worker] -= 1


@st.composite
def gangs(draw: st.DrawFn) -> Gang:
    num_workers, num_jobs = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    programs = draw(st.lists(st.lists(st.sampled_from(STEPS), max_size=8), min_size=num_jobs, max_size=num_jobs))
    turns = st.lists(st.integers(0, num_jobs - 1), max_size=4).map(lambda more: [*range(num_jobs), *more])
    orders = draw(st.lists(turns.flatmap(st.permutations), min_size=num_workers, max_size=num_workers))
    whom = st.none() | st.tuples(st.integers(0, num_workers - 1), st.integers(0, num_jobs - 1))
    kills = draw(st.dictionaries(st.integers(0, 40), whom, max_size=6))
    return Gang(programs, orders, *(draw(st.booleans()) for _ in range(3)), draw(st.integers(0, 99)), kills)


@settings(max_examples=100, deadline=None)
@given(gangs())
def test_every_job_goes_on_to_its_end(gang: Gang) -> None:
    gang.run()


@settings(max_examples=20, deadline=None)
@given(gangs())
def test_one_job_of_a_worker_computes_at_a_time_where_no_turn_is_taken(gang: Gang) -> None:
    gang.errs = False
    gang.programs = [["seen" if step == "unseen" else step for step in program] for program in gang.programs]
    gang.run()
    assert not gang.overlaps
