"""A two-tower recommender that learns which identifiers a function mentions: little compute, large gradients.

The pairs come from the source of Python's standard library. Its tables get dense gradients, some 13 MB a step, as
embedding-heavy models do. Plain PyTorch under DDP. Alone:
``torchrun --nproc-per-node=2 -m motet.demo.pairs --num-steps 300``.
"""

from __future__ import annotations

import argparse
import builtins
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from motet.demo.sources import functions, python_files

NUM_RECOMMENDED = 10
FEWEST_IDENTIFIERS = 5  # of a function that mentions fewer too little is known to recommend anything


class Pairs(NamedTuple):
    """Who mentions what: F functions, of which one mention each is held out."""

    places: Tensor  # (F, 2): the function's class, and its module
    context: Tensor  # (F, K): some identifiers that the function is known to mention, then num_identifiers as filling
    learned: Tensor  # (L, 2): function, identifier
    held_out: Tensor  # (F, 2): the same, one row a function
    num_places: int
    num_identifiers: int


def load_pairs(seed: int, context_size: int = 16, files: tuple[Path, ...] | None = None) -> Pairs:
    """Parse the library's functions and hold out one identifier of each, drawn with ``seed``; the same everywhere."""
    everywhere = {"self", "cls", *dir(builtins)}  # only ever looked up in: the order of a set differs between processes
    mentions = {}
    for key, names in functions(python_files() if files is None else files).items():
        distinctive = tuple(name for name in names if name not in everywhere)
        if len(distinctive) >= FEWEST_IDENTIFIERS:
            mentions[key] = distinctive
    identifiers = _numbered(name for names in mentions.values() for name in names)
    # A class is numbered as "module.class", the module itself as "module"; functions outside classes as "module.".
    places = _numbered(place for module, owner, _ in mentions for place in (f"{module}.{owner}", module))

    draws = torch.Generator().manual_seed(seed)
    learned, held_out = [], []
    context = torch.full((len(mentions), context_size), len(identifiers))
    for function, names in enumerate(mentions.values()):
        shuffled = [identifiers[names[i]] for i in torch.randperm(len(names), generator=draws).tolist()]
        held_out.append((function, shuffled[0]))
        learned += [(function, identifier) for identifier in shuffled[1:]]
        known = torch.tensor(shuffled[1 : context_size + 1])
        context[function, : len(known)] = known
    where = [(places[f"{module}.{owner}"], places[module]) for module, owner, _ in mentions]
    return Pairs(
        torch.tensor(where), context, torch.tensor(learned), torch.tensor(held_out), len(places), len(identifiers)
    )


def _numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


class TwoTower(nn.Module):
    """Score identifiers for functions: the product of a vector for the function and one for the identifier.

    A function's vector is the sum of its own, those of its class and its module, and the mean of those of its context.
    """

    def __init__(self, pairs: Pairs, width: int) -> None:
        super().__init__()
        self.functions = nn.Embedding(len(pairs.places), width)
        self.places = nn.EmbeddingBag(pairs.num_places, width, mode="sum")
        self.context = nn.EmbeddingBag(pairs.num_identifiers + 1, width, mode="mean", padding_idx=pairs.num_identifiers)
        self.identifiers = nn.Embedding(pairs.num_identifiers, width)
        self.popularity = nn.Embedding(pairs.num_identifiers, 1)
        for table in (self.functions, self.places, self.context, self.identifiers):
            nn.init.normal_(table.weight, std=0.1)
        nn.init.zeros_(self.popularity.weight)

    def forward(self, functions: Tensor, places: Tensor, context: Tensor, candidates: Tensor) -> Tensor:
        """Map functions (B,), their places (B, 2) and context (B, K), and candidates (C,) to scores (B, C)."""
        vectors = self.functions(functions) + self.places(places) + self.context(context)
        scores: Tensor = vectors @ self.identifiers(candidates).T + self.popularity(candidates).T
        return scores


