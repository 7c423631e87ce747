"""The order changes at the same turn on every worker, however slow any of them is, and changes no weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.distributed.tables import LOOPS

from motet.testing import Gang

RESTLESS = "tests.distributed.restless:"


def must_be_one(message: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what all workers tell alike."""
    assert all(worker == message[0] for worker in message)
    return message[0]


@pytest.mark.parametrize("slow_worker", [None, 0, 2])
def test_the_order_changes_at_the_same_turn_on_slow_workers(
    gangs: Callable[[int], Gang], slow_worker: int | None
) -> None:
    reports = must_be_one(gangs(3).run(f"{RESTLESS}jittery_run", 260, 0.004, slow_worker))
    assert len(reports["changed"]) >= 200
    assert len({order for _, order in reports["changed"]}) > 50, "they are other orders indeed"
    for (begin, order), (end, _) in zip(reports["changed"], reports["changed"][1:], strict=False):
        followed = tuple(reports["taken"][begin:end])[: len(order)]
        live = [name for name in order if name in reports["taken"][begin:]]
        if followed and live == list(order):
            rotations = [(order[start:] + order[:start])[: len(followed)] for start in range(len(order))]
            assert followed in rotations, "the new order is followed from its first turn on"


@pytest.mark.parametrize("num_workers", [2, 3])
@pytest.mark.parametrize("loop", [name for name, expected in LOOPS.items() if expected.turns_of(3) > 1])
def test_same_weights_while_the_order_changes(gangs: Callable[[int], Gang], loop: str, num_workers: int) -> None:
    expected = LOOPS[loop]
    references = {"loop": expected.alone} if expected.alone else {}
    names = {"loop": loop, "beside": "jobs_plain:companion", "longer": "jobs_plain:longer"}
    reports = gangs(num_workers).run(
        f"{RESTLESS}must_equal_alone_restless", names, references=references, **expected.options
    )
    for worker in reports:
        assert worker["taken"] == reports[0]["taken"]
    assert reports[0]["turns"]["loop"] == expected.turns_of(num_workers)


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_orders_that_are_determined_change_no_weight(gangs: Callable[[int], Gang], num_workers: int) -> None:
    reports = must_be_one(gangs(num_workers).run(f"{RESTLESS}determined_run", 40))
    reasons = reports["reasons"]
    assert reasons[0] == "the costs of 2 jobs are known"
    drifted = [place for place, reason in enumerate(reasons) if reason.startswith("the costs of job 'wide' changed by")]
    assert drifted, reasons
    _, order = reports["changed"][drifted[-1]]
    assert 2 * order.count("wide") <= order.count("narrow") <= 3.5 * order.count("wide"), (
        "3 to 1.1 is what they take now"
    )
    assert "job 'late' joined" in reasons
    assert "the costs of job 'late' are known" in reasons
    (known, order), *_ = reports["changed"]
    assert order.count("narrow") == 10 * order.count("wide")
    assert reports["taken"][:known] == (["wide", "narrow"] * known)[:known]
    assert known == 6, "after three rounds"
    followed = reports["taken"][known : reports["changed"][1][0]]
    assert followed == (list(order) * len(followed))[2 : 2 + len(followed)], "from behind a turn of each"
