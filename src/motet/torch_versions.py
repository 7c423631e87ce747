"""Which versions of torch and Python Motet runs on, and every inner name of theirs that it leans on.

Motet works at the seams of DDP and torch elastic, and puts back state for which torch has no public functions. What it
needs there that no version promises is in two tables: `NEEDED`, without which it cannot run, and the features, which
only some versions have. A path reads ``module:object.attribute``, with ``(parameter)`` for one that a function takes.

A new torch is checked by `missing` in a second (``tests/unit/test_torch_versions.py``). The test also finds names in
the code that are in no table, so whoever uses another one enters it here.

Inner names of packages that are optional (trackers, Optuna, Lightning) are asked for where they are used.
"""

from __future__ import annotations

import dis
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from motet.errors import UsageError

OLDEST, NEWEST = (2, 11), (2, 15)  # of those that the suite passes on: docs/reference/tested-with.md
OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True)
class Feature:
    """What only some versions have: where it is found, since which torch, and what is done without it."""

    path: str
    since: str
    without: str

    @functools.cached_property
    def there(self) -> bool:
        """Whether what is installed has it. Asked once a process: it does not come and go."""
        return found(self.path)


BATCHED_GRAD_COPY = Feature(
    "torch.nn.parallel:DistributedDataParallel.__init__(batched_grad_copy)",
    since="2.12",
    without="DDP copies gradients into buckets one by one",
)
CONFIG_PER_CONTEXT = Feature(
    "torch.utils._config_module:ContextVar",
    since="2.12",
    without="torch's own settings are the whole process's: entries of the isolation keep those of Dynamo and Inductor "
    "apart for each job, and checkpoints are written with the user's options for torch.save",
)
RECOMPILES_ISOLATED = Feature(
    "torch._dynamo.eval_frame:_next_isolate_recompiles_id",
    since="2.13",
    without="jobs that compile the same function share what was compiled: its limit of recompiles, and which shapes "
    "count as dynamic",
)
LAZY_BUCKETS = Feature(
    "torch.nn.parallel:DistributedDataParallel.__init__(lazy_bucket_allocation)",
    since="2.15",
    without="DDP's buckets stay where they are",
)
MANUAL_FINALIZATION = Feature(
    "torch.nn.parallel:DistributedDataParallel.finalize_backward",
    since="2.15",
    without="DDP finalizes every backward by itself",
)
PROFILER_PAUSES = Feature(
    "torch._C._autograd:_toggle_collection_dynamic",
    since="any",
    without="the profile of one job holds the others' operators as well",
)
NUMPY_WINDOW = Feature(
    "numpy.random.mtrand:_rand._bit_generator",
    since="any",
    without="NumPy's global generator is copied at every turn, which takes 50 times as long",
)
SHOW_WARNING = Feature("warnings:_showwarnmsg_impl", since="any", without="there is nothing to keep apart")
LOGGED_WARNINGS = Feature("logging:_warnings_showwarning", since="any", without="there is nothing to keep apart")
ENVIRONMENT = Feature(
    "os:environ._data", since="any", without="variables are copied decoded, which takes ten times as long"
)
FEATURES = (
    BATCHED_GRAD_COPY,
    CONFIG_PER_CONTEXT,
    RECOMPILES_ISOLATED,
    LAZY_BUCKETS,
    MANUAL_FINALIZATION,
    PROFILER_PAUSES,
    NUMPY_WINDOW,
    SHOW_WARNING,
    LOGGED_WARNINGS,
    ENVIRONMENT,
)
# Dynamo of these looks into a process group's methods where a whole DDP model is compiled, and fails at what it finds.
DYNAMO_ENTERS_GROUPS = ((2, 12),)

