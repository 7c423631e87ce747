"""A run on several hosts: they meet, the leading one begins the run or goes on with it, and each starts its workers."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from motet import entry
from motet.cli.start import notify, report, run_workers
from motet.config import RunConfig
from motet.launcher.outcome import conclude, exit_status, what_workers_reported
from motet.run_dir import RunDir, shown_path

if TYPE_CHECKING:
    from motet.launcher.hosts import Hosts


@dataclass(frozen=True)
class Begun:
    """A run that the leading host has begun. ``status``: that of the command where nothing is left to do."""

    run_dir: RunDir
    config: RunConfig | None = None
    status: int | None = None


def run_on_several(
    options: argparse.Namespace, jobs: Sequence[Mapping[str, Any]] | None, begin: Callable[[], Begun]
) -> int:
    """Meet the other hosts and run together; return the exit status of the command.

    ``jobs``: what this host was given, None where it cannot know; ``begin`` is called on the leading host alone.
    """
    from motet.launcher.given import what_is_given
    from motet.launcher.hosts import Hosts
    from motet.launcher.options import meeting_of

    about = {"given": None if jobs is None else what_is_given(jobs), "allow_different": options.allow_different}
    held = contextlib.ExitStack()
    run_dirs: list[RunDir] = []

    def begin_here() -> dict[str, Any]:
        begun = begin()
        held.enter_context(begun.run_dir.held())
        run_dirs.append(begun.run_dir)
        return _message(begun)

    def take(message: Mapping[str, Any]) -> None:
        run_dirs.append(RunDir.join(message["path"], message["description"])[0])

    hosts = Hosts(meeting_of(options), about, lambda text: notify(options, text), begin_here, take)
    with held, contextlib.closing(hosts):
        hosts.open()
        hosts.join()
        if hosts.begun["status"] is not None:
            return int(hosts.begun["status"])
        return _run(options, hosts, run_dirs[0])


def _message(begun: Begun) -> dict[str, Any]:
    """Return what the leading host sends to the others, and a file by which they see whether they share its disk."""
    return {
        "path": str(begun.run_dir.path),
        "description": dict(begun.run_dir.description),
        "config": None if begun.config is None else begun.config.to_json(),
        "probe": {"path": str(begun.run_dir.probe_path), "text": begun.run_dir.probe()},
        "status": begun.status,
    }


def _run(options: argparse.Namespace, hosts: Hosts, run_dir: RunDir) -> int:
    from motet.launcher.rendezvous import HostsRendezvous

    arguments = [str(run_dir.path)]
    content = hosts.begun["config"] or run_dir.description
    config = RunConfig.from_json(content, run_dir.path / "run.json")
    if hosts.begun["config"] is not None:
        arguments.append(f"--config={json.dumps(hosts.begun['config'])}")
    if hosts.settled is not None and hosts.settled.separate:
        arguments.append("--separate-disks")
    if not hosts.shares_disk:
        arguments.append("--own-disk")
    where = shown_path(run_dir.path) if hosts.leads or hosts.shares_disk else f"{run_dir.path}, on a disk of its own"
    notify(options, f"run directory {where}; starting workers")
    outcome = run_workers(
        options,
        arguments,
        notify=lambda text: notify(options, text),
        explain=lambda: what_workers_reported(run_dir),
        run_dir=run_dir,
        timeout_seconds=config.timeout_seconds,
        rendezvous=HostsRendezvous(hosts),
    )
    refused = entry.REFUSED in outcome.exits.values()
    writes = hosts.leads or not hosts.shares_disk
    results, error = conclude(outcome, run_dir, writes=writes)
    if not hosts.shares_disk:
        notify(options, f"the logs of this host's workers are in {run_dir.path / 'jobs'}, on its own disk")
    if hosts.leads:
        return report(run_dir, results, error, refused=refused)
    if refused:
        return entry.REFUSED
    if error is not None:
        sys.stderr.write(f"motet: {error}\n")
        return entry.GANG_FAILED
    return exit_status(results)
