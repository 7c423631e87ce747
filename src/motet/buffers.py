"""BatchNorm statistics and other buffers: on every worker what plain DDP has there at every moment.

DDP broadcasts a model's buffers from worker 0 before a forward, and waits for it.
"""

from __future__ import annotations

from torch.nn.parallel import DistributedDataParallel

from motet.turns import RunningJob
from motet.workers import Workers


class BufferSync:
    """The buffers of all DDP models of this worker."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def attach(self, job: RunningJob, ddp: DistributedDataParallel) -> None:
        """Take note of a new model."""

    def after_backward(self, job: RunningJob) -> None:
        """Start what can be started before the job's turn ends."""

    def synchronize(self, job: RunningJob, ddp: DistributedDataParallel) -> bool:
        """Bring ``ddp``'s buffers to worker 0's, if that can be done without DDP's broadcast; else return False."""
        return False

    def detach(self, job: RunningJob) -> None:
        """Forget a job that has ended."""

    def close(self) -> None:
        """Give everything back."""