_DDP = "torch.nn.parallel:DistributedDataParallel"
_ELASTIC = "torch.distributed.elastic"
_AGENT = f"{_ELASTIC}.agent.server"
# By the module that needs them; all of them are in torch 2.11 and in Python 3.11.
NEEDED: dict[str, tuple[str, ...]] = {
    "seams": (
        f"{_DDP}.__setstate__",
        f"{_DDP}._ddp_init_helper",
        f"{_DDP}._register_builtin_comm_hook",
        f"{_DDP}._register_fused_optim",
        f"{_DDP}._sync_buffers",
        "torch.distributed:distributed_c10d._get_default_group",
        "torch.distributed:distributed_c10d._process_group_name",
        "torch.distributed:distributed_c10d._world",
        "torch._library.custom_ops:CustomOpDef",
        "torch._library.custom_ops:_maybe_get_opdef",
        "torch._library.utils:parse_namespace",
        "torch.autograd.profiler:_disable_profiler",
        "torch.autograd.profiler:_enable_profiler",
        "torch.autograd.profiler:_prepare_profiler",
        "torch.autograd.profiler_legacy:_disable_profiler_legacy",
        "torch.autograd.profiler_legacy:_enable_profiler_legacy",
        "torch._C:PyTorchFileWriter",
        "torch.jit:_script.RecursiveScriptModule.save",
        "torch.distributed.algorithms.join:Join",
        "torch.utils.data:_utils.signal_handling._error_if_any_worker_fails",
        "torch.utils.data:_utils.signal_handling._set_worker_signal_handlers",
        "torch.distributed.fsdp:FullyShardedDataParallel",
        "torch.distributed.fsdp:fully_shard",
        "torch.distributed.tensor:distribute_module",
        "torch.distributed.tensor:distribute_tensor",
        "torch.distributed.tensor.parallel:parallelize_module",
        "torch.multiprocessing:start_processes",
    ),
    "job_seams": (
        f"{_DDP}._check_comm_hook",
        f"{_DDP}._comm_hooks",
        f"{_DDP}._ddp_init_helper(expect_sparse_gradient)",
        f"{_DDP}._register_builtin_comm_hook(comm_hook_type)",
        f"{_DDP}.find_unused_parameters",
        f"{_DDP}.gradient_as_bucket_view",
        f"{_DDP}.process_group",
        f"{_DDP}.reducer",
        f"{_DDP}.register_comm_hook(hook)",
        f"{_DDP}.static_graph",
        "sys:_getframe",
        "torch._C._distributed_c10d:BuiltinCommHookType.ALLREDUCE",
        "torch._C._distributed_c10d:BuiltinCommHookType.FP16_COMPRESS",
        "torch._C._distributed_c10d:GradBucket",
        "torch._C._distributed_c10d:_register_comm_hook",
        "torch._dynamo:disable",
        "torch._dynamo.config:compiled_autograd",
        "torch._dynamo.config:optimize_ddp",
        "torch.distributed.algorithms.ddp_comm_hooks:default_hooks.allreduce_hook",
        "torch.distributed.algorithms.ddp_comm_hooks:default_hooks.fp16_compress_hook",
        "torch.distributed.optim.apply_optimizer_in_backward:_apply_optimizer_in_backward._in_backward_optimizers",
    ),
    "buffers": (
        f"{_DDP}._assign_modules_buffers",
        f"{_DDP}.modules_buffers",
        f"{_DDP}.will_sync_module_buffers",
        "torch:Tensor._version",
        "torch:_foreach_copy_",
        "torch.autograd.grad_mode:_unsafe_preserve_version_counter",
    ),
    "gradients/buckets": (
        f"{_DDP}._has_rebuilt_buckets",
        "torch._C._distributed_c10d:Reducer._get_zeros_like_grad_buckets",
        "torch._prims_common:is_non_overlapping_and_dense_or_false",
    ),
    "gradients/reducer_group": (
        "torch._C._distributed_c10d:_create_work_from_future",
        "torch.distributed:BackendConfig.get_device_backend_map",
        "torch.distributed:ProcessGroup._device_types",
        "torch.distributed:ProcessGroup._get_backend",
        "torch.distributed:ProcessGroup._register_backend",
        "torch.distributed:ProcessGroup._set_default_backend",
    ),
    "gradients/aggregation": (
        "torch._C._distributed_c10d:PrefixStore",
        "torch._C._distributed_c10d:Store",
        "torch.distributed:ProcessGroupGloo",
        "torch.distributed.rendezvous:rendezvous",
    ),
    "workers/group": (
        "torch._C._distributed_c10d:HashStore",
        "torch.distributed:distributed_c10d._get_default_store",
    ),
    "workers/watch": ("sys:_current_frames",),
    "turns/left_running": (
        "concurrent.futures.process:_ExecutorManagerThread.pending_work_items",
        "concurrent.futures.thread:_threads_queues",
        "concurrent.futures.thread:_worker",
    ),
    "workers/worlds": (
        "threading:_DummyThread",
        "torch._C._distributed_c10d:_unregister_process_group",
        "torch.distributed:distributed_c10d._backend",
        "torch.distributed:distributed_c10d._default_pg_init_method",
        "torch.distributed:distributed_c10d._world.default_pg",
        "torch.distributed:distributed_c10d._world.group_count",
        "torch.distributed:distributed_c10d._world.pg_map",
        "torch.distributed:distributed_c10d._world.pg_names",
    ),
    "nonfinite": ("torch:_foreach_norm",),
    "memory/footprint": ("torch:Tensor._indices", "torch:UntypedStorage._cdata"),
    "checkpoints/payload": ("torch.nn:Module.state_dict._metadata",),
    "checkpoints/objects": ("torch._dynamo.eval_frame:OptimizedModule._orig_mod",),
    "checkpoints/files": (
        "torch.serialization:get_crc32_options",
        "torch.serialization:set_crc32_options",
        "torch.utils.serialization.config:save.storage_alignment",
    ),
    "same_files/hook": ("threading:_active",),
    "isolation/torch_flags": (
        f"{_DDP}._active_ddp_module",
        "torch:_GLOBAL_DEVICE_CONTEXT",
        "torch._C:_InferenceMode",
        "torch._C:_autograd._pop_saved_tensors_default_hooks",
        "torch._C:_autograd._push_saved_tensors_default_hooks",
        "torch._C:_autograd._top_saved_tensors_default_hooks",
        "torch._C:_get_deterministic_algorithms",
        "torch._C:_get_deterministic_algorithms_warn_only",
        "torch._C:_get_cublas_allow_tf32",
        "torch._C:_get_cudnn_allow_tf32",
        "torch._C:_get_dispatch_stack_at",
        "torch._C:_get_float32_matmul_precision",
        "torch._C:_get_fp32_precision_getter",
        "torch._C:_get_function_stack_at",
        "torch._C:_len_torch_dispatch_stack",
        "torch._C:_len_torch_function_stack",
        "torch._C:_pop_torch_dispatch_stack",
        "torch._C:_pop_torch_function_stack",
        "torch._C:_push_on_torch_dispatch_stack",
        "torch._C:_push_on_torch_function_stack",
        "torch._C:_set_cublas_allow_tf32",
        "torch._C:_set_cudnn_allow_tf32",
        "torch._C:_set_deterministic_algorithms",
        "torch._C:_set_float32_matmul_precision",
        "torch._C:_set_fp32_precision_setter",
        "torch._C:autocast_decrement_nesting",
        "torch._C:autocast_increment_nesting",
        "torch._C:is_anomaly_check_nan_enabled",
        "torch._C:set_autocast_enabled",
        "torch._tensor_str:PRINT_OPTS",
        "torch.accelerator:current_accelerator",
        "torch.utils._device:CURRENT_DEVICE",
    ),
    "isolation/random_generators": (
        "_random:Random",
        "random:_inst",
        "torch:Generator.graphsafe_get_state",
        "torch:Generator.graphsafe_set_state",
        "torch.cuda:_lazy_seed_tracker.call_order",
    ),
    "isolation/loggers": (
        "logging:Logger._cache",
        "logging:Manager._fixupChildren",
        "logging:Manager._fixupParents",
        "logging:_handlerList",
        "logging:_logRecordFactory",
        "logging:_loggerClass",
    ),
    "isolation/operators": ("torch._C:_dispatch_get_all_op_names",),
    "isolation/profiler": (
        "torch._C._autograd:_profiler_enabled",
        "torch._C._autograd:_profiler_type",
        "torch._C._profiler:ActiveProfilerType",
    ),
    "launcher/agent": (
        f"{_AGENT}.local_elastic_agent:LocalElasticAgent._monitor_workers",
        f"{_AGENT}.local_elastic_agent:LocalElasticAgent._pcontext",
        f"{_AGENT}.local_elastic_agent:LocalElasticAgent._restart_workers",
        f"{_AGENT}.local_elastic_agent:LocalElasticAgent._shutdown(death_sig)",
        f"{_AGENT}.local_elastic_agent:LocalElasticAgent._start_workers",
        f"{_ELASTIC}.multiprocessing:SignalException",
        f"{_ELASTIC}.multiprocessing.api:SubprocessContext.close(timeout)",
        f"{_ELASTIC}.multiprocessing.api:SubprocessContext.subprocess_handlers",
        f"{_ELASTIC}.rendezvous:RendezvousInfo",
        f"{_ELASTIC}.rendezvous:RendezvousStoreInfo",
        "torch.distributed:TCPStore.__init__(master_listen_fd)",
    ),
    "cli/run": ("argparse:ArgumentParser._add_action",),
    "launcher/workers": ("torch.distributed.launcher.api:LaunchConfig.__init__(signals_to_handle)",),
    "launcher/torchrun_options": ("argparse:ArgumentParser._actions", "torch.distributed.run:get_args_parser"),
    "launcher/options": (
        "argparse:ArgumentParser._actions",
        f"{_AGENT}.api:WorkerSpec.__init__(duplicate_stderr_filters)",
        f"{_AGENT}.api:WorkerSpec.__init__(duplicate_stdout_filters)",
        f"{_AGENT}.api:WorkerSpec.__init__(event_log_handler)",
        f"{_AGENT}.api:WorkerSpec.__init__(numa_options)",
        f"{_AGENT}.api:WorkerSpec.__init__(virtual_local_rank)",
        f"{_ELASTIC}.rendezvous.registry:get_rendezvous_handler",
        f"{_ELASTIC}.rendezvous.utils:parse_rendezvous_endpoint",
        "torch.distributed.run:config_from_args",
        "torch.distributed.run:determine_local_world_size",
        "torch.distributed.run:parse_min_max_nnodes",
    ),
}
# Of torch's settings, where they are not kept by context.
NEEDED_WITHOUT_CONTEXTS = (
    "torch.utils._config_module:_UNSET_SENTINEL",
    "torch.utils._config_module:ConfigModule._is_dirty",
    "torch.utils._config_module:install_config_module._config",
)
# Only in builds for CUDA, and asked for only where CUDA is in use.
NEEDED_WITH_CUDA = (
    "torch._C:_cuda_getCurrentStream",
    "torch._C:_cuda_getDevice",
    "torch._C:_cuda_setStream",
)


