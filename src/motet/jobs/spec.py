"""`Job`: what the pipeline runs. `JobSpec`: a job as data, which every worker turns into a callable by itself."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from motet.config import Compress
from motet.errors import CheckpointError, UsageError
from motet.jobs.names import check_name
from motet.jobs.place import check_cwd, check_env, fill_in
from motet.jobs.script import ModuleScript, Script
from motet.suggest import did_you_mean, shown

Kind = Literal["call", "script", "module"]
COMPRESS: tuple[Compress, ...] = get_args(Compress)
"""How gradients may be sent: as bfloat16, or as they are (whatever the run says)."""

_IDENTIFIER = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_MODULE = re.compile(_IDENTIFIER)
_TARGET = re.compile(rf"{_IDENTIFIER}:{_IDENTIFIER}")


@dataclass(frozen=True)
class Job:
    """One model's training loop, with a name. ``turns`` is its expected length, if known.

    ``compress``: how its gradients are sent, where that is not as the run says. ``cwd``: the folder that it works in,
    made if missing; ``env``: variables of its environment, beside those that are there.
    """

    name: str
    call: Callable[[], object]
    turns: int | None = None
    compress: Compress | None = None
    cwd: str | None = None
    env: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        check_cwd(self.cwd, f"job {self.name!r}")
        check_env(self.env, f"job {self.name!r}")
        if not callable(self.call):
            raise UsageError(f"job {self.name!r}: {shown(self.call)} is not callable; give a function")
        check_turns(self.turns, f"job {self.name!r}")
        check_compress(self.compress, f"job {self.name!r}")


@dataclass(frozen=True)
class JobSpec:
    """A job as plain data: nothing is imported or run before `callable`.

    ``target`` is ``module:function``, a script's absolute path, or a module to run as ``python -m`` does; ``arguments``
    are a function's keyword arguments, or argv. ``cwd`` is the folder that the job works in (made if missing), ``env``
    what is set in its environment. ``paths`` are folders in which a module is looked for before those of ``sys.path``.
    ``where`` is the file and line that describes the job, for messages.
    """

    name: str
    kind: Kind
    target: str
    arguments: dict[str, Any] | list[str]
    turns: int | None = None
    paths: tuple[str, ...] = ()
    where: str = ""
    compress: Compress | None = None
    cwd: str | None = None
    env: dict[str, str] | None = None

    def __post_init__(self) -> None:
        check_name(self.name, self.where)
        where = self.where or f"job {self.name!r}"
        check_turns(self.turns, where)
        check_compress(self.compress, where)
        check_cwd(self.cwd, where)
        check_env(self.env, where)

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` turns into an equal spec."""
        return {**vars(self), "paths": list(self.paths)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> JobSpec:
        """Rebuild what `to_json` gave; raise CheckpointError if it is something else."""
        try:
            spec = cls(**{**data, "paths": tuple(data["paths"])})
        except (TypeError, KeyError, UsageError) as error:
            raise CheckpointError(f"the description of a job is damaged: {error} in {shown(data)}") from error
        if spec.kind in ("script", "module"):
            sound = isinstance(spec.arguments, list) and all(isinstance(word, str) for word in spec.arguments)
        else:
            sound = spec.kind == "call" and isinstance(spec.arguments, dict)
        texts = (spec.target, spec.where, *spec.paths)
        if not sound or not all(isinstance(text, str) for text in texts):
            raise CheckpointError(f"the description of job {spec.name!r} is damaged: {shown(data)}")
        return spec

    def filled(self, job_dir: Path | str) -> JobSpec:
        """Return the spec with ``{name}`` and ``{job_dir}`` filled in wherever its arguments, cwd and env hold text."""

        def fill(value: Any) -> Any:
            if isinstance(value, str):
                return fill_in(value, self.name, job_dir)
            if isinstance(value, list):
                return [fill(entry) for entry in value]
            if isinstance(value, dict):
                return {key: fill(entry) for key, entry in value.items()}
            return value

        return replace(self, arguments=fill(self.arguments), cwd=fill(self.cwd), env=fill(self.env))

    def callable(self) -> Callable[[], object]:
        """Import the function (this runs its module's code) or build the `Script`."""
        if isinstance(self.arguments, list):
            if self.kind == "module":
                return ModuleScript(self.target, self.arguments, self.paths)
            return Script(self.target, self.arguments)
        return partial(import_target(self.target, self.paths), **self.arguments)

    def job(self) -> Job:
        """Return the `Job` that this spec describes; imports what `callable` imports."""
        return Job(self.name, self.callable(), self.turns, self.compress, self.cwd, self.env)


def check_turns(turns: object, where: str) -> int | None:
    """Return ``turns`` if it is None or a positive integer, else raise a UsageError."""
    if turns is None:
        return None
    if isinstance(turns, bool) or not isinstance(turns, int) or turns < 1:
        raise UsageError(f"{where}: turns must be a positive integer, not {shown(turns)}")
    return turns


def check_compress(value: object, where: str) -> Compress | None:
    """Return ``value`` if it is None or one of `COMPRESS`, else raise a UsageError."""
    if value is None:
        return None
    for known in COMPRESS:
        if value == known:
            return known
    raise UsageError(
        f"{where}: compress is {' or '.join(COMPRESS)}, not {shown(value)}{did_you_mean(str(value), COMPRESS)}"
    )


def check_target(target: str, where: str) -> str:
    """Return ``target`` if it reads ``module:function``, else raise a UsageError that shows how to write it."""
    if _TARGET.fullmatch(target):
        return target
    module, _, function = target.rpartition(":") if ":" in target else target.rpartition(".")
    guess = f"{module.removesuffix('.py').replace('/', '.').lstrip('.')}:{function}"
    hint = f"; did you mean {guess!r}?" if _TARGET.fullmatch(guess) and not target.endswith(".py") else ""
    if not hint and target.endswith(".py"):
        hint = "; a script is given by script:, not call:"
    raise UsageError(f"{where}: call must be 'module:function', not {shown(target)}{hint}")


def check_module(name: str, where: str) -> str:
    """Return ``name`` if it can be a module's, as ``python -m`` takes it; else raise a UsageError that shows how."""
    if _MODULE.fullmatch(name) and not name.endswith(".py"):
        return name
    guess = name.removesuffix(".py").strip("./").replace("/", ".")
    hint = f"; did you mean {guess!r}?" if _MODULE.fullmatch(guess) else ""
    raise UsageError(f"{where}: a module is given as 'package.module', not {shown(name)}{hint}")


def last_part(module: str) -> str:
    """Return what a module is called by people: its last name, its package's for a ``__main__``."""
    return module.removesuffix(".__main__").rpartition(".")[2]


def find_script(path: str, folder: Path | str, where: str) -> str:
    """Return the absolute path of a script given relative to ``folder``; raise a UsageError if it is no file."""
    found = os.path.abspath(os.path.join(folder, os.path.expanduser(path)))
    if os.path.isfile(found):
        return found
    if os.path.isdir(found):
        raise UsageError(f"{where}: script {shown(path)} is a folder; give a Python file")
    try:
        siblings = [name for name in os.listdir(os.path.dirname(found)) if name.endswith(".py")]
    except (OSError, ValueError):
        siblings = []
    hint = did_you_mean(os.path.basename(found), siblings)
    raise UsageError(f"{where}: there is no script {shown(path)} (looked for {found!r}){hint}")


def add_paths(paths: Sequence[str]) -> None:
    """Put folders first in ``sys.path``."""
    for path in reversed(paths):
        if path not in sys.path:
            sys.path.insert(0, path)


def import_target(target: str, paths: Sequence[str]) -> Callable[..., Any]:
    """Import ``module:function``, with ``paths`` first in ``sys.path`` from now on; raise what the import raises."""
    add_paths(paths)
    module, _, attributes = target.partition(":")
    found: Any = importlib.import_module(module)
    for attribute in attributes.split("."):
        found = getattr(found, attribute)
    return found  # type: ignore[no-any-return]


def in_cwd(specs: Sequence[JobSpec], cwd: str | None) -> list[JobSpec]:
    """Return the specs, those that say no cwd with this one."""
    return [spec if spec.cwd is not None else replace(spec, cwd=cwd) for spec in specs]
