"""Everything that Motet replaces in torch, in Python and in libraries: where, who answers instead, and why.

Three tables. What `DURING_A_RUN` names is replaced while jobs that live together run, and put back after the run; who
answers is `motet.intercept.ddp.JobSeams`, and code that runs outside of any job passes through. What
`IN_A_JOBS_PROCESS` names is replaced in a job's own process and lives as long as that; who answers is
`motet.processes.waits.BlockingCalls`. What `WRITERS` names is replaced once its library has been imported, in both, and
put back as well (`motet.same_files.libraries`).

How it is done is in `motet.patching`. Beside that there are only hooks that Python offers: an audit hook for files
(`motet.same_files.hook`), ``os.register_at_fork``, handlers of signals; and each job's own values of what there is one
of in a process (`motet.isolation`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Patch:
    """A row. ``where``: ``MODULE:NAME``, as in `motet.torch_names`; ``answer``: the method that is called instead.

    The method is given the original and then the arguments. ``instead``: what a user can do where the thing is refused,
    which is called ``answer`` then. ``optional``: not every version has it. ``eager``: torch.compile does not trace it.
    """

    where: str
    answer: str
    why: str
    instead: str = ""
    optional: bool = False
    eager: bool = False


_DDP = "torch.nn.parallel:DistributedDataParallel"
_C10D = "torch.distributed:distributed_c10d"
_TENSOR = "torch.distributed.tensor"
_REDUCER = "torch._C._distributed_c10d:Reducer"
_PROFILER, _LEGACY = "torch.autograd.profiler", "torch.autograd.profiler_legacy"
_LOADERS = "torch.utils.data:_utils.signal_handling"
_PROCESS = "multiprocessing.process:BaseProcess"
_WHOLE_MODELS = (
    "Motet trains models that every worker holds whole, under DistributedDataParallel: use that (in Lightning "
    'strategy="ddp", in Accelerate and Transformers no FSDP, DeepSpeed or tensor-parallel settings), or run this job '
    "alone with torchrun."
)
_DIRECTLY = "Motet starts the workers itself: call the function that each worker runs directly, as under torchrun."
_REFUSED = "what it does cannot be put between turns"
DEEPSPEED = Patch("", "DeepSpeed", _REFUSED, _WHOLE_MODELS)  # noticed where it makes its groups

DURING_A_RUN = (
    # A turn, and the gradients that leave in it
    Patch("torch.autograd:backward", "backward", "a turn ends when it returns; Tensor.backward calls it"),
    Patch(f"{_DDP}.__init__", "build_ddp", "a job's model is deferred: its gradients leave through Motet"),
    Patch(f"{_DDP}.__setstate__", "restore_ddp", "so is one that was copied or unpickled"),
    Patch(f"{_DDP}._ddp_init_helper", "build_reducer", "the reducer gets a group that sends nothing by itself"),
    Patch(f"{_DDP}.register_comm_hook", "register_comm_hook", "a user's hook runs on deferred buckets"),
    Patch(f"{_DDP}._register_builtin_comm_hook", "register_builtin_hook", "so does its twin in Python"),
    Patch(f"{_DDP}._sync_buffers", "forward_begins", "buffers are synchronized while others compute"),
    Patch(f"{_DDP}.finalize_backward", "finalize", "it comes after the gradients have", optional=True),
    Patch("torch.optim:Optimizer.__init__", "build_optimizer", "checkpoints find the job's optimizers"),
    Patch("torch:compile", "compile", "what one job compiles does not count for another"),
    # Process groups: each job is the whole of a process
    Patch("torch.distributed:init_process_group", "init_process_group", "a job has a default group of its own"),
    Patch("torch.distributed:destroy_process_group", "destroy_process_group", "it ends its own only"),
    Patch("torch.distributed:new_group", "new_group", "its groups end with it"),
    Patch(f"{_C10D}._get_default_group", "default_group", "none was named: the job's is meant"),
    Patch(f"{_C10D}._process_group_name", "group_name", "no two jobs' groups have one name"),
    Patch(f"{_C10D}._world", "world_values", "what torch knows of groups is the job's"),
    # What there is one of in a process
    Patch("signal:signal", "signal", "each job has handlers of its own"),
    Patch("signal:getsignal", "getsignal", "and finds them"),
    Patch("signal:setitimer", "setitimer", "each job has timers of its own"),
    Patch("signal:getitimer", "getitimer", "and reads them"),
    Patch("signal:alarm", "alarm", "and this one"),
    Patch("os:kill", "send_signal", "a signal that a job sends to its own process is for the job"),
    Patch("signal:raise_signal", "send_signal", "so is this one"),
    Patch("_thread:interrupt_main", "send_signal", "and this one"),
    Patch("os:umask", "set_umask", "each job has a mask of its own for new files"),
    Patch("resource:setrlimit", "set_limit", "a process has its limits for all of its jobs"),
    Patch("resource:getrlimit", "limit", "a job finds what it has set"),
    Patch("atexit:register", "register_exit", "a job's exit hooks run at its end"),
    Patch("atexit:unregister", "unregister_exit", "or not at all"),
    Patch("threading:Thread.start", "start_thread", "a thread belongs to the job that starts it"),
    Patch(f"{_PROCESS}.start", "start_process", "a process does, and is waited for at the job's end"),
    Patch(f"{_PROFILER}:_prepare_profiler", "profile", "torch's profiler is one job's at a time"),
    Patch(f"{_PROFILER}:_enable_profiler", "profile", "the same"),
    Patch(f"{_PROFILER}:_disable_profiler", "profile", "the same"),
    Patch(f"{_LEGACY}:_enable_profiler_legacy", "profile_legacy", "the same"),
    Patch(f"{_LEGACY}:_disable_profiler_legacy", "profile_legacy", "the same"),
    Patch("torch.library:Library.__init__", "open_library", "two jobs may define operators of one name"),
    Patch("torch.library:Library.impl", "implement_operator", "one by its whole name"),
    Patch("torch._library.custom_ops:CustomOpDef.__init__", "define_operator", "by which every custom one is"),
    Patch("torch._library.utils:parse_namespace", "parse_namespace", "and each finds its own"),
    Patch("torch._library.custom_ops:_maybe_get_opdef", "find_operator", "the same"),
    Patch(f"{_LOADERS}._error_if_any_worker_fails", "loader_worker_failed", "it is raised in its own job"),
    Patch(f"{_LOADERS}._set_worker_signal_handlers", "begin_loader_worker", "it outlives a stop of the run"),
    Patch("torch._C:PyTorchFileWriter", "write_file", "torch.save writes past Python: no audit event"),
    Patch("torch.jit:_script.RecursiveScriptModule.save", "write_file", "the same"),
    # What cannot be pipelined
    Patch(
        "torch.multiprocessing:spawn", "torch.multiprocessing.spawn", _REFUSED, f"{_DIRECTLY[:-1]}, as under torchrun."
    ),
    Patch("torch.multiprocessing:start_processes", "torch.multiprocessing.start_processes", _REFUSED, _DIRECTLY),
    Patch("torch.distributed.fsdp:fully_shard", "FSDP (fully_shard)", _REFUSED, _WHOLE_MODELS),
    Patch("torch.distributed.fsdp:FullyShardedDataParallel.__init__", "FSDP", _REFUSED, _WHOLE_MODELS),
    Patch(f"{_TENSOR}:distribute_module", "tensor parallelism (distribute_module)", _REFUSED, _WHOLE_MODELS),
    Patch(f"{_TENSOR}:distribute_tensor", "tensor parallelism (distribute_tensor)", _REFUSED, _WHOLE_MODELS),
    Patch(f"{_TENSOR}.parallel:parallelize_module", "tensor parallelism (parallelize_module)", _REFUSED, _WHOLE_MODELS),
    Patch(
        "torch.distributed.algorithms.join:Join.__init__",
        "Join",
        _REFUSED,
        "Give every worker equally many batches (DistributedSampler does), or run this job alone with torchrun.",
    ),
    Patch(
        f"{_DDP}._register_fused_optim",
        "_register_fused_optim",
        _REFUSED,
        "Step the optimizer after backward(), or run this job alone with torchrun.",
    ),
)

IN_A_JOBS_PROCESS = (
    Patch("torch.autograd:backward", "backward", "a turn ends when its gradients leave", eager=True),
    Patch(f"{_DDP}.__init__", "build_ddp", "it is built together with all workers"),
    Patch(f"{_DDP}.__setstate__", "restore_ddp", "so is one that was copied or unpickled"),
    Patch(f"{_REDUCER}.prepare_for_backward", "prepare", "the backward will synchronize", eager=True),
    Patch(f"{_REDUCER}._rebuild_buckets", "lay_out_buckets", "it waits for the other workers, once", eager=True),
    Patch("torch.distributed.algorithms.join:Join.__enter__", "join_begins", "workers take different numbers of steps"),
    Patch("torch.distributed.algorithms.join:Join.__exit__", "join_ends", "until here"),
    Patch("torch._C._distributed_c10d:Work.wait", "wait_work", "all collectives wait by it, blocking ones as well"),
    Patch("torch.distributed:_functional_collectives.wait_tensor", "wait_tensor", "those of compiled code do by it"),
    Patch("torch.distributed:init_process_group", "wait", "it waits for the other workers"),
    Patch("torch.distributed:new_group", "wait", "the same"),
    Patch("torch.distributed:destroy_process_group", "wait", "the same"),
    Patch("torch.distributed:monitored_barrier", "wait", "the same"),
    Patch(f"{_C10D}.init_process_group", "wait", "torch's own modules call it so"),
    Patch(f"{_C10D}.new_group", "wait", "the same"),
    Patch(f"{_C10D}.destroy_process_group", "wait", "the same"),
    Patch(f"{_C10D}.monitored_barrier", "wait", "the same"),
    Patch("torch.distributed:_broadcast_coalesced", "wait", "DDP's buffers come by it"),
    Patch(
        "torch.utils.data.dataloader:_MultiProcessingDataLoaderIter._try_get_data",
        "next_batch",
        "a DataLoader waits for its workers",
    ),
    Patch(f"{_LOADERS}._error_if_any_worker_fails", "loader_worker_failed", "never in code that hands over the turn"),
    Patch(f"{_LOADERS}._set_worker_signal_handlers", "begin_loader_worker", "it outlives a stop of the run"),
    Patch("concurrent.futures:Future.result", "future_result", "a program waits for what it has started"),
    Patch("threading:Thread.join", "join_thread", "the same"),
    Patch("subprocess:Popen.wait", "wait_child", "the same"),
    Patch(f"{_PROCESS}.join", "join_process", "the same"),
    Patch("torch.multiprocessing.spawn:ProcessContext.join", "wait", "the same"),
    Patch("queue:Queue.get", "take_from_queue", "a thread of the program's fills it: batches, mostly"),
    Patch("time:sleep", "sleep", "others may compute meanwhile"),
    Patch("torch._C:PyTorchFileWriter", "write_file", "torch.save writes past Python: no audit event"),
    Patch("torch.jit:_script.RecursiveScriptModule.save", "write_file", "the same"),
)


@dataclass(frozen=True)
class Writer:
    """A function that writes the file given as its argument number ``place``, or ``keyword``.

    ``mode``: where it says how it opens the file; one that begins with ``r`` and has no ``+`` only reads it.
    """

    module: str
    name: str
    place: int
    keyword: str
    mode: int | None = None
    reads: str = ""  # the mode, where none is given


# They write past Python, so that no audit event reports the file.
WRITERS = (
    Writer("safetensors", "serialize_file", 1, "filename"),
    Writer("safetensors.torch", "serialize_file", 1, "filename"),
    Writer("safetensors.numpy", "serialize_file", 1, "filename"),
    Writer("h5py._hl.files", "File.__init__", 1, "name", mode=2, reads="r"),
    Writer("tables.file", "File.__init__", 1, "filename", mode=2, reads="r"),
    Writer("pyarrow.parquet.core", "ParquetWriter.__init__", 1, "where"),
    Writer("pyarrow.feather", "write_feather", 1, "dest"),
    Writer("pyarrow.csv", "write_csv", 1, "output_file"),
    Writer("pandas.core.frame", "DataFrame.to_parquet", 1, "path"),
    Writer("pandas.core.frame", "DataFrame.to_feather", 1, "path"),
    Writer("polars.dataframe.frame", "DataFrame.write_csv", 1, "file"),
    Writer("polars.dataframe.frame", "DataFrame.write_parquet", 1, "file"),
    Writer("polars.dataframe.frame", "DataFrame.write_ipc", 1, "file"),
    Writer("tokenizers", "Tokenizer.save", 1, "path"),
    Writer("xgboost.core", "Booster.save_model", 1, "fname"),
    Writer("lightgbm.basic", "Booster.save_model", 1, "filename"),
    Writer("faiss.swigfaiss", "write_index", 1, "fname"),
    Writer("cv2", "imwrite", 0, "filename"),
    Writer("soundfile", "write", 0, "file"),
    Writer("torchvision.io.image", "write_file", 0, "filename"),
)
