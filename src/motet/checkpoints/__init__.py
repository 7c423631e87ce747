"""Save and restore a job, atomically: what a checkpoint is, on one worker and without collectives.

::

    writer                    copy a job's state at once, write it while other jobs compute
    objects, data             the states of what a job registered; the position in its data
    generators                the random generators of this worker
    files, manifest           written whole or not at all, checked when read; what a checkpoint says of itself
    payload, stream           what may go into one, copied; a file past the page cache, with its checksum

When to save, and what all workers must agree on, is `motet.saving`.
"""

from __future__ import annotations

from motet.checkpoints.data import DataPosition
from motet.checkpoints.files import Checkpoints
from motet.checkpoints.generators import random_generators, restore_random_generators
from motet.checkpoints.manifest import SHARED, Found, Part, worker_part
from motet.checkpoints.objects import Restored, payloads_of, restore, restore_job, state_of
from motet.checkpoints.payload import check_plain, snapshot
from motet.checkpoints.writer import Done, Writer

__all__ = [
    "SHARED",
    "Checkpoints",
    "DataPosition",
    "Done",
    "Found",
    "Part",
    "Restored",
    "Writer",
    "check_plain",
    "payloads_of",
    "random_generators",
    "restore",
    "restore_job",
    "restore_random_generators",
    "snapshot",
    "state_of",
    "worker_part",
]
