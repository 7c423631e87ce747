"""Run the tests with the torch and Python that this runs with, and write down what came of it.

    python -m tests.versions --write docs/reference/tested-with.md          # all sets below
    python -m tests.versions identity --write docs/reference/tested-with.md

Every row of that page's table was written by this command. A set that was run before with the same versions gets its
row anew. Exit status 1 if anything failed; it is written all the same.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- tested: begin -->\n", "<!-- tested: end -->"
HEAD = "| torch | Python | system | what was run | date | result |\n|---|---|---|---|---|---|\n"
JOBS = {"plain": "tests.distributed.jobs_plain:plain", "buffers": "tests.distributed.jobs_buffers:gan"}


@dataclass(frozen=True)
class Outcome:
    result: str
    well: bool


def tests(*words: str) -> Outcome:
    """Run pytest with these words, and count."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "results.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={file}", *words]
        begin = time.monotonic()
        ran = subprocess.run(command, cwd=ROOT, check=False)
        minutes = (time.monotonic() - begin) / 60
        if not file.exists():
            return Outcome(f"pytest ended with exit status {ran.returncode}", well=False)
        root = ET.parse(file).getroot()
    counts = {name: sum(int(suite.get(name, 0)) for suite in root.iter("testsuite")) for name in COUNTED}
    failed = [case.get("name", "") for case in root.iter("testcase") if case.find("failure") is not None]
    passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
    words_of = [f"{passed} passed", *(f"{counts[name]} {name}" for name in COUNTED[1:] if counts[name])]
    named = f" ({', '.join(f'`{name}`' for name in failed[:5])})" if failed else ""
    return Outcome(f"{', '.join(words_of)}{named}, {minutes:.1f} min", well=ran.returncode == 0)


COUNTED = ("tests", "failures", "errors", "skipped")


def two_jobs() -> Outcome:
    """Train two jobs with the command, on two workers."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "jobs.yaml").write_text(
            json.dumps({"jobs": {name: {"call": call} for name, call in JOBS.items()}})
        )
        paths = os.pathsep.join(filter(None, (str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
        command = [sys.executable, "-m", "motet", "run", "jobs.yaml", "--nproc-per-node=2", "--run-dir=run"]
        ran = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": paths}, check=False)
        results = Path(folder, "run", "results.json")
        jobs = json.loads(results.read_text())["jobs"] if results.exists() else {}
    finished = sum(job["status"] == "finished" for job in jobs.values())
    return Outcome(f"{finished} of {len(JOBS)} jobs finished", well=ran.returncode == 0 and finished == len(JOBS))


SETS = {
    "names": ("inner names", lambda: tests("tests/unit/test_torch_versions.py")),
    "run": ("`motet run`, two jobs on two workers", two_jobs),
    "identity": ("bit-identity, 1, 2 and 3 workers", lambda: tests("tests/distributed/test_bit_identity.py")),
    "quick": ('quick suite (`-m "not slow"`)', lambda: tests("-m", "not slow")),
}


def row(name: str, outcome: Outcome) -> str:
    """Return the table's row of a set."""
    device = torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else "CPU"
    system = f"{platform.system()} {platform.machine()}, {device}"
    versions = (torch.__version__, platform.python_version())
    return f"| {' | '.join([*versions, system, SETS[name][0], time.strftime('%Y-%m-%d'), outcome.result])} |"


def key(line: str) -> tuple[list[int], list[int], str, str, int]:
    """Return what a row is known by, and sorted."""
    version, python, system, what = (cell.strip() for cell in line.strip("|").split("|")[:4])
    order = [title for title, _ in SETS.values()]
    numbers = [[int(part) for part in text.split("+")[0].split(".") if part.isdigit()] for text in (version, python)]
    return numbers[0], numbers[1], version, system, order.index(what) if what in order else len(order)


def written(page: str, line: str) -> str:
    """Return the page with the row in its table."""
    before, _, rest = page.partition(BEGIN)
    table, _, after = rest.partition(END)
    rows = {str(key(each)): each for each in [*table.splitlines()[2:], line] if each.strip()}
    lines = "".join(f"{each}\n" for each in sorted(rows.values(), key=key))
    return f"{before}{BEGIN}{HEAD}{lines}{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.versions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"what to run, of {', '.join(SETS)} (default: all)")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="the page whose table gets the rows")
    options = parser.parse_args()
    if unknown := set(options.sets) - SETS.keys():
        parser.error(f"no such set: {', '.join(unknown)}")
    well = True
    for name in options.sets or SETS:
        outcome = SETS[name][1]()
        well = well and outcome.well
        line = row(name, outcome)
        print(line, flush=True)
        if options.write is not None:
            options.write.write_text(written(options.write.read_text(encoding="utf-8"), line), encoding="utf-8")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
