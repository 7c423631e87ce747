"""How long does a search take to find its best value? Trials together, against one after another, on a shaped link.

    sudo python benchmarks/search.py                       # three repeats, about 15 minutes
    sudo python benchmarks/search.py --model sends --rate 1gbit --at-once 2
    sudo python benchmarks/search.py --repeats 1 --trials 6 --steps 20 --rate 1gbit

The demo's byte-level GPT, Optuna's asynchronous successive halving, the same random trials in both ways. *Plain*:
one trial after another under plain DDP, worker 0 telling the others suggestions and decisions by broadcasts. *Motet*:
``motet.integrations.optuna.optimize`` with ``--at-once`` trials. Of the two models one *computes* far longer than it
sends on a link of 500 Mbit/s; the other, wider and on short texts in small batches, *sends* for about as long as it
computes on one of 1 Gbit/s. A repeat runs both ways, in turns which comes first. Printed are the seconds until all
trials have ended, and until the value that both ways reach is there; medians of the repeats.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

WAYS = ("plain", "motet")
MODELS = {
    "computes": {"width": 128, "length": 128, "batch": 8},
    "sends": {"width": 256, "length": 48, "batch": 2},
}
REPORTS = 8  # in a whole trial


def objective(trial: Any, steps: int, model: str) -> float:
    """Train the GPT with DDP; return bits per byte on held-out files."""
    import torch
    import torch.distributed as dist
    from optuna import TrialPruned
    from torch import nn
    from torch.nn import functional
    from torch.nn.parallel import DistributedDataParallel

    from motet.demo.language import ByteGPT, bits_per_byte, windows

    shape = MODELS[model]
    length, batch_size = shape["length"], shape["batch"]
    learning_rate = trial.suggest_float("learning_rate", 1e-4, 3e-2, log=True)
    decay = trial.suggest_float("weight_decay", 1e-3, 0.3, log=True)
    torch.manual_seed(0)
    learned, held_out = text()
    ddp = DistributedDataParallel(ByteGPT(num_layers=3, width=shape["width"], num_heads=4, length=length))
    optimizer = torch.optim.AdamW(ddp.parameters(), lr=learning_rate, weight_decay=decay)
    draws = torch.Generator().manual_seed(dist.get_rank())
    value = float("inf")
    for step in range(1, steps + 1):
        starts = torch.randint(len(learned) - length, (batch_size,), generator=draws)
        inputs, targets = windows(learned, starts, length)
        loss = functional.cross_entropy(ddp(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(ddp.parameters(), 1.0)
        optimizer.step()
        if step % max(1, steps // REPORTS) == 0:
            value = bits_per_byte(ddp, held_out, length, num_windows=32)
            trial.report(value, step)
            if trial.should_prune():
                raise TrialPruned
    return value


_text: list[Any] = []


def text() -> Any:
    """Return the demo's text, read once."""
    if not _text:
        from motet.demo.language import load_text

        _text.append(load_text())
    return _text[0]


