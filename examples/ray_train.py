"""A Ray `TorchTrainer` whose training function trains several digits classifiers together.

    python examples/ray_train.py --rates 0.03 0.1 0.3 --storage ./ray-results

Each rate is a job on all of Ray's workers. Checkpoints and results are in Ray's storage; a worker that fails is started
again, and the jobs go on from there. Needs: pip install "motet[ray,demo]"
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

import motet
import motet.integrations.ray
from motet.demo.images import DigitsNet, accuracy, load_images


def train(rate: float, num_epochs: int) -> float:
    """Train on digits with DDP; return the accuracy on held-out ones."""
    torch.manual_seed(0)
    learned, held_out = load_images()
    sampler: DistributedSampler[tuple[torch.Tensor, ...]] = DistributedSampler(learned)
    loader = DataLoader(learned, batch_size=32, sampler=sampler)
    model = DistributedDataParallel(DigitsNet(16))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    job = motet.current_job()
    done = job.checkpoint(model=model, optimizer=optimizer, every_turns=2 * len(loader))
    for epoch in range(done // len(loader), num_epochs):
        sampler.set_epoch(epoch)
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        job.log(accuracy=accuracy(model, held_out))
        job.save_point()
    return accuracy(model, held_out)


def train_all(config: dict[str, Any]) -> None:
    """Do what Ray starts on each worker: train one job for each rate, together."""
    jobs = {f"rate-{rate}": partial(train, rate, config["epochs"]) for rate in config["rates"]}
    motet.integrations.ray.run(jobs)


def main() -> None:
    """Train, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.03, 0.1, 0.3])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--storage", default="ray-results", help="where Ray keeps checkpoints and results")
    options = parser.parse_args()
    trainer = TorchTrainer(
        train_all,
        train_loop_config={"rates": options.rates, "epochs": options.epochs},
        scaling_config=ScalingConfig(num_workers=options.workers),
        run_config=RunConfig(
            name="digits",
            storage_path=str(Path(options.storage).resolve()),
            failure_config=FailureConfig(max_failures=2),
        ),
    )
    result = trainer.fit()
    for rate in options.rates:
        print(f"rate {rate}: accuracy {result.metrics[f'rate-{rate}/accuracy']:.3f}")
    print(f"checkpoints and results: {result.checkpoint.path}")


if __name__ == "__main__":
    main()