def found(path: str) -> bool:
    """Tell whether what ``path`` names is there. Imports its module; makes nothing."""
    module, _, rest = path.partition(":")
    rest, _, parameter = rest.partition("(")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a module will go some day is not the user's concern
            owner: object = importlib.import_module(module)
    except ImportError:
        return False
    for name in rest.split("."):
        if not hasattr(owner, name):
            return not parameter and name in _assigned(owner)
        owner = getattr(owner, name)
    return not parameter or parameter.rstrip(")") in _parameters(owner)


def _parameters(function: object) -> str | tuple[str, ...]:
    """Return the names that ``function`` takes; of what is written in C, the text that says so."""
    assert callable(function)
    try:
        return tuple(inspect.signature(function).parameters)
    except ValueError:
        return function.__doc__ or ""


def _assigned(owner: object) -> set[str]:
    """Return the attributes that the methods of a class, or a function, set on whatever object."""
    values = [value for cls in owner.__mro__ for value in vars(cls).values()] if isinstance(owner, type) else [owner]
    functions = (inspect.unwrap(value) for value in values if isinstance(value, types.FunctionType))
    return {name for each in functions if isinstance(each, types.FunctionType) for name in _stored(each.__code__)}


def _stored(code: types.CodeType) -> Iterator[str]:
    yield from (each.argval for each in dis.get_instructions(code) if each.opname == "STORE_ATTR")
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _stored(inner)


