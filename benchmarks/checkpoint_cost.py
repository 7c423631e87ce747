"""What does saving checkpoints cost? Blocks of turns with a checkpoint and without, in alternation, on two workers.

    python benchmarks/checkpoint_cost.py                             # turns of 20 ms: about 80 seconds
    python benchmarks/checkpoint_cost.py --turn-ms 200 --blocks 16   # four minutes
    python benchmarks/checkpoint_cost.py --dense --blocks 16         # turns as long as such a model's are here
    python benchmarks/checkpoint_cost.py --tensor-kb 3000            # the same bytes in smaller tensors

25 MB of parameters under Adam (75 MB a checkpoint), saved every 50 turns, synced to the disk of the working directory.
On two cores a dense model of that size cannot take a turn in 20 ms: its gradients alone take longer. So the model is a
table of embeddings, as in a recommender, with sparse gradients and ``SparseAdam``, whose state is as large as Adam's. A
turn touches some of its rows, and matrix products fill it up to the time that was asked for: the cores are busy nearly
all the time, which is the hardest case for what writes in the background. Three tensors of 25 MB are the easiest case
for writing, though: with ``--tensor-kb`` the table is small, and 75 MB are saved beside it in tensors of that size.

A block is as many turns as lie between two checkpoints. One loop does all blocks; each that begins with a checkpoint is
compared with one beside it that does not. What is still being written when its block ends makes the next one longer and
the cost smaller, so it is counted: a figure holds only if that is none.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import motet
from motet.running import run
from motet.testing import Gang

WIDTH = 1250  # four layers of 1250 x 1250: 25 MB
ROWS, COLUMNS = 50_000, 125  # 25 MB


class Table(nn.Module):
    """Embeddings, averaged and scored."""

    def __init__(self, num_rows: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(num_rows, COLUMNS, sparse=True)
        self.score = nn.Linear(COLUMNS, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.score(self.rows(x).mean(1))
        return scores


class Others:
    """75 MB beside the model, in equal tensors: saved as the model is, and otherwise left alone."""

    def __init__(self, tensor_kb: int) -> None:
        size = tensor_kb * 250
        self._tensors = {str(number): torch.randn(size) for number in range(3 * ROWS * COLUMNS // size)}

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self._tensors

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self._tensors = state


def made(dense: bool, num_rows: int) -> tuple[nn.Module, dict[str, torch.optim.Optimizer], torch.Tensor]:
    """Return a model, its optimizers, and a batch for it."""
    if dense:
        model: nn.Module = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(4)))
        return model, {"optimizer": torch.optim.Adam(model.parameters(), lr=1e-4)}, torch.randn(4, WIDTH)
    table = Table(num_rows)
    optimizers = {
        "sparse": torch.optim.SparseAdam(table.rows.parameters(), lr=1e-4),
        "optimizer": torch.optim.Adam(table.score.parameters(), lr=1e-4),
    }
    return table, optimizers, torch.randint(num_rows, (16, 8))


@dataclass(frozen=True)
class Block:
    """Some turns, on one worker. ``late``: the checkpoint was still being written at the block's end."""

    saved: bool
    seconds: float
    processor_seconds: float
    late: bool


