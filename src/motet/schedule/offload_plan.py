"""What ``--offload idle`` would cost, as a part of a plan. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from motet.errors import UsageError
from motet.schedule.costs import Cost
from motet.schedule.offload_model import FEWEST_JOBS, OffloadModel
from motet.schedule.order import Order
from motet.schedule.replay import Assumptions, Replay, bound_seconds, fewer_turns, replay

_OTHER_LINKS = (0.25, 0.5, 2.0, 4.0)  # times the rate that was asked about


@dataclass(frozen=True)
class OffloadCost:
    """What moving idle state costs, by one order.

    ``lost_seconds``: of a whole run, against all resident. ``elsewhere``: rates of other links, and which part of the
    time with all resident would be lost there.
    """

    bytes_per_second: float
    resident_seconds: float
    lost_seconds: float
    state_wait_seconds: float
    elsewhere: tuple[tuple[float, float], ...]

    @property
    def lost_fraction(self) -> float:
        """Return how much longer it takes, as a part of the time with all resident."""
        return self.lost_seconds / self.resident_seconds if self.resident_seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the documented form."""
        return {
            "host_link_bytes_per_second": self.bytes_per_second,
            "resident_seconds": self.resident_seconds,
            "lost_seconds": self.lost_seconds,
            "lost_fraction": self.lost_fraction,
            "state_wait_seconds": self.state_wait_seconds,
            "on_other_links": [
                {"host_link_bytes_per_second": rate, "lost_fraction": fraction} for rate, fraction in self.elsewhere
            ],
        }


def offload_model_of(
    state_bytes: Mapping[str, int], names: Mapping[str, Cost], bytes_per_second: float
) -> OffloadModel:
    """Return what is to be moved over such a link; raises `UsageError` where a profile does not hold the bytes."""
    if missing := [name for name in names if name not in state_bytes]:
        raise UsageError(
            f"--offload idle needs to know what job {missing[0]!r} holds, and this saved plan does not say: it was "
            "made by an earlier version. Profile the jobs again: motet plan JOBS --offload idle."
        )
    return OffloadModel(state_bytes, bytes_per_second)


def offload_cost(
    order: Order, costs: Mapping[str, Cost], turns: Mapping[str, int], moving: Assumptions, motet: Replay
) -> OffloadCost:
    """Return what ``moving.offload`` costs for so many turns of each job by this order.

    ``motet`` is what the whole takes with it. Replayed are as many turns as in `motet.schedule.alternatives.compare`,
    for other links fewer.
    """
    assert moving.offload is not None

    def seconds(offload: OffloadModel | None, max_turns: int) -> float:
        few, assumed = fewer_turns(turns, max_turns), replace(moving, offload=offload, jitter=0.0)
        longer = bound_seconds(costs, turns, moving) / (bound_seconds(costs, few, moving) or 1.0)
        return replay(order, costs, few, num_workers=1, assumptions=assumed, keep_spans=False).total_seconds * longer

    resident, roughly = seconds(None, 5000), seconds(None, 500)
    elsewhere = []
    for rate in (factor * moving.offload.bytes_per_second for factor in _OTHER_LINKS):
        lost = seconds(replace(moving.offload, bytes_per_second=rate), 500) - roughly
        elsewhere.append((rate, lost / roughly if roughly else 0.0))
    return OffloadCost(
        bytes_per_second=moving.offload.bytes_per_second,
        resident_seconds=resident,
        lost_seconds=motet.total_seconds - resident,
        state_wait_seconds=motet.state_wait_seconds,
        elsewhere=tuple(elsewhere),
    )


def offload_lines(cost: OffloadCost, num_jobs: int, on_device: bool, seconds_text: str, size: str) -> list[str]:
    """Return what ``motet plan`` prints about it. ``seconds_text``: the seconds lost; ``size``: one turn's way out."""
    link = rate_text(cost.bytes_per_second)
    head = f"with --offload idle over {link} to the host: "
    if num_jobs < FEWEST_JOBS:
        return [f"{head}nothing is offloaded with fewer than {FEWEST_JOBS} jobs, so nothing is lost"]
    lines = [
        f"{head}{seconds_text} are lost against all resident, {cost.lost_fraction:.1%}; a turn moves {size} out and as "
        "much in",
        "  on other links: "
        + ", ".join(f"{rate_text(rate)} {max(fraction, 0.0):.1%}" for rate, fraction in cost.elsewhere),
    ]
    if not on_device:
        lines.append(
            "  (on the CPU, where these turns were measured, it moves nothing: this is for a device that takes as long)"
        )
    return lines


def rate_text(bytes_per_second: float) -> str:
    """Return a rate as `motet.schedule.offload_model.parse_host_link` reads it."""
    for unit, size in (("GB/s", 1e9), ("MB/s", 1e6), ("kB/s", 1e3)):
        if bytes_per_second >= size:
            return f"{bytes_per_second / size:.3g} {unit}"
    return f"{bytes_per_second:.3g} B/s"
