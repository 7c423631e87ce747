"""A script that knows nothing of Motet and asks ``torch.distributed`` everything; started by `test_worlds_cli.py`.

For each kind it writes down what it saw; alone, under torchrun, that has to be the same, bit for bit.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel as DDP

STEPS = 6


def join(folder: Path, backend: str | None = None, number: int = 0, **options: Any) -> None:
    """Make the default group, by a file of its own: torch's own store keeps the addresses of a group that has ended."""
    meet = folder.with_name(f"{folder.name}-meets-{number}")
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(backend, init_method=f"file://{meet}", rank=rank, world_size=size, **options)


def rank() -> int:
    """As many helpers have it: 0 until the group is there, and after it has gone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def asked() -> list[str]:
    """What torch says of the default group."""
    said = [f"initialized {dist.is_initialized()}", f"world {dist.group.WORLD is not None}"]
    for ask in (dist.get_rank, dist.get_world_size, dist.get_backend, dist.barrier, dist.destroy_process_group):
        if ask in (dist.barrier, dist.destroy_process_group) and dist.is_initialized():
            continue
        try:
            said.append(f"{ask.__name__} {ask()}")
        except Exception as error:
            said.append(f"{ask.__name__} {type(error).__name__}: {error}")
    return said


def hexed(*tensors: Tensor) -> list[str]:
    return [tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes().hex() for tensor in tensors]


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1))


def train(talk: Callable[[int, Tensor], Any] = lambda step, loss: None, group: Any = None) -> list[Any]:
    """Train, with something said in each step; return what was seen, and the weights."""
    model = DDP(net(), process_group=group, bucket_cap_mb=0.0005)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    seen: list[Any] = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model(torch.randn(8, 6)).square().mean()
        loss.backward()
        seen.append([hexed(loss), talk(step, loss.detach().clone())])
        optimizer.step()
    return [*seen, hexed(*model.state_dict().values())]


def early_seed(folder: Path) -> list[Any]:
    """Seeded by a rank that is asked for too early, by `main`."""
    dist.init_process_group("gloo")
    return train()


def reduces(folder: Path) -> list[Any]:
    """Hand-written all-reduces between backward and step, one of them under way meanwhile."""
    join(folder, "gloo", timeout=timedelta(minutes=5))

    def talk(step: int, loss: Tensor) -> Any:
        mine = torch.full((2,), float(step + rank()))
        work = dist.all_reduce(mine, async_op=True)
        dist.all_reduce(loss)
        assert work is not None
        work.wait()
        return hexed(loss, mine)

    return train(talk)


def subgroups(folder: Path) -> list[Any]:
    """Groups of a part of the workers, by each of torch's ways, and a mesh."""
    join(folder)
    size = dist.get_world_size()
    pairs = [dist.new_group(sorted({n, (n + 1) % size})) for n in range(size)]
    alone, _ = dist.new_subgroups(1)
    local = dist.new_group([rank()], use_local_synchronization=True)
    mesh = init_device_mesh("cpu", (1, size), mesh_dim_names=("one", "all"))

    def talk(step: int, loss: Tensor) -> Any:
        values = [loss.clone() for _ in range(4)]
        mine = [pair for pair in pairs if dist.get_rank(pair) >= 0][step % (1 if size == 1 else 2) - 1]
        for n, pair in enumerate(pairs):
            if dist.get_rank(pair) >= 0:
                dist.all_reduce(values[0], group=pair)
            values.append(torch.tensor(float(n)))
        for value, group in zip(values[1:4], (alone, local, mesh["all"].get_group()), strict=True):
            dist.all_reduce(value, group=group)
        return [hexed(*values), dist.get_process_group_ranks(mine), dist.get_group_rank(alone, rank())]

    return train(talk, mesh["all"].get_group())


