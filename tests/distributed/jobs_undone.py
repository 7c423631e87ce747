"""What a process is like before and after a run; and models that outlive it."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import os
import pickle
import random
import signal
import sys
import threading
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from greenlet import getcurrent, greenlet
from tests.distributed.identity import Record, differences, find, seed_everything
from tests.distributed.jobs_buffers import build, step
from tests.distributed.jobs_failures import be_quick, endless, loop
from tests.distributed.jobs_plain import batch, net, train
from tests.distributed.jobs_scripts import logging_state
from torch.nn.parallel import DistributedDataParallel as DDP

from motet import isolation
from motet.errors import GangError
from motet.patches import DURING_A_RUN
from motet.running import run
from motet.testing import Fault, with_fault


def patches() -> dict[str, Any]:
    """Return all that a run patches, as it is now: for functions the code, for classes and modules what they hold."""
    found: dict[str, Any] = {"regions": getattr(torch._dynamo.eval_frame, "_next_isolate_recompiles_id", None)}
    for patch in DURING_A_RUN:
        module, _, path = patch.where.partition(":")
        *owners, name = path.split(".")
        owner: Any = import_module(module)
        for part in owners:
            owner = getattr(owner, part)
        value = vars(owner).get(name)
        found[patch.where] = value
        found[f"{patch.where}, its code"] = (
            getattr(inspect.unwrap(value), "__code__", None) if callable(value) else None
        )
        found[f"{patch.where}, its class"] = type(value)
        if isinstance(owner, type):
            found |= {f"{owner.__name__}.{key}": each for key, each in vars(owner).items()}
    return found


def surroundings() -> dict[str, Any]:
    """Return what else there is of this process: generators, groups, threads, files, greenlets, handlers."""
    world: Any = dist.distributed_c10d._world
    saved = isolation.take_all().copy().values
    flags = {
        name: value
        for name, value in saved.items()
        if isinstance(value, (bool, int, float, str, tuple, list, dict)) and "random" not in name
    }
    gc.collect()  # of what the jobs left; what the run itself holds is looked at without, see `threads_and_files`
    alive = [g for g in gc.get_objects() if type(g) is greenlet and not g.dead and g is not getcurrent()]
    return {
        "torch generator": torch.get_rng_state().tolist(),
        "numpy generator": str(np.random.get_state()),
        "random": random.getstate(),
        "groups": sorted(str(name) for name in world.pg_names.values()),
        "maps": [len(world.pg_map), len(world.pg_group_ranks), len(world.pg_backend_config)],
        "greenlets": len(alive),
        "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)],
        "logging": logging_state(),
        "hooks": [sys.excepthook, threading.excepthook, sys.unraisablehook],
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "directory": os.getcwd(),
        "environment": dict(os.environ),
        "arguments": [list(sys.argv), list(sys.path), id(sys.modules["__main__"])],
        "streams": [id(sys.stdout), id(sys.stderr), id(sys.stdin)],
        **flags,
    }


def threads_and_files() -> dict[str, int]:
    """Count this process's threads, those of the process groups among them, and its open files."""
    return {"threads": len(os.listdir("/proc/self/task")), "files": len(os.listdir("/proc/self/fd"))}


def _run(kind: str) -> None:
    plain, images = partial(find("jobs_plain:several_buckets")), find("jobs_buffers:evaluation_through_ddp")
    jobs: dict[str, Any] = {"plain": plain, "images": images}
    if kind == "talks":
        jobs |= {"talks": find("jobs_collectives:conversation"), "groups": find("jobs_collectives:groups")}
    elif kind == "failed":
        jobs["faulty"] = partial(loop, "backward")
    elif kind == "refused":
        jobs["refused"] = find("jobs_refused:join_method")
    elif kind == "globals":
        jobs |= {"doubles": find("jobs_plain:float64"), "seeds": find("jobs_plain:generators")}
    elif kind == "stopped":
        jobs["endless"] = with_fault(endless, Fault("term", 0, 20))
    elif kind == "compiled":
        jobs["compiled"] = find("jobs_compiled:compiled_inside")
    elif kind == "diverged":
        be_quick()
        jobs["faulty"] = partial(loop, "forward", worker=0)
    try:
        run(jobs)
    except GangError:
        assert kind == "diverged"


