"""Does a run take as long as the simulation says? Profile, predict, run; on shaped links, for several sets of jobs.

    sudo python benchmarks/validate_simulation.py                 # all sets, about 25 minutes
    sudo python benchmarks/validate_simulation.py --sets twins unequal --repeats 1 --seconds 5

For each set and each of two orders, round robin and the best one, in alternation: the jobs take the few turns of
``motet plan``, a replay of the order against these costs predicts the time, and the jobs run by that order, as many
turns as take about ``--seconds``. What is compared begins when all loops are warm. The error of a set is that of the
median of its predictions. With ``--profile-rate`` the jobs are profiled on a link of that rate, and the prediction is
for ``--rate``, as ``motet plan --link`` makes it. "unseen" sets were never looked at while the simulation was made.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from gang import Gang, gang
from sets import SETS

from motet.schedule.alternatives import parse_link
from motet.schedule.order import Order, round_robin
from motet.schedule.plan import Profile
from motet.schedule.replay import best_order, replay

VALIDATED = ["twins", "complementary", "mixed four", "eight small", "heterogeneous six", "unequal"]
UNSEEN = ["unseen trio", "unseen five"]


@dataclass(frozen=True)
class Row:
    """One prediction and what came of it, in seconds."""

    job_set: str
    order: str
    predicted_seconds: float
    measured_seconds: float
    bound_seconds: float
    transfer_cpu_fraction: float

    @property
    def error(self) -> float:
        """By how much of the measured time the prediction was off; positive: it took longer than predicted."""
        return self.measured_seconds / self.predicted_seconds - 1


def predict(profile: Profile, order: Order, turns: dict[str, int], num_workers: int) -> tuple[float, float]:
    """Return the predicted seconds and the bound."""
    found = replay(
        order, profile.costs, turns, num_workers=num_workers, assumptions=profile.assumptions, keep_spans=False
    )
    return found.total_seconds, found.bound_seconds


def validate(workers: Gang, job_set: str, kind: str, options: argparse.Namespace) -> Row:
    """Profile, predict and run one set once."""
    workers.set_rate(options.profile_rate or options.rate)
    measured = workers.measure("profile", job_set, 1, options={"num_turns": options.turns}).parts[0]
    profile = Profile.from_json(measured)
    if options.profile_rate:
        workers.set_rate(options.rate)
        profile = profile.elsewhere(parse_link(options.rate), None)
    a_unit = {name: job.steps for name, job in SETS[job_set].items()}
    order = round_robin(list(a_unit))
    if kind == "best":
        order = best_order(profile.costs, {n: 50 * s for n, s in a_unit.items()}, assumptions=profile.assumptions)
    a_few = {name: 10 * steps for name, steps in a_unit.items()}
    units = max(3, round(options.seconds / (predict(profile, order, a_few, workers.num_workers)[0] / 10)))
    turns = {name: units * steps for name, steps in a_unit.items()}
    predicted, bound = predict(profile, order, turns, workers.num_workers)
    seconds = workers.measure("motet", job_set, units, options={"order": list(order.turns)}).seconds
    return Row(job_set, kind, predicted, seconds, bound, profile.transfer_cpu_fraction)


def table(rows: list[Row]) -> str:
    """Return the medians by set and order, and what they come to."""
    lines = ["| set | order | predicted | measured | error | bound |", "|---|---|---|---|---|---|"]
    errors = []
    for job_set, order in dict.fromkeys((row.job_set, row.order) for row in rows):
        these = [row for row in rows if (row.job_set, row.order) == (job_set, order)]
        error = statistics.median(row.error for row in these)
        errors.append(abs(error))
        middle = sorted(these, key=lambda row: row.error)[len(these) // 2]
        lines.append(
            f"| {job_set} | {order} | {middle.predicted_seconds:.2f} s | {middle.measured_seconds:.2f} s "
            f"| {error:+.1%} | {middle.bound_seconds:.2f} s |"
        )
    lines += ["", f"absolute error: median {statistics.median(errors):.1%}, worst {max(errors):.1%}"]
    return "\n".join(lines)


def main() -> None:
    """Run all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", nargs="+", default=[*VALIDATED, *UNSEEN], choices=[*VALIDATED, *UNSEEN])
    parser.add_argument("--rate", default="300mbit")
    parser.add_argument("--profile-rate", metavar="RATE", help="profile on a link of another rate")
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="about how long each run is")
    parser.add_argument("--turns", type=int, default=12, help="turns of each job alone in a profile")
    parser.add_argument("--json", type=Path, help="a file for all rows")
    options = parser.parse_args()
    rows: list[Row] = []
    with gang(options.num_workers) as workers:
        for _ in range(options.repeats):
            for job_set in options.sets:
                for kind in ("round robin", "best"):
                    row = validate(workers, job_set, kind, options)
                    rows.append(row)
                    sys.stderr.write(f"{row.job_set}, {row.order}: {row.measured_seconds:.2f} s, {row.error:+.1%}\n")
    print(table(rows))
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
