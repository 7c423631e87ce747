"""What a run leaves behind: a directory with everything that one would want to know of it later.

::

    run.json        what was asked for: format version, command, jobs, versions, commit
    results.json    what came of it
    costs.json      what turns cost (`motet.checkpoints.earlier_costs`)
    jobs/<name>/    the job's log, its result where that is not JSON, and how it ended
    checkpoints/    what the jobs go on from, a folder a job
    state/          what each worker is doing right now, for messages about workers that died

Files are data: reading a run directory runs no code. They are written whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from motet.errors import CheckpointError, UsageError
from motet.results import Results

FORMAT = 1
LONGEST_JSON_BYTES = 64 * 1024 * 1024
RUNS = "running jobs"  # what a worker does whose jobs live in processes of their own, each of which it watches
_locks: set[int] = set()  # open files by which this process holds runs


def _forget_locks() -> None:
    """Leave the locks to the parent: a child that outlives it, such as a DataLoader worker, holds no run."""
    while _locks:
        os.close(_locks.pop())


os.register_at_fork(after_in_child=_forget_locks)


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What a worker was doing when it last said so. Turns count from 1; ``job`` is None outside all jobs."""

    job: str | None
    turn: int
    phase: str


class RunDir:
    """The directory of one run. Make one with `RunDir.create` or `RunDir.open`."""

    def __init__(self, path: Path, description: Mapping[str, Any]) -> None:
        self.separate_disks = self.own_disk = False
        self.path = path
        self.description = description

    def lies_apart(self, *, separate_disks: bool, own_disk: bool) -> None:
        """Note that, of several hosts, some see another directory than worker 0; and whether this one does."""
        self.separate_disks, self.own_disk = separate_disks, own_disk

    @classmethod
    def create(cls, path: Path | str | None, description: Mapping[str, Any]) -> RunDir:
        """Begin a run in ``path`` (default: ``runs/<time>``) and write ``run.json``; `UsageError` if it holds a run."""
        place = _default_path() if path is None else Path(os.path.expanduser(path))
        content = {"format": FORMAT, "id": uuid.uuid4().hex, **description}
        try:
            make_folder(place)
            _write_new(place / "run.json", json.dumps(content, indent=2) + "\n")
        except FileExistsError:
            kind = "holds another run" if place.is_dir() else "is a file"
            raise UsageError(f"the run directory {place} {kind}; give a new one with --run-dir") from None
        except (OSError, ValueError) as error:
            raise UsageError(f"the run directory {place} cannot be made: {error}") from None
        return cls(place.resolve(), content)

    @classmethod
    def open(cls, path: Path | str) -> RunDir:
        """Read the run directory ``path``; `UsageError` if there is none, `CheckpointError` if it is damaged."""
        place = Path(os.path.expanduser(path))
        try:
            content = read_json(place / "run.json")
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"{place} is not a run directory: it has no run.json") from None
        except OSError as error:
            raise UsageError(f"the run directory {place} cannot be read: {error}") from None
        version = content.get("format") if isinstance(content, dict) else None
        if version != FORMAT:
            raise CheckpointError(
                f"{place / 'run.json'} has format {version!r}; this version of Motet reads format {FORMAT}"
            )
        if wrong := wrong_keys(content):
            raise CheckpointError(f"{place / 'run.json'} is damaged: its {wrong[0]!r} is none")
        return cls(place.resolve(), content)

    @classmethod
    def join(cls, path: Path | str, description: Mapping[str, Any]) -> tuple[RunDir, bool]:
        """Open the run that another worker began, or begin it here where no file system is shared with that worker.

        ``description`` is that worker's, with its ``id``. Returns whether it was begun here.
        """
        try:
            run_dir = cls.create(path, description)
        except UsageError:
            run_dir = cls.open(path)
            if run_dir.description.get("id") != description["id"]:
                raise
            return run_dir, False
        return run_dir, True

    def job_dir(self, name: str) -> Path:
        """Return the directory of the job ``name``, made if need be; a name cannot lead out of the run directory."""
        if _is_path(name):
            raise UsageError(f"{name!r} cannot be a job's name: it would be a path; use letters, digits, '-', '_'")
        place = self.path / "jobs" / name
        make_folder(place)
        return place

    def write_results(self, results: Results, save: Callable[[object, IO[bytes]], None] | None = None) -> None:
        """Write ``results.json``, whole or not at all.

        A result that is not JSON stands there as ``{"repr": ..., "file": "jobs/<name>/result.pt"}``. ``save`` writes
        that file (this module knows no tensors); ``file`` is null without it, and where it raises.
        """
        content = results.to_json()
        for name, job in content["jobs"].items():
            job["result"] = self.plain(name, job["result"], save)
        write_whole(self.path / "results.json", json.dumps(content, indent=2, allow_nan=False) + "\n")

    def plain(self, name: str, result: object, save: Callable[[object, IO[bytes]], None] | None) -> object:
        """Return a job's result as it stands in files; see `write_results`."""
        try:
            return json.loads(json.dumps(result, allow_nan=False))
        except (TypeError, ValueError, RecursionError):
            pass
        file = None
        if save is not None:
            place = self.job_dir(name) / "result.pt"
            try:
                with open(place, "wb", opener=opener) as opened:
                    save(result, opened)
                file = place.relative_to(self.path).as_posix()
            except Exception:  # whatever a user's object raises when it is saved: its repr is kept all the same
                place.unlink(missing_ok=True)
        return {"repr": repr(result)[:10_000], "file": file}

    def read_results(self) -> Results:
        """Return what `write_results` wrote; `FileNotFoundError` before that, `CheckpointError` if it is damaged."""
        place = self.path / "results.json"
        content = read_json(place)
        try:
            return Results.from_json(content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{place} is damaged: {error!r}") from None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the run for the block: nobody else may run it meanwhile. `UsageError` if somebody does."""
        try:
            handle = os.open(self.path / "run.json", os.O_RDONLY)
        except OSError as error:
            raise UsageError(f"the run directory {self.path} cannot be read: {error}") from None
        _locks.add(handle)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"the run in {self.path} is still going on; stop it first") from None
            except OSError:
                pass  # a file system without locks
            yield
        finally:
            if handle in _locks:
                _locks.discard(handle)
                os.close(handle)

    def shown_log(self, job: str, worker: int | None = None) -> str:
        """Return where what ``job`` printed on a worker lies, on worker 0 if none is given, for people."""
        return shown_path(self.path / "jobs" / job / log_name(worker or 0))

    @property
    def checkpoints_dir(self) -> Path:
        """Where the checkpoints of all jobs lie, a folder a job; made with the first checkpoint."""
        return self.path / "checkpoints"

    @property
    def state_dir(self) -> Path:
        """Where workers say what they are doing: a directory, made if need be."""
        place = self.path / "state"
        make_folder(place)
        return place

    def state_path(self, worker: int) -> Path:
        """Return the file in which ``worker`` keeps the line "job turn phase", padded with blanks or zero bytes."""
        return self.state_dir / f"worker-{worker}"

    def error_path(self, worker: int) -> Path:
        """Return the file in which ``worker`` leaves the error that ended it, for the launcher."""
        return self.state_dir / f"error-{worker}"

    def write_state(self, worker: int, phase: str) -> None:
        """Write down what ``worker`` does outside of all jobs, before its own watch begins or after it has ended."""
        with contextlib.suppress(OSError), open(self.state_path(worker), "w", encoding="utf-8", opener=opener) as file:
            file.write(f"- 0 {phase.replace(' ', '-')}\n")

    def probe(self) -> str:
        """Leave a file by which other workers see whether this directory is theirs, too; return what it holds."""
        text = uuid.uuid4().hex
        try:
            write_whole(self.probe_path, text)
        except OSError as error:
            raise UsageError(f"nothing can be written to the run directory {self.path}: {error}") from None
        return text

    def is_probed(self, text: str) -> bool:
        """Whether another worker has left ``text`` here, and not in its own host's directory of the same path."""
        try:
            return self.probe_path.read_text(encoding="utf-8") == text
        except OSError:
            return False

    @property
    def probe_path(self) -> Path:
        """Return where `probe` leaves its file."""
        return self.state_dir / "same-disk"

    def is_there(self) -> bool:
        """Whether the run's description is there still; folders in it are made again by whoever writes into them."""
        return (self.path / "run.json").exists()

    def forget_state(self, worker: int) -> None:
        """Forget what ``worker`` of an earlier start was doing."""
        with contextlib.suppress(OSError):
            self.state_path(worker).unlink(missing_ok=True)

    def read_state(self, worker: int) -> WorkerState | None:
        """Return what ``worker`` was doing last; None if it never wrote that, or only a part of it."""
        try:
            text = self.state_path(worker).read_bytes().replace(b"\0", b" ").decode("utf-8")
            job, turn, phase = text.strip().rsplit(maxsplit=2)
            return WorkerState(None if job == "-" else job, int(turn), phase)
        except (OSError, ValueError):
            return None


