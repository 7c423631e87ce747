"""The only place where torch is patched, by one context manager that undoes it all.

Torch's functions are redirected by exchanging their code object, not the name in a module: a loop that did
``from torch.distributed import init_process_group`` long before the run comes through the seam as well. Classes are
patched in their own dictionary for the same reason. What a seam does is up to `Seams`, the interface that
`motet.coroutines` implements; code that runs outside of any job passes through untouched.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import functools
import inspect
import os
import signal
import threading
import types
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch._library.custom_ops import CustomOpDef
from torch.distributed.algorithms.join import Join
from torch.library import Library
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data._utils import signal_handling as loaders

from motet.intercept import loader_workers
from motet.torch_versions import MANUAL_FINALIZATION
from motet.workers.worlds import VALUES

Call = Callable[..., Any]


class Seams(Protocol):
    """What happens at each place where torch is patched. Every method may be called inside or outside of a job."""

    def backward(self, original: Call, /, *args: Any, **kwargs: Any) -> Any:
        """``torch.autograd.backward``, which ``Tensor.backward`` calls."""

    def build_ddp(self, original: Call, ddp: DistributedDataParallel, /, *args: Any, **kwargs: Any) -> None:
        """``DistributedDataParallel.__init__``."""

    def restore_ddp(self, original: Call, ddp: DistributedDataParallel, /, *args: Any, **kwargs: Any) -> None:
        """``DistributedDataParallel.__setstate__``: a model that was copied or unpickled."""

    def build_reducer(self, original: Call, ddp: DistributedDataParallel, /, *args: Any, **kwargs: Any) -> None:
        """``DistributedDataParallel._ddp_init_helper``, which both of the above call."""

    def build_optimizer(self, original: Call, optimizer: torch.optim.Optimizer, /, *args: Any, **kwargs: Any) -> None:
        """``Optimizer.__init__``, which every optimizer calls."""

    def register_comm_hook(self, original: Call, ddp: DistributedDataParallel, /, *args: Any, **kwargs: Any) -> None:
        """``DistributedDataParallel.register_comm_hook``."""

    def register_builtin_hook(self, original: Call, ddp: DistributedDataParallel, /, *args: Any, **kwargs: Any) -> None:
        """``DistributedDataParallel._register_builtin_comm_hook``."""

    def forward_begins(self, original: Call, ddp: DistributedDataParallel, /, *args: Any, **kwargs: Any) -> None:
        """``DistributedDataParallel._sync_buffers``, called before those forwards that synchronize buffers."""

    def finalize(self, original: Call, ddp: DistributedDataParallel, /, *args: Any, **kwargs: Any) -> None:
        """``DistributedDataParallel.finalize_backward``, which a loop may call since torch 2.15."""

    def init_process_group(self, original: Call, /, *args: Any, **kwargs: Any) -> None:
        """``torch.distributed.init_process_group``."""

    def destroy_process_group(self, original: Call, /, *args: Any, **kwargs: Any) -> None:
        """``torch.distributed.destroy_process_group``."""

    def new_group(self, original: Call, /, *args: Any, **kwargs: Any) -> Any:
        """``torch.distributed.new_group``."""

    def default_group(self, original: Call, /) -> Any:
        """``_get_default_group`` of torch's ``distributed_c10d``: a group is needed, and none was named."""

    def group_name(self, original: Call, /, *args: Any, **kwargs: Any) -> Any:
        """``_process_group_name`` there: a group is about to be made."""

    def world_values(self) -> dict[str, Any] | None:
        """Return what the properties of torch's ``_World`` are for whoever calls; None: what they are without a run."""

    def compile(self, original: Call, /, *args: Any, **kwargs: Any) -> Any:
        """``torch.compile``."""

    def signal(self, original: Call, /, *args: Any, **kwargs: Any) -> Any:
        """``signal.signal``."""

    def getsignal(self, original: Call, /, *args: Any, **kwargs: Any) -> Any:
        """``signal.getsignal``."""

    def timer(self, name: str, original: Call, /, *args: Any) -> Any:
        """``signal.setitimer``, ``getitimer`` and ``alarm``: ``name`` tells which."""

    def send_signal(self, original: Call, /, *args: Any, **kwargs: Any) -> Any:
        """``os.kill``, ``signal.raise_signal`` and ``_thread.interrupt_main``."""

    def register_exit(self, original: Call, /, *args: Any, **kwargs: Any) -> Any:
        """``atexit.register``."""

    def unregister_exit(self, original: Call, /, *args: Any, **kwargs: Any) -> Any:
        """``atexit.unregister``."""

    def profile(self, original: Call, disable: Call, /, *args: Any, **kwargs: Any) -> Any:
        """What prepares, enables and disables torch's profiler; ``disable`` is what disables one of this kind."""

    def start_thread(self, original: Call, thread: threading.Thread, /) -> None:
        """``threading.Thread.start``."""

    def start_process(self, original: Call, process: BaseProcess, /) -> None:
        """``multiprocessing.Process.start``."""

    def open_library(self, original: Call, library: Library, /, ns: str, kind: str, *args: Any, **kwargs: Any) -> None:
        """``torch.library.Library.__init__``."""

    def define_operator(self, original: Call, operator: CustomOpDef, /, namespace: str, *args: Any, **kw: Any) -> None:
        """``torch.library.CustomOpDef.__init__``, by which every custom operator is defined."""

    def parse_namespace(self, original: Call, /, qualname: str) -> tuple[str, str]:
        """``torch._library.utils.parse_namespace``: an operator is named by ``NAMESPACE::NAME``."""

    def find_operator(self, original: Call, /, operator: object) -> Any:
        """``torch._library.custom_ops._maybe_get_opdef``."""

    def write_file(self, original: Call, /, *args: Any, **kwargs: Any) -> Any:
        """``torch._C.PyTorchFileWriter``, which ``torch.save`` makes, and ``save`` of a scripted module."""

    def refuse(self, what: str, instead: str) -> None:
        """Something that cannot be pipelined is about to be used; raises inside a job, returns outside."""


