"""What answers for the patches (`motet.patches.DURING_A_RUN`) while a job runs; code outside of jobs passes through."""

from __future__ import annotations

import inspect
import itertools
import sys
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import BuiltinCommHookType, GradBucket, _register_comm_hook
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from motet.coroutines import RunningJob, Turns
from motet.errors import UnsupportedError
from motet.gradients.buckets import DeferredDDP
from motet.gradients.reducer_group import ReducerGroup
from motet.intercept.buffers import BufferSync
from motet.intercept.groups import WorldSeams
from motet.patching import Call
from motet.same_files import report_and_write
from motet.torch_versions import RECOMPILES_ISOLATED
from motet.trainers.length import turns_expected
from motet.workers import Workers
from motet.workers.interruption import Interruption

_DDP_ALONE = "Run this job alone with torchrun, or leave the option out."
_REFUSED_OPTIONS = {
    "mixed_precision": "DDP's native mixed precision registers a communication hook of its own. Use torch.autocast.",
    "delay_all_reduce_named_params": "It reduces gradients outside of DDP's buckets. " + _DDP_ALONE,
    "param_to_hook_all_reduce": "It reduces gradients outside of DDP's buckets. " + _DDP_ALONE,
    "skip_all_reduce_unused_params": "It changes which buckets leave in a turn. " + _DDP_ALONE,
}
_BUILTIN_HOOKS = {
    BuiltinCommHookType.ALLREDUCE: default_hooks.allreduce_hook,
    BuiltinCommHookType.FP16_COMPRESS: default_hooks.fp16_compress_hook,
}


