"""Equal frozen weights of a worker's jobs are held once (ADR 29).

::

    pages      a file in memory, mapped for each weight so that the kernel copies the pages that a job writes to
    in_use     whether anybody uses a weight's memory now: threads, collectives, graphs
    weights    one job's frozen weights: found, moved to such a file, and taken back where the job writes to them
    register   which jobs hold equal ones, and what that saves (pure)
    notices    what users are notified of
    together   for jobs that live together in a worker's process

For jobs in processes of their own: `motet.processes.own_weights`, and `shared_weights` in their worker.
"""
