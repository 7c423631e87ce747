"""Run jobs in an order: the loop that every worker goes through alike, and what only this loop needs.

::

    job_source                where its jobs come from
    loop                      the loop, in phases: admit, land, take a turn, agree, conclude
    job_requests              what a job may ask of its run while it has its turn
    job_end                   all workers met the same end of a job
    audience                  who is told what happens: observers and the user
    bookkeeping, accounts     when each turn computed and travelled; what that makes for each job
"""

from __future__ import annotations

from motet.pipeline.loop import Pipeline

__all__ = ["Pipeline"]
