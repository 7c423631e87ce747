"""The turn changes hands as the order has it, nobody who is ready is forgotten, and who dies gives it back."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading

import pytest
from tests.unit.processes.turn_bench import Bench, bench

from motet.processes.turn_table import (
    COMPUTING,
    FREE,
    MAX_SEATS,
    NOBODY,
    READY,
    RING,
    WAITING,
    Seat,
    Stretch,
    Table,
)


def stretch(turn: int) -> Stretch:
    return Stretch(turn, turn + 1, turn + 2, turn, True, turn + 3, turn + 4, turn + 5)


def taken(made: Bench, num: int, order: list[int]) -> list[int]:
    """Let every seat ask again as soon as it has had a turn; return whose the next so many turns are."""
    found = []
    made.takes(order[0])
    for seat in order[1:]:
        made.asks(seat)
    for _ in range(num):
        holder = made.holder
        made.knows(holder)
        found.append(holder)
        made.gives(holder)
        made.asks(holder)
    return found


def test_who_asks_first_at_an_empty_table_has_the_turn_at_once() -> None:
    with bench(2) as made:
        assert made.holder == NOBODY
        made.takes(1)
        assert made.table.state(1) == COMPUTING
        made.takes(1)  # again: it has it already


def test_ready_jobs_come_in_the_order() -> None:
    with bench(3) as made:
        made.follow([2, 0, 1])
        assert taken(made, 6, [2, 0, 1]) == [2, 0, 1, 2, 0, 1]


def test_of_an_order_with_shares_everybody_gets_its_own() -> None:
    with bench(3) as made:
        made.follow([0, 1, 0, 2])
        found = taken(made, 16, [0, 1, 2])
        assert [found.count(seat) for seat in range(3)] == [8, 4, 4]
        assert max(abs(found[:at].count(0) - at / 2) for at in range(17)) <= 1


def test_a_job_that_is_ready_goes_first_where_the_one_before_it_is_not() -> None:
    with bench(3) as made:
        made.takes(2)
        made.asks(1)
        made.gives(2)
        made.has_come(1)
        assert made.table.state(0) == WAITING


def test_a_strict_order_waits_for_the_job_that_is_not_ready() -> None:
    with bench(2, strict=True) as made:
        made.asks(1)
        assert made.holder == NOBODY
        made.takes(0)
        made.gives(0)
        made.has_come(1)


def test_a_strict_order_is_followed_to_the_letter() -> None:
    with bench(3, strict=True) as made:
        made.follow([0, 0, 2, 1])
        made.takes(0)
        made.asks(1)
        made.asks(2)
        found = []
        for _ in range(8):
            holder = made.holder
            made.knows(holder)
            found.append(holder)
            made.gives(holder)
            made.asks(holder)
        assert found == [0, 0, 2, 1, 0, 0, 2, 1]


def test_a_strict_order_gives_way_to_another_after_a_turn_that_was_named() -> None:
    with bench(3, strict=True) as made:
        made.table.follow([2, 1], made.wake, after=5)
        found = taken(made, 9, [0, 1, 2])
        assert found == [0, 1, 2, 0, 1, 2, 1, 2, 1]
    with bench(3, strict=True) as made:
        made.takes(0)
        made.gives(0)
        made.table.follow([0, 2], made.wake, after=1)  # it has come too late
        assert taken(made, 4, [0, 2]) == [0, 2, 0, 2]


def test_a_holder_that_waits_unseen_for_one_whom_a_strict_order_keeps_back_lets_it_go_on() -> None:
    with bench(3, strict=True) as made:
        made.takes(0)
        made.asks(2)
        assert made.table.take_away(0, made.wake), "1 is next, and not ready"
        made.has_come(2)


def test_a_wait_within_a_turn_uses_up_no_turn_of_a_strict_order() -> None:
    with bench(2, strict=True) as made:
        made.takes(0)
        made.asks(1)
        made.seats[0].release()
        assert made.holder == NOBODY
        made.takes(0)
        made.gives(0)
        made.has_come(1)


def test_a_strict_order_goes_on_when_the_job_that_it_waits_for_has_died() -> None:
    with bench(2, strict=True) as made:
        made.asks(1)
        assert made.holder == NOBODY
        made.table.close_seat(0, made.wake)
        made.has_come(1)


def test_a_strict_order_that_is_stuck_can_be_passed_over() -> None:
    with bench(3, strict=True) as made:
        made.asks(2)
        assert made.holder == NOBODY
        assert made.table.pass_over(made.wake)
        made.has_come(2)
        assert not made.table.pass_over(made.wake)  # somebody has the turn


def test_a_holder_that_waits_unseen_loses_the_turn_and_gets_it_back() -> None:
    with bench(2) as made:
        made.takes(0)
        assert not made.table.take_away(0, made.wake)  # nobody else is ready
        made.asks(1)
        assert not made.table.take_away(1, made.wake)  # it has no turn to lose
        assert made.table.take_away(0, made.wake)
        made.has_come(1)
        assert made.table.state(0) == COMPUTING
        made.asks(0)
        assert made.holder == 1
        made.gives(1)
        made.has_come(0)


def test_who_lost_the_turn_unseen_gives_away_nothing_of_anothers() -> None:
    with bench(2) as made:
        made.takes(0)
        made.asks(1)
        assert made.table.take_away(0, made.wake)
        lost_at = made.table.holder()[2]
        made.has_come(1)
        assert made.seats[0].release(synchronizes=True) == lost_at, (
            "what it waited or computed since is no turn of its own"
        )
        assert made.holder == 1
        made.gives(1)
        made.takes(0)
        assert made.seats[0].release() > lost_at


def test_a_turn_that_is_taken_before_its_job_has_woken_comes_again() -> None:
    """A process that has been chosen may not run for a while, where processors are short."""
    with bench(3) as made:
        made.takes(0)
        made.asks(2)
        with made.table._locked() as words:  # nobody can look at the table meanwhile
            made.table._give(words, 1)  # it is chosen, and has not asked yet: as if it slept on
        made.asks(1)
        made.has_come(1)
        made.gives(1)
        made.has_come(2)
        # The same with one that sleeps: it is chosen, and loses the turn before it looks at the table.
        made.asks(0)
        made.asks(1)
        with made.table._locked() as words:
            words[made.table._at(2) + 0] = WAITING
            made.table._give(words, 0)
            made.table._give(words, 1)
        for seat in (0, 1):
            os.eventfd_write(made.wake[seat], 1)
        made.has_come(1)
        made.until(lambda: made.table.state(0) == READY)
        made.gives(1)
        made.has_come(0)


def test_the_turn_of_a_job_that_died_goes_to_the_next() -> None:
    with bench(2) as made:
        made.takes(0)
        made.asks(1)
        made.table.close_seat(0, made.wake)
        made.has_come(1)
        assert made.table.state(0) == FREE


def test_who_was_given_the_turn_by_one_that_died_is_woken() -> None:
    with bench(3) as made:
        made.takes(0)
        made.asks(1)
        with made.table._locked() as words:  # released, and died before its write
            words[made.table._at(0)] = WAITING
            made.table._give(words, 1)
        made.table.close_seat(0, made.wake)
        made.has_come(1)


def test_a_process_that_dies_with_the_table_locked_locks_nobody_out() -> None:
    with bench(2) as made:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            with made.table._locked():
                os.write(writing, b"x")
                signal.pause()
            os._exit(0)
        os.read(reading, 1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        made.takes(0)
        os.close(reading)
        os.close(writing)


def test_a_job_that_joins_owes_nobody_the_turns_of_before() -> None:
    with bench(2) as made:
        made.table.close_seat(1, made.wake)
        made.follow([0])
        for _ in range(20):
            made.takes(0)
            made.gives(0)
        made.table.open_seat(1)
        made.follow([0, 1])
        found = taken(made, 6, [0, 1])
        assert [found.count(seat) for seat in range(2)] == [3, 3]


def test_a_new_order_forgets_what_jobs_had_under_the_old_one() -> None:
    with bench(3) as made:
        for _ in range(30):
            made.takes(0)
            made.gives(0)
        made.follow([1, 0, 1, 2])
        found = taken(made, 12, [1, 0, 2])
        assert [found.count(seat) for seat in range(3)] in ([3, 6, 3], [2, 6, 4], [2, 7, 3])


def test_a_new_order_starts_who_is_ready() -> None:
    with bench(2, strict=True) as made:
        made.asks(1)
        assert made.holder == NOBODY
        made.follow([1, 0])
        made.has_come(1)


def test_the_table_reads_alike_for_who_joins_it_later() -> None:
    with bench(2) as made:
        made.takes(1)
        joined = Table(2, fd=made.table.fd)
        assert joined.holder()[0] == 1
        joined.request_stop(1, 3)
        assert made.seats[1].stop_request == 3
        assert not joined.any_ready()
        made.asks(0)
        assert joined.any_ready()
        Seat(joined, 1, made.wake).release()
        made.has_come(0)


def test_stretches_are_read_once_and_the_latest_are_kept() -> None:
    with bench(2) as made:
        seat = made.seats[1]
        seat.write(stretch(1))
        seat.write(stretch(2))
        read, found = made.table.stretches(1, 0)
        assert (read, found) == (2, [stretch(1), stretch(2)])
        assert made.table.turns(1) == 2
        assert made.table.stretches(1, read) == (2, [])
        for turn in range(3, RING + 10):
            seat.write(stretch(turn))
        read, found = made.table.stretches(1, read)
        assert read == RING + 9
        assert found == [stretch(turn) for turn in range(RING + 10 - len(found), RING + 10)]
        assert len(found) == RING - 1  # one place may be written to while it is read


def test_a_table_has_no_more_seats_than_an_order_names() -> None:
    for num in (0, MAX_SEATS + 1):
        with pytest.raises(ValueError, match="seats"):
            Table(num)


def test_who_waits_for_the_turn_handles_signals_meanwhile() -> None:
    came: list[int] = []

    def tick(number: int, frame: object) -> None:
        came.append(number)
        if len(came) == 3:
            made.gives(1)

    with bench(2) as made:
        made.takes(1)
        before = signal.signal(signal.SIGALRM, tick)
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        try:
            made.seats[0].acquire()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, before)
        assert len(came) >= 3
        assert made.holder == 0


RAISES = """
import os, signal, sys

