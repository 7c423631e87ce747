"""An order that is followed to the letter begins after the same turn on all workers, which none has taken yet."""

from __future__ import annotations

from motet.processes.switches import Switches


class Run:
    """Worker 0's turns and clock."""

    def __init__(self) -> None:
        self.turns, self.seconds = 0, 0.0
        self.switches = Switches(lambda: self.turns, lambda: self.seconds)


def test_before_the_first_turn_an_order_begins_at_once() -> None:
    run = Run()
    assert [run.switches.after(3), run.switches.after(4)] == [0, 0]
    assert run.switches.possible


def test_later_it_begins_when_all_workers_have_received_it() -> None:
    run = Run()
    run.switches.after(4)
    run.turns, run.seconds = 1000, 10.0  # a hundred turns a second
    assert run.switches.after(4) >= 1000 + 4 + 25, "another worker may be a round ahead, and go on meanwhile"


def test_the_next_one_waits_until_all_workers_follow_the_last() -> None:
    run = Run()
    run.turns, run.seconds = 10, 1.0
    after = run.switches.after(4)
    for run.turns in (10, after - 1, after, after + 3):
        assert not run.switches.possible
    run.turns = after + 4
    assert run.switches.possible
