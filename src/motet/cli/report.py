"""``motet report``: rebuild a run's report and trace from its files, and print the summary."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from motet.cli import Parser
from motet.cli.table import terminal_width
from motet.observe import build_report, summary_text, write_trace


def main(argv: Sequence[str]) -> int:
    """Run the command; `UsageError` if there is no run in the directory."""
    parser = Parser("motet report", description="Rebuild report.html and trace.json of a run and print its summary.")
    parser.add_argument(
        "run_dir",
        metavar="RUN_DIR",
        type=lambda text: Path(text).expanduser(),
        help="the directory of a run, ended or not",
    )
    options = parser.parse_args(argv)
    summary = summary_text(options.run_dir, terminal_width())
    write_trace(options.run_dir)
    path = build_report(options.run_dir)
    sys.stdout.write(f"{summary}\nreport: {path}\n")
    return 0


def build_quietly(run_dir: Path) -> Path | None:
    """Build trace and report at the end of a run; None if that fails, since the run itself is over and well."""
    try:
        write_trace(run_dir)
        return build_report(run_dir)
    except Exception as error:  # a full disk, a damaged part: `motet report` can be tried again
        sys.stderr.write(f"motet: no report could be built ({type(error).__name__}: {error})\n")
        return None