def objects(folder: Path) -> list[Any]:
    """Object collectives, point to point, barriers."""
    join(folder, "gloo")
    size = dist.get_world_size()

    def talk(step: int, loss: Tensor) -> Any:
        gathered: list[Any] = [None] * size
        dist.all_gather_object(gathered, {"rank": rank(), "step": step})
        word: list[Any] = [f"{step} from {rank()}"]
        dist.broadcast_object_list(word, src=size - 1)
        dist.monitored_barrier(timeout=timedelta(minutes=5))
        got = torch.zeros(1)
        sent = dist.isend(torch.full((1,), float(rank())), (rank() + 1) % size)
        dist.recv(got, (rank() - 1) % size)
        assert sent is not None
        sent.wait()
        dist.barrier()
        return [gathered, word, hexed(got)]

    return train(talk)


def in_thread(folder: Path) -> list[Any]:
    """A thread of the job's, which goes on while others have their turns, calls all collectives."""
    join(folder, "gloo")
    said: list[Any] = []

    def talk() -> None:
        for number in range(40):
            value = torch.full((3,), float(number * (rank() + 1)))
            dist.all_reduce(value)
            gathered: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, number)
            said.append([hexed(value), gathered, dist.get_rank() == rank()])

    begun = train()  # on its own, so that nothing else is in flight on the group, also alone
    thread = threading.Thread(target=talk)
    thread.start()
    model = nn.Linear(4, 4)  # nothing of it is synchronized: turns of others come between by themselves
    _let_others_go_on(10)
    thread.join()
    return [begun, said, hexed(model.weight)]


def _let_others_go_on(turns: int) -> None:
    try:
        import motet
    except ImportError:
        return
    for _ in range(turns):
        motet.current_job().yield_turn()


def async_save(folder: Path) -> list[Any]:
    """Checkpoints on the default group, saved by a thread while the loop goes on; the last one is not waited for."""
    join(folder, "gloo")
    model = DDP(net(), bucket_cap_mb=0.0005)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    dcp.save({"model": model.module.state_dict()}, checkpoint_id=folder / "first", no_dist=False)
    saved, seen = None, []
    for step in range(STEPS):
        if saved is not None:
            saved.result()  # alone, gradients and checkpoint would meet on one group
        optimizer.zero_grad()
        loss = model(torch.randn(8, 6)).square().mean()
        loss.backward()
        optimizer.step()
        seen.append(hexed(loss))
        saved = dcp.async_save({"model": model.module.state_dict()}, checkpoint_id=folder / str(step))
        _let_others_go_on(2)
    return [seen, hexed(*model.state_dict().values())]


def compiled(folder: Path) -> list[Any]:
    """A collective inside compiled code, on the default group."""
    join(folder, "gloo")

    def total(x: Tensor) -> Tensor:
        y = x * dist.get_world_size() + dist.get_rank()
        dist.all_reduce(y)
        return y

    fast = torch.compile(total, backend="eager", fullgraph=True)
    return train(lambda step, loss: hexed(fast(loss)))


def again(folder: Path) -> list[Any]:
    """The group ended and made anew; making it twice is an error."""
    said = []
    for number in range(3):
        join(folder, "gloo", number)
        try:
            join(folder, "gloo", number)
        except ValueError as error:
            said.append(str(error))
        said.append(train(lambda step, loss: (dist.all_reduce(loss), hexed(loss))[1]))
        dist.destroy_process_group()
        said.append(asked())
    join(folder, None, 3)
    return said


KINDS = {kind.__name__: kind for kind in (
    early_seed, reduces, subgroups, objects, in_thread, async_save, compiled, again
)}  # fmt: skip


def main(kind: str, out: Path, offset: int) -> None:
    """Ask before, train, ask within and after; leave all that in a file."""
    before = asked()
    torch.manual_seed(100 * offset + rank())  # too early: alone, all workers get the same
    number = str(torch.initial_seed())
    folder = out / f"{kind}-{offset}"
    record: dict[str, Any] = {"before": before, "seed": number, "seen": KINDS[kind](folder), "within": asked()}
    worker = rank()
    if kind != "async_save":  # its thread is still at it
        dist.destroy_process_group()
        record["after"] = asked()
    buffer = io.StringIO()
    json.dump(record, buffer)
    (out / f"{kind}-{offset}-{worker}.json").write_text(buffer.getvalue())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kinds", nargs="+")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--offset", type=int, default=1)
    given = parser.parse_args()
    for each in given.kinds:
        main(each, given.out, given.offset)
