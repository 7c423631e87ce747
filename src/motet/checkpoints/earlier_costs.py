"""What turns have cost, kept with a run: a later start of it, or the next run of the same jobs, needs no profile.

``costs.json`` in the run directory. A file that cannot be read, or is of other circumstances, counts as none: costs
only decide in which order jobs take turns, and no weight depends on that.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import stat
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from motet.checkpoints.resuming import difference
from motet.config import RunConfig
from motet.errors import CheckpointError
from motet.events import Event, OrderChanged, RunEnded
from motet.run_dir import RunDir, read_json, write_whole
from motet.schedule.costs import Cost

FORMAT = 1
FILE = "costs.json"
_MOST_ENTRIES, _MOST_READ, _MOST_BYTES = 1000, 20, 1 << 20
"""A folder with more entries than that is not looked through; of the runs there, so many are read, the latest first,
unless their files are larger."""


class CostKeeper:
    """Finds what turns of the jobs cost before, and is the observer that keeps what ``known`` returns of them now."""

    changes_nothing_global = True

    def __init__(
        self, run_dir: RunDir, config: RunConfig, num_workers: int, known: Callable[[], Mapping[str, Cost]]
    ) -> None:
        self._run_dir = run_dir
        self._circumstances = _circumstances(config, num_workers)
        self._known = known

    def find(self, names: Collection[str]) -> dict[str, Cost]:
        """Return what turns of these jobs cost when they last ran, in this run or in one beside it with its jobs."""
        kept = _read(self._run_dir.path / FILE, self._circumstances)
        for path in _beside(self._run_dir.path):
            if kept.keys() >= set(names):
                break
            with contextlib.suppress(OSError, CheckpointError, ValueError, KeyError, TypeError):
                if difference(_read_own(path.with_name("run.json")), self._run_dir.description) is None:
                    kept = _read(path, self._circumstances) | kept
        return {name: cost for name, cost in kept.items() if name in names}

    def find_on_0(
        self, broadcast_from_0: Callable[[Callable[[], str]], str], names: Collection[str]
    ) -> dict[str, Cost]:
        """Return what worker 0 finds, on all workers. Collective."""
        found = broadcast_from_0(lambda: json.dumps(_plain(self.find(names))))
        return {name: Cost(*values) for name, values in json.loads(found).items()}

    def observe(self, event: Event) -> None:
        """Keep what is known when the order has changed, and at the end."""
        if isinstance(event, OrderChanged | RunEnded) and (known := self._known()):
            content = {"format": FORMAT, **self._circumstances, "jobs": _plain(known)}
            with contextlib.suppress(OSError):  # a full disk: then the next start profiles
                write_whole(self._run_dir.path / FILE, json.dumps(content) + "\n")


def _circumstances(config: RunConfig, num_workers: int) -> dict[str, Any]:
    return {"workers": num_workers, "sync": config.sync, "compress": config.compress, "house": config.house}


def _plain(costs: Mapping[str, Cost]) -> dict[str, tuple[float, float, int]]:
    return {name: (cost.compute_seconds, cost.sync_seconds, cost.sync_bytes) for name, cost in costs.items()}


def _read(path: Path, circumstances: Mapping[str, Any]) -> dict[str, Cost]:
    try:
        content = _read_own(path)
        if content["format"] == FORMAT and all(content[name] == value for name, value in circumstances.items()):
            return {name: _cost(*values) for name, values in content["jobs"].items()}
    except (OSError, CheckpointError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return {}


def _read_own(path: Path) -> Any:
    """Return what a file holds that is this user's, and no larger than such files are; `ValueError` otherwise.

    Whoever may write beside this run could leave a pipe there, which nobody ever writes to.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_size > _MOST_BYTES:
        raise ValueError(f"{path} is no file of this user's")
    return read_json(path)


def _cost(compute: float, sync: float, num_bytes: int) -> Cost:
    """Return a cost that a turn can have; `ValueError` for anything else."""
    plausible = all(type(each) in (int, float) and (each == 0 or 1e-9 <= each <= 1e7) for each in (compute, sync))
    if not plausible or type(num_bytes) is not int or not 0 <= num_bytes < 1 << 60:
        raise ValueError("a turn cannot cost that")
    return Cost(float(compute), float(sync), num_bytes)


def _beside(place: Path) -> list[Path]:
    found: list[tuple[float, Path]] = []
    with contextlib.suppress(OSError), os.scandir(place.parent) as entries:
        some = list(itertools.islice(entries, _MOST_ENTRIES + 1))
        for entry in some if len(some) <= _MOST_ENTRIES else ():
            with contextlib.suppress(OSError):
                path = Path(entry.path, FILE)
                found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found, reverse=True)[:_MOST_READ]]
