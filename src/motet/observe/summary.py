"""What came of a run, as text for the terminal and as sentences for the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from motet.observe.digest import JobDigest, RunDigest, digest
from motet.observe.ranking import Mode
from motet.observe.text import count_text, fitted, listing_text, seconds_text, share_text, value_text
from motet.tracebacks import short_form


def summary_text(run_dir: Path, width: int | None = None, metric: str | None = None, mode: Mode | None = None) -> str:
    """Return the summary of the run in ``run_dir``, its table not wider than ``width``; UsageError if it holds none.

    ``metric``, ``mode``: see `motet.observe.digest.digest`.
    """
    return summarise(digest(run_dir, metric=metric, mode=mode), width)


def summarise(run: RunDigest, width: int | None = None) -> str:
    """Return the summary of ``run``: a headline, what held it back, and a line a job."""
    word, why = run.bottleneck()
    lines = [headline(run), "", f"  bottleneck   {word}: {why}"]
    if run.efficiency is not None:
        lines.append(f"  efficiency   {efficiency_text(run)}")
    if run.hidden_share is not None:
        lines.append(f"  sync hidden  {share_text(run.hidden_share)} of the time that gradients were in flight")
    if run.predicted_seconds is not None:
        lines.append(f"  predicted    {seconds_text(run.predicted_seconds)}, {difference_text(run)}")
    if run.ranking is not None:
        lines.append(f"  best         {best_text(run)}")
    lines += ["", *_table(by_rank(run), width)]
    for job in run.jobs:
        if job.error:
            lines.append(f"  {job.name} failed: {short_form(job.error)}")
        if job.diverged:
            lines.append(f"  {job.name} diverged: {job.diverged}")
    lines += [f"  note: {text}" for text in run.notices]
    return "\n".join(lines)


def by_rank(run: RunDigest) -> list[JobDigest]:
    """Return the jobs, the best one first where they can be compared."""
    if run.ranking is None:
        return list(run.jobs)
    place = {name: index for index, name in enumerate(run.ranking.names)}
    return sorted(run.jobs, key=lambda job: place[job.name])


def best_text(run: RunDigest) -> str:
    """Say which job did best, and by what."""
    assert run.ranking is not None
    best, metric = run.ranking.best, run.ranking.metric
    compared = sum(math.isfinite(value) for value in run.ranking.values.values())
    word = "lowest" if run.ranking.mode == "min" else "highest"
    return f"{best} ({metric} {value_text(run.ranking.values[best])}, the {word} of {compared})"


def headline(run: RunDigest) -> str:
    """Say in a sentence what was trained, how long it took and what that saved."""
    names = listing_text([job.name for job in run.jobs])
    workers = count_text(run.num_workers, "worker")
    together = "trained together " if len(run.jobs) > 1 else "trained "
    verb = "were" if len(run.jobs) > 1 else "was"
    text = f"{names} {verb} {together}on {workers} in {seconds_text(run.wall_seconds)}"
    if not run.complete:
        text = f"{names} so far {together}on {workers} for {seconds_text(run.wall_seconds)}"
    return f"{text}{saved_clause(run)}."


def saved_clause(run: RunDigest) -> str:
    """Return the headline's end: the time saved against one job after another."""
    if len(run.jobs) < 2 or run.estimate.one_after_another_seconds <= 0:
        return ""
    saved, alone = run.saved_seconds, run.estimate.one_after_another_seconds
    if saved > 0.01 * alone:
        return f", about {seconds_text(saved)} ({share_text(saved / alone)}) less than one after another"
    if saved < -0.01 * alone:
        return f", about {seconds_text(-saved)} more than the jobs' own work would take one after another"
    return ", about as long as one after another"


def efficiency_text(run: RunDigest) -> str:
    """Say how near the run came to its bound."""
    return f"{run.efficiency or 0.0:.2f} (the costs allow no less than {seconds_text(run.bound_seconds)})"


def difference_text(run: RunDigest) -> str:
    """Say how far the measured time lies from the predicted one."""
    assert run.predicted_seconds is not None
    difference = run.wall_seconds / run.predicted_seconds - 1
    if abs(difference) < 0.005:
        return "as measured"
    return f"the run took {share_text(abs(difference))} {'longer' if difference > 0 else 'less'}"


def turns_text(job: JobDigest) -> str:
    """Return ``48/120``, or ``48`` where the length is not known."""
    return f"{job.turns}/{job.expected_turns}" if job.expected_turns else str(job.turns)


def logged_text(job: JobDigest, most: int = 2) -> str:
    """Return a job's most informative values, before and after."""
    texts = []
    for one in job.logged[:most]:
        change = f"{value_text(one.first)} → " if one.count > 1 else ""
        baseline = f" (baseline {value_text(one.baseline)})" if one.baseline is not None else ""
        texts.append(f"{one.name} {change}{one.diverged or value_text(one.last)}{baseline}")
    return ", ".join(texts)


def _table(jobs: Sequence[JobDigest], width: int | None) -> list[str]:
    rows = [("job", "status", "turns", "compute", "sync", "hidden", "how well, before → after")]
    for job in jobs:
        sums = job.sums
        hidden = share_text(sums.hidden_seconds / sums.sync_seconds) if sums.sync_seconds else "-"
        rows.append(
            (
                job.name,
                job.status,
                turns_text(job),
                seconds_text(sums.compute_seconds),
                seconds_text(sums.sync_seconds),
                hidden,
                logged_text(job) or (f"result {job.result}" if job.result else job.last_printed or ""),
            )
        )
    inner = None if width is None else width - 2
    lines = fitted(rows, left={0, 1, 6}, flexible=6, spare=(4, 5, 3, 6), width=inner)
    return ["  " + line for line in lines]
