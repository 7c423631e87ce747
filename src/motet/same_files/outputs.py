"""Where jobs are to write, by the names of their arguments: a guess, made before anything is written."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from motet.jobs import Job, JobSpec, Script
from motet.jobs.parameters import parameters_of
from motet.same_files.notices import REMEDY, several

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


def _set(words: str) -> frozenset[str]:
    return frozenset(_WORD.findall(words))


_OUTPUT = _set(
    "out output outputs outdir outfile save saves savedir saved log logs logdir logging logfile ckpt ckpts ckptdir "
    "checkpoint checkpoints result results resultdir snapshot snapshots export dump workdir rundir expdir"
)
_FOLDER_OF = _set("work run exp experiment root project model tensorboard tb")
_PLACE = _set("dir directory folder path file filename root")
_NO_OUTPUT = _set(
    "data dataset input inputs in config cfg pretrained resume load init from name type strategy step steps every "
    "interval freq frequency total limit level only format size dim features channels policy mode"
)
_READ_OFTEN = _set("ckpt ckpts checkpoint checkpoints snapshot snapshots saved model path file")
_NO_PATH = re.compile(r"[-+.]*\d[-+.\deE]*|true|false|yes|no|none|null|auto|all|epoch|steps|debug|info|warning|error|")


def outputs_of(job: Job | JobSpec) -> Iterator[tuple[str, str]]:
    """Yield the options of ``job`` that seem to name what it writes, each with the absolute path."""
    for name, value in _options_of(job).items():
        if not isinstance(value, str | os.PathLike) or not _names_output(name):
            continue
        text = os.fsdecode(value)
        if _NO_PATH.fullmatch(text.lower()) or "://" in text:
            continue
        path = os.path.abspath(os.path.join(job.cwd or os.getcwd(), os.path.expanduser(text)))
        if os.path.isfile(path) and _READ_OFTEN.intersection(_words(name)):
            continue  # it is there: rather what they begin with
        yield name, path


def _options_of(job: Job | JobSpec) -> dict[str, object]:
    call = _call_of(job)
    if call is None:
        assert isinstance(job, JobSpec)
        assert isinstance(job.arguments, dict)
        return job.arguments
    found = dict(parameters_of(call))
    if isinstance(call, Script):
        pairs = (word.partition("=") for word in call.argv if not word.startswith("-"))
        found.update((name, value) for name, equals, value in pairs if equals)
    return found


def _call_of(job: Job | JobSpec) -> Callable[[], object] | None:
    """Return what a job calls; None for a function that would have to be imported for that."""
    if isinstance(job, Job):
        return job.call
    return None if job.kind == "call" else job.callable()


class GivenOutputs:
    """The outputs of all jobs so far: who shares one."""

    def __init__(self) -> None:
        self._jobs: dict[tuple[str, str], tuple[str, list[str]]] = {}
        self._new: set[tuple[str, str]] = set()

    def note(self, job: Job | JobSpec) -> None:
        """Take note of a job that is about to begin."""
        for option, path in outputs_of(job):
            key = (_target(job), path)
            self._jobs.setdefault(key, (option, []))[1].append(job.name)
            if len(self._jobs[key][1]) > 1:
                self._new.add(key)

    def take(self) -> list[str]:
        """Return what there is to say of the places that are shared since this was last asked."""
        new, self._new = self._new, set()
        shared = [(path, *self._jobs[target, path]) for target, path in sorted(new)]
        return [
            f"{several(names)} were told to write to the same place, {path} ({option}). {REMEDY}."
            for path, option, names in shared
        ]


def _names_output(name: str) -> bool:
    words = _words(name)
    if words & _NO_OUTPUT:
        return False
    return bool(words & _OUTPUT) or bool(words & _FOLDER_OF and words & _PLACE)


def _words(name: str) -> frozenset[str]:
    return frozenset(word.lower() for word in _WORD.findall(name))


def _target(job: Job | JobSpec) -> str:
    call: Any = _call_of(job)
    while hasattr(call, "func"):
        call = call.func
    if isinstance(call, Script):
        return str(call.path)
    return job.target if isinstance(job, JobSpec) else getattr(call, "__qualname__", repr(call))
