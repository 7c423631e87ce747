"""Run jobs in an order: the loop that every worker goes through alike, and what only this loop needs.

::

    loop                      the loop, in phases: admit, finish a sync, take a turn, agree, conclude
    job_table                 the jobs, and the life of one; whose turn it is
    requests                  what a job may ask of its run while it has its turn
    waits                     where it waits for gradients, or for a device
    job_end                   all workers met the same end of a job
    hooks                     what is done for each job by whoever starts the loop
    observers                 who learns what happens: observers and the user
    recorder, ledger          when each turn computed and synchronized; what that makes for each job
"""

from __future__ import annotations

from motet.pipeline.hooks import JobHooks
from motet.pipeline.loop import Pipeline

__all__ = ["JobHooks", "Pipeline"]
