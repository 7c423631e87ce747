"""Hosts that share no disk: worker 0's keeps all checkpoints, and what is charged to jobs; the network carries both.

A worker whose host does not see worker 0's directory writes its part on its own disk, as ever, and sends what it has
written; when a run goes on, worker 0 sends the checkpoint, file by file, to every such worker. All of it goes through
the workers' store, in pieces that are removed as soon as everybody has read them.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from torch._C._distributed_c10d import Store

from motet.checkpoints import resuming
from motet.checkpoints.files import Checkpoints
from motet.checkpoints.gang import SavingGang, wait_for_published
from motet.checkpoints.manifest import CheckpointPart
from motet.errors import CheckpointError
from motet.run_dir import RunDir, make_folder, opener
from motet.workers.deadlock import WaitsFor

PIECE_BYTES = 8 << 20
MOST_PART_BYTES = 256 << 20  # sent in one message: what a worker holds alone is small
AHEAD = 4  # pieces in the store that not everybody has read yet
PAUSE_SECONDS = 0.002


def packed(checkpoints: Checkpoints, turn: int, parts: Sequence[CheckpointPart]) -> dict[str, str]:
    """Return this worker's written parts as text, and remove them from its own disk."""
    found = {}
    try:
        for part in parts:
            if part.size_bytes > MOST_PART_BYTES:
                raise CheckpointError(
                    f"worker {checkpoints.worker} holds {part.size_bytes / 1e6:.0f} MB alone, too much to send to "
                    "worker 0's host: give --run-dir on a file system that all hosts share"
                )
            content = checkpoints.part_path(turn, part.name).read_bytes()
            found[part.name] = base64.b85encode(content).decode("ascii")
    except OSError as error:
        raise CheckpointError(f"worker {checkpoints.worker} cannot read what it has written: {error}") from None
    finally:
        checkpoints.abandon(turn)
    return found


def unpack(checkpoints: Checkpoints, turn: int, sent: dict[str, str]) -> None:
    """Write the parts that another worker has sent into the checkpoint that is being written, on worker 0."""
    for name, text in sent.items():
        path = checkpoints.part_path(turn, name)
        try:
            with open(path, "wb", opener=opener) as file:
                file.write(base64.b85decode(text))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise CheckpointError(f"a part that was sent here could not be written to {path}: {error}") from None


def hand_out(workers: SavingGang, checkpoints: Checkpoints, name: str, key: str, *, own_disk: bool) -> None:
    """Have a checkpoint of worker 0's on every host's disk. All workers call this at the same place in their turns."""
    folder = checkpoints.directory / name
    store, item = workers.store_for(f"motet/handed-out/{key}"), WaitsFor("decision", checkpoints.job, 0)
    if workers.worker == 0:
        files = sorted(path for path in folder.iterdir() if path.is_file())
        sizes = [f"{path.name} {-(-path.stat().st_size // PIECE_BYTES)}" for path in files]
        store.set("files", "\n".join(sizes))
        with workers.watch.waiting_for(item):
            _send(workers, store, files)
        return
    with workers.watch.waiting_for(item):
        _wait(workers, store, "files")
        listed = [line.rsplit(" ", 1) for line in store.get("files").decode().split("\n")]
        draft = checkpoints.directory / f".writing-{name}-{workers.worker}"
        if own_disk:
            make_folder(draft)
        for file_name, pieces in listed:
            _receive(workers, store, file_name, int(pieces), draft / file_name if own_disk else None)
    if own_disk:
        _put_in_place(draft, folder)


def hand_in_attempts(workers: SavingGang, run_dir: RunDir, names: Sequence[str]) -> None:
    """Bring what is charged to jobs on other hosts' disks to worker 0's, where it counts. Collective."""
    if not run_dir.separate_disks:
        return
    if workers.worker != 0:
        here = names if run_dir.own_disk else ()
        charged = {name: [vars(attempt) for attempt in resuming.attempts(run_dir, name)] for name in here}
        workers.publish(f"attempts/{workers.worker}", json.dumps(charged))

    def take() -> str:
        for worker in range(1, workers.num_workers):
            for name, attempts in json.loads(wait_for_published(workers, f"attempts/{worker}")).items():
                for attempt in attempts:
                    resuming.keep_attempt(run_dir, name, resuming.Attempt(**attempt))
        return ""

    workers.broadcast_from_0(take, key="attempts")
    if run_dir.own_disk:
        for name in names:
            resuming.forget_attempts(run_dir, name)


def _send(workers: SavingGang, store: Store, files: Sequence[Path]) -> None:
    sent: list[str] = []
    for path in files:
        with open(path, "rb") as file:
            number = 0
            while piece := file.read(PIECE_BYTES):
                key = f"{path.name}/{number}"
                store.set(key, piece)  # type: ignore[arg-type]  # bytes, too
                sent.append(key)
                number += 1
                while len(sent) > AHEAD:
                    _forget(workers, store, sent.pop(0))
    for key in sent:
        _forget(workers, store, key)


def _forget(workers: SavingGang, store: Store, key: str) -> None:
    """Remove a piece once all other workers have read it."""
    begin = time.monotonic()
    while store.add(f"{key}/read", 0) < workers.num_workers - 1:
        _raise_if_over(workers, begin)
    store.delete_key(key)
    store.delete_key(f"{key}/read")


def _receive(workers: SavingGang, store: Store, name: str, num_pieces: int, path: Path | None) -> None:
    content: list[bytes] = []
    for number in range(num_pieces):
        key = f"{name}/{number}"
        if path is not None:
            _wait(workers, store, key)
            content.append(store.get(key))
        store.add(f"{key}/read", 1)
        if path is not None and (len(content) > AHEAD or number == num_pieces - 1):
            with open(path, "ab" if number > AHEAD else "wb", opener=opener) as file:
                file.writelines(content)
            content.clear()


def _wait(workers: SavingGang, store: Store, key: str) -> None:
    begin = time.monotonic()
    while not store.check([key]):
        _raise_if_over(workers, begin)


def _raise_if_over(workers: SavingGang, begin: float) -> None:
    if workers.watch.error is not None:
        raise workers.watch.error
    if time.monotonic() - begin > workers.timeout_seconds:
        raise CheckpointError("a checkpoint did not reach all hosts in time; a longer --timeout waits longer")
    time.sleep(PAUSE_SECONDS)


def _put_in_place(draft: Path, folder: Path) -> None:
    """Give what was received its name; another worker of this host may have been first with the same content."""
    for path in draft.iterdir():
        make_folder(folder)
        os.replace(path, folder / path.name)
    draft.rmdir()
