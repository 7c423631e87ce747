"""Train several models at once on the same data-parallel workers: one computes while another synchronizes.

The layers, from top to bottom. A module imports from its own entry and from lines below it only, also inside of
functions; what is (pure) needs the standard library alone; what is (together) serves jobs that live together in a
worker's process, and the command does without it. ``tests/test_layers.py`` reads all of this here::

    cli                       the command
    entry                     what each worker process runs
    integrations.hydra_sweeps  what Hydra's launcher does (optional)
    launcher                  start workers through torch elastic
    profiling, integrations   what ``motet plan`` measures; other frameworks (each optional)
    running                   ``motet.run``: the parts put together
    processes                 a process for each job: who has the turn, who starts, what came of it
    pipeline                  the loop that every worker goes through alike (together)
    frozen                    equal frozen weights of several jobs, held once
    memory                    what jobs hold, and whether the next one may join (together)
    intercept                 what answers for torch's own code: DDP, groups, signals, a job's end (together)
    checkpoints.coordinator   when jobs are saved
    checkpoints.transfer      checkpoints, and what is charged to jobs, between hosts that share no disk
    same_files                who writes which file, and whether another job has written it (together)
    coroutines                a job as a greenlet, whose turns begin and end where its run says (together)
    gradients                 how gradients are sent while others compute (together)
    output                    where each job's lines go (together)
    isolation                 what each job must find as it left it (together)
    checkpoints.gang          what checkpoints ask of whoever saves together
    workers                   this worker among the others: groups, agreement, who waits for whom
    observe                   progress, trace, report
    checkpoints               save and restore a job, atomically; what a later start of a run goes on from
    jobs, handle              what to train; what a job's loop asks of its run
    config                    every option of a run, written once (pure)
    schedule                  in which order: costs, orders, simulation, plans (pure)
    timing, trainers          clocks, of the host and of a device; what frameworks' trainers know
    parent                    a process that ends with the one that started it
    run_dir, divergence       where to keep what came of it; what is not finite any more (pure)
    shaped_links              slow links between workers, for tests and measurements
    patching                  how what is replaced in torch and Python is put in place, and taken back (pure)
    torch_versions, option_kinds     which versions of torch it runs on; how an option's value is read (pure)
    started_by                which worker this is, where srun, mpirun or a PyTorchJob started one for each (pure)
    confidential, errors, events, results, suggest, torch_names, tracebacks   the words that all others speak (pure)
    patches                   everything that is replaced in torch, in Python and in libraries: one table (pure)

``demo``, ``testing`` and this front door stand outside of them.

Public are the names below, ``motet.errors``, ``motet.events``, ``motet.results``, ``motet.testing``,
``motet.shaped_links``, ``motet.isolation``'s ``register``, ``unregister`` and ``registered``,
``motet.checkpoints.DataPosition``, ``motet.integrations.optuna.optimize`` and ``motet.integrations.ray.run``. Every
other module is private, whatever its name: it may change without notice.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from motet.config import RunConfig
    from motet.errors import GangError, MotetError, UnsupportedError, UsageError
    from motet.events import Observer
    from motet.handle import JobHandle, JobPruned, current_job
    from motet.jobs import Job, JobSpec, Script
    from motet.launcher.launch import launch
    from motet.results import JobResult, Results
    from motet.running import run

# Imported on first use: `motet --help` and the child that checks jobs need no torch.
_HOMES = {
    "GangError": "errors",
    "Job": "jobs",
    "JobHandle": "handle",
    "JobPruned": "handle",
    "JobResult": "results",
    "JobSpec": "jobs",
    "MotetError": "errors",
    "Observer": "events",
    "Results": "results",
    "RunConfig": "config",
    "Script": "jobs",
    "UnsupportedError": "errors",
    "UsageError": "errors",
    "current_job": "handle",
    "launch": "launcher.launch",
    "run": "running",
}

__all__ = [
    "GangError",
    "Job",
    "JobHandle",
    "JobPruned",
    "JobResult",
    "JobSpec",
    "MotetError",
    "Observer",
    "Results",
    "RunConfig",
    "Script",
    "UnsupportedError",
    "UsageError",
    "current_job",
    "launch",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in {"run", "launch"}:  # before what imports all of torch: an old one fails there, in words of its own
        import_module("motet.torch_versions").check()
    if name in _HOMES:
        return getattr(import_module(f"motet.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'motet' has no attribute {name!r}")
