"""A program of Ray's: one ``TorchTrainer`` trains job after job, another one trains them together."""

from __future__ import annotations

import functools
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from tests.distributed.jobs_faulty import loop

NUM_WORKERS = 2


def alone(config: dict[str, Any]) -> None:
    """Train the jobs as one does without Motet, one after the other."""
    keep(config, {name: loop(**arguments) for name, arguments in config["jobs"].items()})


def together(config: dict[str, Any]) -> None:
    """Train the jobs together."""
    import motet.integrations.ray

    assert threading.current_thread() is not threading.main_thread()
    jobs = {name: functools.partial(loop, **arguments) for name, arguments in config["jobs"].items()}
    results = motet.integrations.ray.run(jobs, **config["options"])
    keep(config, {name: {"status": each.status, "result": each.result} for name, each in results.items()})


def keep(config: dict[str, Any], found: dict[str, Any]) -> None:
    """Leave what came of the jobs on worker 0."""
    if ray.train.get_context().get_world_rank() == 0:
        Path(config["out"]).write_text(json.dumps(found))


def fit(function: Any, place: Path, name: str, config: dict[str, Any], failures: int = 0) -> dict[str, Any]:
    """Run a training function to its end; return what it has left, and what Ray knows of it."""
    out = place / f"{name}.json"
    trainer = TorchTrainer(
        function,
        train_loop_config={"options": {}, **config, "out": str(out)},
        scaling_config=ScalingConfig(num_workers=NUM_WORKERS),
        run_config=RunConfig(
            storage_path=str(place / "storage"), name=name, failure_config=FailureConfig(max_failures=failures)
        ),
    )
    result = trainer.fit()
    checkpoint = None if result.checkpoint is None else result.checkpoint.path
    return {"jobs": json.loads(out.read_text()), "metrics": result.metrics, "checkpoint": checkpoint}


def strike_when_saved(storage: Path, word: Path) -> None:
    """Leave the word at which a worker is killed once Ray knows of a report that has both jobs."""
    known = storage / "checkpoint_manager_snapshot.json"
    while not known.exists() or not any(
        path.parent.parent.name in known.read_text() and (path.parent / "a").exists()
        for path in storage.glob("checkpoint_*/checkpoints/b")
    ):
        time.sleep(0.02)
    word.touch()


def main() -> None:
    """Run what the first argument says, in the folder that is the second; print what came of it."""
    what, place = sys.argv[1], Path(sys.argv[2])
    jobs = {"a": {"steps": 120, "every": 5, "seed": 1}, "b": {"steps": 120, "every": 5, "seed": 2}}
    slow = {name: {**arguments, "pause": 0.05} for name, arguments in jobs.items()}
    ray.init(num_cpus=NUM_WORKERS + 1, include_dashboard=False, object_store_memory=100 << 20)
    report = {"alone": fit(alone, place, "alone", {"jobs": jobs})}
    if what == "killed":
        word = place / "strike"
        slow["b"] |= {"what": "kill", "after": str(word), "once": str(place / "struck")}
        threading.Thread(target=strike_when_saved, args=(place / "storage" / "together", word), daemon=True).start()
        report["together"] = fit(together, place, "together", {"jobs": slow}, failures=1)
    else:
        stop = {"jobs": slow, "options": {"stop_after_seconds": 1.0}}
        report["stopped"] = fit(together, place, "together", stop)
        report["together"] = fit(together, place, "together", {"jobs": jobs})
    print("REPORT", json.dumps(report))


if __name__ == "__main__":
    main()
