"""``motet plan``: let the jobs take a few turns in throw-away workers, then say what to do and what it would take."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from os.path import expanduser
from pathlib import Path
from typing import Any

from motet import entry
from motet.cli import Parser
from motet.cli.run import add_each, specs_of, with_each_attached
from motet.cli.start import run_workers
from motet.cli.tasks import works_in_place
from motet.config import RunConfig
from motet.errors import UsageError
from motet.jobs import check_specs
from motet.launcher.launch import describe_run
from motet.launcher.outcome import conclude
from motet.launcher.torchrun_options import torchrun_options
from motet.results import Results
from motet.run_dir import RunDir, write_whole
from motet.schedule.alternatives import parse_link
from motet.schedule.offload_model import TYPICAL_HOST_LINK, parse_host_link
from motet.schedule.order import parse_order
from motet.schedule.plan import Plan, Profile, make_plan, plan_text, saved_profile

NUM_TURNS = 8
DEFAULT_LINK = f"{TYPICAL_HOST_LINK / 1e9:g}GB/s"
_DESCRIPTION = """
Let every job take a few turns in workers that are thrown away, alone and together with the others. Say what a turn
costs, which order to use, what the whole would take with Motet and without, and what to do. The workers get a
directory for logs and {job_dir} that is removed afterwards; whatever else the jobs do (files, uploads), they do.
"""
_EPILOG = "Exit status: 0 there is a plan; 1 a job failed in its first turns; 2 bad usage; 3 stopped before the end."
_FAILED, _STOPPED = 1, 3


def main(argv: Sequence[str]) -> int:
    """Run the command; `UsageError` before anything was started. As a worker of torchrun's, end the process."""
    if works_in_place(argv, parse):
        _work_in_place(argv)
    options = parse(argv)
    if options.profile is not None:
        return _answer(options, saved_profile(options.profile))
    description = describe(options, argv)
    from motet.launcher.options import on_one_machine

    if not on_one_machine(options):
        raise UsageError(
            "on several machines, start motet plan with torchrun: torchrun --nnodes ... -m motet plan JOBS"
        )
    options.max_restarts = 0
    names = ", ".join(job["name"] for job in description["jobs"])
    _notify(options, f"profiling {names} in throw-away workers; what jobs write outside of {{job_dir}} remains")
    with tempfile.TemporaryDirectory(prefix="motet-plan-") as scratch:
        run_dir = RunDir.create(Path(scratch, "run"), description)
        outcome = run_workers(options, [str(run_dir.path)], run_dir=run_dir, last=False)
        results, error = conclude(outcome, run_dir)
        if error is not None:
            sys.stderr.write(f"motet: {error}\n")
            return entry.REFUSED if entry.REFUSED in outcome.exits.values() else entry.GANG_FAILED
        if outcome.stopped_by is not None:
            return _STOPPED
        return _conclude(options, results, run_dir)


