"""The chaos suite in short: a few faults at random moments; every run ends as if nothing had happened."""

from __future__ import annotations

import os
from pathlib import Path

from tests.chaos.faults import Chaos, network, new_seed, small_disk

NUM_FAULTS = 6


def test_faults_at_random_moments(tmp_path: Path) -> None:
    seed = int(os.environ.get("MOTET_CHAOS_SEED", new_seed()))
    with small_disk(tmp_path / "disk") as disk, network() as links:
        counts = Chaos(tmp_path, seed, disk, links).run(NUM_FAULTS)
    print(f"seed {seed}: {counts}")
    assert not counts.wrong, f"MOTET_CHAOS_SEED={seed}\n{counts}"
    assert counts.faults.total() == NUM_FAULTS
