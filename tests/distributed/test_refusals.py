"""What cannot be pipelined is refused with a message that says what to do instead; other jobs take no notice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from motet.testing import Gang

BESIDE = "tests.distributed.jobs_refused:beside_another"
REFUSED = {
    "join": ("Join", "DistributedSampler"),
    "join_method": ("Join", "DistributedSampler"),
    "fsdp": ("FSDP", "DistributedDataParallel"),
    "fsdp2": ("fully_shard", "DistributedDataParallel"),
    "mixed_precision": ("mixed_precision", "torch.autocast"),
    "delayed_reduction": ("delay_all_reduce_named_params", "torchrun"),
    "compiled_autograd": ("compiled autograd", "torchrun"),
    "python_reducer": ("optimize_ddp", "torchrun"),
    "power_sgd": ("PowerSGD", "fp16_compress_hook"),
    "subgroup": ("1 of", "Leave process_group out"),
    "other_backend": ("nccl", "Leave backend out"),
    "other_size": ("world_size=", "Leave it out"),
    "other_rank": ("rank=", "Leave it out"),
    "optimizer_in_backward": ("inside backward()", "after backward()"),
    "fused_optimizer": ("_register_fused_optim", "after backward()"),
    "spawn": ("multiprocessing.spawn", "directly"),
    "start_processes": ("multiprocessing.start_processes", "directly"),
    "checkpoint_around": ("twice within one backward", "inside the model"),
    "checkpoint_around_hook": ("twice within one backward", "inside the model"),
    "bad_hook": ("future must hold a tensor", "register_comm_hook"),
}
ALSO_ALONE = set(REFUSED) - {"subgroup"}  # a subgroup of one is all of one


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("num_workers", [1, 2])
def test_refused_with_a_remedy(gangs: Callable[[int], Gang], name: str, num_workers: int) -> None:
    if num_workers == 1 and name not in ALSO_ALONE:
        return
    what, remedy = REFUSED[name]
    for worker in gangs(num_workers).run(BESIDE, name):
        assert worker["status"] == {"one": "finished", "asking": "failed", "two": "finished"}
        assert "UnsupportedError" in worker["error"], worker["error"]
        assert what in worker["error"]
        assert remedy in worker["error"]
        assert worker["differences"] == []


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_job_without_ddp_is_named(gangs: Callable[[int], Gang], num_workers: int) -> None:
    for worker in gangs(num_workers).run(BESIDE, "no_ddp"):
        assert set(worker["status"].values()) == {"finished"}
        assert worker["differences"] == []
        (notice,) = worker["notices"]
        assert "job 'asking'" in notice
        assert "DistributedDataParallel" in notice
