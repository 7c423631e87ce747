"""Hydra's launcher that trains the jobs of a sweep together: ``hydra/launcher=motet``. Hydra finds it by this place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

# ``hydra.launcher.nproc_per_node=4``, and what else `motet.launch` takes. No dataclass: Hydra loads this module without
# entering it among Python's, where a dataclass would look itself up.
OPTIONS = {
    "_target_": "hydra_plugins.motet_launcher.MotetLauncher",
    "nproc_per_node": 1,
    "max_restarts": 0,
    "at_once": None,
    "order": None,
    "seed": None,
}
ConfigStore.instance().store(group="hydra/launcher", name="motet", node=OPTIONS, provider="motet")


class MotetLauncher(Launcher):
    """Trains the jobs of a sweep, or of one batch of a sweeper's, as one run of Motet's."""

    def __init__(self, **options: Any) -> None:
        self.options = {name: value for name, value in options.items() if value is not None}
        self.config: DictConfig
        self.task_function: TaskFunction
        self.hydra_context: HydraContext

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.task_function, self.hydra_context = config, task_function, hydra_context

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from motet.integrations.hydra_sweeps import Sweep

        sweep = Sweep(self.hydra_context, self.config, self.task_function)
        return sweep.train(job_overrides, initial_job_idx, self.options)
