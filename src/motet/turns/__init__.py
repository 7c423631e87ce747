"""A job as a greenlet, whose turns begin and end where its run says.

::

    greenlets                 begin a turn, end it: all jobs on the main thread, one at a time
    exit_hooks                what a job registers with ``atexit`` runs when the job ends
    process_seams, profilers  what a job does with what the process has one of: signals, its end, threads, operators,
                              torch's profiler
    job_signals               whose handlers and timers a signal concerns, and when they run
    loader_workers            DataLoader workers stay until their job is saved, and die for nobody else
    expected, reported        how many turns a framework's training is going to take, and what it logs
"""

from __future__ import annotations

from motet.turns.greenlets import JobStopped, Outcome, RunningJob, Turns

__all__ = ["JobStopped", "Outcome", "RunningJob", "Turns"]
