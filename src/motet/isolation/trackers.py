"""What experiment trackers keep one of per process: the run to which MLflow's and W&B's global functions write.

Each job finds its own, and what it leaves open is ended with it, as the trackers themselves do when a program ends.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from motet.isolation.registry import add

_FLUENT = "mlflow.tracking.fluent"
# What wandb.init puts into the module's namespace, as far as this version has it.
_WANDB_NAMES = (
    *("run", "config", "summary", "log", "watch", "unwatch", "save", "use_artifact", "log_artifact"),
    *("define_metric", "alert", "mark_preempting", "log_model", "use_model", "link_model"),
)


def take_mlflow() -> tuple[Any, Any, Any]:
    """Return the stack of active runs itself, the last active run and the experiment."""
    fluent = sys.modules[_FLUENT]
    return fluent._active_run_stack.get(), fluent._last_active_run_id.get(), fluent._active_experiment_id


def put_mlflow(value: tuple[Any, Any, Any]) -> None:
    """Bring them back."""
    fluent: Any = sys.modules[_FLUENT]
    fluent._active_run_stack.set(value[0])
    fluent._last_active_run_id.set(value[1])
    fluent._active_experiment_id = value[2]


def copy_mlflow(value: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
    """Return the same with a stack of its own."""
    return list(value[0]), value[1], value[2]


def take_wandb() -> tuple[dict[str, Any], list[Any]]:
    """Return the global run and functions, and which runs are active."""
    wandb = sys.modules["wandb"]
    return {name: wandb.__dict__[name] for name in _WANDB_NAMES if name in wandb.__dict__}, list(_active_runs())


def put_wandb(value: tuple[dict[str, Any], list[Any]]) -> None:
    """Bring them back."""
    vars(sys.modules["wandb"]).update(value[0])
    _active_runs()[:] = value[1]


def fresh_wandb() -> tuple[dict[str, Any], list[Any]]:
    """Return what a first import finds: no run."""
    now = take_wandb()
    sys.modules["wandb.sdk.lib.module"].unset_globals()
    fresh = take_wandb()[0]
    put_wandb(now)
    return fresh, []


def _active_runs() -> list[Any]:
    """Return wandb's own list; a list that nobody sees where wandb has not been set up yet."""
    singleton: Any = getattr(sys.modules.get("wandb.sdk.wandb_setup"), "_singleton", None)
    return [] if singleton is None else singleton._active_runs


def end_runs(*, failed: bool) -> None:
    """End the runs that the present job has left open. What a tracker raises then is said, and harms nobody."""
    for module, end in ((_FLUENT, _end_mlflow), ("wandb", _end_wandb)):
        if module in sys.modules:
            try:
                end(failed)
            except Exception as error:
                with contextlib.suppress(Exception):
                    sys.stderr.write(f"motet: a run of {module.split('.')[0]} could not be ended: {error}\n")


def _end_mlflow(failed: bool) -> None:
    fluent: Any = sys.modules[_FLUENT]
    for _ in range(len(fluent._active_run_stack.get())):
        fluent.end_run("FAILED" if failed else "FINISHED")


def _end_wandb(failed: bool) -> None:
    for run in list(_active_runs()):
        run.finish(exit_code=int(failed))


def register_entries() -> None:
    """Register this family's entries."""
    add("mlflow", take_mlflow, put_mlflow, module=_FLUENT, fresh=lambda: ([], None, None), copy=copy_mlflow)
    add("wandb", take_wandb, put_wandb, module="wandb", fresh=fresh_wandb)
