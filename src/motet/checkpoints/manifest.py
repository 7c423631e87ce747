"""What a checkpoint says of itself: its parts, their checksums, and whose it is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from motet.errors import CheckpointError

FORMAT = "motet checkpoint"
VERSION = 2  # 1 had SHA-256 sums of the parts; nothing that was released wrote it
SHARED = "shared"


def worker_part(worker: int) -> str:
    """Return the name of the part that ``worker`` writes."""
    return f"worker-{worker}"


@dataclass(frozen=True, slots=True)
class CheckpointPart:
    """A part that lies on disk, whole; ``asdict`` is its JSON form."""

    name: str
    size_bytes: int
    xxh3_128: str


@dataclass(frozen=True, slots=True)
class Found:
    """A committed checkpoint. ``same_workers``: as many workers wrote it as there are now."""

    path: Path
    job: str
    turn: int
    num_workers: int
    parts: tuple[CheckpointPart, ...]
    same_workers: bool

    @property
    def name(self) -> str:
        """Its name among the job's checkpoints, by which other workers open the same one."""
        return self.path.name

    def part(self, name: str) -> CheckpointPart:
        """Return the part called ``name``; raise `CheckpointError` if there is none."""
        for part in self.parts:
            if part.name == name:
                return part
        held = ", ".join(part.name for part in self.parts)
        raise CheckpointError(f"checkpoint {self.path} has no part {name!r}; it has {held}")


def sealed(body: dict[str, object]) -> bytes:
    """Return a manifest as bytes that no change of any byte leaves valid."""
    seal = hashlib.sha256(_text(body)).hexdigest()
    return _text({**body, "sha256": seal})


def _text(body: dict[str, Any]) -> bytes:
    return (json.dumps(body, indent=1, sort_keys=True) + "\n").encode("ascii")


def parse(path: Path, data: bytes) -> dict[str, Any]:
    """Return the manifest; raise `CheckpointError` unless it is exactly as `sealed` wrote it."""
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged: its manifest is not JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of Motet, or is damaged: its manifest does not say so")
    version = manifest.get("version")
    if version != VERSION:
        raise CheckpointError(
            f"checkpoint {path} is of format version {version!r}, this Motet reads {VERSION}: "
            "use the Motet that wrote it"
        )
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    if sealed(body) != data:
        raise CheckpointError(f"checkpoint {path} is damaged: its manifest does not match its own checksum")
    if not _well_formed(body):
        raise CheckpointError(f"checkpoint {path} is damaged: its manifest lacks what it should say")
    return manifest


def _well_formed(body: dict[str, Any]) -> bool:
    """Return whether all fields are there, of their types, and the parts those of its number of workers."""
    try:
        turn, num_workers = body["turn"], body["num_workers"]
        parts = [CheckpointPart(**part) for part in body["parts"]]
        names = [part.name for part in parts]
        return (
            type(turn) is int
            and type(num_workers) is int
            and 0 < num_workers == len(parts) - 1
            and set(names) == {SHARED, *map(worker_part, range(num_workers))}
            and all(type(part.size_bytes) is int and type(part.xxh3_128) is str for part in parts)
        )
    except (KeyError, TypeError):
        return False
