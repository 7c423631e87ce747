"""Jobs that write files, one function for each way to write; run by `test_same_files`."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import motet
from motet.errors import GangError
from motet.events import Notice

Write = Callable[[Path, str], object]


def with_open(place: Path, job: str) -> None:
    (place / "best.txt").write_text(job)


def with_os_open(place: Path, job: str) -> None:
    descriptor = os.open(place / "best.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(descriptor, job.encode())
    os.close(descriptor)


def without_truncating(place: Path, job: str) -> None:
    descriptor = os.open(place / "best.txt", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, job.encode() * 3)
    os.close(descriptor)


def replaced_after_a_draft(place: Path, job: str) -> None:
    draft = place / f"draft-{job}"
    draft.write_text(job)
    os.replace(draft, place / "best.txt")


def renamed_by_path(place: Path, job: str) -> None:
    with tempfile.NamedTemporaryFile("w", dir=place, delete=False) as draft:
        draft.write(job)
    Path(draft.name).rename(place / "best.txt")


def copied(place: Path, job: str) -> None:
    (place / f"{job}.txt").write_text(job)
    shutil.copy(place / f"{job}.txt", place / "best.txt")


def moved(place: Path, job: str) -> None:
    (place / f"{job}.txt").write_text(job)
    shutil.move(place / f"{job}.txt", place / "best.txt")


def folder_replaced(place: Path, job: str) -> None:
    draft = place / f"draft-{job}"
    draft.mkdir()
    (draft / "best.txt").write_text(job)
    shutil.rmtree(place / "checkpoint", ignore_errors=True)
    os.rename(draft, place / "checkpoint")


def folder_copied(place: Path, job: str) -> None:
    (place / job).mkdir()
    (place / job / "best.txt").write_text(job)
    shutil.copytree(place / job, place / "checkpoint", dirs_exist_ok=True)


def with_torch(place: Path, job: str) -> None:
    torch.save({"job": job}, place / "best.pt")


def with_torch_in_a_thread(place: Path, job: str) -> None:
    thread = threading.Thread(target=torch.save, args=({"job": job}, str(place / "best.pt")))
    thread.start()
    thread.join()


def with_torch_relative(place: Path, job: str) -> None:
    os.chdir(place)
    torch.save({"job": job}, "best.pt")


def with_old_torch(place: Path, job: str) -> None:
    torch.save({"job": job}, place / "best.pt", _use_new_zipfile_serialization=False)


def with_torchscript(place: Path, job: str) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(place / "best.pt"))


def with_dcp(place: Path, job: str) -> None:
    from torch.distributed import checkpoint

    checkpoint.save({"weight": torch.ones(4)}, checkpoint_id=place / "dcp")


def with_safetensors(place: Path, job: str) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(4)}, place / "model.safetensors")


def with_tensorboard(place: Path, job: str) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(place / "events")) as writer:
        writer.add_scalar("loss", 1.0)


def with_numpy(place: Path, job: str) -> None:
    numpy.save(place / "best.npy", numpy.ones(4))


def with_numpy_archive(place: Path, job: str) -> None:
    numpy.savez(place / "best.npz", weight=numpy.ones(4))


def with_memmap(place: Path, job: str) -> None:
    array = numpy.memmap(place / "best.bin", dtype="f4", mode="w+", shape=(4,))
    array[:] = 1.0


def with_pandas(place: Path, job: str) -> None:
    import pandas

    pandas.DataFrame({"job": [job]}).to_csv(place / "best.csv")


def with_hdf5(place: Path, job: str) -> None:
    import h5py

    with h5py.File(place / "best.h5", "w") as file:
        file["job"] = job


def with_sqlite(place: Path, job: str) -> None:
    with closing(sqlite3.connect(place / "best.db")) as database, database:
        database.execute("create table if not exists best (job text)")
        database.execute("insert into best values (?)", (job,))


def with_sqlite_ahead(place: Path, job: str) -> None:
    with closing(sqlite3.connect(f"file:{place}/best.db?mode=rwc", uri=True)) as database, database:
        database.execute("pragma journal_mode=wal")
        database.execute("create table if not exists best (job text)")
        database.execute("insert into best values (?)", (job,))


def with_tar(place: Path, job: str) -> None:
    (place / f"{job}.txt").write_text(job)
    with tarfile.open(place / "best.tar.gz", "w:gz") as archive:
        archive.add(place / f"{job}.txt")


def with_zip(place: Path, job: str) -> None:
    with zipfile.ZipFile(place / "best.zip", "w") as archive:
        archive.writestr("job", job)


def with_a_child(place: Path, job: str) -> None:
    code = "import sys; open(sys.argv[1], 'w').write(sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, str(place / "best.txt"), job * len(job)], check=True)


def in_a_forked_process(place: Path, job: str) -> None:
    process = multiprocessing.get_context("fork").Process(target=torch.save, args=(job, place / "best.pt"))
    process.start()
    process.join()


class _Caching(torch.utils.data.Dataset[torch.Tensor]):
    """Keeps each sample in a file, as it is made."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        numpy.save(self._place / f"{index}.npy", numpy.ones(2))
        return torch.ones(2)


