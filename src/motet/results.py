"""What came of a run: one record a job, one for all. The JSON form (`Results.to_json`) is stable and documented."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["finished", "failed", "pruned", "stopped"]


@dataclass(frozen=True)
class JobResult:
    """What came of one job.

    ``compute_seconds``, ``sync_seconds`` and ``hidden_seconds`` are sums over the job's turns on this worker:
    computing, gradients in flight, and in flight while this worker computed something. ``startup_seconds`` went by
    until its first backward began: imports, building, its first forward; they are not among the computing.
    ``memory``: what the job held on this worker at most, in bytes (`motet.memory.footprint.Footprint`), or None where
    it ended before it was measured. ``nonfinite``: what was NaN or infinite when the job ended, and since which turn.
    ``failed_on``: the worker on which alone the job failed, whose log has its traceback; None if it was all of them.
    """

    status: Status
    turns: int
    compute_seconds: float
    sync_seconds: float
    hidden_seconds: float
    result: Any = None
    error: str | None = None
    memory: Mapping[str, Any] | None = None
    startup_seconds: float = 0.0
    nonfinite: Mapping[str, Mapping[str, object]] | None = None
    failed_on: int | None = None


@dataclass(frozen=True)
class Results(Mapping[str, JobResult]):
    """What came of a run: a mapping of the jobs' results by name.

    ``bound_seconds`` is the least time that the measured costs allow (docs: concepts), ``startup_seconds`` how long
    this worker was busy with the start of jobs; ``efficiency`` leaves that out.
    """

    jobs: Mapping[str, JobResult]
    num_workers: int
    wall_seconds: float
    bound_seconds: float | None = None
    efficiency: float | None = None
    notices: tuple[str, ...] = field(default=())
    startup_seconds: float = 0.0

    def __getitem__(self, name: str) -> JobResult:
        return self.jobs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.jobs)

    def __len__(self) -> int:
        return len(self.jobs)

    def to_json(self) -> dict[str, Any]:
        """Return the documented form of ``results.json``, made of plain values (``result`` as it is)."""
        return {
            "jobs": {name: dict(vars(job)) for name, job in self.jobs.items()},
            "num_workers": self.num_workers,
            "wall_seconds": self.wall_seconds,
            "bound_seconds": self.bound_seconds,
            "efficiency": self.efficiency,
            "startup_seconds": self.startup_seconds,
            "notices": list(self.notices),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Results:
        """Rebuild what `to_json` gave."""
        jobs = {name: JobResult(**fields) for name, fields in data["jobs"].items()}
        return cls(
            jobs=jobs,
            num_workers=data["num_workers"],
            wall_seconds=data["wall_seconds"],
            bound_seconds=data.get("bound_seconds"),
            efficiency=data.get("efficiency"),
            startup_seconds=data.get("startup_seconds", 0.0),
            notices=tuple(data.get("notices", ())),
        )
