"""What a run's very jobs would gain where gradients have a way to go: predicted from what they cost here."""

from __future__ import annotations

from dataclasses import dataclass

from motet.observe.digest import RunDigest
from motet.observe.text import seconds_text
from motet.schedule.alternatives import compare, on_link, parse_link
from motet.schedule.costs import Cost

LINKS = {"1 Gbit/s": "1gbit/50us", "10 Gbit/s": "10gbit/50us"}
MIN_GAIN_SHOWN, MIN_SLOWING_SHOWN = 1.02, 1.1
MAX_TURNS = 400  # that are replayed: a few ten milliseconds


@dataclass(frozen=True)
class Elsewhere:
    """The seconds that the same jobs would take on workers joined by ``link``."""

    link: str
    together_seconds: float
    one_after_another_seconds: float

    @property
    def times(self) -> float:
        """How many times as fast as one after another."""
        return self.one_after_another_seconds / self.together_seconds if self.together_seconds else 1.0


def elsewhere(run: RunDigest) -> list[Elsewhere]:
    """Return what a run on one machine would be like on several; nothing where too little is known."""
    if len(run.jobs) < 2 or _on_several_machines(run):
        return []
    costs, turns = {}, {}
    for job in run.jobs:
        sums = job.sums
        if sums.turns < 2 or not sums.num_syncs or not sums.num_bytes or sums.compute_seconds <= 0:
            continue
        costs[job.name] = Cost(sums.compute_seconds / sums.turns, 0.0, sums.num_bytes // sums.num_syncs)
        turns[job.name] = sums.turns
    if len(costs) < 2:
        return []
    workers, found = max(run.num_workers, 2), []
    for link, rate in LINKS.items():
        there = on_link(costs, parse_link(rate), workers)
        ways = compare(there, turns, num_workers=workers, max_turns=MAX_TURNS)
        found.append(Elsewhere(link, ways.motet.total_seconds, ways.one_after_another_seconds))
    return found


def elsewhere_text(run: RunDigest) -> str:
    """Say in a sentence what these jobs would gain on other machines; '' where nothing can be said."""
    found = elsewhere(run)
    if not found:
        return ""
    slowest = max(one.together_seconds for one in found)
    if max(one.times for one in found) < MIN_GAIN_SHOWN and slowest < MIN_SLOWING_SHOWN * run.estimate.compute_seconds:
        links = " or ".join(one.link for one in found)
        return (
            f"Here gradients stay on one machine; theirs are so small that {links} would slow these jobs down little."
        )
    each = [
        f"at {one.link} {one.times:.2f} times as fast together as one after another "
        f"({seconds_text(one.together_seconds)} for {seconds_text(one.one_after_another_seconds)})"
        for one in found
    ]
    return f"Here gradients stay on one machine. Predicted for workers on machines of their own: {', '.join(each)}."


def _on_several_machines(run: RunDigest) -> bool:
    command = run.description.get("command")
    words = [str(word) for word in command] if isinstance(command, list) else []
    for place, word in enumerate(words):
        if word.startswith("--nnodes"):
            given = word.partition("=")[2] or "".join(words[place + 1 : place + 2])
            return given not in ("1", "1:1")
    return False
