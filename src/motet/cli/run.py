"""``motet run``: check what was asked for, start the workers, and print what came of it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from os.path import expanduser
from pathlib import Path
from typing import Any

from motet import entry
from motet.cli import Parser
from motet.cli.safety import add_safety_options, safety_of
from motet.cli.start import go_on, report, run_workers, say
from motet.errors import UsageError
from motet.integrations.trackers import NAMES, check_trackers
from motet.jobs import COMPRESS, JobSpec, check_specs, found_from, in_cwd, load_jobs_file, specs_from_each
from motet.launcher.launch import BUFFERS, describe_run
from motet.launcher.outcome import conclude, what_workers_told
from motet.launcher.torchrun_options import torchrun_options
from motet.order import parse_order
from motet.plan import saved_order, saved_prediction
from motet.resuming import begin_or_go_on, changes_of, check_place
from motet.run_dir import RunDir, shown_path

_JOBS_FILES = {".yaml", ".yml", ".json"}
_DESCRIPTION = """
Train several jobs at once on the same workers. JOBS is a jobs file (YAML), or a script (with -m: a module) followed by
one --each for every job. Workers are started with torchrun's own options, below; one worker on this machine is the
default, and on one machine everything listens on loopback alone. Started by torchrun itself (torchrun -m motet run
JOBS), the workers that are there are used.
"""
_EPILOG = """
Exit status: 0 all jobs finished; 1 a job failed; 2 bad usage, nothing was started; 3 stopped before the end;
anything else: something went wrong between the workers.
"""


def main(argv: Sequence[str]) -> int:
    """Run the command; `UsageError` before anything was started. As a worker of torchrun's, end the process."""
    if "TORCHELASTIC_RUN_ID" in os.environ and {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        _work_in_place(argv)
    options = parse(argv)
    description = describe(options, argv)
    from motet.launcher.options import on_one_machine  # torch elastic: seconds, for those who have made no mistake

    return _run_here(options, description) if on_one_machine(options) else _run_on_several(options, description)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the options of ``motet run`` and torchrun's, in any order."""
    parser = Parser("motet run", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument(
        "jobs", metavar="JOBS", type=expanduser, help="a jobs file (.yaml), or a script (.py) with --each"
    )
    add_each(parser)
    parser.add_argument(
        "--run-dir",
        metavar="DIR",
        type=expanduser,
        help="where to keep logs and results (default: runs/<time>); "
        "a run that is there already goes on, if it is this one",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="begin anew, in DIR-2, where the run directory DIR holds a run"
    )
    parser.add_argument(
        "--order", metavar="A,B,A,C", help="one round of turns, or round-robin (default: Motet chooses)"
    )
    parser.add_argument(
        "--plan", metavar="FILE", type=expanduser, help="keep to the order of a plan that motet plan --save wrote"
    )
    parser.add_argument(
        "--sync", choices=("all-reduce", "aggregate"), default="all-reduce", help="how gradients are averaged"
    )
    parser.add_argument(
        "--aggregators",
        metavar="0,2",
        help="with --sync aggregate: the workers that sum (default: each in turn); or "
        "dedicated: the last worker sums, and does nothing else",
    )
    parser.add_argument(
        "--compress", choices=COMPRESS, help="bf16: gradients travel as bfloat16, at half the bytes and less precision"
    )
    parser.add_argument(
        "--at-once",
        type=_number_or_auto,
        metavar="N",
        help="at most N jobs in flight, or auto: as many as fit in memory; the others wait",
    )
    parser.add_argument(
        "--offload",
        choices=("nothing", "idle"),
        default="nothing",
        help="idle: what a job holds on a device rests in the host's memory while others compute",
    )
    parser.add_argument(
        "--buffers",
        choices=BUFFERS,
        default=BUFFERS[0],
        help="blocking: BatchNorm statistics and other buffers are broadcast before each forward, as under plain DDP",
    )
    parser.add_argument("--job-cwd", metavar="DIR", help="each job works in this folder: {job_dir}, or runs/{name}")
    parser.add_argument("--seed", type=int, metavar="N", help="the jobs' random numbers follow from it (default: new)")
    parser.add_argument("--verbose", action="store_true", help="show what all workers print, not worker 0 alone")
    parser.add_argument("--quiet", action="store_true", help="only errors and the results")
    parser.add_argument(
        "--tracker", action="append", metavar="NAME", help=f"write a run for each job to {', '.join(NAMES)}; repeatable"
    )
    parser.add_argument("--metric", metavar="NAME", help="compare jobs by this value (default: a loss that all log)")
    parser.add_argument("--mode", choices=("min", "max"), help="whether less or more of it is better")
    add_safety_options(parser)
    group = parser.add_argument_group("torchrun's options")
    for action in torchrun_options():
        group._add_action(action)  # what argparse's own `parents=` does
    options = parser.parse_args(with_each_attached(argv))
    if options.verbose and options.quiet:
        raise UsageError("--verbose and --quiet contradict each other")
    if options.order is not None and options.plan is not None:
        raise UsageError("--order and --plan contradict each other: a plan has an order")
    return options


def add_each(parser: argparse.ArgumentParser) -> None:
    """Add the options that make jobs of a script or a module."""
    parser.add_argument("--each", action="append", metavar="ARGUMENTS", help="a job: the script with these arguments")
    parser.add_argument(
        "-m",
        "--module",
        action="store_true",
        help="JOBS is a module, run as python -m would: -m package.module",
    )


def with_each_attached(argv: Sequence[str]) -> list[str]:
    """Write ``--each VALUE`` as ``--each=VALUE``: argparse takes a value like ``--lr=0.1`` for an option of its own."""
    words: list[str] = []
    for word in argv:
        if words and words[-1] == "--each":
            words[-1] = f"--each={word}"
        else:
            words.append(word)
    return words


def describe(options: argparse.Namespace, argv: Sequence[str]) -> dict[str, Any]:
    """Return the description of the run, with everything in it checked. Imports the jobs, in a child process."""
    specs = in_cwd(specs_of(options), found_from(options.job_cwd, os.getcwd(), "--job-cwd"))
    names = [spec.name for spec in specs]
    order = parse_order(options.order, names).turns if options.order is not None else None
    if options.plan is not None:
        order = saved_order(options.plan, names).turns
    safety = safety_of(options)
    description = describe_run(
        [spec.to_json() for spec in specs],
        order=order,
        at_once=options.at_once,
        verbose=options.verbose,
        quiet=options.quiet,
        seed=options.seed,
        command=["motet", "run", *argv],
    )
    check_place(options.run_dir, description, fresh=options.fresh, seed=options.seed)
    check_trackers(options.tracker or [])
    from motet.launcher.options import check_torchrun_options

    check_torchrun_options(options)
    say(options, f"checking {len(specs)} job{'s' * (len(specs) != 1)}: what they import is imported once")
    check_specs(specs)
    if options.plan is not None and (seconds := saved_prediction(options.plan)) is not None:
        description["prediction"] = {"wall_seconds": seconds}
    others = {"compress": options.compress, "offload": options.offload, "trackers": options.tracker or []}
    others["buffers"] = options.buffers
    return {**description, **safety, **_sync_of(options), **others}


def _number_or_auto(text: str) -> int | str:
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes a number, or auto, not {text!r}") from None


def _sync_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return how gradients are averaged, as a part of the description."""
    if options.sync == "all-reduce":
        if options.aggregators is not None:
            raise UsageError("--aggregators goes with --sync aggregate; an all-reduce has none")
        return {}
    given = options.aggregators
    if given is None or given == "dedicated":
        return {"sync": "aggregate", "aggregators": given}
    try:
        return {"sync": "aggregate", "aggregators": [int(word) for word in given.split(",")]}
    except ValueError:
        raise UsageError(f"--aggregators takes numbers of workers, as in 0,2, or dedicated; not {given!r}") from None


def specs_of(options: argparse.Namespace) -> list[JobSpec]:
    """Return the jobs that a command was given."""
    path = Path(options.jobs)
    if options.module:
        return specs_from_each(options.jobs, options.each or [], module=True)
    if options.each is not None:
        if path.suffix in _JOBS_FILES:
            raise UsageError(f"--each goes with a script, and {options.jobs} is a jobs file")
        return specs_from_each(path, options.each)
    if path.suffix == ".py":
        raise UsageError(
            f'{options.jobs} is a script: give one --each "ARGUMENTS" for every job (--each "" for one without any)'
        )
    return load_jobs_file(path)


def _run_here(options: argparse.Namespace, description: dict[str, Any]) -> int:
    run_dir, goes_on = begin_or_go_on(options.run_dir, description, fresh=options.fresh, seed=options.seed)
    if goes_on:
        say(options, f"run directory {shown_path(run_dir.path)}: this run has begun before, and goes on")
        with run_dir.held():
            return go_on(options, run_dir, changes_of(description))
    say(options, f"run directory {shown_path(run_dir.path)}; starting workers")
    with run_dir.held():
        outcome = run_workers(
            options,
            [str(run_dir.path)],
            say=lambda text: say(options, text),
            explain=lambda: what_workers_told(run_dir),
        )
        return report(run_dir, *conclude(outcome, run_dir), refused=entry.REFUSED in outcome.exits.values())


def _run_on_several(options: argparse.Namespace, description: dict[str, Any]) -> int:
    """Start this machine's workers; which directory the run is in is settled among all machines' workers."""
    candidate = options.run_dir or _default_run_dir()
    with tempfile.TemporaryDirectory(prefix="motet-") as private:
        file, begun = Path(private, "description"), Path(private, "begun")
        file.write_text(json.dumps(description), encoding="utf-8")
        arguments = [candidate, f"--description={file}", f"--begun={begun}"]
        if options.fresh:
            arguments.append("--fresh")
        if options.seed is not None:
            arguments.append(f"--seed={options.seed}")
        say(options, f"starting workers; waiting for {options.nnodes} machines")
        outcome = run_workers(options, arguments, say=lambda text: say(options, text))
        path = begun.read_text(encoding="utf-8") if begun.exists() else None
        writes = 0 in outcome.exits or Path(f"{begun}-here").exists()
    refused = entry.REFUSED in outcome.exits.values()
    if path is None:
        if not refused:
            sys.stderr.write("motet: the workers of this machine ended before the run began\n")
        return entry.REFUSED if refused else entry.GANG_FAILED
    run_dir = RunDir.open(path)
    return report(run_dir, *conclude(outcome, run_dir, writes=writes), refused=refused, writes=writes)


def _work_in_place(argv: Sequence[str]) -> None:
    """Be a worker of the gang that torchrun started, and end this process."""

    def begin() -> tuple[RunDir, Mapping[str, Any]]:
        options = parse(argv)
        defaults = {action.dest: action.default for action in torchrun_options()}
        if given := [name for name, default in defaults.items() if getattr(options, name) != default]:
            flag = "--" + given[0].replace("_", "-")
            raise UsageError(f"the workers are torchrun's already: give {flag} to torchrun, before -m motet run")
        place = Path(options.run_dir) if options.run_dir is not None else None
        return entry.begin_or_find(place, describe(options, argv), fresh=options.fresh, seed=options.seed)

    status, results, run_dir = entry.work(lambda: entry.begin_together(begin), launched=False)
    if results is not None and run_dir is not None and entry.worker() == 0:
        report(run_dir, run_dir.read_results(), None)
    entry.end(status)


def _default_run_dir() -> str:
    import time

    return os.path.join("runs", time.strftime("%Y-%m-%d-%H%M%S"))
