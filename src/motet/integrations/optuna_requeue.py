"""Trials that were running when a search was killed or stopped: each is queued once more, with the same parameters.

A trial that runs carries the mark of the process that runs it, as a user attribute. A search that begins looks for
running trials whose process is gone. Worker 0 alone calls what is here.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

MARK = "motet"


def mark() -> dict[str, Any]:
    """Return what distinguishes this process from every other."""
    return {"host": socket.gethostname(), "process": os.getpid(), "started": _started(os.getpid()), "lost": 0}


def requeue_lost(study: Study, most_losses: int, *, shared: bool) -> int:
    """Queue each running trial of a search that is gone once more; return how many were.

    One that was lost ``most_losses`` times already is not queued again: it may be what kills the run. With ``shared``
    only trials of this machine are looked at, as searches on others may be alive. Running trials that Motet did not
    begin are left alone.
    """
    queued = 0
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        owner = trial.user_attrs.get(MARK)
        if isinstance(owner, dict) and not _may_be_alive(owner, shared=shared):
            lost = int(owner.get("lost", 0)) + 1
            queued += requeue(study, trial, lost) if lost <= most_losses else 0
            study.tell(trial.number, state=TrialState.FAIL)
    return queued


def requeue(study: Study, trial: FrozenTrial, lost: int) -> bool:
    """Queue a trial once more, unless that was done already; it is to be recorded as failed afterwards, not before.

    The new trial names the old one as Optuna's own retry callback does (``failed_trial``, ``retry_history``).
    """
    if trial.number in retried(study):
        return False
    history = [*trial.system_attrs.get("retry_history", []), trial.number]
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={**trial.user_attrs, MARK: {"lost": lost}},
            system_attrs={"failed_trial": history[0], **trial.system_attrs, "retry_history": history},
        )
    )
    return True


def retried(study: Study) -> set[int]:
    """Return the numbers of the trials that were queued once more."""
    trials = study.get_trials(deepcopy=False)
    return {number for trial in trials for number in trial.system_attrs.get("retry_history", [])}


def num_spent(study: Study) -> int:
    """Return how many trials a study has that ended or run; one that was queued once more counts once."""
    again = retried(study)
    trials = study.get_trials(deepcopy=False)
    return sum(trial.state is not TrialState.WAITING and trial.number not in again for trial in trials)


def _may_be_alive(owner: dict[str, Any], *, shared: bool) -> bool:
    if owner.get("host") != socket.gethostname():
        return shared
    process = int(owner.get("process", 0))
    return process != os.getpid() and _started(process) is not None and _started(process) == owner.get("started")


def _started(process: int) -> str | None:
    """Return when a process was started, in the kernel's own words; None if there is none. A number is used again."""
    try:
        words = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:  # not Linux: the number alone has to do
            os.kill(process, 0)
        except OSError:
            return None
        return "running"
    return None if words[0] == "Z" else words[19]