def read_json(path: Path) -> Any:
    """Return what a file of the run directory holds; OSError if it cannot be read, `CheckpointError` if damaged."""
    with path.open("rb") as file:
        text = file.read(LONGEST_JSON_BYTES + 1)
    if len(text) > LONGEST_JSON_BYTES:
        raise CheckpointError(f"{path} is damaged: it has more than {LONGEST_JSON_BYTES} bytes")
    try:
        return json.loads(text)
    except RecursionError:
        raise CheckpointError(f"{path} is damaged: it is nested too deeply") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None


def wrong_keys(description: Mapping[str, Any]) -> list[str]:
    """Return the keys of a run's description whose values are not what they can be; options are checked elsewhere."""
    jobs, metric = description.get("jobs", []), description.get("metric")
    are_jobs = isinstance(jobs, list | tuple) and all(
        isinstance(job, dict)
        and isinstance(job.get("name"), str)
        and not _is_path(job["name"])
        and isinstance(job.get("arguments"), dict | list | str | None)
        for job in jobs
    )
    return ["jobs"] * (not are_jobs) + ["metric"] * (not isinstance(metric, str | None))


def _is_path(name: str) -> bool:
    return name in {"", ".", ".."} or any(character in name for character in "/\\\0")


def shown_path(path: Path) -> str:
    """Return ``path`` relative to the working directory where it is below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (OSError, ValueError):
        return str(path)


def log_name(worker: int) -> str:
    """Return the name of the file, in a job's folder, that holds what the job printed on ``worker``."""
    return "log.txt" if worker == 0 else f"log-worker-{worker}.txt"


