"""A search whose trials live in processes of their own: worker 0's own process has the study, and answers for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from motet.integrations.decisions import Decisions
from motet.integrations.optuna_trial import SharedTrial
from motet.integrations.optuna_trials import Trials, run_trial
from motet.processes.peers import Peers
from motet.processes.process_job import ProcessJob
from motet.processes.search import AsksWorker, Search, portable
from motet.results import JobResult

FAILED = "failed"


class TrialsElsewhere:
    """The `motet.processes.search.Source` of a search: its trials, as jobs that are given which trial they are."""

    def __init__(self, trials: Trials) -> None:
        self._trials = trials

    @property
    def names(self) -> Sequence[str]:
        """The names of all trials so far."""
        return self._trials.names

    def next_job(self) -> ProcessJob | None:
        """Return the next trial; None when the search is over, or nothing else may begin now."""
        job = self._trials.next_job()
        return None if job is None else ProcessJob(job.name, None, None, given=self._trials.begun(job.name))

    def job_ended(self, name: str, result: JobResult) -> None:
        """Record it in the study."""
        self._trials.job_ended(name, result)

    def stop(self) -> Sequence[str]:
        """Begin no more trials."""
        return self._trials.stop()

    def answer(self, name: str, question: Any) -> Any:
        """Answer what a trial asks from its process."""
        path, args, kwargs = question
        if path == FAILED:
            return self._trials.failed(name, *args)
        return self._trials.answer(name, path, *args, **kwargs)


def search_of(
    objective: Callable[[Any], Any], open_trials: Callable[[], Trials], ended: Callable[[Peers], None]
) -> Search:
    """Return the search; ``open_trials`` is called on worker 0 alone, ``ended`` on all."""

    def make_source(peers: Peers) -> TrialsElsewhere | None:
        trials: list[Trials] = []
        decisions = Decisions("search", peers.worker, lambda make, key: peers.broadcast_from_0(make, key=key))
        decisions.ask("open the study", lambda: trials.append(open_trials()))
        return TrialsElsewhere(trials[0]) if trials else None

    return Search(make_source, partial(_train, objective), ended)


def _train(objective: Callable[[Any], Any], name: str, begun: Mapping[str, Any], asks: AsksWorker) -> Any:
    """Run one trial in its own process, on all workers."""

    def answer(path: str, *args: Any, **kwargs: Any) -> Any:
        return asks.ask((path, args, kwargs))

    here = asks.worker == 0
    trial = SharedTrial(answer if here else None, begun, Decisions(f"search/{name}", asks.worker, asks.broadcast))

    def failed(error: Exception) -> None:
        if here:
            answer(FAILED, portable(error))

    return run_trial(objective, trial, failed)


def broadcast_end(peers: Peers, error: Exception | None) -> None:
    """Raise on all workers what ended the search early, which worker 0 knows."""

    def raise_it() -> None:
        if error is not None:
            raise error

    decisions = Decisions("search/ended", peers.worker, lambda make, key: peers.broadcast_from_0(make, key=key))
    decisions.ask("its end", raise_it)
