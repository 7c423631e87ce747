"""Search for good settings of a digits classifier: Optuna's trials, four of them in flight, each on all workers.

    torchrun --nproc-per-node=2 examples/optuna_search.py --storage sqlite:///search.db --trials 20

Start it again with the same storage, after it was killed or with more trials, and the search goes on.
Needs: pip install "motet[optuna,demo]"
"""

from __future__ import annotations

import argparse
import os
from functools import partial

import optuna
import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from motet.demo.images import DigitsNet, accuracy, load_images
from motet.integrations.optuna import optimize


def objective(trial: optuna.Trial, num_epochs: int) -> float:
    """Train on digits with DDP; return the accuracy on held-out ones. Nothing in here knows of Motet."""
    dist.init_process_group("gloo")
    learning_rate = trial.suggest_float("learning_rate", 1e-3, 0.5, log=True)
    width = trial.suggest_categorical("width", [8, 16, 32])
    momentum = trial.suggest_float("momentum", 0.0, 0.95)

    torch.manual_seed(0)
    learned, held_out = load_images()
    sampler: DistributedSampler[tuple[torch.Tensor, ...]] = DistributedSampler(learned)
    loader = DataLoader(learned, batch_size=32, sampler=sampler)
    model = DistributedDataParallel(DigitsNet(width))
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=momentum)
    score = 0.0
    for epoch in range(num_epochs):
        sampler.set_epoch(epoch)
        for images, labels in loader:
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        score = accuracy(model, held_out)
        trial.report(score, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return score


def main() -> None:
    """Search, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", default="sqlite:///search.db", help="where Optuna keeps the study")
    parser.add_argument("--trials", type=int, default=20, help="how many the study shall have in all")
    parser.add_argument("--at-once", type=int, default=4, help="how many are in flight together")
    parser.add_argument("--epochs", type=int, default=9, help="of a trial that is not pruned")
    options = parser.parse_args()

    def study() -> optuna.Study:
        return optuna.create_study(
            storage=options.storage,
            study_name="digits",
            direction="maximize",
            load_if_exists=True,
            # constant_liar: trials that are under way count as bad ones, so that new ones are not their like.
            sampler=optuna.samplers.TPESampler(seed=0, constant_liar=True),
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
        )

    # `study` is called on worker 0 alone: no other worker talks to the storage.
    optimize(study, partial(objective, num_epochs=options.epochs), total_trials=options.trials, at_once=options.at_once)

    if os.environ.get("RANK", "0") == "0":
        found = study()
        pruned = sum(trial.state is optuna.trial.TrialState.PRUNED for trial in found.trials)
        print(f"{len(found.trials)} trials, {pruned} of them pruned")
        print(f"best: accuracy {found.best_value:.3f} with {found.best_params}")


if __name__ == "__main__":
    main()