_installed: Seams | None = None
_originals: dict[str, Call] = {}


@contextlib.contextmanager
def installed(seams: Seams) -> Iterator[None]:
    """Patch torch for the duration of the block. Blocks do not nest."""
    global _installed
    assert _installed is None, "the seams are in place already"
    with contextlib.ExitStack() as undo:
        _installed = seams
        undo.callback(_forget)
        for name, function in _functions().items():
            undo.callback(_redirect(function, name))
        for cls, attribute, replacement in _methods(seams):
            undo.callback(_replace(cls, attribute, replacement))
        for module, attribute, replacement in _built_in(seams):
            undo.callback(_replace(module, attribute, replacement))
        undo.callback(_look_up_world(seams))
        yield


def _forget() -> None:
    global _installed
    _installed = None
    _originals.clear()


def _functions() -> dict[str, Call]:
    return {
        "backward": torch.autograd.backward,
        "init_process_group": dist.init_process_group,
        "destroy_process_group": dist.destroy_process_group,
        "new_group": dist.new_group,
        "default_group": dist.distributed_c10d._get_default_group,
        "group_name": dist.distributed_c10d._process_group_name,
        "compile": torch.compile,
        "spawn": torch.multiprocessing.spawn,  # type: ignore[attr-defined]
        "start_processes": torch.multiprocessing.start_processes,  # type: ignore[attr-defined]
        "parse_namespace": torch._library.utils.parse_namespace,
        "find_operator": torch._library.custom_ops._maybe_get_opdef,
        "signal": signal.signal,
        "getsignal": signal.getsignal,
        **_sharding(),
    }


def _sharding() -> dict[str, Call]:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import distribute_module, distribute_tensor
    from torch.distributed.tensor.parallel import parallelize_module

    return {
        "fully_shard": fully_shard,
        "distribute_module": distribute_module,
        "distribute_tensor": distribute_tensor,
        "parallelize_module": parallelize_module,
    }


