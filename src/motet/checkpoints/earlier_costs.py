"""What turns have cost, kept with a run: a later start of it, or the next run of the same jobs, needs no profile.

``costs.json`` in the run directory. A file that cannot be read, or is of other circumstances, counts as none: costs
only decide in which order jobs take turns, and no weight depends on that.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from motet.checkpoints.resuming import difference
from motet.config import RunConfig
from motet.errors import CheckpointError
from motet.events import Event, OrderChanged
from motet.run_dir import RunDir, read_json, write_whole
from motet.schedule.costs import Cost

FORMAT = 1
FILE = "costs.json"
_MOST_ENTRIES, _MOST_READ = 1000, 20
"""A folder with more entries than that is not looked through; of the runs there, so many are read, the latest first."""


def find(run_dir: RunDir, names: Collection[str], config: RunConfig, num_workers: int) -> dict[str, Cost]:
    """Return what turns of these jobs cost when they last ran, in this run or in the latest beside it with its jobs."""
    circumstances = _circumstances(config, num_workers)
    kept = _read(run_dir.path / FILE, circumstances)
    for path in [] if kept else _beside(run_dir.path):
        with contextlib.suppress(OSError, CheckpointError, ValueError, KeyError, TypeError):
            if difference(read_json(path.with_name("run.json")), run_dir.description) is None:
                kept = kept or _read(path, circumstances)
    return {name: cost for name, cost in kept.items() if name in names}


def find_on_0(
    broadcast_from_0: Callable[[Callable[[], str]], str],
    run_dir: RunDir,
    names: Collection[str],
    config: RunConfig,
    num_workers: int,
) -> dict[str, Cost]:
    """Return what worker 0 finds, on all workers. Collective."""
    found = broadcast_from_0(lambda: json.dumps(_plain(find(run_dir, names, config, num_workers))))
    return {name: Cost(*values) for name, values in json.loads(found).items()}


class CostKeeper:
    """An observer that keeps the costs of which an order was made. ``costs`` returns those of the live jobs."""

    changes_nothing_global = True

    def __init__(
        self, run_dir: RunDir, config: RunConfig, num_workers: int, costs: Callable[[], Mapping[str, Cost]]
    ) -> None:
        self._path = run_dir.path / FILE
        self._circumstances = _circumstances(config, num_workers)
        self._costs = costs
        self._known: dict[str, Cost] = {}

    def observe(self, event: Event) -> None:
        """Take note of ``event``."""
        if not isinstance(event, OrderChanged):
            return
        self._known.update(self._costs())
        content = {"format": FORMAT, **self._circumstances, "jobs": _plain(self._known)}
        with contextlib.suppress(OSError):  # a full disk: then the next start profiles
            write_whole(self._path, json.dumps(content) + "\n")


def _circumstances(config: RunConfig, num_workers: int) -> dict[str, Any]:
    return {"workers": num_workers, "sync": config.sync, "compress": config.compress, "house": config.house}


def _plain(costs: Mapping[str, Cost]) -> dict[str, tuple[float, float, int]]:
    return {name: (cost.compute_seconds, cost.sync_seconds, cost.sync_bytes) for name, cost in costs.items()}


def _read(path: Path, circumstances: Mapping[str, Any]) -> dict[str, Cost]:
    try:
        content = read_json(path)
        if content["format"] == FORMAT and all(content[name] == value for name, value in circumstances.items()):
            return {name: Cost(*values) for name, values in content["jobs"].items()}
    except (OSError, CheckpointError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return {}


def _beside(place: Path) -> list[Path]:
    found: list[tuple[float, Path]] = []
    with contextlib.suppress(OSError), os.scandir(place.parent) as entries:
        some = list(itertools.islice(entries, _MOST_ENTRIES + 1))
        for entry in some if len(some) <= _MOST_ENTRIES else ():
            with contextlib.suppress(OSError):
                path = Path(entry.path, FILE)
                found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found, reverse=True)[:_MOST_READ]]