def changed(kind: str) -> dict[str, Any]:
    """Run jobs, twice; tell what of the process is not as it was."""
    patched = patches()
    if kind != "diverged":
        _run(kind)  # imports modules, starts autograd's threads
    seed_everything()
    before, counted = surroundings(), threads_and_files()
    _run(kind)
    if kind == "talks":
        gc.collect()  # a DDP model and the group that the job made for it refer to each other, also without Motet
    counts = threads_and_files()
    after = surroundings()
    now = patches()
    found = [name for name in patched if patched.keys() != now.keys() or patched[name] is not now[name]]
    return {
        "patches": found,
        "surroundings": [
            f"{name}: {before[name]!r:.300} -> {after[name]!r:.300}" for name in _differing(before, after)
        ],
        "counts": {name: counts[name] - counted[name] for name in counts},
    }


def _differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    if before.keys() != after.keys():
        return sorted(before.keys() ^ after.keys())
    return [name for name in before if not _same(before[name], after[name])]


def _same(one: Any, other: Any) -> bool:
    return bool(one == other)


def _go_on(kind: str, ddp: DDP, optimizer: torch.optim.Optimizer, record: Record) -> Record:
    """Train some more steps, wherever this is."""
    if kind == "images":
        for _ in range(4):
            step(ddp, optimizer, record)
    else:
        train(ddp, optimizer, record, steps=4)
    return record.ended(ddp, optimizer)


def _begin(kind: str) -> tuple[DDP, torch.optim.Optimizer, Record]:
    if kind == "images":
        ddp, optimizer, record = build(bucket_cap_mb=0.002)
        for _ in range(3):
            step(ddp, optimizer, record)
        return ddp, optimizer, record
    options: dict[str, Any] = {"view": {"gradient_as_bucket_view": True}}.get(kind, {})
    ddp = DDP(net(depth=3), bucket_cap_mb=0.002, **options)
    if kind == "hook":
        ddp.register_comm_hook(None, dist.algorithms.ddp_comm_hooks.default_hooks.fp16_compress_hook)
    optimizer = torch.optim.Adam(ddp.parameters())
    return ddp, optimizer, train(ddp, optimizer, Record(), steps=3)


def goes_on_afterwards(kind: str) -> list[str]:
    """Build and train a model in a run, train it on after the run; tell where it differs from one never in a run."""
    seed_everything()
    expected = _go_on(kind, *_begin(kind))
    seed_everything()
    results = run({"job": partial(_begin, kind), "other": find("jobs_plain:companion")})
    assert results["job"].status == "finished", results["job"].error
    ddp, optimizer, record = results["job"].result
    seed_everything()
    _begin(kind)  # draws the same numbers, so that the generators are where they would be
    return differences(_go_on(kind, ddp, optimizer, record), expected)


def built_before(kind: str) -> list[str]:
    """Train a model in a run that was built and trained before it; tell where it differs from one never in a run."""
    seed_everything()
    expected = _go_on(kind, *_begin(kind))
    seed_everything()
    model = _begin(kind)
    results = run({"job": partial(_go_on, kind, *model), "other": find("jobs_plain:companion")})
    assert results["job"].status == "finished", results["job"].error
    return differences(results["job"].result, expected)


def can_be_copied() -> list[str]:
    """Pickle, copy and save a model that a run has left behind; tell what does not work as it does for another."""
    found = []
    ddp = run({"job": partial(_begin, "plain")})["job"].result[0]
    for name, keep in {"pickle": pickle.dumps, "copy": copy.deepcopy, "save": _save}.items():
        try:
            keep(DDP(net()))
        except Exception:
            continue
        try:
            keep(ddp)
        except Exception as error:
            found.append(f"{name}: {error}")
    x, y = batch()
    F.cross_entropy(copy.deepcopy(ddp)(x), y).backward()
    return found


def _save(ddp: DDP) -> None:
    torch.save(ddp, io.BytesIO())
