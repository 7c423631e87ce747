"""A Hydra sweep whose jobs train together: what ``hydra/launcher=motet`` does.

Each job is Hydra's own: its configuration is composed, its output folder made, its logging set up by Hydra's
`run_job`, inside the worker. The program's function travels by value, as with Hydra's other launchers.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from motet import isolation
from motet.integrations.extras import missing
from motet.launcher.launch import launch
from motet.results import JobResult
from motet.run_dir import make_folder

try:
    import cloudpickle
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.singleton import Singleton
    from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
    from omegaconf import DictConfig, open_dict
except ImportError as error:
    raise missing(
        "hydra" if (error.name or "").startswith(("hydra", "omegaconf")) else "cloudpickle", "hydra", error
    ) from error


class Sweep:
    """What all jobs of a sweep share."""

    def __init__(self, context: Any, config: DictConfig, task: Any) -> None:
        self.context = context
        self.config = config
        self.task = task

    def train(self, overrides: Sequence[Sequence[str]], first: int, options: Mapping[str, Any]) -> list[JobReturn]:
        """Train one job for each list of overrides, together; return what Hydra wants to know of each."""
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        folder = Path(str(self.config.hydra.sweep.dir))
        make_folder(folder)
        packed = cloudpickle.dumps((self.context, self.config, self.task, Singleton.get_state()))
        jobs, configs = {}, {}
        for index, words in enumerate(overrides, first):
            name = f"{index}-{'-'.join(filter_overrides(words)) or 'job'}"
            name = "".join(character if character.isalnum() or character in "-_.=" else "_" for character in name)[:60]
            configs[name] = self._config_of(words, index)
            jobs[name] = functools.partial(run_one, packed, list(words), index)
        results = launch(jobs, run_dir=_free(folder / "motet"), **options)
        return [self._return_of(configs[name], result) for name, result in results.items()]

    def _config_of(self, words: Sequence[str], index: int) -> DictConfig:
        config: DictConfig = self.context.config_loader.load_sweep_config(self.config, list(words))
        with open_dict(config):
            config.hydra.job.id = index
            config.hydra.job.num = index
        return config

    def _return_of(self, config: DictConfig, result: JobResult) -> JobReturn:
        made = JobReturn(overrides=list(config.hydra.overrides.task), hydra_cfg=config, task_name=config.hydra.job.name)
        made.cfg = config.copy()
        with open_dict(made.cfg):
            del made.cfg["hydra"]
        made.working_dir = str(Path(config.hydra.sweep.dir, str(config.hydra.sweep.subdir)))
        if result.status == "finished":
            made.status, made.return_value = JobStatus.COMPLETED, result.result
        else:
            made.status = JobStatus.FAILED
            made.return_value = RuntimeError(result.error or f"the job was {result.status} after turn {result.turns}")
        return made


def run_one(packed: bytes, words: list[str], index: int) -> object:
    """Run one job of a sweep in a worker; return what the program's function returned."""
    context, config, task, state = cloudpickle.loads(packed)
    setup_globals()
    Singleton.set_state(state)
    if "hydra" not in isolation.registered():
        isolation.register("hydra", take=lambda: HydraConfig.instance().cfg, put=_put)
    sweep = Sweep(context, config, task)
    made = run_job(
        hydra_context=context,
        task_function=task,
        config=sweep._config_of(words, index),
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    return _plain(made.return_value)  # raises what the function raised


def _put(config: Any) -> None:
    HydraConfig.instance().cfg = config


def _plain(value: object) -> object:
    """Return a number as what it is: NumPy's and torch's travel as text otherwise."""
    item = getattr(value, "item", None)
    try:
        json.dumps(value)
    except TypeError:
        return item() if callable(item) else value
    return value


def _free(path: Path) -> Path:
    """Return a place for a run: a sweeper launches several, one after the other."""
    from motet.checkpoints.resuming import beside

    return beside(path) if (path / "run.json").exists() else path


__all__ = ["Sweep", "run_one"]
