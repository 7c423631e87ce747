"""In which order jobs take their turns, and why: pure, and of the standard library alone.

::

    order                     an order, and the place where a run is in it
    weights                   the order that costs make: how many turns each job gets in a round, and where they lie
    simulator                 workers and their links, event by event, in exact time
    ready_first               a round found by trying: the ready job that is furthest behind goes first
    replay                    an order replayed against costs; the best of several
    bound                     the least time that costs allow
    costs                     what a turn of a job costs, agreed on by all workers from what each has measured
    offload_model             what moving idle jobs' state to the host's memory and back takes
    replanner                 when a run changes its order
    plan                      what ``motet plan`` shows: the profile, the plan that follows from it, and their file
    alternatives              the same costs on other links, with other workers, trained in other ways
    basis                     what a plan for other links or workers rests on, and how wrong it may be
    offload_plan              what ``--offload idle`` would cost

What measures the costs is `motet.profiling`, and the run itself (`motet.pipeline.recorder`).
"""