_WHOLE_MODELS = (
    "Motet trains models that every worker holds whole, under DistributedDataParallel: use that (in Lightning "
    'strategy="ddp", in Accelerate and Transformers no FSDP, DeepSpeed or tensor-parallel settings), or run this job '
    "alone with torchrun."
)
_INSTEAD = {
    "spawn": "Motet starts the workers itself: call the function that each worker runs directly, as under torchrun.",
    "start_processes": "Motet starts the workers itself: call the function that each worker runs directly.",
    "fully_shard": _WHOLE_MODELS,
    "distribute_module": _WHOLE_MODELS,
    "distribute_tensor": _WHOLE_MODELS,
    "parallelize_module": _WHOLE_MODELS,
    "FSDP": _WHOLE_MODELS,
    "DeepSpeed": _WHOLE_MODELS,
    "Join": "Give every worker equally many batches (DistributedSampler does), or run this job alone with torchrun.",
    "_register_fused_optim": "Step the optimizer after backward(), or run this job alone with torchrun.",
}


_CALLED = {
    "spawn": "torch.multiprocessing.spawn",
    "start_processes": "torch.multiprocessing.start_processes",
    "fully_shard": "FSDP (fully_shard)",
    "distribute_module": "tensor parallelism (distribute_module)",
    "distribute_tensor": "tensor parallelism (distribute_tensor)",
    "parallelize_module": "tensor parallelism (parallelize_module)",
}


def instead_of(what: str) -> str:
    """Return what a user can do instead of something that cannot be pipelined."""
    return _INSTEAD[what]


def _redirect(function: Call, name: str) -> Call:
    """Exchange the code of a plain function for a jump into `_installed`; return what undoes it."""
    inner = inspect.unwrap(function)
    assert isinstance(inner, types.FunctionType), name
    assert not inner.__code__.co_freevars, name
    code, defaults, kwdefaults = inner.__code__, inner.__defaults__, inner.__kwdefaults__
    original = types.FunctionType(code, inner.__globals__, inner.__name__, defaults, inner.__closure__)
    original.__kwdefaults__ = kwdefaults
    _originals[name] = original
    # Dynamo decides by file name what it traces: keep the file of the original.
    inner.__code__ = _JUMPS[name].__code__.replace(co_filename=code.co_filename, co_name=code.co_name)

    def undo() -> None:
        inner.__code__ = code

    return undo


def _jump(name: str, *args: Any, **kwargs: Any) -> Any:
    original, seams = _originals[name], _installed
    assert seams is not None
    if name in _INSTEAD:
        seams.refuse(_CALLED.get(name, name), _INSTEAD[name])
        return original(*args, **kwargs)
    return getattr(seams, name)(original, *args, **kwargs)


def _write_jump(name: str) -> types.FunctionType:
    # The jump runs with the globals of torch's module, so it must import what it calls.
    body = f"    from motet.intercept.patches import _jump\n    return _jump({name!r}, *args, **kwargs)\n"
    namespace: dict[str, Any] = {}
    exec(f"def jump(*args, **kwargs):\n{body}", namespace)
    jump = namespace["jump"]
    assert isinstance(jump, types.FunctionType)
    return jump


_JUMPS = {
    name: _write_jump(name)
    for name in (
        "backward",
        "init_process_group",
        "destroy_process_group",
        "new_group",
        "default_group",
        "group_name",
        "compile",
        "spawn",
        "start_processes",
        "fully_shard",
        "distribute_module",
        "distribute_tensor",
        "parallelize_module",
        "signal",
        "getsignal",
        "parse_namespace",
        "find_operator",
    )
}


