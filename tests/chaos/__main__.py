"""The chaos suite in full: ``make chaos``, or ``python -m tests.chaos --faults 100 --kills 20 --seed 7``.

Two parts. Faults of all kinds strike workers of runs that are begun again until they end (``--faults``). Workers of
whole commands, ``motet run --max-restarts`` on a variant of the demo, are killed at random moments (``--kills``), and
torch elastic starts them again. Every run has to end with the weights of an uninterrupted one. A part of which there
is to be nothing is left out: ``--kills 0``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
from tests.chaos.faults import Chaos, Counts, network, new_seed, small_disk
from tests.distributed.command import Place

from motet.errors import UsageError

DEMO = {name: {"call": f"tests.chaos.demo_variant:{name}"} for name in ("digits", "gpt", "recommender")}


def kills(folder: Path, seed: int, num_kills: int) -> Counts:
    """Kill a random worker of a whole command at a random moment, so many times, a run each."""
    counts, draw = Counts(), random.Random(seed)
    place = Place(folder)
    (folder / "jobs.yaml").write_text(json.dumps({"jobs": DEMO}))
    words = ("run", "--nproc-per-node=2", "--max-restarts=3", "jobs.yaml")
    process = place.start(*words, "--run-dir=whole")
    place.wait_until("whole/jobs/digits/log.txt", process)
    begin = time.monotonic()
    status, _, err = place.ended(process)
    assert status == 0, err
    whole, seconds = place.jobs_of("whole", "result"), time.monotonic() - begin
    while counts.faults["kill"] < num_kills:
        counts.runs += 1
        run_dir = f"run-{counts.runs}"
        process = place.start(*words, f"--run-dir={run_dir}")
        place.wait_until(f"{run_dir}/jobs/digits/log.txt", process)
        begin = time.monotonic()
        time.sleep(draw.uniform(0.0, 0.9) * seconds)
        victims, saved, struck = place.workers(), _saved(place.path / run_dir), False
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):  # the run has ended before
            victims[draw.randrange(2)].kill()
            counts.faults["kill"] += 1
            struck = True
        status, _, err = place.ended(process)
        if not struck:  # the machine computes faster than in the first run: later moments would strike nobody either
            seconds = min(seconds, time.monotonic() - begin)
        counts.starts += 1 + err.count("start again")
        if status != 0 or place.jobs_of(run_dir, "result") != whole:
            counts.wrong.append(f"{run_dir}: status {status}\n{err}")
        counts.wrong += [f"{run_dir}: {text}" for text in _lost(place.path / run_dir, saved)]
        print(f"after {counts.runs} runs: {counts}", file=sys.stderr, flush=True)
    return counts


def _saved(run_dir: Path) -> dict[str, int]:
    """Return each job's newest checkpoint: its turn, 0 if there is none."""
    return {
        name: max((int(path.name[5:13]) for path in (run_dir / "checkpoints" / name).glob("turn-*")), default=0)
        for name in DEMO
    }


def _lost(run_dir: Path, saved: Mapping[str, int]) -> list[str]:
    """Return which jobs went back behind the checkpoints that there were when a worker was killed."""
    found = []
    for name, turn in saved.items():
        said = re.findall(r"begins after (\d+)", (run_dir / "jobs" / name / "log.txt").read_text())
        if any(int(begun) < turn for begun in said[1:]):
            found.append(f"job {name} began after turns {said}; a checkpoint of turn {turn} was there")
    return found


def main() -> int:
    """Run both parts; return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.split("\n")[0])
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=new_seed())
    parser.add_argument(
        "--only", action="append", default=[], metavar="KIND", help="faults of this kind, as 'link down'"
    )
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="motet-chaos-") as folder:
        if options.faults:
            with small_disk(Path(folder, "disk")) as disk, network() as links:
                try:
                    chaos = Chaos(Path(folder), options.seed, disk, links, options.only)
                except UsageError as error:
                    parser.error(str(error))
                counts = chaos.run(options.faults)
            print(counts, flush=True)
            wrong += len(counts.wrong)
        if options.kills:
            place = Path(folder, "kills")
            place.mkdir()
            counts = kills(place, options.seed, options.kills)
            print(counts, flush=True)
            wrong += len(counts.wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
