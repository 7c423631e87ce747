"""What jobs cost alone, the bound that follows, and the rate of the link at which a set is balanced."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from gang import Figures, Gang
from sets import SETS

MEASURED_SECONDS = 1.5


@dataclass(frozen=True)
class JobCost:
    """A step of one job alone, in seconds: computing, syncing, the processor time that a sync takes on the worker's
    core, and the part of that which is the process's own (the rest is the kernel's, for the network)."""

    compute: float
    sync: float
    transfer_cpu: float
    process_cpu: float
    num_bytes: int
    steps: int  # in one unit of work


def costs_of(figures: Figures) -> dict[str, JobCost]:
    """Return each job's costs as the slowest worker has them: all wait for it."""
    return {
        name: JobCost(
            max(part[name]["compute"] for part in figures.parts),
            max(part[name]["sync"] for part in figures.parts),
            max(part[name]["transfer_cpu"] for part in figures.parts),
            max(part[name]["process_cpu"] for part in figures.parts),
            int(figures.parts[0][name]["bytes"]),
            int(figures.parts[0][name]["steps_a_unit"]),
        )
        for name in figures.parts[0]
    }


@dataclass(frozen=True)
class Bound:
    """The least seconds for one unit of work, and its three reasons.

    The processor that computes also moves the bytes (there is one core a worker), so what a transfer takes of its
    time counts as computing: its process's part, and what the kernel does on the same core (``kernel``, which is part
    of ``compute``). The kernel's part of a transfer alone can be more than that of one beside computing, so this may
    be more than the least; without ``kernel`` it is less. ``loops``: what the loops alone compute, which no network
    software could take off.
    """

    compute: float
    network: float
    longest_job: float
    kernel: float
    loops: float

    @property
    def seconds(self) -> float:
        """The bound."""
        return max(self.compute, self.network, self.longest_job)


def bound_of(costs: dict[str, JobCost]) -> Bound:
    """Return the bound of a set from its jobs' costs."""
    return Bound(
        compute=sum(c.steps * (c.compute + c.transfer_cpu) for c in costs.values()),
        network=sum(c.steps * c.sync for c in costs.values()),
        longest_job=max(c.steps * (c.compute + c.sync) for c in costs.values()),
        kernel=sum(c.steps * (c.transfer_cpu - c.process_cpu) for c in costs.values()),
        loops=sum(c.steps * c.compute for c in costs.values()),
    )


def units_for(job_set: str, seconds_a_unit: float, seconds: float) -> int:
    """Return how many units of work take about so many seconds; enough for several turns of each job."""
    least = max(1, 4 // min(job.steps for job in SETS[job_set].values()))
    return max(least, round(seconds / seconds_a_unit))


def measure_costs(gang: Gang, job_set: str, seconds: float, cap_mb: float | None = None) -> dict[str, JobCost]:
    """Measure a set's solo costs at the links' present rate, in about so many seconds for each of the two parts."""
    first = bound_of(costs_of(gang.measure("costs", job_set, 1, cap_mb=cap_mb)))
    units = units_for(job_set, max(first.compute, first.network), seconds)
    return costs_of(gang.measure("costs", job_set, units, cap_mb=cap_mb))


def balanced_rate(gang: Gang, job_set: str, seconds: float = MEASURED_SECONDS) -> int:
    """Return the rate, in bits a second, at which a set's syncs take as long as its computing.

    Begins with the bytes of a ring all-reduce and corrects twice by what the syncs really take at that rate.
    """
    workers = gang.num_workers
    gang.set_rate(None)
    bound = bound_of(costs := measure_costs(gang, job_set, seconds))
    num_bytes = sum(c.steps * c.num_bytes for c in costs.values()) * 2 * (workers - 1) / workers
    rate = num_bytes * 8 / bound.compute
    for _ in range(2):
        gang.set_rate(f"{round(rate)}bit")
        bound = bound_of(measure_costs(gang, job_set, seconds))
        rate *= statistics.median((0.5, bound.network / bound.compute, 2.0))
    return round(rate)
