"""A job's gradients are sent while others compute: started when DDP hands them over, waited for at the next turn.

From bottom to top::

    reducer_group             the process group that DDP's reducer is given
    compression               smaller messages, where the user asks for them
    buckets                   which gradients lie in which of DDP's buckets, and how they get back from there
    transfer                  what is in flight, and how long a turn's buckets were
    send_queue                whose buckets are sent first
    job_gradients             one job's: start its synchronization now, wait for it later
    aggregation               in place of all-reduces: one worker sums, and sends the sums back
    nonfinite                 NaN and infinity, found when gradients have arrived
"""

from __future__ import annotations

from motet.gradients.job_gradients import JobGradients

__all__ = ["JobGradients"]
