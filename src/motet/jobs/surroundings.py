"""What a job finds when it begins: its folder, its environment, its random numbers.

Put in place inside the job's own first turn, so that `motet.isolation` keeps them its own from then on.
"""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import numpy
import torch

from motet.errors import UsageError
from motet.jobs import Job
from motet.run_dir import make_folder


class JobSurroundings:
    """Prepares the jobs of one worker. ``seed``: of the whole run; None: jobs begin with the run's own generators."""

    def __init__(self, worker: int, seed: int | None) -> None:
        self._worker = worker
        self._seed = seed

    def begin(self, job: Job) -> None:
        """Put everything in place; raise `UsageError` where the job's folder cannot be made."""
        if job.env:
            os.environ.update(job.env)
        if job.cwd is not None:
            try:
                make_folder(Path(job.cwd))
                os.chdir(job.cwd)
            except OSError as error:
                raise UsageError(
                    f"job {job.name!r} cannot work in its folder {job.cwd}: {error.strerror}; give it another cwd"
                ) from error
        if self._seed is not None:
            seed_generators(self._seed, job.name, self._worker)


def seed_generators(seed: int, job: str, worker: int) -> None:
    """Seed torch (every device, CUDA when it is first used), NumPy and `random`.

    The numbers follow from the run's seed, the job's name and the worker; those of two jobs, or of two workers, have
    nothing to do with each other, as with processes that seed themselves from the system.
    """
    digest = hashlib.sha512(f"{seed}/{worker}/{job}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8]) >> 1)
    numpy.random.seed([int.from_bytes(digest[at : at + 4]) for at in range(8, 40, 4)])
    random.seed(int.from_bytes(digest[40:]))
