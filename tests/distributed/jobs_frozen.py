"""Loops on a frozen base that is the same for all of them; each does something else to it, or beside it."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.distributed.identity import Record
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, Dataset

WIDTH, VOCABULARY, STEPS = 512, 520, 6
LARGE_BYTES = 4 * WIDTH * WIDTH


class Base(nn.Module):
    """Tied embeddings, two layers, a view of one of them, and a layer quantized to 8 bits; each over 1 MB but that."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("quantized", torch.randint(256, (2 * WIDTH, 2 * WIDTH), dtype=torch.uint8))
        self.corner = self.layers[1].weight.detach()[:8, :8]

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens)
        for layer in self.layers:
            hidden = hidden + torch.tanh(layer(hidden))
        block = self.quantized[:WIDTH, :WIDTH].float() / 255 - 0.5  # type: ignore[index]
        return self.head(hidden + 0.01 * hidden @ block + self.corner.mean())  # type: ignore[no-any-return]


class Adapted(nn.Module):
    """The base, frozen, and what is trained beside it."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.base = Base().requires_grad_(False)
        self.down, self.up = nn.Linear(WIDTH, 4, bias=False), nn.Linear(4, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.base(tokens) + self.up(self.down(self.base.embedding(tokens)))  # type: ignore[no-any-return]


def batch() -> Tensor:
    return torch.randint(VOCABULARY, (3, 7))


def train(at: Callable[[int, Adapted], nn.Module | None] = lambda step, model: None, steps: int = STEPS) -> Record:
    """Train an adapter; ``at`` is called before each step, and may return another model to wrap."""
    record, model = Record(), Adapted()
    ddp = DDP(model)
    optimizer = torch.optim.Adam([p for p in ddp.parameters() if p.requires_grad], lr=0.01)
    for step in range(steps):
        if (other := at(step, model)) is not None:
            ddp = DDP(other)
            optimizer = torch.optim.Adam([p for p in ddp.parameters() if p.requires_grad], lr=0.01)
        tokens = batch()
        loss = F.cross_entropy(ddp(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        record.look(loss)
    return record.ended(ddp)


def adapter() -> Record:
    """Nothing is done to the base."""
    return train()


def brief() -> Record:
    """It ends before the others."""
    return train(steps=2)


def referring(begin: int = 0) -> Record:
    """A copy of the base is kept to compare with; later both are changed, each for itself."""

    def change(step: int, model: Adapted) -> None:
        if step == begin:
            model.reference = copy.deepcopy(model.base)
        if step == STEPS - 1:
            model.base.layers[0].weight.data.add_(0.5)
            model.reference.layers[1].weight.data.mul_(2)  # type: ignore[index, union-attr]

    return train(change)


def referring_late() -> Record:
    """The copy is made when the job's own weights have been looked for."""
    return referring(begin=1)


def unfreezing() -> Record:
    """From the fourth step on all of it trains."""
    return train(lambda step, model: model.requires_grad_() if step == 3 else None)


def merging() -> Record:
    """The adapter is merged into the base, through ``.data``, twice and at the end."""

    def merge(step: int, model: Adapted) -> None:
        if step >= 4:
            model.base.head.weight.data += model.up.weight.data @ model.down.weight.data
            model.base.layers[0].weight.data.mul_(1.01)

    record = train(merge)
    record.end["merged"] = record.end["0 DistributedDataParallel"]["module.base.head.weight"] * 2
    return record


def writing() -> Record:
    """Rows of the base are written to, by NumPy and through a view."""

    def write(step: int, model: Adapted) -> None:
        if step >= 3:
            model.base.layers[0].weight.detach().numpy()[step] += 0.5
            model.base.corner.add_(0.125)
            model.base.quantized[0, 0] = step  # type: ignore[index]

    return train(write)


def loading() -> Record:
    """A state is loaded over the base in the middle; the same first, then another one."""

    def load(step: int, model: Adapted) -> None:
        state = {name: value.clone() for name, value in model.state_dict().items()}
        if step == 4:
            state = {name: value + 1 if "layers" in name else value for name, value in state.items()}
        if step in (2, 4):
            model.load_state_dict(state)

    return train(load)


def resizing() -> Record:
    """The vocabulary grows; the embeddings stay tied."""

    def resize(step: int, model: Adapted) -> nn.Module | None:
        if step != 3:
            return None
        larger = nn.Embedding(VOCABULARY + 8, WIDTH).requires_grad_(False)
        larger.weight.data[:VOCABULARY] = model.base.embedding.weight.data
        model.base.embedding, model.base.head.weight = larger, larger.weight
        model.up = nn.Linear(4, VOCABULARY + 8, bias=False)
        return model

    return train(resize)


