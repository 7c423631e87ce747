"""Read what W&B writes when it is offline."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def wandb_runs(folder: Path) -> dict[str, dict[str, Any]]:
    """Read offline runs: their names, groups, configs, histories (one dictionary a step), and exit codes."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[str, dict[str, Any]] = {}
    for path in folder.glob("wandb/offline-run-*/run-*.wandb"):
        run: dict[str, Any] = {"config": {}, "steps": [], "history": [], "exit": None, "name": "", "group": ""}
        for data in _records(path):
            record = Record()
            record.ParseFromString(data)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run |= {"name": record.run.display_name, "group": record.run.run_group}
                run["config"] |= {item.key: item.value_json for item in record.run.config.update}
            elif kind == "config":
                run["config"] |= {item.key: item.value_json for item in record.config.update}
            elif kind == "history":
                run["steps"].append(record.history.step.num)
                items = ((item.key or "/".join(item.nested_key), item.value_json) for item in record.history.item)
                run["history"].append({name: json.loads(value) for name, value in items})
            elif kind == "exit":
                run["exit"] = record.exit.exit_code
        assert run["name"] not in found, f"two runs are named {run['name']!r}"
        found[run["name"]] = run
    return found


def _records(path: Path) -> Iterator[bytes]:
    """Read the records of a run's file: 7 bytes of header, then blocks of 32 KiB in LevelDB's log format."""
    data, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # a record's head does not go over the end of a block
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part of one
            yield parts
            parts = b""
