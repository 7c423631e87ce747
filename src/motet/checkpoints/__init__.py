"""Save and restore a job, atomically; when to, for all workers alike; and what a later start of a run goes on from.

::

    coordinator               when each job is saved, and who has written his part of it
    policy                    where checkpoints go, and who keeps what came of jobs
    resuming                  what a run that was begun before has left, and what is to be done with its jobs
    earlier_costs             what turns cost when the same jobs last ran
    writer                    copy a job's state at once, write it while other jobs compute
    objects, data             the states of what a job registered; the position in its data
    generators                the random generators of this worker
    files, manifest           written whole or not at all, checked when read; what a checkpoint says of itself
    payload, stream           what may go into one, copied; a file past the page cache, with its checksum

All but the coordinator are about one worker, and make no collectives.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from motet.checkpoints.data import DataPosition
    from motet.checkpoints.files import Checkpoints
    from motet.checkpoints.generators import random_generators, restore_random_generators
    from motet.checkpoints.manifest import SHARED, CheckpointPart, Found, worker_part
    from motet.checkpoints.objects import Restored, payloads_of, restore, restore_job, state_of
    from motet.checkpoints.payload import check_plain, snapshot
    from motet.checkpoints.writer import Done, Writer

# Imported on first use: the command, which asks what a run has left, needs no torch.
_HOMES = {
    "Checkpoints": "files",
    "DataPosition": "data",
    "Done": "writer",
    "Found": "manifest",
    "CheckpointPart": "manifest",
    "Restored": "objects",
    "SHARED": "manifest",
    "Writer": "writer",
    "check_plain": "payload",
    "payloads_of": "objects",
    "random_generators": "generators",
    "restore": "objects",
    "restore_job": "objects",
    "restore_random_generators": "generators",
    "snapshot": "payload",
    "state_of": "objects",
    "worker_part": "manifest",
}

__all__ = [
    "SHARED",
    "CheckpointPart",
    "Checkpoints",
    "DataPosition",
    "Done",
    "Found",
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


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"motet.checkpoints.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'motet.checkpoints' has no attribute {name!r}")
