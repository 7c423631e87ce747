"""The chaos suite in full: ``make chaos``, or ``python -m tests.chaos --faults 100 --kills 20 --seed 7``.

Two parts. Faults of all kinds strike workers of runs that are begun again until they end (``--faults``). Workers of
whole commands, ``motet run --max-restarts`` on a variant of the demo, are killed at random moments (``--kills``), and
torch elastic starts them again. Every run has to end with the weights of an uninterrupted one.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
import time
from pathlib import Path

import psutil
from tests.chaos.faults import Chaos, Counts, new_seed, small_disk
from tests.distributed.command import Place

DEMO = {name: {"call": f"tests.chaos.demo_variant:{name}"} for name in ("digits", "gpt", "recommender")}
EVERY = 20


def kills(folder: Path, seed: int, num_kills: int) -> Counts:
    """Kill a random worker of a whole command at a random moment, so many times, a run each."""
    import json

    counts, draw = Counts(), random.Random(seed)
    place = Place(folder)
    (folder / "jobs.yaml").write_text(json.dumps({"jobs": DEMO}))
    words = ("run", "--nproc-per-node=2", "--max-restarts=3", "jobs.yaml", "--quiet")
    begin = time.monotonic()
    status, _, err = place.motet(*words, "--run-dir=whole")
    assert status == 0, err
    whole, seconds = place.jobs_of("whole", "result"), time.monotonic() - begin
    for number in range(num_kills):
        run_dir = f"run-{number}"
        process = place.start(*words, f"--run-dir={run_dir}")
        while not (place.path / run_dir / "jobs" / "digits" / "log.txt").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 0.5) * seconds)
        victims = place.workers()
        if victims:
            victim = victims[draw.randrange(len(victims))]
            try:
                victim.kill()
                counts.faults["kill"] += 1
            except psutil.NoSuchProcess:
                pass
        status, _, err = place.ended(process)
        counts.runs += 1
        counts.starts += 1 + err.count("start again")
        if status != 0 or place.jobs_of(run_dir, "result") != whole:
            counts.wrong.append(f"{run_dir}: status {status}\n{err}")
        counts.wrong += [f"{run_dir}: {text}" for text in _repeated(place.path / run_dir)]
    return counts


def _repeated(run_dir: Path) -> list[str]:
    """Return what is wrong with where jobs began again: only at turns of which there are checkpoints."""
    found = []
    for name in DEMO:
        said = [
            int(turn) for turn in re.findall(r"begins after (\d+)", (run_dir / "jobs" / name / "log.txt").read_text())
        ]
        if any(turn % EVERY for turn in said) and said[-1] % EVERY:
            found.append(f"job {name} began after turns {said}")
    return found


def main() -> int:
    """Run both parts; return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.split("\n")[0])
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=new_seed())
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="motet-chaos-") as folder:
        if options.faults:
            with small_disk(Path(folder, "disk")) as disk:
                counts = Chaos(Path(folder), options.seed, disk).run(options.faults)
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
