"""This worker among the others.

From bottom to top::

    devices                   which device this worker computes on, which backends join the workers
    deadlock                  do the workers wait for each other in a cycle? (pure)
    meeting                   the store at which they meet, where no launcher keeps one
    sockets                   how many a worker needs, and room for them
    board                     what workers publish about themselves: where they stand, why one has failed or left
    watch                     where this worker stands, and who notices that nobody can go on
    group                     the process group, the lanes, waits that can end
    messages                  what they report to each other in an agreement (pure)
    agreement                 what all workers settle together, rarely
    interruption              Ctrl-C, SIGTERM and the time limit: ending together
"""

from __future__ import annotations

from motet.workers.group import Pending, Workers

__all__ = ["Pending", "Workers"]
