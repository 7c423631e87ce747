"""torchrun's options, parsed by torchrun's own parser, and what torch elastic is to make of them."""

from __future__ import annotations

import argparse
import resource
import uuid
from collections.abc import Sequence

from torch.distributed.elastic.agent.server.api import WorkerSpec
from torch.distributed.elastic.rendezvous import RendezvousHandler
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint
from torch.distributed.launcher.api import LaunchConfig
from torch.distributed.run import (
    config_from_args,
    determine_local_world_size,
    parse_min_max_nnodes,
)

from motet.errors import UsageError
from motet.launcher.agent import LoopbackRendezvous
from motet.launcher.hosts import Meeting
from motet.launcher.torchrun_options import torchrun_options as torchrun_options  # it belongs here, too
from motet.launcher.torchrun_options import torchrun_parser
from motet.workers.sockets import check_loopback

_SECONDS = ("join_timeout", "timeout", "last_call_timeout")  # of --rdzv-conf

LEAST_OPEN_FILES = 256


def parse_torchrun_options(argv: Sequence[str]) -> argparse.Namespace:
    """Parse ``argv`` as torchrun would."""
    return torchrun_parser().parse_args([*argv, "motet.entry"])


def on_one_machine(options: argparse.Namespace) -> bool:
    """Return whether ``options`` ask for workers on this machine alone; wrong numbers of machines are refused."""
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
    _allow_open_files()
    if on_one_machine(options):
        check_loopback()
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


def _allow_open_files() -> None:
    """Raise a low limit of open files, for this process and its workers; `UsageError` where nobody may.

    A worker that meets the limit while its groups are made waits without a word for connections that never come.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < LEAST_OPEN_FILES:
        if hard != resource.RLIM_INFINITY and hard < LEAST_OPEN_FILES:
            raise UsageError(
                f"a process may open {soft} files here, and a worker needs {LEAST_OPEN_FILES} at least, more for each "
                f"job: raise the limit (ulimit -n 4096)"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (LEAST_OPEN_FILES, hard))


def worker_spec(
    options: argparse.Namespace,
    program: str,
    arguments: Sequence[str],
    logs: str,
    rendezvous: RendezvousHandler | None = None,
) -> tuple[WorkerSpec, LaunchConfig]:
    """Return what torch elastic calls a `WorkerSpec` and a `LaunchConfig`: how to start ``program``, and with whom."""
    options = argparse.Namespace(**vars(options))
    options.training_script, options.training_script_args = program, list(arguments)
    options.module, options.no_python, options.run_path = not program.endswith(".py"), False, False
    if options.log_dir is None and options.redirects == options.tee == "0":
        options.log_dir = logs  # torch elastic makes folders in any case; nothing that anyone asked for is in them
    if options.master_port is None:
        options.master_port = 29500  # torchrun's
    handler = rendezvous or LoopbackRendezvous(f"motet-{uuid.uuid4().hex}")
    try:
        config, command, command_arguments = config_from_args(options)
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
        local_addr=config.local_addr,
        event_log_handler=config.event_log_handler,
        numa_options=config.numa_options,
        duplicate_stdout_filters=config.duplicate_stdout_filters,
        duplicate_stderr_filters=config.duplicate_stderr_filters,
        virtual_local_rank=config.virtual_local_rank,
    )
    return spec, config


def meeting_of(options: argparse.Namespace) -> Meeting:
    """Return where and with whom this host is to run together."""
    options = argparse.Namespace(**vars(options))
    options.training_script, options.training_script_args = "motet.entry", []
    options.module, options.no_python, options.run_path = True, False, False
    if options.master_port is None:
        options.master_port = 29500  # torchrun's
    try:
        config = config_from_args(options)[0]
        default = 29500 if config.rdzv_backend == "static" else 29400
        host, port = parse_rendezvous_endpoint(config.rdzv_endpoint, default_port=default)
        given = {name: float(config.rdzv_configs[name]) for name in _SECONDS if name in config.rdzv_configs}
    except (ValueError, AssertionError, RuntimeError, OSError) as error:
        raise UsageError(f"torch elastic does not accept these options: {error}") from None
    static = config.rdzv_backend == "static"
    if static and config.min_nodes != config.max_nodes:
        raise UsageError(f"--nnodes={options.nnodes} is for --rdzv-backend=c10d: with static, each host has its number")
    keeps = str(config.rdzv_configs.get("is_host", "")).lower()
    return Meeting(
        host=host,
        port=port,
        run_id=config.run_id,
        least=config.min_nodes,
        most=config.max_nodes,
        number=int(options.node_rank) if static else None,
        keeps_store=keeps in {"1", "true", "yes"} if keeps else None,
        join_seconds=given.get("join_timeout", given.get("timeout", 600.0)),
        last_call_seconds=given.get("last_call_timeout", 30.0),
    )
