"""``script.py --each "ARGUMENTS" --each "ARGUMENTS"``: a job for each, named by what varies."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from motet.confidential import is_secret
from motet.errors import UsageError
from motet.jobs.names import is_name, joined, label, names_of
from motet.jobs.spec import JobSpec, Kind, check_module, find_script, last_part

_FLAG = re.compile(r"--?[^\W\d]|--\w")  # "-1" and "-.5" are values
_OVERRIDE = re.compile(r"[+~]{0,2}([^\W\d][\w./@]*)=(.*)", re.DOTALL)


def specs_from_each(script: Path | str, each: Sequence[str], *, module: bool = False) -> list[JobSpec]:
    """Return a script job for each text of arguments, which is split as a shell would.

    With ``module``, ``script`` is a module's name, as after ``python -m``, looked for in the current directory first.
    Names come from what varies (``lr0.1``), or are ``<script>-1``, ``<script>-2``, ... where that would not give
    each a name of its own. Raises UsageError if there is no such script, no job, or a text that cannot be split.
    """
    name = os.fspath(script)
    target = check_module(name, "-m") if module else find_script(name, ".", "the command")
    if not each:
        raise UsageError(f'{name}: no jobs; give --each "ARGUMENTS" for each (--each "" for one without arguments)')
    argvs = [_split(text) for text in each]
    names = _names_by_what_varies([_given(argv) for argv in argvs])
    if not all(map(is_name, names)) or len(set(names)) < len(names):
        stem = joined([label(last_part(target) if module else Path(target).stem)[:90]]) or "job"
        names = [joined([stem, str(number)]) for number in range(1, len(argvs) + 1)]
    kind: Kind = "module" if module else "script"
    paths = (os.getcwd(),) if module else ()
    return [
        JobSpec(name, kind, target, argv, paths=paths, where=f"--each {text!r}")
        for name, argv, text in zip(names, argvs, each, strict=True)
    ]


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--each {text!r} cannot be split into words: {error}; check its quotes") from None


def _given(argv: Sequence[str]) -> dict[str, str]:
    """Return what is given for each option, for names alone: ``--lr 0.1 -v`` to ``{"lr": "0.1", "v": ""}``.

    ``model.lr=0.1``, as hydra has it, is an option, too.
    Names stand in logs and paths: what looks like a token or a password is left out.
    """
    given: dict[str, list[str]] = {}
    option = ""
    for word in argv:
        if _FLAG.match(word):
            option, _, value = word.lstrip("-").partition("=")
            words = given.setdefault(option, [])
            if value:
                words.append(value)
        elif (override := _OVERRIDE.fullmatch(word)) is not None:
            given.setdefault(override[1], []).append(override[2])
        else:
            given.setdefault(option, []).append(word)
    secret = {option for option, words in given.items() if any(is_secret(option, word) for word in words or ("",))}
    return {option: label(words) for option, words in given.items() if option not in secret}


def _names_by_what_varies(jobs: Sequence[Mapping[str, str]]) -> list[str]:
    options = dict.fromkeys(option for given in jobs for option in given)
    varied = [option for option in options if len({given.get(option) for given in jobs}) > 1]
    return names_of([{option: given[option] for option in varied if option in given} for given in jobs])
