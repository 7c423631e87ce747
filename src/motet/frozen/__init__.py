"""Equal frozen weights of a worker's jobs are held once (ADR 29).

::

    pages      a file in memory, mapped for each job so that the kernel copies the pages that a job writes to
    weights    one job's frozen weights: found, moved to such a file, and taken back where the job writes to them
    register   which jobs hold equal ones, and what that saves (pure)
    together   for jobs that live together in a worker's process
    apart      for jobs in processes of their own: what each asks its worker, and what it is answered
"""