def in_a_data_loader(place: Path, job: str) -> None:
    loader = torch.utils.data.DataLoader(_Caching(place), num_workers=1, multiprocessing_context="fork")
    assert len(list(loader)) == 4


def with_a_child_from_elsewhere(place: Path, job: str) -> None:
    (place / job).mkdir()
    (place / job / "best.txt").write_text(job * len(job))
    (place / "kept").mkdir(exist_ok=True)
    subprocess.run(["cp", f"{job}/best.txt", "kept"], check=True, cwd=place)


def with_a_child_of_the_shell(place: Path, job: str) -> None:
    subprocess.run(f"cd {place}&&echo {job * len(job)}>best.txt", shell=True, check=True)


def linked(place: Path, job: str) -> None:
    (place / f"{job}.txt").write_text(job)
    (place / "best.txt").unlink(missing_ok=True)
    os.link(place / f"{job}.txt", place / "best.txt")


def with_tokenizers(place: Path, job: str) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"word": 0}, unk_token="word")).save(str(place / "tokenizer.json"))


def with_parquet(place: Path, job: str) -> None:
    import pandas

    pandas.DataFrame({"job": [job]}).to_parquet(place / "best.parquet")


def by_a_name_of_its_own(place: Path, job: str) -> None:
    """A library written in C, imported a moment before by the name of its function."""
    from soundfile import write

    write(str(place / "best.wav"), numpy.zeros(8), 8000)


def with_the_shell(place: Path, job: str) -> None:
    os.system(f"echo {job} > {place}/best.txt")


def truncated(place: Path, job: str) -> None:
    if not (place / "best.txt").exists():
        (place / "best.txt").write_text(job)
    else:
        os.truncate(place / "best.txt", 1)


def removed(place: Path, job: str) -> None:
    path = place / "best.txt"
    path.unlink() if path.exists() else path.write_text(job)


def folder_removed(place: Path, job: str) -> None:
    if (place / "checkpoint").exists():
        shutil.rmtree(place / "checkpoint")
    else:
        (place / "checkpoint").mkdir()
        (place / "checkpoint" / "best.txt").write_text(job)


def line_lost(place: Path, job: str) -> None:
    """The second opens anew what the first has appended to."""
    with open(place / "best.csv", "w" if (place / "best.csv").exists() else "a") as file:
        file.write(job)


def through_a_link(place: Path, job: str) -> None:
    (place / "runs").mkdir(exist_ok=True)
    if not (place / "latest").exists():
        (place / "latest").symlink_to(place / "runs")
        (place / "runs" / "best.txt").write_text(job)
    else:
        (place / "latest" / "best.txt").write_text(job)


CLASHES: dict[str, Write] = {
    write.__name__: write
    for write in (
        *(with_open, with_os_open, without_truncating, replaced_after_a_draft, renamed_by_path, copied, moved),
        *(folder_replaced, folder_copied, with_torch, with_torch_in_a_thread, with_torch_relative, with_old_torch),
        *(with_torchscript, with_dcp, with_safetensors, with_tensorboard, with_numpy, with_numpy_archive, with_memmap),
        *(with_pandas, with_hdf5, with_sqlite, with_sqlite_ahead, with_tar, with_zip, with_a_child, with_the_shell),
        *(in_a_forked_process, in_a_data_loader, with_a_child_from_elsewhere, with_a_child_of_the_shell, linked),
        *(with_tokenizers, with_parquet, by_a_name_of_its_own),
        *(truncated, removed, folder_removed, line_lost, through_a_link),
    )
}
NEEDED = {"with_pandas": "pandas", "with_hdf5": "h5py", "with_tensorboard": "tensorboard"} | {
    "with_safetensors": "safetensors",
    "with_tokenizers": "tokenizers",
    "with_parquet": "pyarrow",
    "by_a_name_of_its_own": "soundfile",
}


def appended(place: Path, job: str) -> None:
    with open(place / "lines.txt", "a") as file:
        file.write(f"{job}\n")


def locked(place: Path, job: str) -> None:
    (place / "data.lock").write_text(job)


def cached(place: Path, job: str) -> None:
    folder = Path(os.environ["HF_HOME"], "hub")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(job)


def to_nowhere(place: Path, job: str) -> None:
    Path(os.devnull).write_text(job)


def in_temporary_files(place: Path, job: str) -> None:
    for _ in range(3):
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(job)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "best.txt").write_text(job)


def one_draft_then_own_name(place: Path, job: str) -> None:
    (place / "draft").write_text(job)
    os.replace(place / "draft", place / f"{job}.txt")


