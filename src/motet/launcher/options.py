"""torchrun's options, parsed by torchrun's own parser, and what torch elastic is to make of them."""

from __future__ import annotations

import argparse
import uuid
from collections.abc import Callable, Sequence

from torch.distributed.elastic.agent.server.api import WorkerSpec
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint
from torch.distributed.launcher.api import LaunchConfig
from torch.distributed.run import (
    config_from_args,
    determine_local_world_size,
    parse_min_max_nnodes,
)

from motet.errors import UsageError
from motet.launcher.agent import BoundedRendezvous, LoopbackRendezvous
from motet.launcher.torchrun_options import torchrun_options as torchrun_options  # it belongs here, too
from motet.launcher.torchrun_options import torchrun_parser


def parse_torchrun_options(argv: Sequence[str]) -> argparse.Namespace:
    """Parse ``argv`` as torchrun would."""
    return torchrun_parser().parse_args([*argv, "motet.entry"])


def on_one_machine(options: argparse.Namespace) -> bool:
    """Tell whether ``options`` ask for workers on this machine alone; wrong numbers of machines are refused."""
    if options.standalone:
        return True
    try:
        least, most = parse_min_max_nnodes(options.nnodes)
    except (ValueError, RuntimeError):
        raise UsageError(f"--nnodes must be a number or MIN:MAX, not {options.nnodes!r}") from None
    if not 0 < least <= most:
        raise UsageError(f"--nnodes must be at least 1, and MIN at most MAX, not {options.nnodes!r}")
    return bool(most == 1)


def check_torchrun_options(options: argparse.Namespace) -> None:
    """Raise `UsageError` on options that cannot start any worker."""
    on_one_machine(options)
    try:
        num_workers = determine_local_world_size(options.nproc_per_node)
    except ValueError as error:
        raise UsageError(f"--nproc-per-node: {error}") from None
    if num_workers < 1:
        raise UsageError(f"--nproc-per-node must be at least 1, not {options.nproc_per_node}: a run needs a worker")
    if options.max_restarts < 0:
        raise UsageError(f"--max-restarts must be at least 0, not {options.max_restarts}")
    if options.monitor_interval <= 0:
        raise UsageError(f"--monitor-interval must be above 0, not {options.monitor_interval}")
    if options.rdzv_backend not in {"static", "c10d"} and not on_one_machine(options):
        raise UsageError(f"--rdzv-backend must be c10d or static, not {options.rdzv_backend!r}")


def worker_spec(
    options: argparse.Namespace,
    program: str,
    arguments: Sequence[str],
    logs: str,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[WorkerSpec, LaunchConfig]:
    """Return what torch elastic calls a `WorkerSpec` and a `LaunchConfig`: how to start ``program``, and with whom.

    ``say`` is told about waiting for other machines.
    """
    options = argparse.Namespace(**vars(options))
    options.training_script, options.training_script_args = program, list(arguments)
    options.module, options.no_python, options.run_path = not program.endswith(".py"), False, False
    if options.log_dir is None and options.redirects == options.tee == "0":
        options.log_dir = logs  # torch elastic makes folders in any case; nothing that anyone asked for is in them
    if options.master_port is None:
        options.master_port = 29500  # torchrun's
    handler: RendezvousHandler = LoopbackRendezvous(f"motet-{uuid.uuid4().hex}")
    address, port = None, None
    try:
        config, command, command_arguments = config_from_args(options)
        if not on_one_machine(options):
            handler = _handler_among_machines(config, say)
            if config.rdzv_backend == "static":
                address, port = parse_rendezvous_endpoint(config.rdzv_endpoint, default_port=-1)
    except (ValueError, AssertionError, RuntimeError, OSError) as error:
        raise UsageError(f"torch elastic does not accept these options: {error}") from None
    spec = WorkerSpec(
        role=config.role,
        local_world_size=config.nproc_per_node,
        entrypoint=command,
        args=tuple(command_arguments),
        rdzv_handler=handler,
        max_restarts=config.max_restarts,
        monitor_interval=config.monitor_interval,
        master_addr=address,
        master_port=port,
        local_addr=config.local_addr,
        event_log_handler=config.event_log_handler,
        numa_options=config.numa_options,
        duplicate_stdout_filters=config.duplicate_stdout_filters,
        duplicate_stderr_filters=config.duplicate_stderr_filters,
        virtual_local_rank=config.virtual_local_rank,
    )
    return spec, config


def _handler_among_machines(config: LaunchConfig, say: Callable[[str], None]) -> RendezvousHandler:
    """Return torch elastic's own rendezvous, as torchrun would use it."""
    parameters = RendezvousParameters(
        backend=config.rdzv_backend,
        endpoint=config.rdzv_endpoint,
        run_id=config.run_id,
        min_nodes=config.min_nodes,
        max_nodes=config.max_nodes,
        local_addr=config.local_addr,
        **config.rdzv_configs,
    )
    return BoundedRendezvous(get_rendezvous_handler(parameters), say)
