"""Notices of files that several jobs have written: once for each pair of jobs, and all of them at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from motet.same_files.ledger import Clash

MOST_NAMED = 5
MAX_REPORTED = 100  # paths that one worker reports to worker 0
REMEDY = (
    "Give each job a folder of its own: --job-cwd '{job_dir}' (cwd: in a jobs file), or {job_dir} in its arguments, "
    "as in --output_dir {job_dir}"
)
_LOSS = "what was kept there is lost, and a job that loads it may load another's"
_SHARED_FILES = "have written the same files, so that what is in them may be another job's than you think"


class ClashNotices:
    """The clashes of a run, as far as this worker knows them."""

    def __init__(self) -> None:
        self._pairs: set[frozenset[str]] = set()
        self._shared: dict[str, dict[str, None]] = {}  # all paths that several jobs have written, and which jobs

    def is_news(self, clash: Clash) -> bool:
        """Whether to report to worker 0 a clash that another worker has found."""
        return clash.path not in self._shared and len(self._shared) < MAX_REPORTED

    def take(self, clash: Clash) -> str | None:
        """Note a clash; return its description, None if the user knows of each pair of jobs in it."""
        self._shared.setdefault(clash.path, {}).update(dict.fromkeys((*clash.others, clash.job)))
        new = {frozenset((clash.job, other)) for other in clash.others} - self._pairs
        if not new:
            return None
        self._pairs |= new
        return describe(replace(clash, others=tuple(other for other in clash.others if {clash.job, other} in new)))

    def at_the_end(self) -> Iterator[str]:
        """Yield the notices at the end of all jobs: which files are whose."""
        by_jobs: dict[tuple[str, ...], list[str]] = {}
        for path, jobs in self._shared.items():
            by_jobs.setdefault(tuple(jobs), []).append(path)
        for names, paths in by_jobs.items():
            more = f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else ""
            yield f"{several(names)} {_SHARED_FILES}: {', '.join(paths[:MOST_NAMED])}{more}. {REMEDY}."


def with_remedy(text: str) -> str:
    """Return the notice for a described clash."""
    return f"{text}: {_LOSS}. {REMEDY}."


def describe(clash: Clash) -> str:
    """Return what happened to a file, and who has written it."""
    has = "has" if len(clash.others) == 1 else "have"
    return f"{clash.verb} {clash.path}, which {several(clash.others)} of this run {has} written"


def several(names: Iterable[str]) -> str:
    """Return names of jobs as a list in a sentence."""
    quoted = [f"'{name}'" for name in names]
    if len(quoted) == 1:
        return f"job {quoted[0]}"
    return f"jobs {', '.join(quoted[:-1])} and {quoted[-1]}"