def loop(
    blocks: Sequence[bool], turns: int, num_products: int, dense: bool, tensor_kb: int, writing: Callable[[], bool]
) -> list[Block]:
    """Train in blocks of so many turns, of which some begin with a checkpoint."""
    torch.manual_seed(0)
    module, optimizers, x = made(dense, ROWS // 100 if tensor_kb else ROWS)
    others = {"others": Others(tensor_kb)} if tensor_kb else {}
    model = DistributedDataParallel(module)
    extra = torch.randn(256, 256)
    start = motet.current_job().checkpoint(model=model, **optimizers, **others, every_turns=1)
    done = []
    for number, saved in enumerate(blocks):
        begin, used = time.perf_counter(), time.process_time()
        if saved:
            start.save_point()
        for _ in range(turns):
            for _ in range(num_products):
                extra @ extra
            for optimizer in optimizers.values():
                optimizer.zero_grad()
            model(x).square().mean().backward()
            for optimizer in optimizers.values():
                optimizer.step()
        done.append(Block(saved, time.perf_counter() - begin, time.process_time() - used, saved and writing()))
        if number == 0:
            fill(optimizers.values())
    return done


def fill(optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Write to all of the state: pages of zeros that nobody has written to yet are cheaper to copy than others."""
    for optimizer in optimizers:
        for state in optimizer.state.values():
            for value in state.values():
                if isinstance(value, torch.Tensor) and value.numel() > 1:
                    value.add_(torch.rand_like(value), alpha=1e-6)


def measured(
    folder: str, blocks: Sequence[bool], turns: int, num_products: int, dense: bool, tensor_kb: int
) -> list[Block]:
    """On every worker: one run with that loop in it; return what it does."""

    def writing() -> bool:
        return any(Path(folder).glob("checkpoints/saved/.writing-*"))

    job = partial(loop, blocks, turns, num_products, dense, tensor_kb, writing)
    results = run({"saved": job}, run_dir=Path(folder))
    result = results["saved"]
    if result.status != "finished":
        raise RuntimeError(result.error)
    return result.result  # type: ignore[no-any-return]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turn-ms", type=float, default=20.0)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--blocks", type=int, default=64, help="at least four")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--dense", action="store_true", help="a model of four layers, under Adam")
    parser.add_argument("--tensor-kb", type=int, default=0, help="save 75 MB in tensors of so many kB, not in three")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    shape = options.dense, options.tensor_kb
    # The first are not counted: memory is touched there that later ones use again.
    blocks = [False, True, False] + [True, False, False, True] * (options.blocks // 4)
    with Gang(options.workers, timeout_seconds=600) as gang, tempfile.TemporaryDirectory(dir=".") as folder:

        def bare_turn(name: str, num_products: int) -> float:
            done = gang.run(measured, f"{folder}/{name}", [False] * 4, 50, num_products, *shape)[0]
            return statistics.median(block.seconds for block in done[1:]) / 50

        bare = bare_turn("bare", 0)
        one = (bare_turn("products", 20) - bare) / 20
        num_products = max(0, round((options.turn_ms / 1e3 - bare) / one))
        print(
            f"a bare turn takes {bare * 1e3:.1f} ms, a product {one * 1e3:.2f} ms: {num_products} of them", flush=True
        )
        workers = gang.run(measured, f"{folder}/all", blocks, options.every, num_products, *shape)
    both = [rows[3:] for rows in workers]
    seconds = [max(block.seconds for block in each) for each in zip(*both, strict=True)]  # the workers go in step
    used = [sum(block.processor_seconds for block in each) for each in zip(*both, strict=True)]
    pairs = [(i, i + 1) if both[0][i].saved else (i + 1, i) for i in range(0, len(seconds), 2)]
    ratios = [seconds[saved] / seconds[not_saved] for saved, not_saved in pairs]
    costs = [(seconds[saved] - seconds[not_saved]) * 1e3 for saved, not_saved in pairs]
    processor = statistics.median((used[saved] - used[not_saved]) * 1e3 for saved, not_saved in pairs)
    turn = statistics.median(seconds[not_saved] for _, not_saved in pairs) / options.every * 1e3
    busy = statistics.median(used[i] / seconds[i] / options.workers for _, i in pairs)
    low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive")
    late = sum(block.late for rows in both for block in rows)
    print(
        f"{turn:.1f} ms a turn, processors {busy:.0%} busy; {len(pairs)} pairs of {options.every} turns with a "
        "checkpoint and without"
    )
    print(f"{ratio:.3f} times as long ({low:.3f}-{high:.3f})")
    print(
        f"{statistics.median(costs):.0f} ms a checkpoint (mean {statistics.mean(costs):.0f}), "
        f"{processor:.0f} ms of processor time"
    )
    print(f"{late} were still being written when the next block began")
    if options.json:
        figures = {"turn_ms": turn, "ratio": ratio, "low": low, "high": high, "checkpoint_ms": statistics.median(costs)}
        options.json.write_text(json.dumps({**figures, "processor_ms": processor, "busy": busy, "late": late}))


if __name__ == "__main__":
    main()
