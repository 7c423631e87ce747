"""What the jobs of a run hold in memory, whether another one may join them, and where those rest that are idle.

::

    footprint                 what each job holds, measured; whether one more would fit
    offload                   ``--offload idle``: a job's state is kept in the host's memory between its turns
    admission                 room for the jobs of a run, by both

How long the way to the host's memory and back takes, for plans, is `motet.schedule.offload_model`.
"""