class JobSeams(WorldSeams):
    """Answers for `motet.patches.DURING_A_RUN`, for the job whose turn it is.

    ``wait_in_place`` blocks until the current job's gradients have arrived, without ending its turn; ``drain`` until
    nothing of it is in flight any more; ``notice`` notifies the user of something, once for each pair of arguments;
    ``unblocked`` notes that a backward with waits of DDP's own inside has returned.
    """

    def __init__(
        self,
        turns: Turns,
        buffers: BufferSync,
        wait_in_place: Callable[[RunningJob], None],
        drain: Callable[[RunningJob], None],
        notice: Callable[[str, str], None],
        unblocked: Callable[[], None],
        workers: Workers,
        interruption: Interruption,
    ) -> None:
        super().__init__(turns, notice, workers, interruption)
        self._buffers = buffers
        self._num_workers = workers.num_workers
        self._wait_in_place = wait_in_place
        self._drain = drain
        self._unblocked = unblocked
        self._backward = torch._dynamo.disable(self._deferred_backward)  # Dynamo must not look into a switch
        # Kept beside the models, not in them: a model must stay as picklable and copyable as ever.
        self._models: weakref.WeakKeyDictionary[DistributedDataParallel, DeferredDDP] = weakref.WeakKeyDictionary()
        self._regions = itertools.count(1_000_000)

    def backward(self, original: Call, /, *args: Any, **kwargs: Any) -> Any:
        """Run a backward; if it was the job's outermost and gradients are on their way, the turn ends here."""
        job = self._turns.running_here()
        if job is None:
            return original(*args, **kwargs)
        if job.gradients.depth > 0:  # reentrant checkpointing: only the outermost backward ends a turn
            job.gradients.enter_backward()
            try:
                return original(*args, **kwargs)
            finally:
                job.gradients.leave_backward()
        return self._backward(job, original, *args, **kwargs)

    def _deferred_backward(self, job: RunningJob, original: Call, /, *args: Any, **kwargs: Any) -> None:
        gradients = job.gradients
        gradients.before_backward()
        job.backward_begins()
        job.reported.look(sys._getframe())
        gradients.enter_backward()
        try:
            original(*args, **kwargs)
        except BaseException:
            gradients.leave_backward()
            # Buckets that have left are still being written to; the loop may catch this and free them.
            self._drain(job)
            raise
        gradients.leave_backward()
        self._unblocked()
        if not gradients.in_flight:
            return
        gradients.backward_over()
        self._buffers.after_backward(job)
        if job.num_synced == 0 and job.num_turns is None and (turns := turns_expected(sys._getframe())) is not None:
            job.handle.expect(turns)
        if self._turns.may_end():
            self._turns.end()
            return
        self._wait_in_place(job)
        self._notice(
            job.name,
            "calls backward() inside an autocast block, where a turn cannot end: its synchronization is not hidden. "
            "Call backward() outside of the block (torch recommends that anyway).",
        )

    def write_file(self, original: Call, /, *args: Any, **kwargs: Any) -> Any:
        """Write a file from C++: nothing that Python does shows it."""
        return report_and_write(original, *args, **kwargs)

    def build_ddp(self, original: Call, ddp: DistributedDataParallel, /, *args: Any, **kwargs: Any) -> None:
        """Build a DDP model whose gradients are deferred."""
        job = self._turns.running_here()
        if job is None:
            original(ddp, *args, **kwargs)
            return
        given = inspect.signature(original).bind(ddp, *args, **kwargs).arguments
        for option, why in _REFUSED_OPTIONS.items():
            if given.get(option):
                raise UnsupportedError(
                    f"job '{job.name}': DistributedDataParallel({option}=...) is not supported: {why}"
                )
        if torch._dynamo.config.compiled_autograd or torch._dynamo.config.optimize_ddp == "python_reducer":
            raise UnsupportedError(
                f"job '{job.name}': compiled autograd traces DDP's hooks away. Leave torch._dynamo.config"
                ".compiled_autograd False and optimize_ddp at its default, or run this job alone with torchrun."
            )
        original(ddp, *args, **kwargs)
        self._adopt(job, ddp, static_graph=bool(given.get("static_graph")))

    def build_reducer(self, original: Call, ddp: DistributedDataParallel, /, *args: Any, **kwargs: Any) -> None:
        """Build a model's reducer on a process group that sends its buckets on the job's lane."""
        job = self._turns.running_here()
        if job is None:
            original(ddp, *args, **kwargs)
            return
        group = ddp.process_group
        sparse = inspect.signature(original).bind(ddp, *args, **kwargs).arguments["expect_sparse_gradient"]
        model = DeferredDDP(group, dist.get_world_size(group), weakref.ref(ddp), has_sparse=any(sparse))
        self._models[ddp] = model
        sending = ReducerGroup(group, partial(job.gradients.send, model))
        model.send_through(sending)
        ddp.process_group = sending
        try:
            original(ddp, *args, **kwargs)
        finally:
            ddp.process_group = group

    def build_optimizer(self, original: Call, optimizer: torch.optim.Optimizer, /, *args: Any, **kwargs: Any) -> None:
        """Take note of an optimizer: its state is a part of what the job holds."""
        original(optimizer, *args, **kwargs)
        job = self._turns.running_here()
        if job is not None:
            job.optimizers.add(optimizer)

    def restore_ddp(self, original: Call, ddp: DistributedDataParallel, /, *args: Any, **kwargs: Any) -> None:
        """Restore a copied or unpickled DDP model, whose gradients are deferred as well."""
        original(ddp, *args, **kwargs)
        job = self._turns.running_here()
        if job is not None:
            self._adopt(job, ddp, static_graph=ddp.static_graph)

    def _adopt(self, job: RunningJob, ddp: DistributedDataParallel, *, static_graph: bool) -> None:
        group, num_workers = ddp.process_group, self._num_workers
        if group.size() != num_workers:
            raise UnsupportedError(
                f"job '{job.name}': a DistributedDataParallel on {group.size()} of {num_workers} workers is not "
                "supported. Leave process_group out, so that it spans all."
            )
        if any(hasattr(parameter, "_in_backward_optimizers") for parameter in ddp.parameters()):
            raise UnsupportedError(
                f"job '{job.name}': an optimizer that steps inside backward() would use gradients before they are "
                "synchronized. Step the optimizer after backward()."
            )
        model = self._models[ddp]
        model.learn(ddp, static_graph=static_graph)
        self._worlds.outlives(ddp, group)
        job.gradients.attach(model)
        # Where gradients are views of buckets, DDP divides some and multiplies others: a hook cannot know which.
        if model.packer is not None or (model.has_sparse and not model.gradient_as_bucket_view):
            self._hook(job, ddp, model)
        self._buffers.attach(job, model, ddp)

    def _hook(self, job: RunningJob, ddp: DistributedDataParallel, model: DeferredDDP) -> None:
        """Have the buckets handed over by a communication hook (once a model, as torch has it)."""
        if not model.hook():
            return
        gradients = job.gradients

        def motet_hook(state: Any, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
            return gradients.send_hooked(model, bucket)

        _register_comm_hook(ddp.reducer, None, motet_hook)

    def models_of(self, models: Sequence[DeferredDDP]) -> list[DistributedDataParallel]:
        """Return the models that ``models`` describe, in the order in which they were built."""
        return [ddp for ddp, model in self._models.items() if model in models]

    def register_comm_hook(self, original: Call, ddp: DistributedDataParallel, /, *args: Any, **kwargs: Any) -> None:
        """Take a user's communication hook: it runs inside ours, and its future is waited for later."""
        job, model = self._turns.running_here(), self._models.get(ddp)
        if job is None or model is None:
            original(ddp, *args, **kwargs)
            return
        given = inspect.signature(original).bind(ddp, *args, **kwargs).arguments
        state, hook = given["state"], given["hook"]
        ddp._check_comm_hook(hook)
        if "powerSGD" in getattr(hook, "__module__", "") or "powerSGD" in getattr(hook, "__qualname__", ""):
            raise UnsupportedError(
                f"job '{job.name}': PowerSGD starts collectives from callbacks, in an order that differs between the "
                "workers. Use fp16_compress_hook or a hook of your own that starts its collectives when it is called."
            )
        if model.user_hook is not None:
            raise RuntimeError("register_comm_hook or register_builtin_comm_hook can only be called once.")
        if model.packer is not None:
            self._notice(
                job.name, "registers a communication hook of its own, so compress does not apply to that model."
            )
        model.take_hook(state, hook)
        self._hook(job, ddp, model)
        ddp._comm_hooks.append((hook, state))

    def register_builtin_hook(self, original: Call, ddp: DistributedDataParallel, /, *args: Any, **kwargs: Any) -> None:
        """Take one of torch's built-in hooks through its Python twin, which can be deferred."""
        if self._turns.running_here() is None or ddp not in self._models:
            original(ddp, *args, **kwargs)
            return
        given = inspect.signature(original).bind(ddp, *args, **kwargs).arguments
        ddp.register_comm_hook(ddp.process_group, _BUILTIN_HOOKS[given["comm_hook_type"]])

    def finalize(self, original: Call, ddp: DistributedDataParallel, /, *args: Any, **kwargs: Any) -> None:
        """Finalize a backward by hand: after it, when its gradients have arrived."""
        job = self._turns.running_here()
        if job is not None and job.gradients.depth > 0:
            raise UnsupportedError(
                f"job '{job.name}': finalize_backward() was called inside backward(), when gradients have not been "
                "synchronized yet. Call it after backward(), or run this job alone with torchrun."
            )
        original(ddp, *args, **kwargs)

    def forward_begins(self, original: Call, ddp: DistributedDataParallel, /, *args: Any, **kwargs: Any) -> None:
        """Bring the buffers of a model to those of worker 0, as DDP does before a training forward."""
        job, model = self._turns.running_here(), self._models.get(ddp)
        if job is None or model is None:
            original(ddp, *args, **kwargs)
        elif not self._buffers.synchronize(job, ddp, model):
            original(ddp, *args, **kwargs)
            self._buffers.synchronized(job, ddp, model)

    def compile(self, original: Call, /, *args: Any, **kwargs: Any) -> Any:
        """Compile with compiled code of the job's own, so that other jobs do not change what is compiled."""
        job = self._turns.running_here()
        if job is None or "isolate_recompiles" in kwargs or not RECOMPILES_ISOLATED.there:
            return original(*args, **kwargs)
        from torch._dynamo import eval_frame

        region = job.compile_region(self._regions)
        ids = eval_frame._next_isolate_recompiles_id
        eval_frame._next_isolate_recompiles_id = itertools.repeat(region)  # type: ignore[assignment]
        try:
            return original(*args, **kwargs, isolate_recompiles=True)
        finally:
            eval_frame._next_isolate_recompiles_id = ids
