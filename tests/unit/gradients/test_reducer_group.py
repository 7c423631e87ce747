"""What DDP's reducer says through its process group; one process, real groups."""

from __future__ import annotations

import subprocess
import sys

import pytest

# In a process of its own: what is looked for is a thread that waits for the interpreter's lock and holds another.
BESIDE_CALLBACKS = """
import faulthandler, os
os.environ["GLOO_SOCKET_IFNAME"] = "lo"
faulthandler.dump_traceback_later(30, exit=True)
import torch, torch.distributed as dist
from motet.gradients.reducer_group import ReducerGroup
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
world = dist.group.WORLD
group = ReducerGroup(world, lambda tensors, options: world.allreduce(tensors, options))
for _ in range(150):
    for _ in range(20):
        world.allreduce([torch.ones(8)]).get_future().then(lambda done: done.value()[0] / 2)
        work = group.{method}(*{arguments})
    work.wait()
print("done")
os._exit(0)
"""


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("broadcast", "([torch.ones(8)], dist.BroadcastOptions())"),
        ("allreduce", "([torch.ones(8)], dist.AllreduceOptions())"),
        ("allgather", "([[torch.ones(8)]], [torch.ones(8)], torch._C._distributed_c10d.AllgatherOptions())"),
        ("barrier", "(dist.BarrierOptions(),)"),
    ],
)
def test_collectives_beside_callbacks_that_need_the_interpreter(method: str, arguments: str) -> None:
    """A hook's callback runs on the group's threads; one that a collective would wait for must not wait for it."""
    code = BESIDE_CALLBACKS.replace("{method}", method).replace("{arguments}", arguments)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert ended.stdout == "done\n", ended.stderr


COMPILED = """
import os
os.environ["GLOO_SOCKET_IFNAME"] = "lo"
import torch, torch.distributed as dist
import torch.distributed.tensor  # from then on, process groups are something of their own to Dynamo
from torch.nn.parallel import DistributedDataParallel
from motet.gradients.reducer_group import ReducerGroup
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
world = dist.group.WORLD
group = ReducerGroup(world, lambda tensors, options: world.allreduce(tensors, options))
ddp = DistributedDataParallel(torch.nn.Linear(2, 1), process_group=group)
ddp.process_group = world
compiled = torch.compile(ddp, backend="eager")
for _ in range(3):
    compiled(torch.ones(1, 2)).sum().backward()
assert ddp._has_rebuilt_buckets
print("done")
"""


def test_a_compiled_model_whose_buckets_are_rebuilt() -> None:
    """The reducer broadcasts the new layout in a forward that Dynamo watches."""
    ended = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, timeout=120, check=False)
    assert ended.stdout == "done\n", ended.stderr
