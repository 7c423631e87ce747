"""Train several models at once on the same data-parallel workers: one computes while another's gradients travel.

The layers, from top to bottom; a module imports from those below it only (``tests/test_layers.py``)::

    cli, entry, launcher      the command; what each worker process runs; start workers through torch elastic
    observe, integrations     progress, trace, report; other frameworks (each optional)
    running, profiling        ``motet.run``: the parts put together; what ``motet plan`` measures
    pipeline                  the loop that every worker goes through alike
    saving, memory            when jobs are saved; what they hold, and room for the next one
    job_seams, world_seams    what happens where torch is patched: to DDP; to process groups and at a job's end
    seams                     the only place where it is patched
    same_files                who writes which file, and whether another job has written it
    turns, buffers            a job as a greenlet; its buffers, travelling while others compute
    gradients, checkpoints    how gradients travel; save and restore a job, atomically
    workers                   this worker among the others: groups, agreement, who waits for whom
    isolation, output         what each job must find as it left it; where its lines go
    jobs, run_dir             what to train; where to keep what came of it
    config, option_kinds      every option of a run, written once (pure)
    plan, planning            what a plan says; when a run changes its order (pure)
    bound, order, simulate    the least that costs allow; costs -> order; an order replayed against costs (pure)
    torch_versions, -_names   which versions it runs on; every inner name of torch's that it leans on
    events, results, errors   the words that all others speak (pure)
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
