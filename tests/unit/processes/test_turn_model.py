"""Workers and jobs with waits that are seen and waits that are not: every job always goes on, whatever the orders.

Tables and seats are the real ones, in threads. Of what takes the turn from those who wait unseen
(`motet.processes.unseen`) only the eyes are replaced: here it is told who waits, and errs at random.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.processes.turn_bench import Bench

from motet.processes.turn_table import NOBODY

LONGEST_SECONDS = 30.0
STEPS = ("seen", "unseen", "aside", "dies")
"""A turn's end, where the gradients are waited for; a wait of all workers with the turn; a wait for something else;
the end of the job's processes, wherever they are at the table."""


@dataclass
class Gang:
    """W workers, K jobs: ``programs`` says what each job does, the same on all workers; ``orders`` each worker's."""

    programs: list[list[str]]
    orders: list[list[int]]
    strict: bool
    errs: bool
    seed: int
    benches: list[Bench] = field(default_factory=list)
    waits_unseen: set[tuple[int, int]] = field(default_factory=set)
    dead: set[tuple[int, int]] = field(default_factory=set)
    done: set[tuple[int, int]] = field(default_factory=set)
    errors: list[BaseException] = field(default_factory=list)
    computing: list[int] = field(default_factory=list)
    overlaps: int = 0

    def run(self) -> None:
        """Run all programs to their ends."""
        self.benches = [Bench(len(self.programs), strict=self.strict) for _ in self.orders]
        self.computing = [0] * len(self.benches)
        for bench, order in zip(self.benches, self.orders, strict=True):
            bench.follow(order)
        self.meet = [[threading.Barrier(len(self.orders)) for _ in program] for program in self.programs]
        whole = {(worker, job) for worker in range(len(self.orders)) for job in range(len(self.programs))}
        threads = [threading.Thread(target=self._lives, args=each, daemon=True) for each in whole]
        for thread in threads:
            thread.start()
        deadline, chance = time.monotonic() + LONGEST_SECONDS, random.Random(self.seed)
        while self.done | self.dead != whole and time.monotonic() < deadline and not self.errors:
            self._look(chance)
            time.sleep(0.0001)
        stuck = sorted(whole - self.done - self.dead)
        assert not self.errors, self.errors
        assert not stuck, (stuck, [bench.table.holder() for bench in self.benches])
        for thread in threads:
            thread.join(LONGEST_SECONDS)
        for bench in self.benches:
            bench.close()

    def _look(self, chance: random.Random) -> None:
        """Do what each worker's loop does: take turns away, end strict orders' circles, clear up after the dead."""
        for worker, bench in enumerate(self.benches):
            holder = bench.holder
            for job in range(len(self.programs)):
                if (worker, job) in self.dead and bench.table.state(job):
                    bench.table.close_seat(job, bench.wake)
            if holder == NOBODY:
                bench.table.pass_over(bench.wake)
            elif (worker, holder) in self.waits_unseen or (self.errs and chance.random() < 0.1):
                bench.table.take_away(holder, bench.wake)

    def _lives(self, worker: int, job: int) -> None:
        try:
            seat = self.benches[worker].seats[job]
            seat.acquire()
            for number, step in enumerate(self.programs[job]):
                self._computes(worker)
                if step == "seen":
                    seat.release(synchronizes=True)
                    self.meet[job][number].wait(LONGEST_SECONDS)
                    seat.acquire()
                elif step == "unseen":
                    self.waits_unseen.add((worker, job))
                    self.meet[job][number].wait(LONGEST_SECONDS)
                    self.waits_unseen.discard((worker, job))
                elif step == "aside":
                    seat.release()
                    seat.acquire()
                elif step == "dies":
                    self.dead.add((worker, job))
                    return
            seat.release()
            self.benches[worker].table.close_seat(job, self.benches[worker].wake)
            self.done.add((worker, job))
        except BaseException as error:
            self.errors.append(error)

    def _computes(self, worker: int) -> None:
        self.computing[worker] += 1
        time.sleep(0)  # others may run now, if they do not keep to the table
        self.overlaps += self.computing[worker] > 1
        self.computing[worker] -= 1


@st.composite
def gangs(draw: st.DrawFn) -> Gang:
    num_workers, num_jobs = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    programs = draw(st.lists(st.lists(st.sampled_from(STEPS), max_size=8), min_size=num_jobs, max_size=num_jobs))
    turns = st.lists(st.integers(0, num_jobs - 1), max_size=4).map(lambda more: [*range(num_jobs), *more])
    orders = draw(st.lists(turns.flatmap(st.permutations), min_size=num_workers, max_size=num_workers))
    return Gang(programs, orders, draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 99)))


@settings(max_examples=60, deadline=None)
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
