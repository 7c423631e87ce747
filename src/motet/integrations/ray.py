"""Several jobs in the training function of a Ray ``TorchTrainer``, on the process group that Ray has made.

::

    def train_function(config):
        jobs = {f"lr={lr}": functools.partial(train, lr) for lr in config["rates"]}
        motet.integrations.ray.run(jobs)

    TorchTrainer(train_function, scaling_config=..., run_config=...).fit()

What jobs save and what came of them goes to Ray's storage: each checkpoint of a job is reported to Ray together with
the latest ones of all other jobs (`motet.integrations.ray_reports`), and so are the results. When Ray starts the
function again, after a worker has failed, the jobs go on from there.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Unpack

try:
    import ray
    import ray.train
    from ray.train.collective import broadcast_from_rank_zero
except ImportError as error:
    from motet.integrations.extras import missing

    raise missing("ray", "ray", error) from None

import torch.distributed as dist

from motet.config import RunConfig, RunOptions
from motet.errors import UsageError
from motet.events import Observer
from motet.integrations.ray_reports import Reports
from motet.jobs import Job
from motet.results import Results
from motet.run_dir import RunDir
from motet.running import run_jobs, save_result

__all__ = ["run"]


def run(
    jobs: Mapping[str, Callable[[], object]] | Sequence[Job],
    *,
    observers: Sequence[Observer] = (),
    config: RunConfig | None = None,
    **options: Unpack[RunOptions],
) -> Results:
    """Train ``jobs`` together on the workers of this ``TorchTrainer`` and return what came of them.

    Every worker calls it alike, once, in the training function. Arguments are those of `motet.run`, but for the run
    directory, which lies on the workers' disks and is removed at the end. Ray's storage gets what is needed of it, in
    the background: the latest checkpoints of all jobs with every new one, the results and logs at the end. The metrics
    of a report are ``<job>/turn`` (up to which the job is saved), ``<job>/<name>`` (what it logged last) and, at the
    end, ``<job>/status``.

    A job that fails on all workers raises nothing here: its status shows it. What goes wrong between the workers is
    raised; Ray's ``FailureConfig`` says how often the function is started again.
    """
    if not dist.is_initialized():
        raise UsageError("motet.integrations.ray.run is called in the training function of a TorchTrainer")
    whole = RunConfig.of(options, "motet.integrations.ray.run", config, known=RunOptions)
    leads, node = dist.get_rank() == 0, ray.get_runtime_context().get_node_id()
    path, leading_node = broadcast_from_rank_zero((tempfile.mkdtemp(prefix="motet-"), node) if leads else None)
    place = Path(path)
    reports, over = Reports(place, whole.timeout_seconds), False
    try:
        if leads and (checkpoint := ray.train.get_checkpoint()) is not None:
            checkpoint.to_directory(place)
        with reports:
            results = run_jobs(jobs, whole, run_dir=place, observers=[*observers, reports], resume=True)
            if leads:
                RunDir.open(place).write_results(results, save_result)
            reports.finish(results)
        over = True
        return results
    finally:
        # Otherwise worker 0 may still be reading.
        if (leads or over or node != leading_node) and not reports.copying:
            shutil.rmtree(place, ignore_errors=True)
