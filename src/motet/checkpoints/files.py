"""Checkpoints as files: written whole or not at all, checked when read.

::

    checkpoints/<job>/turn-00000120/shared.pt        what all workers hold alike, written by worker 0
                                    worker-<rank>.pt what each worker holds alone
                                    manifest.json    job, turn, number of workers; each part's size and checksum

Parts are written into a folder whose name begins with a dot; the manifest comes last, then the folder gets its name
in one step. Each file is synced to disk before that, the parent folder after it. All workers see one file system.
Nothing here communicates: that all parts are there is agreed elsewhere. See ADR 0007, 0016.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, NoReturn, cast

import torch
from torch.utils.serialization import config as serialization_config

from motet.checkpoints.manifest import FORMAT, SHARED, VERSION, CheckpointPart, Found, parse, sealed, worker_part
from motet.checkpoints.payload import check_plain
from motet.checkpoints.stream import BLOCK, SummedFile, xxh3_128_of
from motet.errors import CheckpointError, UsageError
from motet.run_dir import make_folder, opener
from motet.torch_versions import CONFIG_PER_CONTEXT

MANIFEST = "manifest.json"

_FOLDER = re.compile(r"turn-([0-9]{8,15})(?:\.([0-9]{1,6}))?")
_WRITING, _REMOVING = ".writing-", ".removing-"


class Checkpoints:
    """One job's checkpoints, as this worker sees them.

    ``keep``: how many stay, the newest. ``attempt``: a name that all workers of this start of the gang share and no
    other start does, so that a worker left over from an earlier start cannot write into a checkpoint of this one.
    ``at_moment`` is called with the name of each step of writing: for fault injection.
    """

    def __init__(
        self,
        directory: Path | str,
        job: str,
        *,
        worker: int,
        num_workers: int,
        keep: int = 2,
        attempt: str = "0",
        at_moment: Callable[[str], None] | None = None,
    ) -> None:
        if not job or job.startswith(".") or "/" in job or "\0" in job:
            raise UsageError(f"a job's name becomes a folder's: {job!r} is empty, begins with a dot or holds a slash")
        if keep < 1:
            raise UsageError(f"at least one checkpoint has to be kept, got keep={keep}")
        assert 0 <= worker < num_workers, (worker, num_workers)
        assert re.fullmatch(r"[A-Za-z0-9_]+", attempt), attempt
        self.directory = Path(directory) / job
        self.job = job
        self.worker = worker
        self.num_workers = num_workers
        self.keep = keep
        self.attempt = attempt
        self.problems: tuple[str, ...] = ()
        self._at_moment = at_moment or (lambda moment: None)

    # Writing

    def begin_attempt(self, attempt: str) -> None:
        """Take the name of this start of the gang, once worker 0 has sent it."""
        self.attempt = attempt

    def remove_leftovers(self) -> None:
        """Remove what an earlier start was writing or removing when it ended.

        Call it on worker 0, before any worker writes: it cannot distinguish a leftover from what is being written now.
        """
        try:
            leftovers = [path for path in self.directory.iterdir() if path.name.startswith((_WRITING, _REMOVING))]
        except OSError:
            return  # nothing has been written yet, or `latest` will say what is wrong with the folder
        for path in leftovers:
            shutil.rmtree(path, ignore_errors=True)

    def write_part(self, turn: int, name: str, payload: object) -> CheckpointPart:
        """Write one part of the checkpoint of ``turn`` and return its record for `commit`.

        Blocks until it is on the disk, without the interpreter's lock for most of it: made for a background thread.
        Raises `CheckpointError` if it cannot be written (a full disk); then nothing of this checkpoint remains.
        """
        check_plain(payload)
        folder = self._writing(turn)
        path = folder / f"{name}.pt"
        # A name of its own until it is whole: two processes must never have the same file open for writing.
        unfinished = folder / f"{name}.{os.getpid()}"
        try:
            self._make_folders(folder)
            self._at_moment(f"{name} begins")
            with SummedFile(unfinished) as file:
                _save(payload, file)
                self._at_moment(f"{name} is written")
            part = CheckpointPart(name, file.size_bytes, file.xxh3_128)
            self._at_moment(f"{name} is synced")
            os.replace(unfinished, path)
            _sync(folder)
            self._at_moment(f"{name} is in place")
        except (OSError, RuntimeError, ValueError) as error:
            self._give_up(turn, name, error)
        return part

    def commit(self, turn: int, parts: Sequence[CheckpointPart]) -> Found:
        """Turn the parts of all workers into a checkpoint, on worker 0; then remove the oldest.

        Checkpoints of later turns, of a history that was given up, are removed as well. Blocks until all is on the
        disk. Raises `CheckpointError` if it cannot be done; then nothing of this checkpoint remains.
        """
        folder = self._writing(turn)
        record = self._record(turn, parts)
        try:
            for part in parts:
                self._check_present(folder, part)
            self._at_moment("manifest begins")
            with open(folder / MANIFEST, "wb", opener=opener) as file:
                file.write(record)
                file.flush()
                os.fsync(file.fileno())
            self._at_moment("manifest is written")
            _sync(folder)
            path = self._free_name(turn)
            self._at_moment("manifest is synced")
            os.rename(folder, path)
            self._at_moment("checkpoint is in place")
            _sync(self.directory)
        except CheckpointError:
            self.abandon(turn)
            raise
        except OSError as error:
            self._give_up(turn, "the manifest", error)
        self._at_moment("checkpoint is synced")
        self.problems = tuple(self._remove_old(path))
        return Found(path, self.job, turn, self.num_workers, tuple(parts), same_workers=True)

    def abandon(self, turn: int) -> None:
        """Remove what has been written of a checkpoint that will not be committed."""
        shutil.rmtree(self._writing(turn), ignore_errors=True)

    # Reading

    def latest(self) -> Found | None:
        """Return the newest checkpoint that is whole, all parts checked; None if there never was one.

        Those that had to be passed over are named in `problems`. Raises `CheckpointError` if there are checkpoints
        and none can be used, so that no run silently begins anew.
        """
        problems: list[str] = []
        self.problems = ()
        for name in self._names():
            try:
                found = self.open(name)
                for part in found.parts:
                    _check_part(found, part)
                return found
            except CheckpointError as error:
                problems.append(str(error))
            finally:
                self.problems = tuple(problems)
        if problems:
            raise CheckpointError(
                f"no checkpoint of job {self.job!r} can be used: {'; '.join(problems)}. "
                f"To start the job from its beginning, remove {self.directory}"
            )
        return None

    def open(self, name: str) -> Found:
        """Return the checkpoint called ``name`` with its manifest checked; `load` checks each part's content.

        Raises `CheckpointError` if it is damaged, of another format version or another job's.
        """
        path = self.directory / name
        match = _FOLDER.fullmatch(name)
        if match is None:
            raise CheckpointError(f"{path} is not the name of a checkpoint (turn-00000120)")
        try:
            data = (path / MANIFEST).read_bytes()
        except OSError as error:
            raise CheckpointError(f"checkpoint {path} is damaged: its manifest cannot be read: {error}") from error
        manifest = parse(path, data)
        if manifest["job"] != self.job:
            raise CheckpointError(f"checkpoint {path} is of job {manifest['job']!r}, not of {self.job!r}")
        if manifest["turn"] != int(match[1]):
            raise CheckpointError(f"checkpoint {path} is damaged: its manifest is that of turn {manifest['turn']}")
        parts = tuple(CheckpointPart(**part) for part in manifest["parts"])
        num_workers = manifest["num_workers"]
        return Found(path, self.job, manifest["turn"], num_workers, parts, num_workers == self.num_workers)

    def load(self, found: Found, name: str) -> Any:
        """Return the payload of a part, on the CPU; no code in the file is run.

        Raises `CheckpointError` if the part is missing or damaged.
        """
        part = found.part(name)
        path = found.path / f"{name}.pt"
        _check_part(found, part)
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever torch makes of the bytes: a checkpoint that does not load is damaged
            raise CheckpointError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error

    def part_path(self, turn: int, name: str) -> Path:
        """Return where a part of the checkpoint that is being written lies; for parts that are sent (`transfer`)."""
        return self._writing(turn) / f"{name}.pt"

    # Steps

    def _writing(self, turn: int) -> Path:
        return self.directory / f"{_WRITING}{_folder_name(turn)}-{self.attempt}"

    def _make_folders(self, folder: Path) -> None:
        if not self.directory.is_dir():
            make_folder(self.directory)
            _sync(self.directory.parent)
        make_folder(folder)

    def _give_up(self, turn: int, what: str, error: Exception) -> NoReturn:
        try:
            free = f"; {shutil.disk_usage(self.directory).free / 1e6:.1f} MB were free there"
        except OSError:
            free = ""
        self.abandon(turn)
        raise CheckpointError(
            f"the checkpoint of job {self.job!r} at turn {turn} could not be written to {self.directory} "
            f"({what}, by worker {self.worker}: {error}){free}. Nothing of it remains; earlier checkpoints are "
            "untouched. Free some space, or keep fewer checkpoints"
        ) from error

    def _check_present(self, folder: Path, part: CheckpointPart) -> None:
        path = folder / f"{part.name}.pt"
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise CheckpointError(
                f"worker {self.worker} does not see {path}: the run directory has to be on a file system that all "
                "workers share"
            ) from None
        if size != part.size_bytes:
            raise CheckpointError(f"{path} has {size} bytes where {part.size_bytes} were written")

    def _record(self, turn: int, parts: Sequence[CheckpointPart]) -> bytes:
        """Return the manifest's bytes."""
        expected = sorted([SHARED, *map(worker_part, range(self.num_workers))])
        assert sorted(part.name for part in parts) == expected, (parts, expected)
        body = {
            "format": FORMAT,
            "version": VERSION,
            "job": self.job,
            "turn": turn,
            "num_workers": self.num_workers,
            "parts": [asdict(part) for part in parts],
        }
        return sealed(body)

    def _free_name(self, turn: int) -> Path:
        """Return a name for the checkpoint of ``turn`` that sorts after all that this turn has already."""
        stem = _folder_name(turn)
        serials = [
            int(match[2] or 0) for name in self._names() if (match := _FOLDER.fullmatch(name)) and int(match[1]) == turn
        ]
        return self.directory / (f"{stem}.{max(serials) + 1}" if serials else stem)

    def _names(self) -> list[str]:
        """Return the names of all committed checkpoints, the newest first."""
        try:
            matches = [match for entry in os.scandir(self.directory) if (match := _FOLDER.fullmatch(entry.name))]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CheckpointError(f"cannot look for checkpoints in {self.directory}: {error}") from error
        matches.sort(key=lambda match: (int(match[1]), int(match[2] or 0)), reverse=True)
        return [match[0] for match in matches]

    def _remove_old(self, newest: Path) -> list[str]:
        """Remove all but the newest ones up to ``newest``; return what could not be removed, and why."""
        try:
            names = self._names()
        except CheckpointError as error:
            return [str(error)]
        problems: list[str] = []
        at = names.index(newest.name)
        for name in names[:at] + names[at + self.keep :]:
            away = self.directory / f"{_REMOVING}{name}-{self.attempt}"
            try:
                # Renamed first: a removal that is interrupted must not look like a damaged checkpoint.
                os.rename(self.directory / name, away)
                self._at_moment(f"{name} is set aside")
                shutil.rmtree(away)
            except OSError as error:
                problems.append(f"checkpoint {self.directory / name} could not be removed: {error}")
        return problems