def copying() -> Record:
    """Copies, files and pickles of the base are as large as alone, and have its bytes."""
    found: list[object] = []

    def copy_it(step: int, model: Adapted) -> None:
        if step not in (0, 4):
            return
        file = io.BytesIO()
        torch.save({"state": model.state_dict(), "view": model.base.corner}, file)
        found.append((len(file.getvalue()), len(pickle.dumps(model.base.layers))))
        again = copy.deepcopy(model)
        found.append([*again.parameters(), again.base.corner])
        again.base.layers[0].weight.data.zero_()
        file.seek(0)
        found.append(torch.load(file)["view"])

    record = train(copy_it)
    record.end["found"] = found
    return record


def sharing_memory() -> Record:
    """The base is moved to memory that processes share, and changed there."""

    def move(step: int, model: Adapted) -> None:
        if step == 4:
            model.base.share_memory()
            model.base.layers[1].weight.data.add_(0.01)

    return train(move)


class Embedded(Dataset[Tensor]):
    """Samples that the loader's processes make with a frozen layer, which they change for themselves."""

    def __init__(self, layer: nn.Linear) -> None:
        self._layer = layer

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        self._layer.weight.data[0, 0] += 1
        return self._layer.weight.data[0, :8] * index


def loader() -> Record:
    """A DataLoader's forked processes use the base, and write to it."""
    seen: list[Tensor] = []

    def load(step: int, model: Adapted) -> None:
        if step in (1, 4):
            loader = DataLoader(Embedded(model.base.layers[0]), batch_size=4, num_workers=1)  # type: ignore[arg-type]
            seen.extend(part.clone() for part in loader)

    record = train(load)
    record.look(*seen)
    return record


def teacher() -> Record:
    """A frozen teacher that is wrapped in nothing; its student follows it, and an average follows the student."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teaching = Base().requires_grad_(False)
    student = nn.Sequential(nn.Embedding(VOCABULARY, 32), nn.Linear(32, VOCABULARY))
    average = copy.deepcopy(student[0]).requires_grad_(False)
    average.weight = nn.Parameter(torch.zeros(2 * WIDTH, WIDTH), requires_grad=False)
    record, ddp = Record(), DDP(student)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    for _ in range(STEPS + 8):
        tokens = batch()
        with torch.no_grad():
            target = teaching(tokens).softmax(-1)
        loss = F.cross_entropy(ddp(tokens).flatten(0, 1), target.flatten(0, 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            average.weight.lerp_(torch.ones_like(average.weight), 0.1)
        record.look(loss)
    return record.ended(ddp, teaching, average)


def compiled() -> Record:
    """The base is compiled."""
    record, model = Record(), Adapted()
    model.base.compile()
    ddp = DDP(model)
    optimizer = torch.optim.Adam([p for p in ddp.parameters() if p.requires_grad], lr=0.01)
    for step in range(STEPS):
        tokens = batch()
        if step == 4:
            model.base.layers[0].weight.data.mul_(1.5)
        loss = F.cross_entropy(ddp(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        record.look(loss)
    return record.ended(ddp)


def receiving() -> Record:
    """A weight is received while turns end: it is sent in a later one."""
    groups: list[Any] = []
    begun: list[Any] = []

    def receive(step: int, model: Adapted) -> None:
        weight, rank = model.base.layers[1].weight, dist.get_rank()
        if dist.get_world_size() < 2:
            return
        if step == 0:
            groups.append(dist.new_group())
            if rank == 0:
                begun.append(dist.broadcast(weight.data, 1, group=groups[0], async_op=True))
        elif step == 4 and rank == 1:
            dist.broadcast(weight.data + 1, 1, group=groups[0])
        elif step == 4 and rank == 0:
            begun.pop().wait()

    return train(receive)


def exporting() -> Record:
    """Weights of the base are handed over by DLPack before they are shared, and read by that address to the end."""
    seen: list[Any] = []

    def read(step: int, model: Adapted) -> None:
        if not seen:
            seen.append(np.from_dlpack(model.base.layers[0].weight.detach()))
        assert bool((torch.from_numpy(seen[0]) == model.base.layers[0].weight).all()), "memory that is gone"
        if step > 2:
            model.base.layers[0].weight.data.add_(0.25)
        assert seen[0][0, 0] == model.base.layers[0].weight[0, 0], "another memory"

    return train(read)