def make_parser() -> Parser:
    """Return the parser of the options of ``motet plan`` and torchrun's, in any order."""
    parser = Parser("motet plan", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument(
        "jobs", metavar="JOBS", nargs="?", type=expanduser, help="a jobs file (.yaml), or a script (.py) with --each"
    )
    add_each(parser)
    parser.add_argument("--turns", type=int, default=NUM_TURNS, metavar="N", help="turns of each job alone (default 8)")
    parser.add_argument(
        "--profile", metavar="FILE", type=expanduser, help="take the costs from a saved plan, and start no workers"
    )
    parser.add_argument("--order", metavar="A,B,A,C", help="predict this order (default: the best that is found)")
    parser.add_argument("--link", metavar="RATE", help="what if the workers were joined by this: 10gbit, 10gbit/50us")
    parser.add_argument(
        "--offload",
        choices=("nothing", "idle"),
        default="nothing",
        help="idle: what would be lost by keeping idle state in the host's memory, as motet run --offload idle does",
    )
    parser.add_argument(
        "--host-link",
        metavar="RATE",
        help=f"with --offload idle: what a device and the host's memory are joined by (default {DEFAULT_LINK})",
    )
    parser.add_argument("--num-workers", type=int, metavar="W", help="what if there were so many workers")
    parser.add_argument(
        "--data-everywhere", action="store_true", help="every worker may hold all data: one model a worker would do"
    )
    parser.add_argument("--save", metavar="FILE", type=expanduser, help="save the plan, for motet run --plan FILE")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.add_argument("--quiet", action="store_true", help="only errors and the plan")
    group = parser.add_argument_group("torchrun's options")
    for action in torchrun_options():
        group._add_action(action)  # what argparse's own `parents=` does
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse what the command was given."""
    options = make_parser().parse_args(with_each_attached(argv))
    _check(options)
    return options


def _check(options: argparse.Namespace) -> None:
    if (options.jobs is None) == (options.profile is None):
        raise UsageError("give either JOBS to profile or --profile FILE, a saved plan (see motet plan --help)")
    if options.turns < 1:
        raise UsageError(f"--turns takes a number of turns, at least 1, not {options.turns}")
    if options.num_workers is not None and options.num_workers < 1:
        raise UsageError(f"--num-workers takes a number of workers, at least 1, not {options.num_workers}")
    if options.link is not None:
        parse_link(options.link)
    if options.host_link is not None:
        if options.offload != "idle":
            raise UsageError("--host-link goes with --offload idle: nothing else moves between a device and the host")
        parse_host_link(options.host_link)


def describe(options: argparse.Namespace, argv: Sequence[str]) -> dict[str, Any]:
    """Return the description of the profiling run. Imports the jobs, in a child process."""
    specs = specs_of(options)
    if options.order is not None:
        parse_order(options.order, [spec.name for spec in specs])
    description = describe_run([spec.to_json() for spec in specs], RunConfig(quiet=True), ["motet", "plan", *argv])
    from motet.launcher.options import check_torchrun_options

    check_torchrun_options(options)
    check_specs(specs, notify=lambda text: _notify(options, text))
    return {**description, "profile": {"turns": options.turns}}


def _work_in_place(argv: Sequence[str]) -> None:
    """Be a worker of the gang that torchrun started, and end this process."""

    def begin() -> tuple[RunDir, RunConfig]:
        options = parse(argv)
        if options.profile is not None:
            raise UsageError("--profile FILE starts no workers: run motet plan without torchrun")
        description = describe(options, argv)
        run_dir = RunDir.create(Path(tempfile.mkdtemp(prefix="motet-plan-"), "run"), description)
        return run_dir, RunConfig.from_json(description)

    status, results, run_dir = entry.work(lambda: entry.begin_together(begin), launched=False)
    if results is not None and run_dir is not None and entry.worker() == 0:
        _conclude(parse(argv), results, run_dir)
    if run_dir is not None and os.environ.get("LOCAL_RANK", "0") == "0":
        shutil.rmtree(run_dir.path.parent, ignore_errors=True)
    entry.end_together(status, results)


def _conclude(options: argparse.Namespace, results: Results, run_dir: RunDir) -> int:
    """Print the plan, or which jobs failed."""
    failed = {name: job.error for name, job in results.jobs.items() if job.status == "failed"}
    for name, error in failed.items():
        sys.stderr.write(f"motet: job '{name}' failed, so there is no plan:\n{error}\n")
    place = run_dir.path / "profile.json"
    if failed:
        return _FAILED
    if not place.exists():
        return _STOPPED
    return _answer(options, Profile.from_json(json.loads(place.read_text(encoding="utf-8"))))


def _answer(options: argparse.Namespace, profile: Profile) -> int:
    """Make the plan, save it, print it."""
    link = parse_link(options.link) if options.link is not None else None
    profile = profile.elsewhere(link, options.num_workers)
    order = parse_order(options.order, list(profile.costs)) if options.order is not None else None
    host_link = parse_host_link(options.host_link or DEFAULT_LINK) if options.offload == "idle" else None
    plan = make_plan(profile, order=order, data_everywhere=options.data_everywhere, host_link=host_link)
    if options.save is not None:
        try:
            write_whole(Path(options.save), json.dumps(plan.to_json(), indent=2) + "\n")
        except OSError as error:
            raise UsageError(f"the plan cannot be saved as {options.save}: {error.strerror or error}") from None
    sys.stdout.write(json.dumps(plan.to_json(), indent=2) + "\n" if options.json else plan_text(plan) + _note(plan))
    sys.stdout.flush()
    return 0


def _note(plan: Plan) -> str:
    if plan.profile.num_workers > 1:
        return ""
    return (
        "\nOne worker has nothing to synchronize. For more, profile with --nproc-per-node=2, or ask what if: "
        "--link 10gbit --num-workers 8.\n"
    )


def _notify(options: argparse.Namespace, text: str) -> None:
    if not options.quiet:
        sys.stderr.write(f"motet: {text}\n")
        sys.stderr.flush()
