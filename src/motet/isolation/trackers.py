"""What experiment trackers keep one of per process: the run to which MLflow's and W&B's global functions write.

Each job finds its own, and what it leaves open is ended with it, as the trackers themselves do when a program ends.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from typing import Any

from motet.isolation.registry import add

_FLUENT = "mlflow.tracking.fluent"
_MLFLOW_OF_THE_THREAD = ("_active_run_stack", "_last_active_run_id", "_last_logged_model_id", "_ACTIVE_MODEL_CONTEXT")
_MLFLOW_GLOBALS = (
    (_FLUENT, "_active_experiment_id"),
    ("mlflow.tracking._tracking_service.utils", "_tracking_uri"),
    ("mlflow.tracking._tracking_service.utils", "_tracking_store_registry"),
    ("mlflow.tracking._model_registry.utils", "_registry_uri"),
)
# What wandb.init puts into the module's namespace, as far as this version has it.
_WANDB_NAMES = (
    *("run", "config", "summary", "log", "watch", "unwatch", "save", "use_artifact", "log_artifact"),
    *("define_metric", "alert", "mark_preempting", "log_model", "use_model", "link_model"),
)

Values = dict[str, Any]


def take_mlflow() -> tuple[Values, Values]:
    """Return what the fluent functions keep for the thread (the stack of active runs itself), and for all."""
    fluent = vars(sys.modules[_FLUENT])
    of_thread = {name: fluent[name].get() for name in _MLFLOW_OF_THE_THREAD if name in fluent}
    return of_thread, {name: getattr(sys.modules[module], name, None) for module, name in _MLFLOW_GLOBALS}


def put_mlflow(value: tuple[Values, Values]) -> None:
    """Bring them back."""
    fluent = vars(sys.modules[_FLUENT])
    for name, content in value[0].items():
        fluent[name].set(content)
    for module, name in _MLFLOW_GLOBALS:
        setattr(sys.modules[module], name, value[1][name])


def copy_mlflow(value: tuple[Values, Values]) -> tuple[Values, Values]:
    """Return the same with a stack and stores of its own.

    A store has one queue for all that is logged asynchronously to its address. Who ends a run, or the process, shuts it
    down: what another job logs afterwards would be waited for forever. Each registry makes stores of its own.
    """
    of_thread, of_all = dict(value[0]), dict(value[1])
    of_thread["_active_run_stack"] = list(of_thread["_active_run_stack"])
    of_all["_tracking_store_registry"] = copy.copy(of_all["_tracking_store_registry"])
    return of_thread, of_all


def fresh_mlflow() -> tuple[Values, Values]:
    """Return what a first import finds: no run, no address but the environment's."""
    now_of_thread, now_of_all = take_mlflow()
    of_thread = {name: vars(sys.modules[_FLUENT])[name].default_factory() for name in now_of_thread}
    of_all = dict.fromkeys(now_of_all) | {"_tracking_store_registry": now_of_all["_tracking_store_registry"]}
    return copy_mlflow((of_thread, of_all))


def take_wandb() -> tuple[Values, list[Any], Any, Any]:
    """Return the global run and functions, which runs are active, the settings, and the environment they came from."""
    wandb, library = sys.modules["wandb"], _library()
    names = {name: wandb.__dict__[name] for name in _WANDB_NAMES if name in wandb.__dict__}
    if library is None:
        return names, [], None, None
    return names, list(library._active_runs), library._settings, library._settings_environ


def put_wandb(value: tuple[Values, list[Any], Any, Any]) -> None:
    """Bring them back. Settings that are None are read, from the environment, by the next to ask for them."""
    vars(sys.modules["wandb"]).update(value[0])
    if (library := _library()) is not None:
        library._active_runs[:], library._settings, library._settings_environ = value[1:]


def copy_wandb(value: tuple[Values, list[Any], Any, Any]) -> tuple[Values, list[Any], Any, Any]:
    """Return the same with settings of its own."""
    names, runs, settings, environment = value
    return names, runs, None if settings is None else settings.model_copy(), environment


def fresh_wandb() -> tuple[Values, list[Any], Any, Any]:
    """Return what a first import finds: no run, settings not read yet."""
    now = take_wandb()
    sys.modules["wandb.sdk.lib.module"].unset_globals()
    names = take_wandb()[0]
    put_wandb(now)
    return names, [], None, None


def _library() -> Any:
    """Return what W&B has one of per process; None where it has not been set up yet."""
    return getattr(sys.modules.get("wandb.sdk.wandb_setup"), "_singleton", None)


def open_runs() -> list[Any]:
    """Return the runs that are open now."""
    runs: list[Any] = []
    if _FLUENT in sys.modules:
        runs += vars(sys.modules[_FLUENT])["_active_run_stack"].get()
    return runs + (list(_library()._active_runs) if _library() is not None else [])


def end_runs(but: list[Any], *, failed: bool) -> None:
    """End the runs that the present job has left open, ``but`` those that were when it began.

    What a tracker raises then is said, and harms nobody.
    """
    for module, end in ((_FLUENT, _end_mlflow), ("wandb", _end_wandb)):
        if module in sys.modules:
            try:
                end(but, failed)
            except Exception as error:
                with contextlib.suppress(Exception):
                    sys.stderr.write(f"motet: a run of {module.split('.')[0]} could not be ended: {error}\n")


def _end_mlflow(but: list[Any], failed: bool) -> None:
    fluent: Any = sys.modules[_FLUENT]
    for _ in range(sum(run not in but for run in fluent._active_run_stack.get())):
        fluent.end_run("FAILED" if failed else "FINISHED")


def _end_wandb(but: list[Any], failed: bool) -> None:
    for run in list(_library()._active_runs) if _library() is not None else ():
        if run not in but:
            run.finish(exit_code=int(failed))


def register_entries() -> None:
    """Register this family's entries."""
    add("mlflow", take_mlflow, put_mlflow, module=_FLUENT, fresh=fresh_mlflow, copy=copy_mlflow)
    add("wandb", take_wandb, put_wandb, module="wandb", fresh=fresh_wandb, copy=copy_wandb)
