"""``motet resume``: go on with a run that was stopped, or that something ended."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from motet import entry
from motet.checkpoints import resuming
from motet.cli import Parser, run, start
from motet.cli.config_options import add_config_options, given_options
from motet.cli.several import Begun, run_on_several
from motet.cli.tasks import works_in_place
from motet.config import RunConfig
from motet.errors import CheckpointError, UsageError
from motet.launcher.torchrun_options import torchrun_options
from motet.run_dir import RunDir

_DESCRIPTION = """
Go on with the run in RUN_DIR: jobs that have ended are not run again, the others go on from their last checkpoints,
and from their beginning where they have none. Workers are started as the run was started, unless options say
otherwise; with another number of workers the results will differ in their bits.
"""


def main(argv: Sequence[str]) -> int:
    """Run the command; `UsageError` or `CheckpointError` before anything was started."""
    if works_in_place(argv, parse):
        _work_in_place(argv)
    options = parse(argv)
    if options.standalone or options.nnodes in ("1", "1:1"):
        RunDir.open(options.run_dir)  # a mistake is shown before torch is imported
    from motet.launcher.options import on_one_machine

    if not on_one_machine(options) and not Path(options.run_dir, "run.json").exists():
        return run_on_several(options, None, lambda: _begin(options, RunDir.open(options.run_dir)))  # another host's
    run_dir = RunDir.open(options.run_dir)
    _check(run_dir)
    _as_before(options, run_dir)
    from motet.launcher.options import check_torchrun_options

    check_torchrun_options(options)
    config = _configure(options, _begun(run_dir))
    _go_where_it_began(run_dir)
    if not on_one_machine(options):
        return run_on_several(options, run_dir.description["jobs"], lambda: _begin(options, run_dir))
    with run_dir.held():
        return start.go_on(options, run_dir, config, retry_failed=options.retry_failed)


def _begin(options: argparse.Namespace, run_dir: RunDir) -> Begun:
    """Go on with the run on the leading one of several hosts."""
    config = _configure(options, _begun(run_dir))
    status = start.prepare_to_go_on(options, run_dir, config, retry_failed=options.retry_failed)
    return Begun(run_dir, config, status)


def make_parser() -> Parser:
    """Return the parser of the options of ``motet resume`` and torchrun's, in any order."""
    parser = Parser("motet resume", description=_DESCRIPTION, epilog=run._EPILOG)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=os.path.expanduser, help="the directory of the run")
    parser.add_argument(
        "--allow-different", action="store_true", help="several hosts go on, though they were not given the same"
    )
    parser.add_argument("--retry-failed", action="store_true", help="go on with jobs that have failed, too")
    add_config_options(parser, "resume")
    group = parser.add_argument_group("torchrun's options")
    for action in torchrun_options():
        group._add_action(action)  # as in `motet run`
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse what the command was given."""
    options = make_parser().parse_args(list(argv))
    RunConfig(**given_options(options, "resume"))  # refuses what no run could be asked
    return options


def _check(run_dir: RunDir) -> None:
    """Raise `CheckpointError` if the description is damaged, `UsageError` if no command can go on with this run."""
    resuming.job_names(run_dir)
    if python := [data["name"] for data in run_dir.description["jobs"] if data.get("kind") == "python"]:
        raise UsageError(
            f"job {python[0]!r} is Python code of a program: run that program again, with resume=True in "
            f"motet.launch(..., run_dir={str(run_dir.path)!r})"
        )
    directory = run_dir.description.get("directory")
    if directory is not None and not isinstance(directory, str):
        raise CheckpointError(f"{run_dir.path / 'run.json'} is damaged: its directory is {directory!r:.80}")
    _begun(run_dir)


def _begun(run_dir: RunDir) -> RunConfig:
    """Return the options that the run was begun with."""
    return RunConfig.from_json(run_dir.description, run_dir.path / "run.json")


def _as_before(options: argparse.Namespace, run_dir: RunDir) -> None:
    """Take over torchrun's options of the command that began the run, where this one does not say otherwise."""
    defaults = {action.dest: action.default for action in torchrun_options()}
    command = run_dir.description.get("command")
    if not isinstance(command, list) or command[:2] != ["motet", "run"] or len(command) < 3:
        return
    try:
        before = run.parse([str(word) for word in command[2:]])
    except UsageError:  # of another version, or edited by hand: then only what is said now counts
        return
    for name, default in defaults.items():
        if getattr(options, name) == default:
            setattr(options, name, getattr(before, name))


def _configure(options: argparse.Namespace, begun: RunConfig) -> RunConfig:
    """Return the options of this start: those that the run was begun with, and over them what is given now."""
    given = given_options(options, "resume")
    if "verbose" in given or "quiet" in given:
        given = {"verbose": False, "quiet": False, **given}
    return replace(begun, **{"stop_after_seconds": None, "only": None, **given})


def _go_where_it_began(run_dir: RunDir) -> None:
    """Change to the directory that the run was started in: jobs may name files relative to it."""
    directory = run_dir.description.get("directory")
    if directory is not None:
        try:
            os.chdir(directory)
        except (OSError, ValueError) as error:
            raise UsageError(f"the run was started in {directory}, where its jobs find their files: {error}") from None


def _work_in_place(argv: Sequence[str]) -> None:
    """Be a worker of the gang that torchrun started, and end this process."""
    options = parse(argv)

    def find() -> tuple[RunDir, RunConfig]:
        run_dir = RunDir.open(Path(options.run_dir))
        _check(run_dir)
        config = _configure(options, _begun(run_dir))
        if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == 0:
            start.resume_state_of(options, run_dir, config, retry_failed=options.retry_failed)
        return run_dir, config

    status, results, found = entry.work(lambda: entry.begin_together(find), launched=False)
    if results is not None and found is not None and entry.worker() == 0:
        start.report(found, found.read_results(), None)
    entry.end_together(status, results)
