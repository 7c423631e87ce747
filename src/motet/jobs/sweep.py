"""A sweep: the product of the lists in it, each job named by what varies."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

from motet.confidential import is_secret
from motet.errors import UsageError
from motet.jobs.entry import Entry, Source, is_empty, read_entry, to_spec
from motet.jobs.names import joined, label, names_of, unused
from motet.jobs.spec import JobSpec
from motet.jobs.yaml_text import Listing, Mapped, Tree, plain
from motet.suggest import shown

MAX_SWEEP_JOBS = 1000

_Grid = Mapping[str, Sequence[Tree]]


def sweep_specs(source: Source, tree: Tree, line: int) -> list[JobSpec]:
    """Return a spec for each combination of each sweep in ``tree``, the last key varying fastest."""
    if is_empty(tree):
        raise source.error(line, "the sweep is empty; give {script: ..., args: {key: [values]}}")
    trees = tree.items if isinstance(tree, Listing) else [tree]
    entries = [read_entry(source, item, "sweep", item.line) for item in trees]
    grids = [_grid(source, entry) for entry in entries]
    num_jobs = sum(math.prod(len(values) for values in grid.values()) for grid in grids)
    if num_jobs > MAX_SWEEP_JOBS:
        raise source.error(line, f"the sweep makes {num_jobs} jobs; at most {MAX_SWEEP_JOBS} are allowed")
    varied = _varied_keys(entries, grids)
    several_targets = len({(entry.kind, entry.target) for entry in entries}) > 1
    specs: dict[str, JobSpec] = {}
    seen: dict[str, JobSpec] = {}
    jobs = [
        (entry, dict(zip(grid, values, strict=True)))
        for entry, grid in zip(entries, grids, strict=True)
        for values in itertools.product(*grid.values())
    ]
    values = [
        {key: label(plain(chosen[key])) for key in varied if key in chosen and not is_secret(key, plain(chosen[key]))}
        for _, chosen in jobs
    ]
    names = names_of(values, [entry.label if several_targets else "" for entry, _ in jobs])
    for (entry, chosen), name in zip(jobs, names, strict=True):
        spec = to_spec(source, unused(name or joined([entry.label]) or "job", specs), entry, chosen)
        _refuse_repeated(spec, entry, seen)
        specs[spec.name] = spec
    return list(specs.values())


def _grid(source: Source, entry: Entry) -> _Grid:
    """Return the values that each argument takes: one, or those of its list."""
    own = "with" if entry.kind == "call" else "args"
    tree = entry.arguments
    if tree is None or is_empty(tree):
        raise source.error(entry.line, f"the sweep varies nothing; give {own}: {{key: [values]}}")
    if not isinstance(tree, Mapped):
        raise source.error(tree.line, f"{own} of a sweep must be a mapping, not {shown(plain(tree))}")
    if not _listed_keys(entry):
        raise source.error(entry.line, f"the sweep varies nothing; give a list in its {own}, or use jobs:")
    for key, values in tree.items.items():
        if isinstance(values, Listing):
            _check_values(source, key, values)
    return {key: value.items if isinstance(value, Listing) else [value] for key, value in tree.items.items()}


def _check_values(source: Source, key: str, values: Listing) -> None:
    if not values.items:
        raise source.error(values.line, f"the sweep is empty: {key} has no values")
    seen: set[str] = set()
    for item in values.items:
        identity = repr(plain(item))
        if identity in seen:
            raise source.error(item.line, f"the sweep lists {key} {shown(plain(item))} twice")
        seen.add(identity)


def _listed_keys(entry: Entry) -> list[str]:
    assert isinstance(entry.arguments, Mapped)
    return [key for key, value in entry.arguments.items.items() if isinstance(value, Listing)]


def _varied_keys(entries: Iterable[Entry], grids: Sequence[_Grid]) -> list[str]:
    """Return the keys that names are made of: those with several values or with others in another sweep.

    Where nothing has several values, those that were written as lists.
    """
    keys = dict.fromkeys(key for grid in grids for key in grid)
    several = {key for grid in grids for key, values in grid.items() if len(values) > 1}
    varied = [key for key in keys if key in several or len({_identity(grid.get(key)) for grid in grids}) > 1]
    listed = {key for entry in entries for key in _listed_keys(entry)}
    return varied or [key for key in keys if key in listed]


def _identity(values: Sequence[Tree] | None) -> str:
    return "" if values is None else repr([plain(value) for value in values])


def _refuse_repeated(spec: JobSpec, entry: Entry, seen: dict[str, JobSpec]) -> None:
    """Raise if two sweeps make the same job: it would train twice without a reason."""
    other = seen.setdefault(repr((entry.kind, entry.target, spec.arguments, spec.turns, spec.cwd, spec.env)), spec)
    if other is not spec:
        raise UsageError(f"{spec.where}: the sweep makes the job {other.name!r} of {other.where} again")
