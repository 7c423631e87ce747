"""What answers for torch's and Python's own code while jobs that live together run: `motet.patches.DURING_A_RUN`.

From bottom to top::

    loader_workers            DataLoader workers stay until their job is saved, and die for nobody else
    exit_hooks, profilers     what a job registers with ``atexit``; torch's profiler, which one job has at a time
    job_signals               which job a signal is for, and whose timers run
    process                   signals, threads, processes, operators: what there is one of in a process
    forked, left_running      the end of a process that a job has forked; what still runs when its loop returns
    groups                    process groups, and a job as the whole of a process
    buffers                   a model's buffers, brought to those of worker 0 while others compute
    ddp                       DistributedDataParallel: build, hook, forward and backward, where a turn ends
"""
