"""What whoever starts the loop gives it to do for each job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from motet.jobs import Job


@dataclass(frozen=True)
class JobHooks:
    """``job_dir`` says where a job's files go, ``notify_user`` notifies the user of its failure.

    ``start_job`` prepares its surroundings inside its greenlet, ``end_job`` clears them away.
    """

    job_dir: Callable[[str], Path | None]
    start_job: Callable[[Job], None]
    end_job: Callable[[str], None]
    notify_user: Callable[[str], None]
