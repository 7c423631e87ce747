"""The chaos suite in full: ``make chaos``, or ``python -m tests.chaos --faults 60 --strikes 100 --seed 7``.

Two parts. Faults of all kinds strike workers of runs that are begun again until they end (``--faults``). Whole commands
are struck from their first moment to their last: the launcher, a worker, what these have started, or all at once
(``--strikes``); and the same command goes on. Every run has to end with the weights of each job alone. A part of which
there is to be nothing is left out: ``--faults 0``. ``--house`` says where the jobs live, ``--seconds`` how
long a part may begin another run.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from pathlib import Path

from tests.chaos.commands import MOMENTS, Commands
from tests.chaos.faults import Chaos, network, new_seed, small_disk

from motet.errors import UsageError


def main() -> int:
    """Run both parts; return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.split("\n")[0])
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--strikes", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=math.inf, help="of each part: then no other run begins")
    parser.add_argument("--house", choices=("together", "process"), default="together")
    parser.add_argument("--seed", type=int, default=new_seed())
    parser.add_argument("--only", action="append", default=[], metavar="KIND", help="of this kind, as 'link down'")
    parser.add_argument("--moment", action="append", choices=MOMENTS, help="strikes at this moment, in place of all")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.house}", flush=True)
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="motet-chaos-") as folder:
        try:
            if options.faults:
                with small_disk(Path(folder, "disk")) as disk, network() as links:
                    chaos = Chaos(Path(folder), options.seed, disk, links, options.only, house=options.house)
                    counts = chaos.run(options.faults, options.seconds)
                print(counts, flush=True)
                wrong += len(counts.wrong)
            if options.strikes:
                place = Path(folder, "commands")
                place.mkdir()
                commands = Commands(place, options.seed, options.house, options.only, options.moment or MOMENTS)
                counts = commands.run(options.strikes, options.seconds)
                print(counts, flush=True)
                wrong += len(counts.wrong)
        except UsageError as error:
            parser.error(str(error))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
