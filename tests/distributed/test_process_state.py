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
logging.addLevelName(35, f"LEVEL-{seed}")
for step in steps():
    tell(logging.getLevelName(35))
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
            "handlers": {"file": {"class": "logging.FileHandler", "filename": f"{folder}/late-{rank}.log"}},
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
sys.argv[1:] = [f"seed={seed}", f"hydra.run.dir={folder}/hydra"]
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
torch.library.define("clash_defined::shifted", "(Tensor x) -> Tensor")
@torch.library.impl("clash_defined::shifted", "cpu")
def shifted(x):
    return x + seed
for step in steps():
    x = torch.ones((), requires_grad=True)
    torch.ops.clash_custom.scaled(x).backward()
    tell(torch.ops.clash_operator.scaled(x).item(), scaled(x).item(), x.grad.item())
    tell(torch.ops.clash_defined.shifted(x.detach()).item())
end()
"""

LIMITS = """
import resource, socket
NUMBER = resource.RLIMIT_FSIZE
def look():
    mask = os.umask(0)
    os.umask(mask)
    tell(mask, sys.getrecursionlimit(), socket.getdefaulttimeout(), resource.getrlimit(NUMBER)[0] == 10**9)
for step in steps():
    look()
    if step == 1 and seed == 1:
        os.umask(0o077)
        sys.setrecursionlimit(2000)
        socket.setdefaulttimeout(5)
        resource.setrlimit(NUMBER, (10**9, resource.getrlimit(NUMBER)[1]))
    if step == 3:
        os.umask(0o007 if seed == 1 else 0o027)
        open(os.path.join(folder, f"file-{rank}"), "w").close()
    if step == 4:
        tell(oct(os.stat(os.path.join(folder, f"file-{rank}")).st_mode))
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
    with profile(activities=[ProfilerActivity.CPU], schedule=schedule(wait=1, warmup=1, active=3),
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
    pytest.param(LIMITS, id="limits"),
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


# Each is left on by the job of seed 1 in its second step; that of seed 2 begins one in its third.
PROFILERS = {
    "schedule": "profile(schedule=schedule(wait=0, warmup=1, active=9)).start()",
    "on": "profile(activities=[ProfilerActivity.CPU]).start()",
    "stacks": "profile(activities=[ProfilerActivity.CPU], with_stack=True).start()",
    "warming up": "profile(activities=[ProfilerActivity.CPU]).prepare_trace()",
    "old": "old.profile().__enter__()",
    "itt": "old.emit_itt().__enter__()",
    "legacy": "legacy.profile().__enter__()",
}
PROFILES = """
from torch.profiler import ProfilerActivity, profile, schedule
import torch.autograd.profiler as old, torch.autograd.profiler_legacy as legacy, warnings
warnings.simplefilter("ignore")
for step in steps({steps}):
    if step == seed:
        profiler = {profiler}
end()
"""


def together(tmp_path: Path, bodies: list[str]) -> list[dict[str, Any]]:
    """Run scripts together, the first with seed 1; return what each worker found."""
    jobs = {}
    for number, body in enumerate(bodies, 1):
        script = tmp_path / f"train-{number}.py"
        script.write_text(HEAD + body)
        jobs[str(number)] = (str(script), [str(tmp_path / str(number)), str(number)])
    with Gang(2, joined=False) as gang:
        found: list[dict[str, Any]] = gang.run(TOGETHER, jobs)
    return found


# As scripts do: worker 0 profiles, and shows and exports what it has found.
SECOND = """
import contextlib, json
from torch.profiler import ProfilerActivity, profile, schedule
on_worker_0 = dist.get_rank() == 0
with profile(activities=[ProfilerActivity.CPU], schedule=schedule(wait=2, warmup=1, active=2)) if on_worker_0 else \\
        contextlib.nullcontext() as profiler:
    for step in steps(6):
        if on_worker_0:
            profiler.step()
if on_worker_0:
    profiler.export_chrome_trace(f"{folder}/trace.json")
    tell([len(profiler.key_averages()), len(profiler.events()), json.load(open(f"{folder}/trace.json"))["traceEvents"]])
end()
"""


@pytest.mark.parametrize("first", PROFILERS)
def test_a_second_profiler_stays_empty_and_one_that_was_left_on_ends_with_its_job(tmp_path: Path, first: str) -> None:
    """The third job begins one when the first has ended."""
    bodies = [PROFILES.format(steps=6, profiler=PROFILERS[first]), SECOND]
    bodies.append(
        "import torch.autograd.profiler as old\nfor step in steps(15): pass\nwith old.profile() as profiler:\n"
        "    torch.ones(3).sum()\n"
        "tell([event.count for event in profiler.key_averages() if event.key == 'aten::sum'])\nend()\n"
    )
    for number, worker in enumerate(together(tmp_path, bodies)):
        assert set(worker["status"].values()) == {"finished"}, worker["error"]
        empty = [notice for notice in worker["notices"] if "has an empty profile" in notice]
        assert len(empty) == (number == 0)
        if number == 0:
            assert "job '1' is profiling" in empty[0]
            assert "Profile one job" in empty[0]
    assert (tmp_path / "2" / "told-0.txt").read_text().splitlines()[0] == "[0, 0, []]"
    assert (tmp_path / "3" / "told-0.txt").read_text().splitlines()[0] == "[1]"


def test_a_second_legacy_profiler_is_refused(tmp_path: Path) -> None:
    bodies = [PROFILES.format(steps=6, profiler=PROFILERS[name]) for name in ("on", "legacy")]
    for worker in together(tmp_path, bodies):
        assert worker["status"] == {"1": "finished", "2": "failed"}, worker["error"]
        assert "job '2': a profiler is to start, but job '1' is profiling" in worker["error"]["2"]
        assert "Profile one job" in worker["error"]["2"]


LOWERS = """
import resource
for step in steps():
    if seed == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10**9, 10**9))
    if step == 3:
        tell(resource.getrlimit(resource.RLIMIT_FSIZE)[0])
end()
"""


def test_the_user_is_told_of_limits_that_a_job_lowers(tmp_path: Path) -> None:
    for worker in together(tmp_path, [LOWERS] * 2):
        assert set(worker["status"].values()) == {"finished"}, worker["error"]
        [notice] = [notice for notice in worker["notices"] if "RLIMIT_FSIZE" in notice]
        assert notice.startswith("job '1' lowers RLIMIT_FSIZE to 1000000000: ")
    first, second = ((tmp_path / number / "told-0.txt").read_text().splitlines()[0] for number in "12")
    assert first == "1000000000"
    assert second != first


THREADS = """
import threading
from concurrent.futures import ThreadPoolExecutor
from torch.utils.data import DataLoader
for batch in DataLoader(torch.ones(4, 1), num_workers=1):
    pass
for step in steps():
    if seed == 1 and step == 3:
        threading.Thread(target=lambda: None).start()
    if seed == 2 and step == 3:
        ThreadPoolExecutor().submit(len, "")
end()
"""


def test_the_user_is_notified_of_threads_that_a_job_starts_and_not_of_a_librarys(tmp_path: Path) -> None:
    for worker in together(tmp_path, [THREADS] * 3):
        assert set(worker["status"].values()) == {"finished"}, worker["error"]
        report = sorted(notice.partition(" starts a thread")[0] for notice in worker["notices"] if "thread" in notice)
        assert report == ["job '1'", "job '2'"]
