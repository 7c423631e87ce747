"""A job's end is agreed on: all workers met the same one, in the same turn; or the gang ends, and says who did not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from motet.checkpoints.policy import RecoveryPolicy
from motet.coroutines import RunningJob
from motet.errors import DivergenceError, GangError, WorkerFailedError
from motet.jobs.outcome import JobOutcome
from motet.tracebacks import short_form
from motet.workers import Workers
from motet.workers.agreement import Agreements
from motet.workers.interruption import Interruption
from motet.workers.messages import STOP, JobEnd

BYPASSES = (
    "runs a backward that does not come through torch.autograd.backward on the main thread: it waits for its gradients "
    "as under plain DDP, and nothing of that is hidden."
)
NO_DDP = (
    "built no DistributedDataParallel: there was nothing to synchronize, so it ran in one turn and nothing of it was "
    "hidden. If it trains with several workers, wrap its model in DistributedDataParallel."
)
STARTS_AGAIN = (
    "has no checkpoint in this run directory, so it starts again from its beginning (unless its loop resumes by "
    "itself, from files of its own). motet.current_job().checkpoint(...) saves what a loop needs to go on."
)


def agree_on_end(
    job: RunningJob,
    index: int,
    workers: Workers,
    agreements: Agreements,
    recovery: RecoveryPolicy,
    interruption: Interruption,
    notice: Callable[[str, str], None],
) -> JobOutcome:
    """Return how the job, the run's number ``index``, has ended, once all workers say the same of it. Collective.

    What this worker knows of a failure is published before it waits for the others, so that they can name it, and
    withdrawn when all have met it. Raises `GangError` if the workers differ. What fails while any worker is asked to
    stop is a part of the stop: nobody is charged, and where all have met it the job counts as stopped.
    """
    outcome, watch = job.outcome, workers.watch
    assert outcome is not None
    how = f"{outcome.status} in turn {job.turn}" + (f": {outcome.kind}" if outcome.kind else "")
    failure = f"worker {workers.worker}, job '{job.name}', turn {job.turn}:\n{outcome.error}"
    failed = outcome.error is not None and not interruption.explains(outcome.error)
    watch.job_ended(job.name, how if failed or outcome.error is None else f"stopped in turn {job.turn}")
    if outcome.error is not None and failed:
        workers.board.publish_failure(failure)
        recovery.record_failure(job.name, job.turn, outcome.error)
    num_left = job.gradients.num_collectives
    try:
        end = JobEnd(index, outcome.status, job.num_synced, num_left, stop=interruption.stop_request)
        agreements.all_ended_alike(job.name, end)
    except GangError as error:
        if not failed or isinstance(error, DivergenceError):
            raise
        # Whatever became of the others: this worker knows why the gang ends.
        text = f"Worker {workers.worker} met an error that the other workers did not meet:\n{failure}"
        raise WorkerFailedError(text) from error
    finally:
        if failed and (agreements.stop or watch.others_stop()):
            recovery.withdraw_failure(job.name)
    watch.job_ended(job.name, how.split(":")[0] if outcome.status != "failed" else how)
    if failed:
        workers.board.withdraw_failure()
        recovery.withdraw_failure(job.name)
    if outcome.status == "failed" and agreements.stop >= STOP:
        met = short_form(outcome.error or "")
        notice(job.name, f"met an error while the run was being stopped, and counts as stopped ({met}).")
        outcome = JobOutcome("stopped")
        job.counts_as(outcome)
    return outcome


def failed_text(job: RunningJob) -> str:
    """Say that ``job`` has failed, in short: its own stderr and its log have the traceback."""
    assert job.outcome is not None
    why = short_form(job.outcome.error or "")
    return f"job '{job.name}' failed in turn {job.turn} on all workers, the others go on: {why}"


def leave_traces(error: BaseException, workers: Workers) -> None:
    """Note in ``error``, which ends the run, how far jobs were, and let the other workers know of it."""
    watch = workers.watch
    if isinstance(error, WorkerFailedError):  # the one that failed has published it
        error.turns = dict(watch.launched)
    elif isinstance(error, GangError):
        error.turns = dict(watch.launched)
        workers.board.publish_failure(f"worker {workers.worker}: {error}")
    else:
        how = f"worker {workers.worker}, {watch.whereabouts()}: {type(error).__name__}: {error}"
        workers.board.publish_failure(how)
        with contextlib.suppress(Exception):  # not every class of errors takes attributes
            error.add_note(how)
            error.turns = dict(watch.launched)  # type: ignore[attr-defined]