def batch_loss(model: nn.Module, pairs: Pairs, batch: Tensor, log_frequency: Tensor) -> Tensor:
    """Return the cross entropy of choosing each function's identifier among those of the whole batch.

    The batch draws frequent identifiers often, so their logarithm of frequency is taken off (Yi et al., 2019,
    "Sampling-bias-corrected neural modeling"). An identifier that the batch holds twice is no wrong answer.
    """
    functions, answers = batch.unbind(1)
    # The answer must not be found in the context that it is asked from.
    context = pairs.context[functions]
    context = context.masked_fill(context == answers[:, None], pairs.num_identifiers)
    scores = model(functions, pairs.places[functions], context, answers) - log_frequency[answers]
    twice = (answers[:, None] == answers).fill_diagonal_(False)
    return F.cross_entropy(scores.masked_fill(twice, -torch.inf), torch.arange(len(batch)))


def hits(scores: Tensor, pairs: Pairs, functions: Tensor) -> int:
    """Count the functions, a contiguous range, whose held-out identifier is among their ten best ``scores``.

    ``scores`` is (B, identifiers) and is written to.
    """
    known = torch.isin(pairs.learned[:, 0], functions)
    rows, columns = pairs.learned[known].unbind(1)
    scores[rows - functions[0], columns] = -torch.inf  # nobody needs to be told what he already mentions
    best = scores.topk(NUM_RECOMMENDED).indices
    return int((best == pairs.held_out[functions, 1:]).sum())


@torch.no_grad()
def recall(model: nn.Module, pairs: Pairs) -> float:
    """Measure recall at 10 over the held-out pairs, shared out among the workers; the same number on all."""
    model.eval()
    everything = torch.arange(pairs.num_identifiers)
    found = torch.zeros((), dtype=torch.int64)
    for some in torch.split(torch.arange(len(pairs.places)), 256)[dist.get_rank() :: dist.get_world_size()]:
        found += hits(model(some, pairs.places[some], pairs.context[some], everything), pairs, some)
    dist.all_reduce(found)
    model.train()
    return int(found) / len(pairs.held_out)


def recommend_most_frequent(pairs: Pairs, frequency: Tensor) -> float:
    """Return the recall at 10 of who recommends the most frequent identifiers to every function."""
    found = 0
    for some in torch.split(torch.arange(len(pairs.places)), 256):
        found += hits(frequency.repeat(len(some), 1), pairs, some)
    return found / len(pairs.held_out)


def train(
    num_steps: int = 300,
    width: int = 128,
    batch_size: int = 1024,
    learning_rate: float = 0.01,
    seed: int = 0,
    save_to: str | None = None,
) -> dict[str, str | float]:
    """Train under DDP and return the recall at 10 on held-out pairs before and after.

    ``batch_size`` is in pairs per worker. ``save_to`` names a file for the final states of model and optimizer, which
    worker 0 writes.
    """
    dist.init_process_group("gloo")
    torch.manual_seed(seed)
    pairs = load_pairs(seed)
    frequency = torch.bincount(pairs.learned[:, 1], minlength=pairs.num_identifiers) / len(pairs.learned)
    model = DistributedDataParallel(TwoTower(pairs, width))
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, num_steps, pct_start=0.1, cycle_momentum=False
    )
    draws = torch.Generator().manual_seed(seed * dist.get_world_size() + dist.get_rank())

    def say(text: str) -> None:
        if dist.get_rank() == 0:
            print(text, flush=True)

    baseline = recommend_most_frequent(pairs, frequency)
    before = recall(model, pairs)
    say(f"before training: recall@10 {before:.3f} (recommending the most frequent identifiers: {baseline:.3f})")
    for step in range(1, num_steps + 1):
        batch = pairs.learned[torch.randint(len(pairs.learned), (batch_size,), generator=draws)]
        loss = batch_loss(model, pairs, batch, frequency.log())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % max(1, num_steps // 5) == 0:
            say(f"step {step} of {num_steps}: recall@10 {recall(model, pairs):.3f}")
    after = recall(model, pairs)
    say(f"after training: recall@10 {after:.3f}")

    if save_to is not None and dist.get_rank() == 0:
        torch.save({"model": model.module.state_dict(), "optimizer": optimizer.state_dict()}, save_to)
    dist.destroy_process_group()
    return {"metric": "recall@10", "before": before, "after": after, "baseline": baseline}


def main() -> None:
    """Train with settings from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--num-steps", type=int, default=300)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=1024, help="pairs per worker")
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-to", help="file for the final states of model and optimizer")
    train(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
