"""What a host was given: its scripts, its jobs, its packages. All hosts of a run are to have been given the same."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

MOST_FILES, MOST_FOLDERS, MOST_BYTES = 500, 2000, 1 << 20
_LEFT_OUT = {"__pycache__", "node_modules", "site-packages", "runs", "wandb", "mlruns"}


def what_is_given(jobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sums of all files of the jobs' own, the jobs, and the versions of what is installed."""
    roots: dict[Path, None] = {}
    for job in jobs:
        roots |= dict.fromkeys(_roots(job))
    files: dict[str, str] = {}
    for root in roots:
        for path in islice(_python_files(root), MOST_FILES):
            files[str(path)] = _sum(path)
    return {
        "files": files,
        "jobs": {job["name"]: {key: value for key, value in job.items() if key != "where"} for job in jobs},
        "packages": {"python": sys.version.split()[0], **_packages()},
    }


def differences(here: Mapping[str, Any], there: Mapping[str, Any], name: str, other: str) -> list[str]:
    """Return, for people, what ``name`` was given unlike ``other``; files count that both have."""
    found = []
    for path, checksum in here["files"].items():
        if there["files"].get(path, checksum) != checksum:
            found.append(f"{path} is another file on {name} than on {other}")
    if here["jobs"] != there["jobs"]:
        mine, theirs = here["jobs"], there["jobs"]
        which = [job for job in {**mine, **theirs} if mine.get(job) != theirs.get(job)]
        found.append(f"{name} was given other jobs than {other}: see {', '.join(which)}")
    for package, version in here["packages"].items():
        if (installed := there["packages"].get(package)) is not None and installed != version:
            found.append(f"{name} has {package} {version}, and {other} {installed}")
    return found


def _roots(job: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the files and folders that are a job's own code: a script's folder, a package that is not installed."""
    if job.get("kind") == "script":
        yield Path(job["target"])
        yield Path(job["target"]).parent
        return
    top = str(job.get("target", "")).partition(":")[0].partition(".")[0]
    for folder in (*job.get("paths", ()), os.getcwd()):
        for place in (Path(folder, f"{top}.py"), Path(folder, top)):
            if place.exists():
                yield place
                return
    spec = importlib.util.find_spec(top) if top.isidentifier() else None  # of a package itself: imports nothing
    if spec is not None and spec.origin is not None and "site-packages" not in spec.origin:
        origin = Path(spec.origin)
        yield origin.parent if origin.name == "__init__.py" else origin


def _python_files(root: Path) -> Iterator[Path]:
    if root.is_file():
        yield root
        return
    for folder, folders, names in islice(os.walk(root), MOST_FOLDERS):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT and not name.startswith((".", "venv")))
        for name in sorted(names):
            if name.endswith(".py"):
                yield Path(folder, name)


def _sum(path: Path) -> str:
    try:
        if path.stat().st_size <= MOST_BYTES:
            return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        pass
    return ""


def _packages() -> dict[str, str]:
    found = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name and name not in found:  # the first one on the path is the one that is imported
            found[str(name)] = distribution.version
    return dict(sorted(found.items()))
