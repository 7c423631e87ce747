"""What a profile found out, what follows from it, and the file in which both are kept. Nothing is measured here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from motet.errors import UsageError
from motet.schedule.alternatives import Alternatives, LinkSpec, advice, compare, on_link
from motet.schedule.basis import Basis
from motet.schedule.costs import Cost
from motet.schedule.offload_plan import OffloadCost, offload_cost, offload_lines, offload_model_of
from motet.schedule.order import Order, parse_order
from motet.schedule.replay import Assumptions, assumed_turns
from motet.suggest import did_you_mean

FORMAT = 1

Buckets = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Profile:
    """What the turns of jobs cost, on so many workers.

    expected_turns: how many each job will take in all, where it says so. buckets, transfer_cpu_fraction: see
    `motet.schedule.simulator.Assumptions`. state_bytes: what ``--offload idle`` would move of each job. device: the
    kind of device that the jobs computed on. compute_spread: by which fraction (standard deviation) the computing of a
    job's turns varied on a worker. basis: what it rests on where it was not measured as it stands.
    """

    costs: Mapping[str, Cost]
    expected_turns: Mapping[str, int | None]
    num_workers: int
    buckets: Mapping[str, Buckets] = field(default_factory=dict)
    transfer_cpu_fraction: float = 0.0
    state_bytes: Mapping[str, int] = field(default_factory=dict)
    device: str = "cpu"
    compute_spread: float | None = None
    basis: Basis | None = None

    @property
    def assumptions(self) -> Assumptions:
        """What a replay is to take for granted about these jobs."""
        return Assumptions(buckets=self.buckets, transfer_cpu_fraction=self.transfer_cpu_fraction)

    def elsewhere(self, link: LinkSpec | None, num_workers: int | None) -> Profile:
        """Return what the profile would be on another link, or with another number of workers.

        Without a link, it is reckoned from the bytes and the seconds that were measured how fast the present one is.
        Raises `UsageError` where nothing says it.
        """
        workers = num_workers or self.num_workers
        if link is None and workers == self.num_workers:
            return self
        before = self.basis
        used = link or (self._link() if before is None else LinkSpec(before.bytes_per_second, before.latency_seconds))
        costs = on_link(self.costs, used, workers, self.assumptions)
        basis = Basis(
            self.num_workers if before is None else before.measured_workers,
            used.bytes_per_second,
            used.latency_seconds,
            link is not None or (before is not None and before.given),
            self.compute_spread,
        )
        return replace(self, costs=costs, num_workers=workers, basis=basis)

    def _link(self) -> LinkSpec:
        seconds = sum(cost.sync_seconds for cost in self.costs.values())
        num_bytes = sum(cost.sync_bytes for cost in self.costs.values())
        if self.num_workers < 2 or not seconds or not num_bytes:
            raise UsageError(
                "--num-workers needs to know the link, and this profile, on one worker, has synchronized nothing. "
                "Give --link as well, such as --link 10gbit, or profile with --nproc-per-node=2."
            )
        return LinkSpec(2 * (self.num_workers - 1) / self.num_workers * num_bytes / seconds)

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` turns into an equal profile."""
        jobs = {
            name: {
                "compute_seconds": cost.compute_seconds,
                "sync_seconds": cost.sync_seconds,
                "sync_bytes": cost.sync_bytes,
                "turns": self.expected_turns.get(name),
                "buckets": [list(bucket) for bucket in self.buckets.get(name, ())],
                "state_bytes": self.state_bytes.get(name),
            }
            for name, cost in self.costs.items()
        }
        return {
            "num_workers": self.num_workers,
            "transfer_cpu_fraction": self.transfer_cpu_fraction,
            "device": self.device,
            "compute_spread": self.compute_spread,
            "basis": None if self.basis is None else asdict(self.basis),
            "jobs": jobs,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Profile:
        """Rebuild what `to_json` gave; raises KeyError, TypeError or ValueError for anything else."""
        jobs = data["jobs"]
        return cls(
            costs={
                name: Cost(float(job["compute_seconds"]), float(job["sync_seconds"]), int(job["sync_bytes"]))
                for name, job in jobs.items()
            },
            expected_turns={name: None if job["turns"] is None else int(job["turns"]) for name, job in jobs.items()},
            num_workers=int(data["num_workers"]),
            buckets={
                name: tuple((float(after), float(share)) for after, share in job["buckets"])
                for name, job in jobs.items()
                if job["buckets"]
            },
            transfer_cpu_fraction=float(data["transfer_cpu_fraction"]),
            # Plans that were saved earlier hold none of these.
            state_bytes={
                name: int(job["state_bytes"]) for name, job in jobs.items() if job.get("state_bytes") is not None
            },
            device=str(data.get("device", "cpu")),
            compute_spread=None if (spread := data.get("compute_spread")) is None else float(spread),
            basis=None if (basis := data.get("basis")) is None else Basis(**basis),
        )


@dataclass(frozen=True)
class Plan:
    """What to do with jobs of which a profile is known. ``turns``: those that were reckoned with.

    ``offload``: what moving idle state costs, where that was asked about; the alternatives reckon with it.
    ``cautious_seconds``: what Motet would take if all-reduces and the slowest worker are slower than reckoned
    (`motet.schedule.basis`), where the profile was not measured as it stands.
    """

    profile: Profile
    turns: Mapping[str, int]
    alternatives: Alternatives
    advice: str
    offload: OffloadCost | None = None
    cautious_seconds: float | None = None

    @property
    def order(self) -> Order:
        """The order to use."""
        return self.alternatives.order

    def binds(self, name: str) -> str:
        """Return what takes more of a job's turn, ``"compute"`` or ``"network"``."""
        cost = self.profile.costs[name]
        return "compute" if cost.compute_seconds >= cost.sync_seconds else "network"

    def to_json(self) -> dict[str, Any]:
        """Return the documented form, for ``--json`` and for the saved file."""
        motet = self.alternatives.motet
        profile = self.profile.to_json()
        for name, job in profile["jobs"].items():
            job["binds"] = self.binds(name)
            job["reckoned_turns"] = self.turns[name]
            job["finish_seconds"] = motet.finish_seconds[name]
        return {
            "format": FORMAT,
            **profile,
            "order": list(self.order.turns),
            "motet_seconds": motet.total_seconds,
            "cautious_seconds": self.cautious_seconds,
            "bound_seconds": motet.bound_seconds,
            "efficiency": motet.efficiency,
            "compute_idle_seconds": motet.compute_idle_seconds,
            "network_idle_seconds": motet.network_idle_seconds,
            "one_after_another_seconds": self.alternatives.one_after_another_seconds,
            "no_overlap_seconds": self.alternatives.no_overlap_seconds,
            "side_by_side_seconds": self.alternatives.side_by_side_seconds,
            "one_model_per_worker_seconds": self.alternatives.one_model_per_worker_seconds,
            "offload": None if self.offload is None else self.offload.to_json(),
            "advice": self.advice,
        }


def make_plan(
    profile: Profile, *, order: Order | None = None, data_everywhere: bool = False, host_link: float | None = None
) -> Plan:
    """Return the plan for what was profiled: the best order or ``order``, what it would take, and what else would.

    ``host_link``: with ``--offload idle``, over so many bytes per second; raises `UsageError` where the profile does
    not say what the jobs hold.
    """
    assumptions = profile.assumptions
    if host_link is not None:
        assumptions = replace(assumptions, offload=offload_model_of(profile.state_bytes, profile.costs, host_link))
    turns = assumed_turns(profile.costs, profile.expected_turns)
    alternatives = compare(
        profile.costs,
        turns,
        num_workers=profile.num_workers,
        order=order,
        data_everywhere=data_everywhere,
        assumptions=assumptions,
    )
    cost = None
    if host_link is not None:
        cost = offload_cost(alternatives.order, profile.costs, turns, assumptions, alternatives.motet)
    cautious = None
    if profile.basis is not None:
        costs = profile.basis.cautious(profile.costs, profile.num_workers)
        found = compare(
            costs, turns, num_workers=profile.num_workers, order=alternatives.order, assumptions=assumptions
        )
        cautious = found.motet.total_seconds
    return Plan(profile, turns, alternatives, advice(alternatives, profile.costs, turns), cost, cautious)


def saved_order(path: Path | str, names: list[str]) -> Order:
    """Return the order of a saved plan, for the jobs ``names``.

    Raises `UsageError` where the file is no plan, or was made for other jobs.
    """
    content = _read(path)
    try:
        planned = list(content["jobs"])
        turns = [str(turn) for turn in content["order"]]
        Profile.from_json(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} is not a plan that motet plan --save wrote, or is damaged: {error!r}") from None
    for name in planned:
        if name not in names:
            raise UsageError(
                f"the plan {path} has a job {name!r} that is not among the jobs{did_you_mean(name, names)}"
            )
    if missing := [name for name in names if name not in planned]:
        raise UsageError(f"the plan {path} knows no job {missing[0]!r}; make a plan for these jobs with motet plan")
    return parse_order(turns, names)


def saved_prediction(path: Path | str) -> float | None:
    """Return the seconds that a saved plan predicts; None where a job did not say how many turns it will take."""
    content = _read(path)
    said = Profile.from_json(content).expected_turns
    return float(content["motet_seconds"]) if None not in said.values() else None


def saved_profile(path: Path | str) -> Profile:
    """Return the profile of a saved plan; raises `UsageError` where the file is none."""
    content = _read(path)
    try:
        return Profile.from_json(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} is not a plan that motet plan --save wrote, or is damaged: {error!r}") from None


def _read(path: Path | str) -> Any:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the plan {path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not a plan that motet plan --save wrote: {error}") from None
    version = content.get("format") if isinstance(content, dict) else None
    if version != FORMAT:
        raise UsageError(
            f"{path} is not a plan of format {FORMAT}, which this version of Motet reads (got {version!r})"
        )
    return content


def plan_text(plan: Plan) -> str:
    """Return what ``motet plan`` prints: the costs, the order, the alternatives, and what to do."""
    rows = [["job", "compute", "sync", "sent", "turns", "binds"]]
    for name, cost in plan.profile.costs.items():
        known = plan.profile.expected_turns.get(name) is not None
        rows.append(
            [
                name,
                _seconds(cost.compute_seconds),
                _seconds(cost.sync_seconds),
                _bytes(cost.sync_bytes),
                f"{plan.turns[name]}" if known else f"{plan.turns[name]}?",
                plan.binds(name),
            ]
        )
    workers = f"{plan.profile.num_workers} worker{'s' * (plan.profile.num_workers != 1)}"
    lines = [f"costs of a turn, on {workers}", *_aligned(rows, left={0, 5}), ""]
    if any(plan.profile.expected_turns.get(name) is None for name in plan.turns):
        lines += ["?: not said; taken to go on for as long as the others (turns: in a jobs file, or job.expect)", ""]
    lines += [_order_line(plan.order), "", *_alternative_lines(plan), *_offload_lines(plan), "", plan.advice]
    return "\n".join(lines) + "\n"


def _order_line(order: Order) -> str:
    weights = ", ".join(f"{name} {weight}" for name, weight in order.weights.items())
    shown = str(order) if len(order) <= 16 else f"{','.join(order.turns[:16])},..."
    return f"order: {shown}\n  turns in a round of {len(order)}: {weights}"


def _alternative_lines(plan: Plan) -> list[str]:
    alternatives = plan.alternatives
    motet = alternatives.motet
    rows = [["in this way", "takes", "Motet is"]]
    rows.append(["with Motet", _seconds(motet.total_seconds), ""])
    others = {
        "one run after another": alternatives.one_after_another_seconds,
        "the same without overlap": alternatives.no_overlap_seconds,
        "side by side, at best": alternatives.side_by_side_seconds,
        "one model per worker": alternatives.one_model_per_worker_seconds,
    }
    for way, seconds in others.items():
        if seconds is not None:
            factor = seconds / motet.total_seconds if motet.total_seconds else math.nan
            rows.append([way, _seconds(seconds), f"{factor:.2f} x as fast"])
    total = motet.total_seconds or 1.0
    idle = (
        f"with Motet: efficiency {motet.efficiency:.2f} (the bound is {_seconds(motet.bound_seconds)}), "
        f"compute idle {motet.compute_idle_seconds / total:.0%}, network idle {motet.network_idle_seconds / total:.0%}"
    )
    return [*_aligned(rows, left={0}), idle, *_basis_lines(plan)]


def _basis_lines(plan: Plan) -> list[str]:
    if plan.profile.basis is None or plan.cautious_seconds is None:
        return []
    on, cautiously, *rest = plan.profile.basis.text(plan.profile.num_workers)
    return ["", on, f"{cautiously}: {_seconds(plan.cautious_seconds)} with Motet", *rest]


def _offload_lines(plan: Plan) -> list[str]:
    if plan.offload is None:
        return []
    total = sum(plan.turns.values()) or 1
    moved = sum(plan.profile.state_bytes[name] * turns for name, turns in plan.turns.items()) / total
    lost = _seconds(max(plan.offload.lost_seconds, 0.0))
    return offload_lines(plan.offload, len(plan.turns), plan.profile.device != "cpu", lost, _bytes(round(moved)))


def _aligned(rows: list[list[str]], left: set[int]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _seconds(seconds: float) -> str:
    """Return a duration with three digits."""
    for unit, size, enough in (("h", 3600, 7200), ("min", 60, 120), ("s", 1, 1), ("ms", 1e-3, 1e-3)):
        if seconds >= enough:
            return f"{seconds / size:.3g} {unit}" if seconds / size < 1000 else f"{seconds / size:.0f} {unit}"
    return f"{seconds * 1e6:.3g} us"


def _bytes(num_bytes: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes} B"
