"""``motet run``: check what was asked for, start the workers, and print what came of it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from os.path import expanduser
from pathlib import Path
from typing import Any

from motet import entry
from motet.checkpoints.resuming import begin_or_go_on, check_place, options_of_start
from motet.cli import Parser
from motet.cli.config_options import add_config_options, given_options
from motet.cli.several import Begun, run_on_several
from motet.cli.start import go_on, notify, prepare_to_go_on, report, run_workers
from motet.cli.tasks import refuse_torchruns_options, works_in_place
from motet.config import RunConfig
from motet.errors import UsageError
from motet.integrations.trackers import check_trackers
from motet.jobs import JobSpec, check_specs, found_from, in_cwd, load_jobs_file, specs_from_each
from motet.launcher.launch import describe_run
from motet.launcher.outcome import conclude, what_workers_reported
from motet.launcher.torchrun_options import torchrun_options
from motet.run_dir import RunDir, shown_path
from motet.schedule.plan import saved_order, saved_prediction

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
    if works_in_place(argv, parse):
        _work_in_place(argv)
    options = parse(argv)
    description = describe(options, argv)
    from motet.launcher.options import on_one_machine  # torch elastic: seconds, for those who have made no mistake

    return _run_here(options, description) if on_one_machine(options) else _run_on_several(options, description)


def make_parser() -> Parser:
    """Return the parser of the options of ``motet run`` and torchrun's, in any order."""
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
        "--allow-different", action="store_true", help="several hosts go on, though they were not given the same"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="begin anew, in DIR-2, where the run directory DIR holds a run"
    )
    parser.add_argument(
        "--plan", metavar="FILE", type=expanduser, help="keep to the order of a plan that motet plan --save wrote"
    )
    add_config_options(parser, "run")
    group = parser.add_argument_group("torchrun's options")
    for action in torchrun_options():
        group._add_action(action)  # what argparse's own `parents=` does
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse what the command was given."""
    options = make_parser().parse_args(with_each_attached(argv))
    options.config = RunConfig(**given_options(options, "run"))
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
    config: RunConfig = options.config
    specs = in_cwd(specs_of(options), found_from(config.job_cwd, os.getcwd(), "--job-cwd"))
    names = [spec.name for spec in specs]
    if options.plan is not None:
        config = replace(config, order=saved_order(options.plan, names).turns)
    description = describe_run([spec.to_json() for spec in specs], config.for_jobs(names), ["motet", "run", *argv])
    if str(options.nnodes) in {"1", "1:1"} or options.standalone:  # of several hosts the leading one knows
        check_place(options.run_dir, description, fresh=options.fresh, seed=options.seed)
    check_trackers(config.trackers)
    notify(options, f"checking {len(specs)} job{'s' * (len(specs) != 1)}: what they import is imported once")
    from motet.launcher.options import check_torchrun_options  # torch: seconds

    check_torchrun_options(options)
    check_specs(specs, notify=lambda text: notify(options, text))
    if options.plan is not None and (seconds := saved_prediction(options.plan)) is not None:
        description["prediction"] = {"wall_seconds": seconds}
    return description


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
        notify(options, f"run directory {shown_path(run_dir.path)}: this run has begun before, and goes on")
        with run_dir.held():
            return go_on(options, run_dir, options_of_start(run_dir, description))
    notify(options, f"run directory {shown_path(run_dir.path)}; starting workers")
    with run_dir.held():
        outcome = run_workers(
            options,
            [str(run_dir.path)],
            notify=lambda text: notify(options, text),
            explain=lambda: what_workers_reported(run_dir),
            run_dir=run_dir,
            timeout_seconds=options.config.timeout_seconds,
        )
        return report(run_dir, *conclude(outcome, run_dir), refused=entry.REFUSED in outcome.exits.values())


def _run_on_several(options: argparse.Namespace, description: dict[str, Any]) -> int:
    """Run together with other hosts; the leading one begins the run, or goes on with it."""

    def begin() -> Begun:
        run_dir, goes_on = begin_or_go_on(options.run_dir, description, fresh=options.fresh, seed=options.seed)
        if not goes_on:
            return Begun(run_dir)
        notify(options, f"run directory {shown_path(run_dir.path)}: this run has begun before, and goes on")
        config = options_of_start(run_dir, description)
        return Begun(run_dir, config, prepare_to_go_on(options, run_dir, config))

    return run_on_several(options, description["jobs"], begin)


def _work_in_place(argv: Sequence[str]) -> None:
    """Be a worker of the gang that torchrun started, and end this process."""

    def begin() -> tuple[RunDir, RunConfig]:
        options = parse(argv)
        refuse_torchruns_options(options)
        place = Path(options.run_dir) if options.run_dir is not None else None
        return entry.begin_or_find(place, describe(options, argv), fresh=options.fresh, seed=options.seed)

    status, results, run_dir = entry.work(lambda: entry.begin_together(begin), launched=False)
    if results is not None and run_dir is not None and entry.worker() == 0:
        report(run_dir, run_dir.read_results(), None)
    entry.end_together(status, results)
