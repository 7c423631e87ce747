"""A jobs file: YAML that describes jobs, validated. Loading it runs no code and imports nothing.

::

    jobs:                                  # names, each with a function, a script or a module
      gpt:  {call: "package.module:function", with: {num_layers: 4}, turns: 500}
      conv: {script: train_conv.py, args: {lr: 1e-3, amp: true}}
      bert: {module: package.train, args: {lr: 1e-3}}    # as python -m package.train
    sweep:                                 # one such mapping, or a list of them
      script: train.py
      args: {lr: [1e-3, 3e-4], width: [128, 256]}

- Scripts are found relative to the jobs file's folder; modules first there, then in the current directory.
- ``args`` is a mapping, a string that is split as a shell would, or a list of words. From a mapping a script gets
  ``--key value``, with key and value as they are written; true gives the bare ``--key``, false and null nothing, a
  list ``--key v1 v2``, a value that begins with a dash ``--key=-1``. A key that begins with a dash is kept as it is.
- In a sweep each list is a list of values to vary (for a value that is a list itself: a list of lists), and there is
  a job for each combination. Its name is made of what varies, such as ``lr0.001-width128``; among several sweeps
  also of what differs between them, and of the script's or function's name where that does.
- What unquoted words mean, and which are refused: `motet.jobs.yaml_text`.
"""

from __future__ import annotations

import os
from pathlib import Path

from motet.errors import UsageError
from motet.jobs.entry import Source, is_empty, read_entry, to_spec
from motet.jobs.names import check_name
from motet.jobs.spec import JobSpec
from motet.jobs.sweep import sweep_specs
from motet.jobs.yaml_text import Tree, parse_yaml
from motet.suggest import did_you_mean

_KEYS = ("jobs", "sweep")
_MAX_BYTES = 256 * 1024  # some 2,000 jobs: PyYAML reads it in a second or two


def load_jobs_file(path: Path | str) -> list[JobSpec]:
    """Read a jobs file; raise one UsageError that names file and line if anything in it is wrong.

    The specs come in the order of the file, those of ``jobs:`` before those of ``sweep:``.
    """
    name = os.fspath(path)
    text = _text_of(name)
    source = Source(name)
    tree = parse_yaml(text, name)
    if tree is None or is_empty(tree):
        raise source.error(1 if tree is None else tree.line, "there are no jobs; describe some under jobs: or sweep:")
    document = source.mapping(tree, "a jobs file")
    source.check_keys(document, _KEYS, "a jobs file")
    specs: list[JobSpec] = []
    if "jobs" in document.items:
        specs += _jobs(source, document.items["jobs"], document.lines["jobs"])
    if "sweep" in document.items:
        specs += sweep_specs(source, document.items["sweep"], document.lines["sweep"])
    _check_unique(specs)
    return specs


def _jobs(source: Source, tree: Tree, line: int) -> list[JobSpec]:
    if is_empty(tree):
        raise source.error(line, "jobs is empty; give at least one name with {call: ...} or {script: ...}")
    jobs = source.mapping(tree, "jobs")
    specs = []
    for name, entry in jobs.items.items():
        line = jobs.lines[name]
        what = f"job {check_name(name, source.where(line))!r}"
        specs.append(to_spec(source, name, read_entry(source, entry, what, line)))
    return specs


def _check_unique(specs: list[JobSpec]) -> None:
    """Raise if the sweep makes a job with the name of one under ``jobs:``; each alone has no name twice."""
    first: dict[str, JobSpec] = {}
    for spec in specs:
        other = first.setdefault(spec.name, spec)
        if other is not spec:
            raise UsageError(
                f"{spec.where}: the sweep makes a job {spec.name!r}, a name that {other.where} has already"
            )


def _text_of(name: str) -> str:
    try:
        with open(name, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(f"{name}: there is no such jobs file{_near_file(name)}") from None
    except IsADirectoryError:
        raise UsageError(f"{name}: this is a folder; give a jobs file") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{name}: the jobs file cannot be read: {getattr(error, 'strerror', error)}") from None
    if len(content) > _MAX_BYTES:
        raise UsageError(f"{name}: this is too large for a jobs file (more than {_MAX_BYTES} bytes)")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{name}:{line}: a jobs file must be UTF-8 text ({error.reason})") from None


def _near_file(name: str) -> str:
    try:
        entries = os.listdir(os.path.dirname(name) or ".")
    except OSError:
        return ""
    return did_you_mean(os.path.basename(name), [entry for entry in entries if entry.endswith((".yaml", ".yml"))])