def opener(path: str | Path, flags: int, mode: int = 0o644) -> int:
    """Open a file for `open`; whatever the umask, others than its owner cannot write to it."""
    return os.open(path, flags, mode)


def make_folder(place: Path) -> None:
    """Make a folder, and those above it, unless they are there; whatever the umask, not everybody can write to it."""
    for folder in (*reversed(place.parents), place):
        if not folder.is_dir():
            with contextlib.suppress(FileExistsError):  # somebody else was first, or it is a file
                folder.mkdir(0o775)
    if not place.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place))


def write_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace ``path`` by ``text``: after a crash it holds the old content or the new, never a part."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(draft, "w", encoding="utf-8", opener=partial(opener, mode=mode)) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _write_new(path: Path, text: str) -> None:
    """Write ``path`` whole, `FileExistsError` if it is there: of two that begin at once, exactly one succeeds."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        write_whole(draft, text, mode=0o600)  # it holds the command, in which there may be secrets
        os.link(draft, path)  # unlike a rename, a link never replaces
    finally:
        draft.unlink(missing_ok=True)


def _default_path() -> Path:
    """Return a new path below ``runs``, named after the time."""
    stem = time.strftime("%Y-%m-%d-%H%M%S")
    place, number = Path("runs") / stem, 1
    while place.exists():
        number += 1
        place = Path("runs") / f"{stem}-{number}"
    return place
