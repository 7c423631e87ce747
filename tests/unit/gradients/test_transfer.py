"""What a turn's travel took, whichever of its buckets is seen to arrive last."""

from __future__ import annotations

import itertools

import pytest

from motet.gradients.transfer import SyncTiming
from motet.timing.clocks import LinkMeter, Stopwatch


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_turn_is_over_when_its_latest_bucket_has_arrived(order: tuple[int, ...]) -> None:
    """Each bucket is counted by a thread of its own: the one that arrived first may be counted last."""
    turn, link = SyncTiming(launched=1.0), LinkMeter()
    marks = [link.begin(1.0) for _ in range(3)]
    moments = [2.0, 4.0, 9.0]
    for number in order:
        turn.arrived(moments[number], link, marks[number], Stopwatch())
    assert turn.completed == 9.0
    assert turn.hidden_seconds == 8.0