def read_by_both(place: Path, job: str) -> None:
    (place / "common.txt").read_text()
    with open(place / "common.txt", "r+") as file:
        file.read()
    numpy.memmap(place / "common.txt", dtype="u1")
    with closing(sqlite3.connect(place / "common.db")) as database:
        database.execute("select * from known").fetchall()
    subprocess.run(["cat", str(place / "common.txt")], check=True, stdout=subprocess.DEVNULL)


def latest_link(place: Path, job: str) -> None:
    """A link to whoever came last, as many loops keep one."""
    (place / job).mkdir()
    (place / job / "best.txt").write_text(job)
    if (place / "latest").is_symlink():
        (place / "latest").unlink()
    (place / "latest").symlink_to(place / job)


def latest_link_replaced(place: Path, job: str) -> None:
    (place / f"{job}-link").symlink_to(place / "common.txt")
    os.replace(place / f"{job}-link", place / "latest")


def own_folder(place: Path, job: str) -> None:
    path = motet.current_job().job_dir / "best.txt"
    path.write_text(job)
    path.write_text(job)


def logged(place: Path, job: str) -> None:
    motet.current_job().log(loss=1.0)


SHARED: dict[str, Write] = {
    write.__name__: write
    for write in (
        *(appended, locked, cached, to_nowhere, in_temporary_files, one_draft_then_own_name, read_by_both),
        *(latest_link, latest_link_replaced, own_folder, logged),
    )
}


class WritesDown:
    """An observer with a file of its own, written whole at each event: no job's doing."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def observe(self, event: object) -> None:
        self._path.write_text(type(event).__name__)


def _prepare(folder: Path) -> None:
    os.environ["HF_HOME"] = str(folder / "hugging-face")
    (folder / "common.txt").write_text("read me")
    with closing(sqlite3.connect(folder / "common.db")) as database, database:
        database.execute("create table known (word text)")


def run_all(kinds: list[str], place: str) -> tuple[list[str], dict[str, str]]:
    """Run the two jobs of each kind one after the other, each in a process of its own; return what was told."""
    jobs: dict[str, Callable[[], object]] = {}
    for kind in kinds:
        folder = Path(place, kind)
        folder.mkdir()
        _prepare(folder)
        jobs |= {f"{kind}.{name}": partial({**CLASHES, **SHARED}[kind], folder, name) for name in ("first", "second")}
    results = motet.run(jobs, run_dir=Path(place, "run"), house="process", at_once=1)
    reported = [text for text in results.notices if "built no" not in text]
    return reported, {name: job.error or job.status for name, job in results.jobs.items()}


def run_both(kind: str, place: str, on_same_file: str = "warn") -> dict[str, Any]:
    """Run two jobs that do the same, one after the other; return what was told, and of which status they are."""
    folder = Path(place)
    _prepare(folder)
    write = {**CLASHES, **SHARED}[kind]
    jobs = {name: partial(write, folder, name) for name in ("first", "second")}
    results = motet.run(
        jobs, run_dir=folder / "run", on_same_file=on_same_file, observers=[WritesDown(folder / "progress")]
    )
    reported = [text for text in results.notices if "built no" not in text]
    return {"notices": reported, "statuses": {name: job.status for name, job in results.jobs.items()}}


def _train(steps: int, each: Callable[[int], object]) -> None:
    model = DistributedDataParallel(torch.nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 2)).square().mean().backward()
        optimizer.step()
        each(step)


def train_both(place: str, on_same_file: str, writer: int, steps: int = 200, house: str = "together") -> dict[str, Any]:
    """Train two jobs of which worker ``writer`` saves one file; return what came of it here."""
    folder, caught = Path(place), []

    def job(name: str) -> None:
        def save(step: int) -> None:
            if dist.get_rank() == writer:
                try:
                    (folder / "best.txt").write_text(name)
                except GangError as error:
                    caught.append(str(error))
                    raise

        _train(steps, save)

    jobs = {name: partial(job, name) for name in ("first", "second")}
    seen: list[str] = []

    class Listens:
        def observe(self, event: object) -> None:
            if isinstance(event, Notice):
                seen.append(event.text)

    error = None
    results = None
    try:
        results = motet.run(jobs, run_dir=folder / "run", on_same_file=on_same_file, observers=[Listens()])
    except GangError as raised:
        error = f"{type(raised).__name__}: {raised}"
    kept = (folder / "best.txt").read_text()
    statuses = {name: (j.status, j.turns, j.error) for name, j in results.jobs.items()} if results else {}
    return {
        "notices": list(results.notices) if results else [],
        "statuses": statuses,
        "error": error,
        "kept": kept,
        "caught": caught,
        "seen": seen,
    }


def count_handlers(place: str) -> int:
    """Return how many events are listened to after a run."""
    from motet.same_files import hook

    run_both("with_open", place)
    return len(hook._handlers)
