"""Do the workers wait for each other in a cycle? Pure: positions in, verdict out.

A worker that has waited for some seconds publishes its position. What it waits for (its *item*) becomes possible
once every worker has launched its own part of it. If worker X waits for an item that worker Y has not launched, and
Y itself waits, and so on in a cycle, then nobody in the cycle can ever go on: the run has diverged. A worker that
computes, however slowly, is in no cycle and contradicts nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from motet.errors import DivergenceError, GangError, WorkerFailedError

Kind = Literal["gradients", "agreement", "collective", "decision", "connections"]


@dataclass(frozen=True)
class WaitsFor:
    """What a worker waits for.

    ``gradients``: those of turn ``number`` of ``job``; ``agreement``: the ``number``-th of the run; ``collective``: one
    that the loop of ``job`` called by itself in turn ``number``; ``decision``: what worker 0 decides there;
    ``connections``: those of the ``number``-th group that the run has made. ``after``: where an agreement began.
    """

    kind: Kind
    job: str | None
    number: int
    after: str = ""

    def __str__(self) -> str:
        if self.kind == "gradients":
            return f"the gradients of job '{self.job}', turn {self.number}"
        if self.kind == "agreement":
            after = f" after {self.after}" if self.after else ""
            return "the other workers' agreement" + (f" that job '{self.job}' ended" if self.job else after)
        if self.kind == "decision":
            return "worker 0's decision" + (f" about job '{self.job}', turn {self.number}" if self.job else "")
        if self.kind == "connections":
            return "the other workers' connections"
        return f"a collective that job '{self.job}' called in turn {self.number}"


@dataclass(frozen=True)
class Position:
    """Where one worker stands. ``launched`` counts the synchronized turns of each job that it has sent off.

    ``epoch`` changes whenever the worker moves; ``beat`` counts what it has published, so that a position that nobody
    renews any more is told from one where somebody still stands. ``history``: a signature of all turns that it has sent
    off, after each of the last ones, by their number in the run. ``still_seconds``: for how long it has not moved, at
    least; ``where``: in which lines of a loop's own code it stands. ``stops``: it was asked to stop.
    """

    worker: int
    epoch: int
    beat: int
    job: str | None
    turn: int
    phase: str
    item: WaitsFor | None
    launched: Mapping[str, int] = field(default_factory=dict)
    ended: Mapping[str, str] = field(default_factory=dict)
    num_agreements: int = 0
    last_turns: Sequence[str] = ()
    history: Mapping[int, int] = field(default_factory=dict)
    still_seconds: float = 0.0
    where: str = ""
    stops: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for the store."""
        data = dict(vars(self))
        data["item"] = None if self.item is None else vars(self.item)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Position:
        """Rebuild what `to_json` gave."""
        item = data["item"]
        history = {int(number): signature for number, signature in data["history"].items()}
        return cls(**{**data, "item": None if item is None else WaitsFor(**item), "history": history})

    def has_launched(self, item: WaitsFor) -> bool:
        """Whether this worker has done its part of ``item``, or may have (for collectives it cannot be known)."""
        job = item.job or ""
        if item.kind == "agreement":
            return self.num_agreements >= item.number
        if item.kind == "gradients":
            return self.launched.get(job, 0) >= item.number
        if item.kind == "connections":
            return True  # it may be on its way there: a pair that cannot connect is found by the timeout
        if job in self.ended:
            return False
        return self.launched.get(job, 0) + 1 >= item.number

    def __str__(self) -> str:
        where = f"in job '{self.job}', turn {self.turn}, " if self.job else ""
        what = f"waits for {self.item}" if self.item else self.phase
        ends = "".join(f"; job '{job}' has {how} here" for job, how in self.ended.items())
        last = f"; last turns: {', '.join(self.last_turns)}" if self.last_turns else ""
        still = f" for {self.still_seconds:.0f} s" if self.where and not self.item else ""
        place = f" at {self.where}" if self.where else ""
        return f"worker {self.worker}: {where}{what}{still}{place}{ends}{last}"


def find_cycle(positions: Mapping[int, Position], *, certain: bool = True) -> list[int]:
    """Return the workers that wait for each other in a cycle, in rising order; an empty list if there is none.

    ``certain=False`` also counts a collective as not launched by a worker that has *passed* the place without being
    in it: likely, and to be used only after a long wait.
    """
    waits: dict[int, set[int]] = {}
    for x, at in positions.items():
        if at.item is not None:
            waits[x] = {y for y, other in positions.items() if y != x and not _met(at.item, other, certain)}
    # Whoever waits for nobody that waits is in no cycle; taking such workers away leaves the cycles.
    changed = True
    while changed:
        stuck = {x for x, others in waits.items() if any(y in waits for y in others)}
        changed = len(stuck) < len(waits)
        waits = {x: waits[x] for x in stuck}
    return sorted(waits)


def find_divergence(positions: Mapping[int, Position]) -> list[int]:
    """Return workers that have sent off other turns than another, or others' buckets in them; an empty list if none.

    What waits in the queue for the link counts as launched and need never leave, if workers have sent in different
    orders: no cycle shows that. What a worker sends is the same on all, so any difference is a contradiction.
    """
    return sorted(
        {
            worker
            for x, at in positions.items()
            for y, other in positions.items()
            if any(other.history.get(number, signature) != signature for number, signature in at.history.items())
            for worker in (x, y)
        }
    )


def _met(item: WaitsFor, other: Position, certain: bool) -> bool:
    if item.kind in ("collective", "decision", "connections") and not certain and other.item != item:
        return False
    return other.has_launched(item)


def describe(positions: Mapping[int, Position]) -> str:
    """Return the positions side by side, a line each."""
    return "\n".join(f"  {positions[worker]}" for worker in sorted(positions))


def verdict(positions: Mapping[int, Position], cycle: Sequence[int], failures: Mapping[int, str]) -> GangError:
    """Return the error that ends a run whose workers wait for each other; ``failures``: what they published."""
    failed = {w: how for w, p in positions.items() for how in p.ended.values() if how.startswith("failed")}
    table = describe(positions)
    if failed and len(failed) < len(positions):
        names = ", ".join(str(worker) for worker in sorted(failed))
        return WorkerFailedError(
            f"Worker {names} met an error that the other workers did not meet, so the job cannot go on:\n"
            + "\n".join([table, *failures.values()])
        )
    return DivergenceError(
        f"The workers took different ways and wait for each other (workers {list(cycle)}):\n{table}\n"
        "Every worker must take the same turns: look for uneven numbers of batches, or an `if` on the rank "
        "around backward() or a collective, or buffers written on some workers only (--buffers blocking)."
    )


def failed_elsewhere(failures: Mapping[int, str]) -> WorkerFailedError:
    """Return the error that names a worker which has published one of its own."""
    worker, text = sorted(failures.items())[0]
    return WorkerFailedError(f"Worker {worker} met an error that the other workers did not meet:\n{text}")
