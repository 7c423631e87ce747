"""``motet report``: rebuild a run's report and trace from its files, and print the summary."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from motet.cli import Parser
from motet.cli.table import terminal_width
from motet.observe import build_report, summary_text, write_trace


def make_parser() -> Parser:
    """Return the parser of the options of ``motet report``."""
    parser = Parser("motet report", description="Rebuild report.html and trace.json of a run and print its summary.")
    parser.add_argument(
        "run_dir",
        metavar="RUN_DIR",
        type=lambda text: Path(text).expanduser(),
        help="the directory of a run, ended or not",
    )
    parser.add_argument("--metric", metavar="NAME", help="compare jobs by this value")
    parser.add_argument("--mode", choices=("min", "max"), help="whether less or more of it is better")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the command; `UsageError` if there is no run in the directory."""
    options = make_parser().parse_args(argv)
    summary = summary_text(options.run_dir, terminal_width(), options.metric, options.mode)
    write_trace(options.run_dir)
    path = build_report(options.run_dir, options.metric, options.mode)
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


def closing_words(run_dir: Path) -> str:
    """Return what a run's last lines say beyond its table: the best job, and what would be gained elsewhere."""
    from motet.observe.digest import digest
    from motet.observe.elsewhere import elsewhere_text
    from motet.observe.summary import best_text

    try:
        run = digest(run_dir)
        best = f"best: {best_text(run)}" if run.ranking is not None else ""
        return "".join(f"{line}\n" for line in (best, elsewhere_text(run)) if line)
    except Exception as error:  # the run itself is over and well
        return f"motet: no summary could be made ({type(error).__name__}: {error})\n"
