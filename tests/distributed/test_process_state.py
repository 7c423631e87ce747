"""Scripts that treat the process as theirs: two of them together write, print and learn what each does alone."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from motet.testing import Gang

ALONE, TOGETHER = (f"tests.distributed.jobs_scripts:{name}" for name in ("alone", "together"))

# What is around each body: a model, six steps, and a file per worker of what `tell` was told and the weights.
HEAD = """
import argparse, builtins, importlib, logging, os, sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

folder, seed = sys.argv[1], int(sys.argv[2])
os.makedirs(folder, exist_ok=True)
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(seed)
model = DistributedDataParallel(torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
told = []
def tell(*words):
    told.append(" ".join(map(str, words)))
def steps(number=6):
    for step in range(number):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        yield step
def end():
    told.append(str(model.module.weight.tolist()))
    with open(os.path.join(folder, f"told-{rank}.txt"), "w") as file:
        file.write("\\n".join(told))
    dist.destroy_process_group()
"""

PRINT = """
plain = builtins.print
def tagged(*words):
    tell(seed, *words)
builtins.print = tagged
builtins.seed_of_all = seed
for step in steps():
    print("step", step, seed_of_all)
end()
"""

LOGGER = """
logger = logging.getLogger("trainer")
logger.setLevel(logging.INFO)
logger.propagate = False
file = logging.FileHandler(os.path.join(folder, f"train-{rank}.log"))
logger.addHandler(file)
logger.addFilter(lambda record: record.args[1] != seed)  # leaves out one step
logging.getLogger("torch.nn.parallel").setLevel(10 + seed)
for step in steps():
    logger.info("seed %d step %d", seed, step)
    tell(len(logger.handlers), len(logger.filters), logging.getLogger("torch.nn.parallel").level)
tell(open(file.baseFilename).read())
end()
"""

DICT_CONFIG = """
import logging.config
logger = logging.getLogger("trainer")
early = logging.FileHandler(os.path.join(folder, f"early-{rank}.log"), mode="w")
logger.addHandler(early)
for step in steps():
    logger.warning("step %d", step)
    if step == seed:
        logging.config.dictConfig({
            "version": 1, "disable_existing_loggers": True, "root": {"level": "DEBUG", "handlers": ["file"]},
            "handlers": {"file": {"class": "logging.FileHandler", "filename": os.path.join(folder, f"late-{rank}.log")}},
        })
    logging.getLogger("later").info("later %d", step)
tell(open(early.baseFilename).read(), logger.disabled)
tell(open(os.path.join(folder, f"late-{rank}.log")).read())
end()
"""

BESIDE = """
repository = os.path.join(os.path.dirname(folder), "repository")
os.makedirs(os.path.join(repository, "clash_toolbox"), exist_ok=True)
for name, text in (("__init__", "folder = None"), ("late", "from clash_toolbox import folder")):
    path = os.path.join(repository, "clash_toolbox", name + ".py")
    if not os.path.exists(path):
        open(path + str(rank), "w").write(text)
        os.replace(path + str(rank), path)
dist.barrier()
sys.path.append(repository)
importlib.invalidate_caches()
import clash_toolbox
clash_toolbox.folder = seed
for step in steps():
    if step == 3:
        import clash_toolbox.late
        tell(clash_toolbox.late.folder)
    tell(clash_toolbox.folder)
end()
"""

HYDRA = """
import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
sys.argv[1:] = [f"seed={seed}"]
OmegaConf.register_new_resolver("seed", lambda: seed, use_cache=True)
ConfigStore.instance().store(name="plain", node={"seed": 0, "twice": "${seed:}"})

@hydra.main(version_base=None, config_name="plain")
def main(config):
    for step in steps():
        tell(config.seed, config.twice, list(HydraConfig.get().overrides.task))
main()
end()
"""

ABSL = """
from absl import app, flags, logging as absl_logging
sys.argv[1:] = [f"--seed={seed}"]
flags.DEFINE_integer("seed", 0, "")
def main(argv):
    for step in steps():
        tell(flags.FLAGS.seed, absl_logging.get_verbosity())
        absl_logging.set_verbosity(seed)
    end()
app.run(main)
"""

OPERATORS = """
library = torch.library.Library("clash_operator", "DEF")
library.define("scaled(Tensor x) -> Tensor")
library.impl("scaled", lambda x: x * seed, "CompositeImplicitAutograd")
@torch.library.custom_op("clash_custom::scaled", mutates_args=())
def scaled(x: torch.Tensor) -> torch.Tensor:
    return x * seed
@torch.library.register_fake("clash_custom::scaled")
def _(x):
    return torch.empty_like(x)
torch.library.register_autograd("clash_custom::scaled", lambda ctx, grad: grad * seed)
for step in steps():
    x = torch.ones((), requires_grad=True)
    torch.ops.clash_custom.scaled(x).backward()
    tell(torch.ops.clash_operator.scaled(x).item(), scaled(x).item(), x.grad.item())
end()
"""

THREAD_IMPORTS = """
import encodings, pkgutil, threading
def imports():
    for found in pkgutil.iter_modules(encodings.__path__):
        if found.name not in ("mbcs", "oem", "cp65001"):
            importlib.import_module("encodings." + found.name)
thread = threading.Thread(target=imports)
for step in steps(150):
    if step == 1:
        thread.start()
thread.join()
end()
"""

PROFILED = """
from torch.profiler import ProfilerActivity, profile, schedule
import torch.autograd.profiler as old
def ready(profiler):
    tell({event.key: event.count for event in profiler.key_averages() if event.key in ("aten::linear", "aten::sum")})
if seed == 1:
    with profile(activities=[ProfilerActivity.CPU], schedule=schedule(wait=1, warmup=1, active=3), with_stack=True,
                 profile_memory=True, on_trace_ready=ready) as profiler:
        for step in steps(8):
            profiler.step()
    with old.profile() as profiler:
        for step in steps(3):
            pass
    ready(profiler)
else:
    for step in steps(12):
        torch.ones(3).sum()
end()
"""


def needs(package: str) -> Any:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed")


BODIES = [
    pytest.param(PRINT, id="print"),
    pytest.param(LOGGER, id="logger"),
    pytest.param(DICT_CONFIG, id="dict-config"),
    pytest.param(BESIDE, id="package-beside"),
    pytest.param(HYDRA, id="hydra", marks=needs("hydra")),
    pytest.param(ABSL, id="absl", marks=needs("absl")),
    pytest.param(OPERATORS, id="operators"),
    pytest.param(THREAD_IMPORTS, id="thread-imports"),
    pytest.param(PROFILED, id="profiled"),
]


def run_both(tmp_path: Path, body: str) -> tuple[dict[str, str], dict[str, str]]:
    """Run a script with two seeds, each alone and then together; return what was told, by seed and worker."""
    script = tmp_path / "scripts" / "train.py"
    script.parent.mkdir()
    script.write_text(HEAD + body)
    for seed in ("1", "2"):
        with Gang(2, joined=False) as gang:
            gang.run(ALONE, str(script), [str(tmp_path / f"alone-{seed}"), seed])
    with Gang(2, joined=False) as gang:
        jobs = {seed: (str(script), [str(tmp_path / f"together-{seed}"), seed]) for seed in ("1", "2")}
        for worker in gang.run(TOGETHER, jobs):
            assert worker["status"] == {"1": "finished", "2": "finished"}, worker["error"]
    found: dict[str, dict[str, str]] = {"alone": {}, "together": {}}
    for path in tmp_path.glob("*/told-*.txt"):
        how, _, seed = path.parent.name.partition("-")
        found[how][f"seed {seed} {path.stem}"] = path.read_text()
    assert len(found["alone"]) == 4
    return found["alone"], found["together"]


@pytest.mark.parametrize("body", BODIES)
def test_together_as_alone(tmp_path: Path, body: str) -> None:
    alone, together = run_both(tmp_path, body)
    assert together == alone