class PlainTrial:
    """A trial under plain DDP: worker 0 has the real one and broadcasts what it says."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def _told(self, say: Callable[[], Any]) -> Any:
        import torch.distributed as dist

        box = [say() if self.real is not None else None]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> Any:
        """Suggest a float."""
        return self._told(lambda: self.real.suggest_float(name, low, high, log=log))

    def report(self, value: float, step: int) -> None:
        """Report a value."""
        if self.real is not None:
            self.real.report(value, step)

    def should_prune(self) -> Any:
        """Ask the pruner."""
        return self._told(lambda: bool(self.real.should_prune()))


def search_plain(study: Any, num_trials: int, train: Callable[[Any], float], ended: Callable[[Any, Any], None]) -> None:
    """Run trials one after another under plain DDP."""
    from optuna import TrialPruned
    from optuna.trial import TrialState

    for _ in range(num_trials):
        real = study.ask() if study is not None else None
        value, state = None, TrialState.PRUNED
        with contextlib.suppress(TrialPruned):
            value, state = train(PlainTrial(real)), TrialState.COMPLETE
        if study is not None:
            study.tell(real, value, state=state)
            ended(study, study.trials[-1])


def work(options: argparse.Namespace) -> dict[str, Any]:
    """Search on this worker; return the seconds, and on worker 0 when which value was there."""
    import optuna
    import torch
    import torch.distributed as dist

    from motet.integrations.optuna import optimize

    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    dist.init_process_group("gloo")
    study = None
    if dist.get_rank() == 0:
        study = optuna.create_study(
            sampler=optuna.samplers.RandomSampler(seed=options.seed),
            pruner=optuna.pruners.SuccessiveHalvingPruner(
                min_resource=max(1, options.steps // REPORTS), reduction_factor=3
            ),
        )
    text()
    values: list[tuple[float, float]] = []
    pruned = 0

    def ended(study: Any, trial: Any) -> None:
        nonlocal pruned
        if trial.state is optuna.trial.TrialState.COMPLETE:
            values.append((time.perf_counter() - begin, trial.value))
        else:
            pruned += 1

    dist.barrier()
    begin = time.perf_counter()
    train = partial(objective, steps=options.steps, model=options.model)
    if options.way == "plain":
        search_plain(study, options.trials, train, ended)
    else:
        optimize(study, train, options.trials, callbacks=[ended], at_once=options.at_once)
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "values": values, "pruned": pruned}


def measure(net: Any, way: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run one search on all workers, each on a core of its own; return what worker 0 tells."""
    cores = sorted(os.sched_getaffinity(0))
    command = [sys.executable, __file__, "--way", way, "--seed", str(seed), "--trials", str(options.trials)]
    command += ["--steps", str(options.steps), "--at-once", str(options.at_once), "--model", options.model]
    processes = [
        net.popen(
            worker,
            ["taskset", "-c", str(cores[worker % len(cores)]), *command],
            env={**net.torchrun_env(worker), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for worker in range(net.num_workers)
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a worker failed; what it said stands above")
    report: dict[str, Any] = json.loads(outputs[0].splitlines()[-1])
    return report


def seconds_to(value: float, message: dict[str, Any]) -> float:
    """Return when a value as good as ``value`` was there first."""
    return min(float(seconds) for seconds, reached in message["values"] if reached <= value)


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run both ways in alternation; return what each repeat told."""
    from motet.shaped_links import shaped_links

    repeats = []
    with shaped_links(2, options.rate) as net:
        for repeat in range(options.repeats):
            order = WAYS if repeat % 2 == 0 else WAYS[::-1]
            report = {way: measure(net, way, repeat, options) for way in order}
            target = max(min(value for _, value in report[way]["values"]) for way in WAYS)
            to_best = {way: seconds_to(target, report[way]) for way in WAYS}
            repeats.append({"report": report, "target": target, "to_best": to_best})
            for way in WAYS:
                print(
                    f"repeat {repeat}, {way}: {target:.3f} bits per byte after {to_best[way]:.1f} s, all "
                    f"{options.trials} trials after {report[way]['seconds']:.1f} s ({report[way]['pruned']} pruned)"
                )
    return repeats


def main() -> None:
    """Measure, and say how many times as fast; with ``--way``, be a worker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--steps", type=int, default=120, help="of a trial that is not pruned")
    parser.add_argument("--model", choices=list(MODELS), default="computes")
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--rate", default="500mbit")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way is not None:
        print(json.dumps(work(options)), flush=True)
        os._exit(0)
    repeats = compare(options)
    if options.json is not None:
        options.json.write_text(json.dumps({"options": vars(options) | {"json": None}, "repeats": repeats}, indent=1))
    to_best = [repeat["to_best"]["plain"] / repeat["to_best"]["motet"] for repeat in repeats]
    in_all = [repeat["report"]["plain"]["seconds"] / repeat["report"]["motet"]["seconds"] for repeat in repeats]
    print(f"to the best value: {statistics.median(to_best):.2f} times as fast; in all {statistics.median(in_all):.2f}")


if __name__ == "__main__":
    main()