def _folder_name(turn: int) -> str:
    assert 0 <= turn < 10**15, turn
    return f"turn-{turn:08d}"


def _save(payload: object, file: SummedFile) -> None:
    """Have torch write ``payload`` as `SummedFile` can take it best, without torch's own checksums: two cost twice.

    Each tensor begins at a disk's block. Both options are torch's, and this thread's alone; where they are the whole
    process's, they are left as they are.
    """
    if not CONFIG_PER_CONTEXT.there:
        torch.save(payload, cast("IO[bytes]", file))
        return
    options: Any = serialization_config.save
    before = torch.serialization.get_crc32_options(), options.storage_alignment
    try:
        torch.serialization.set_crc32_options(False)
        options.storage_alignment = BLOCK
        torch.save(payload, cast("IO[bytes]", file))  # of which it uses what there is
    finally:
        torch.serialization.set_crc32_options(before[0])
        options.storage_alignment = before[1]


def _check_part(found: Found, part: CheckpointPart) -> None:
    """Raise `CheckpointError` unless the part's content is what was written."""
    path = found.path / f"{part.name}.pt"
    try:
        size = path.stat().st_size
        if size != part.size_bytes:
            raise CheckpointError(
                f"checkpoint {found.path} is damaged: {path.name} has {size} of {part.size_bytes} bytes"
            )
        if xxh3_128_of(path) != part.xxh3_128:
            raise CheckpointError(f"checkpoint {found.path} is damaged: {path.name} does not match its checksum")
    except OSError as error:
        raise CheckpointError(f"checkpoint {found.path} is damaged: {path.name} cannot be read: {error}") from error


def _sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