def _methods(seams: Seams) -> list[tuple[type, str, Call]]:
    from torch.distributed.fsdp import FullyShardedDataParallel

    def through(seam: Call, cls: type, attribute: str) -> tuple[type, str, Call]:
        original = cls.__dict__[attribute]

        @functools.wraps(original)
        def method(self: Any, /, *args: Any, **kwargs: Any) -> Any:
            return seam(original, self, *args, **kwargs)

        return cls, attribute, method

    def refused(what: str, cls: type, attribute: str) -> tuple[type, str, Call]:
        original = cls.__dict__[attribute]

        @functools.wraps(original)
        def method(self: Any, /, *args: Any, **kwargs: Any) -> Any:
            seams.refuse(what, _INSTEAD[what])
            return original(self, *args, **kwargs)

        return cls, attribute, method

    ddp = DistributedDataParallel
    return [
        through(seams.build_ddp, ddp, "__init__"),
        through(seams.restore_ddp, ddp, "__setstate__"),
        through(seams.build_reducer, ddp, "_ddp_init_helper"),
        through(seams.build_optimizer, torch.optim.Optimizer, "__init__"),
        through(seams.register_comm_hook, ddp, "register_comm_hook"),
        through(seams.register_builtin_hook, ddp, "_register_builtin_comm_hook"),
        through(seams.forward_begins, ddp, "_sync_buffers"),
        through(seams.open_library, Library, "__init__"),
        through(seams.define_operator, CustomOpDef, "__init__"),
        through(seams.start_thread, threading.Thread, "start"),
        through(seams.start_process, BaseProcess, "start"),
        through(seams.write_file, torch.jit._script.RecursiveScriptModule, "save"),
        refused("_register_fused_optim", ddp, "_register_fused_optim"),
        refused("Join", Join, "__init__"),
        refused("FSDP", FullyShardedDataParallel, "__init__"),
        *([through(seams.finalize, ddp, "finalize_backward")] if MANUAL_FINALIZATION.there else ()),
    ]


def _look_up_world(seams: Seams) -> Call:
    """Have torch's one object that knows the process groups ask who wants to know; return what undoes it.

    The object stays, with another class: whoever has imported it by its name is answered as well.
    """
    world = dist.distributed_c10d._world
    before: type = type(world)

    def looked_up(name: str, inherited: property) -> property:
        def get(self: Any) -> Any:
            values = seams.world_values()
            return inherited.__get__(self) if values is None else values[name]

        def put(self: Any, value: Any) -> None:
            values = seams.world_values()
            if values is None:
                inherited.__set__(self, value)
            else:
                values[name] = value

        return property(get, put)

    found = {name: getattr(before, name, None) for name in VALUES}
    properties = {name: looked_up(name, value) for name, value in found.items() if isinstance(value, property)}
    object.__setattr__(world, "__class__", type(before.__name__, (before,), properties))
    return functools.partial(object.__setattr__, world, "__class__", before)


_TIMERS = ("setitimer", "getitimer", "alarm")
_SENDERS = ((os, "kill"), (signal, "raise_signal"), (_thread, "interrupt_main"))


def _built_in(seams: Seams) -> list[tuple[types.ModuleType, str, Call]]:
    # Written in C: there is no code to exchange. Who imported the name before the run is not seen.
    begin = loaders.__dict__["_set_worker_signal_handlers"]
    return [
        (atexit, "register", functools.partial(seams.register_exit, atexit.register)),
        (torch._C, "PyTorchFileWriter", functools.partial(seams.write_file, torch._C.PyTorchFileWriter)),
        *((signal, name, functools.partial(seams.timer, name, vars(signal)[name])) for name in _TIMERS),
        *((module, name, functools.partial(seams.send_signal, vars(module)[name])) for module, name in _SENDERS),
        (atexit, "unregister", functools.partial(seams.unregister_exit, atexit.unregister)),
        (loaders, "_error_if_any_worker_fails", loader_workers.leave_to_loaders),
        (loaders, "_set_worker_signal_handlers", functools.partial(loader_workers.begin, begin)),
        *(
            (module, name, functools.partial(seams.profile, vars(module)[name], vars(module)[disable]))
            for module, name, disable in _profiling()
        ),
    ]


def _profiling() -> list[tuple[types.ModuleType, str, str]]:
    """Return where torch begins and ends profiling: the module, the function, and which function ends it."""
    new, old = torch.autograd.profiler, torch.autograd.profiler_legacy
    return [
        *((new, name, "_disable_profiler") for name in ("_prepare_profiler", "_enable_profiler", "_disable_profiler")),
        *((old, name, "_disable_profiler_legacy") for name in ("_enable_profiler_legacy", "_disable_profiler_legacy")),
    ]


def _replace(owner: type | types.ModuleType, attribute: str, replacement: Call) -> Call:
    original = owner.__dict__[attribute]
    setattr(owner, attribute, replacement)
    return functools.partial(setattr, owner, attribute, original)