def missing() -> list[str]:
    """Return those needed names that are not there. Imports all modules that hold one: torch, as a rule."""
    needed = [path for paths in NEEDED.values() for path in paths]
    if not CONFIG_PER_CONTEXT.there:
        needed += NEEDED_WITHOUT_CONTEXTS
    if found("torch._C:_cuda_init"):
        needed += NEEDED_WITH_CUDA
    return [path for path in needed if not found(path)]


def torch_version() -> tuple[int, int] | None:
    """Return the first two numbers of the installed torch's version; None without torch. Imports it only if it must."""
    try:
        text = str(sys.modules["torch"].__version__) if "torch" in sys.modules else importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        if importlib.util.find_spec("torch") is None:
            return None
        text = str(importlib.import_module("torch").__version__)  # a checkout of torch on the path
    numbers = re.match(r"(\d+)\.(\d+)", text)
    assert numbers is not None, text
    return int(numbers[1]), int(numbers[2])


@functools.cache
def check() -> str | None:
    """Return what to tell the user where torch is newer than any that was tried; None where there is nothing to tell.

    Raises `UsageError` where torch or Python is too old, and where a newer torch lacks a name that Motet needs.
    """
    if sys.version_info[:2] < OLDEST_PYTHON:
        raise UsageError(f"Motet needs Python {_dotted(OLDEST_PYTHON)} or newer, and this is {sys.version.split()[0]}")
    version = torch_version()
    remedy = f"install torch {_dotted(OLDEST)} or newer, for instance pip install 'torch>={_dotted(OLDEST)}'"
    if version is None:
        raise UsageError(f"Motet needs torch, and {sys.executable} has none: {remedy}")
    if version < OLDEST:
        raise UsageError(
            f"torch {_dotted(version)} is too old, since DDP and torch elastic of before {_dotted(OLDEST)} lack what "
            f"Motet works with: {remedy}"
        )
    if version <= NEWEST:
        return None
    if lacking := missing():
        raise UsageError(
            f"torch {_dotted(version)} has no {' and no '.join(lacking)}, which Motet needs: install "
            f"{_dotted(NEWEST)}, the newest that Motet was tested with, or a newer Motet"
        )
    return f"torch {_dotted(version)} is newer than {_dotted(NEWEST)}, the newest that Motet was tested with"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version[:2]))
