"""A search as a program for torchrun, whose worker 0 is killed in the middle: ``optuna_program.py FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.integrations.optuna_searches import killed_at

print(killed_at("sqlite", Path(sys.argv[1]), worker=0, at=3))