from motet.processes.turn_table import Seat, Table


class Alarm(Exception):
    pass


def raises(number, frame):
    global armed
    if armed:
        armed = False
        raise Alarm


table, wake = Table(1, fd=int(sys.argv[1])), [int(sys.argv[2])]
seat, armed = Seat(table, 0, wake), False
signal.signal(signal.SIGALRM, raises)
signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.00037)
count = 0
while count < 500:
    try:
        armed = True
        while True:
            seat.acquire()
            seat.count()
            seat.release()
    except Alarm:
        count += 1
signal.setitimer(signal.ITIMER_REAL, 0)
print("over", flush=True)
sys.stdin.read()
"""


def test_a_handler_that_raises_leaves_the_table_unlocked() -> None:
    with bench(1) as made:
        command = [sys.executable, "-c", RAISES, str(made.table.fd), str(made.wake[0])]
        files = (made.table.fd, made.wake[0])
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=files) as one:
            try:
                assert one.stdout is not None
                ready, _, _ = select.select([one.stdout], [], [], 60)
                assert ready, "the process that was interrupted has locked itself out"
                assert one.stdout.readline() == "over\n"
                locker = threading.Thread(target=lambda: made.table.close_seat(0, made.wake), daemon=True)
                locker.start()
                locker.join(10)
                assert not locker.is_alive(), "the table is locked"
            finally:
                one.kill()
