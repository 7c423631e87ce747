"""Import each function, match its arguments and compile each script, in one short-lived child process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from motet.errors import UsageError
from motet.jobs.spec import JobSpec
from motet.parent import PARENT

_CHECK_TIMEOUT_SECONDS = 300.0
_SILENT_SECONDS = 2.0
_MOST_NAMED = 3
_LONGEST_PROBLEM = 600


def check_specs(
    specs: Sequence[JobSpec],
    *,
    timeout_seconds: float = _CHECK_TIMEOUT_SECONDS,
    notify: Callable[[str], None] = lambda text: None,
) -> None:
    """Import each function, match its arguments, compile each script, all in one short-lived child process.

    The child's environment is that of worker 0 of one. Nothing is trained, and this process imports nothing. Blocks for
    as long as the imports take, and notifies now and then. Raises one UsageError that lists every problem.
    """
    if not specs:
        return
    with tempfile.TemporaryFile() as request, tempfile.TemporaryFile() as report, tempfile.TemporaryFile() as noise:
        request.write(json.dumps([spec.to_json() for spec in specs], default=repr).encode())
        request.seek(0)
        status = _run_child(request, report, noise, timeout_seconds, notify)
        report.seek(0)
        problems, unfinished = _read_report(report.read(), len(specs))
        if unfinished is not None:
            noise.seek(0)
            ending = _ending(specs, unfinished, status, noise.read(), timeout_seconds)
            problems[max(unfinished, 0)] = ending
    if problems:
        raise UsageError(_message(specs, problems))


def _run_child(
    request: IO[bytes], report: IO[bytes], noise: IO[bytes], timeout_seconds: float, notify: Callable[[str], None]
) -> int | None:
    """Return the child's exit status, or None if it took too long. Files, not pipes: a grandchild cannot hold them."""
    child = subprocess.Popen(
        [sys.executable, "-m", "motet.jobs.check_child"],
        stdin=request,
        stdout=report,
        stderr=noise,
        env=_environment(),
        start_new_session=True,
    )
    try:
        return _wait(child, timeout_seconds, notify)
    finally:
        # The whole session: an import may have started processes, and Ctrl-C does not reach them.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _wait(child: subprocess.Popen[bytes], timeout_seconds: float, notify: Callable[[str], None]) -> int | None:
    """Return the child's exit status, or None if it took too long; say so every two seconds, later less often."""
    begin, pause = time.monotonic(), _SILENT_SECONDS
    while True:
        left = begin + timeout_seconds - time.monotonic()
        try:
            return child.wait(max(0.0, min(pause, left)))
        except subprocess.TimeoutExpired:
            if left <= pause:
                return None
            seconds = time.monotonic() - begin
            notify(f"still importing what the jobs need ({seconds:.0f} s)")
            pause = min(max(_SILENT_SECONDS, seconds / 10), 60.0)


def _environment() -> dict[str, str]:
    """Return this environment, made that of worker 0 of one: modules may read it on import, none may find a gang."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TORCHELASTIC_")}
    single = {"RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    environment.update(single, MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    environment[PARENT] = str(os.getpid())
    home = Path(__file__).resolve().parent.parent
    if home.name not in ("site-packages", "dist-packages"):  # run from a source tree that may not be installed
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (environment.get("PYTHONPATH"), str(home))))
    return environment


def _read_report(report: bytes, num_specs: int) -> tuple[dict[int, str], int | None]:
    """Return the problems by spec, and which spec was not finished (-1: not even begun; None: all were)."""
    problems: dict[int, str] = {}
    begun, num_checked = -1, 0
    for line in report.decode("utf-8", "replace").splitlines():
        try:
            message = json.loads(line)
        except ValueError:
            continue  # cut short when the child died, or printed before the streams were taken
        if not isinstance(message, dict):
            continue
        if "checking" in message:
            begun = int(message["checking"])
        elif "checked" in message:
            num_checked += 1
            if message["problem"] is not None:
                problems[int(message["checked"])] = str(message["problem"])
    return problems, None if num_checked == num_specs else begun


def _ending(specs: Sequence[JobSpec], number: int, status: int | None, noise: bytes, timeout_seconds: float) -> str:
    """Say how the child ended before it had checked all specs."""
    doing = "checking it" if number < 0 else _doing(specs[number])
    if status is None:
        remedy = "does it train on import? put that into a function" if number >= 0 else "is this machine overloaded?"
        return f"{doing} took longer than {timeout_seconds:g} seconds; {remedy}"
    how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    lines = noise.decode("utf-8", "replace").strip().splitlines()
    last = f"; its last words: {lines[-1].strip()}" if lines else ""
    return f"{doing} ended the interpreter ({how}){last}"


def _doing(spec: JobSpec) -> str:
    if spec.kind == "module":
        return f"finding the module {spec.target}"
    return f"compiling {spec.target}" if spec.kind == "script" else f"importing {spec.target.partition(':')[0]}"


def _message(specs: Sequence[JobSpec], problems: dict[int, str]) -> str:
    """Return one message: a line a problem, jobs that share one named together."""
    sharing: dict[str, list[JobSpec]] = {}
    for number, problem in sorted(problems.items()):
        short = problem if len(problem) <= _LONGEST_PROBLEM else problem[:_LONGEST_PROBLEM] + "..."
        sharing.setdefault(short, []).append(specs[number])
    lines = [f"{_names(those)}: {problem}" for problem, those in sharing.items()]
    if len(lines) == 1:
        return lines[0]
    return "\n  ".join([f"{len(problems)} of {len(specs)} jobs cannot start:", *lines])


def _names(specs: list[JobSpec]) -> str:
    where = f"{specs[0].where}: " if specs[0].where else ""
    names = ", ".join(repr(spec.name) for spec in specs[:_MOST_NAMED])
    more = f" and {len(specs) - _MOST_NAMED} more" if len(specs) > _MOST_NAMED else ""
    return f"{where}job{'s' * (len(specs) > 1)} {names}{more}"
