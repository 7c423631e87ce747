"""Where a job works: its folder and its environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from motet.errors import UsageError
from motet.suggest import shown

_JOB_DIR = "{job_dir}"
_FILLED_IN = re.compile(r"\{(name|job_dir)\}")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
# What workers learn of each other from torchrun and Motet: the same for all jobs.
_OF_THE_WORKERS = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"),
    *("ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
)


def check_cwd(value: object, where: str) -> str | None:
    """Return ``value`` if it is None or can name a folder, else raise a UsageError that begins with ``where``."""
    if value is None:
        return None
    if not isinstance(value, str) or not value or "\0" in value:
        raise UsageError(f"{where}: cwd takes a folder, such as '{{job_dir}}' or 'runs/{{name}}', not {shown(value)}")
    if unknown := [word for word in _PLACEHOLDER.findall(value) if word not in ("name", "job_dir")]:
        raise UsageError(f"{where}: cwd {shown(value)}: there is no {{{unknown[0]}}}; use {{name}} or {{job_dir}}")
    if _JOB_DIR in value[1:]:
        raise UsageError(f"{where}: cwd {shown(value)}: {_JOB_DIR} is a whole path, so it can only stand first")
    return value


def found_from(value: object, folder: str, where: str) -> str | None:
    """Return a job's cwd as an absolute path, a relative one found from ``folder``; `UsageError` as `check_cwd`.

    What stands there already must be a folder, or room for one: nothing is made before the job begins.
    """
    cwd = check_cwd(value, where)
    if cwd is None or cwd.startswith(_JOB_DIR):
        return cwd
    place = os.path.abspath(os.path.join(folder, os.path.expanduser(cwd)))
    there = Path(_PLACEHOLDER.split(place)[0]) if "{" in place else Path(place)
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise UsageError(f"{where}: cwd {shown(value)} cannot be a folder: {there} is a file")
    return place


def check_env(value: object, where: str) -> None:
    """Raise a UsageError that begins with ``where`` unless ``value`` is None or maps names of variables to text."""
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise UsageError(f"{where}: env must be a mapping (NAME: value), not {shown(value)}")
    for name, text in value.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise UsageError(f"{where}: {shown(name)} cannot name an environment variable")
        if name in _OF_THE_WORKERS or name.startswith("TORCHELASTIC_"):
            raise UsageError(f"{where}: env cannot set {name}: it is the workers', and all jobs share them")
        if not isinstance(text, str) or "\0" in text:
            raise UsageError(f"{where}: env sets {name} to text, not {shown(text)}; put it in quotes")


def fill_in(text: str, name: str, job_dir: Path | str) -> str:
    """Return ``text`` with a job's name and folder in the place of ``{name}`` and ``{job_dir}``."""
    words = {"name": name, "job_dir": os.fspath(job_dir)}
    return _FILLED_IN.sub(lambda match: words[match[1]], text)
