"""A world of its own for each job: what ``torch.distributed`` answers it, and the groups that its collectives run on.

Torch keeps one world a process: the default group, and maps of all groups. Several jobs in one process need one each.
A job asks ``is_initialized()`` before it has made the group and gets False, as in a process of its own; what it makes
is a group of its own, so that nothing that it sends can be taken for another job's, from whichever of its threads.

Nothing is exchanged at a turn: torch looks up everything in one object, and what that object answers depends on who
asks (`motet.patches`). The main thread asks for the job whose turn it is, a thread for the job that
started it, whoever has the turn meanwhile. Groups are made when a job makes them, inside its turn, which comes in the
same order on every worker. Their names carry the job's, because torch's C++ side keeps one list of names for the whole
process.

What is sent on a device goes through one communicator (ADR 0020), so there a job's world has CPU groups of its own and
shares the device's.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import _unregister_process_group

from motet.errors import UnsupportedError
from motet.patching import Call
from motet.workers.group import Workers
from motet.workers.sockets import connecting_for_job

# The properties of torch's `_World` that hold something; what a version of torch does not have is not asked for.
VALUES: dict[str, Callable[[], Any]] = {
    "default_pg": lambda: None,
    "pg_map": dict,
    "pg_names": dict,
    "pg_group_ranks": dict,
    "pg_backend_config": dict,
    "group_count": int,
    "tags_to_pg": dict,
    "pg_to_tag": dict,
    "pg_coalesce_state": dict,
    "comms": list,
}
_c10d: Any = dist.distributed_c10d


class World:
    """What one job, its threads included, finds in ``torch.distributed``: ``values``, named as torch's `_World` does.

    ``inherits``: it finds what the process has that it runs in. ``made_when_needed``: a function that asks for the
    default group without having made it gets it; ``made_silently``: so it was.
    """

    def __init__(self, job: str, *, inherits: bool, made_when_needed: bool) -> None:
        self.job = job
        self.inherits = inherits
        self.made_when_needed = made_when_needed
        self.made_silently = False
        self.num_made = 0
        self.threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self.values: dict[str, Any] = {}
        self.clear()

    def clear(self) -> None:
        """Find nothing: no group has been made, or all have been ended."""
        self.values = {name: nothing() for name, nothing in VALUES.items()}
        self.made_silently = False

    @property
    def label(self) -> str:
        """What tells its groups from those of other jobs, and from those that this job has ended. Same everywhere."""
        return f"{self.job}.{self.num_made}"


class Worlds:
    """The worlds of all jobs on this worker.

    ``present()`` names the job whose turn it is, ``in_backward()`` says whether it is inside of a backward.

    Jobs begin as the run found the process: where the program had made a group by then, a function finds that one.
    A script finds none, as when it is started. Nor does any job where Motet itself made the run's group.
    """

    def __init__(
        self, workers: Workers, present: Callable[[], str | None], in_backward: Callable[[], bool] = lambda: False
    ) -> None:
        self._workers = workers
        self._present = present
        self._in_backward = in_backward
        self.num_asked = 0  # how often the main thread has looked up what torch knows
        self._worlds: dict[str, World] = {}
        self._entered: World | None = None
        self._main = threading.get_ident()
        self._process = os.getpid()
        self._local = threading.local()
        self._let_go: list[dist.ProcessGroup] = []

    def begin(self, job: str, *, is_script: bool) -> None:
        """Give a job its world."""
        inherits = self._workers.found_group and not is_script
        self._worlds[job] = World(job, inherits=inherits, made_when_needed=not is_script)
        self._let_go.clear()

    def end(self, job: str) -> None:
        """End whatever groups a job has left, once nothing of it is in flight any more."""
        with self._inside(self._worlds[job]) as world:
            world.made_when_needed = False
            if world.values["default_pg"] is not None:
                dist.destroy_process_group()
        del self._worlds[job]
        self._let_go.clear()

    def here(self) -> World | None:
        """Return the world of the job whose code calls; None outside of jobs."""
        if threading.get_ident() == self._main:
            job = self._present()
            return self._entered if job is None else self._worlds.get(job)
        started_by: World | None = getattr(self._local, "world", None)
        return started_by if started_by is not None else self._behind_python()

    def values(self) -> dict[str, Any] | None:
        """Return what torch is to look up for whoever calls; None: what the process itself has."""
        if threading.get_ident() == self._main:
            self.num_asked += 1
        world = self.here()
        return None if world is None or world.inherits else world.values

    def _behind_python(self) -> World | None:
        """Return the world of a thread that no job has started.

        Autograd has threads for devices, for which the main thread waits in a job's backward: they see that job's.
        Others belong to a process group: what they call back may be another job's, and finds the run's own group,
        which has the same workers.
        """
        here, job = threading.get_ident(), self._present()
        if job is None or not self._in_backward():
            return None
        if any(t.ident == here and type(t).__name__ != "_DummyThread" for t in threading.enumerate()):
            return None
        world = self._worlds.get(job)
        return None if world is None or world.values["default_pg"] is None else world

    @contextlib.contextmanager
    def _inside(self, world: World) -> Iterator[World]:
        self._entered = world
        try:
            yield world
        finally:
            self._entered = None

    def start_thread(self, original: Call, thread: threading.Thread, /) -> None:
        """Start a thread; one that a job starts finds that job's world, for as long as it runs."""
        world = self.here()
        if world is None:
            original(thread)
            return
        run, local = thread.run, self._local

        def run_in_world() -> None:
            local.world = world
            try:
                run()
            finally:
                vars(thread).pop("run", None)  # it refers to itself

        vars(thread)["run"] = run_in_world
        world.threads.add(thread)
        try:
            original(thread)
        except BaseException:
            vars(thread).pop("run", None)
            raise

    def threads(self, job: str) -> list[threading.Thread]:
        """Return the threads that a job has started, and those that these have started."""
        return list(self._worlds[job].threads)

    def init(self, original: Call, /, *args: Any, **kwargs: Any) -> None:
        """Make a job's default group. Collective."""
        world = self.here()
        if world is None or os.getpid() != self._process:  # forked by a job: its group is not one of the run's workers
            original(*args, **kwargs)
            return
        given = inspect.signature(original).bind(*args, **kwargs).arguments
        if world.values["default_pg"] is not None and not world.made_silently:
            original(*args, **kwargs)  # raises what it raises
            return
        self._check(world.job, given)
        if world.made_silently:
            world.made_silently = False
            return
        inherited, world.inherits = world.inherits, False
        before = _c10d._backend, _c10d._default_pg_init_method
        try:
            self._make(world, original, given)
        except BaseException:
            world.inherits = inherited
            world.clear()
            raise
        finally:
            _set_defaults(*before)
        world.made_when_needed = False

    def _make(self, world: World, original: Call, given: dict[str, Any]) -> None:
        workers, shared = self._workers, self._workers.device_lane
        world.num_made += 1
        options = {name: given[name] for name in ("backend", "timeout", "pg_options", "device_id") if name in given}
        if isinstance(given.get("timeout", timedelta()), timedelta):
            # Other jobs' turns count against it, and a group is broken once it has passed. What hangs, the watch finds.
            least = timedelta(seconds=workers.timeout_seconds + 60.0)
            options["timeout"] = max(given.get("timeout") or _c10d.default_pg_timeout, least)
        if shared is not None:
            options = {"timeout": options.get("timeout"), "backend": "cpu:gloo"}
        elif options.get("backend") is None:
            options["backend"] = workers.backend_config if torch.accelerator.is_available() else None
        store = workers.store_for(f"world/{world.label}")
        with connecting_for_job(lazily=workers.connects_jobs_lazily):
            original(**options, store=store, rank=workers.worker, world_size=workers.num_workers)
        if shared is not None:
            _share_device(world, shared, workers.backend_config, given.get("backend"))

    def _check(self, job: str, given: dict[str, Any]) -> None:
        """Raise if a job asks for another process group than the workers of this run can make."""
        for option, present in (("world_size", self._workers.num_workers), ("rank", self._workers.worker)):
            wanted = given.get(option, -1)
            if wanted not in (-1, present):
                raise UnsupportedError(
                    f"job '{job}': init_process_group({option}={wanted}) does not fit this run, where {option} is "
                    f"{present}: each job's process group spans all workers. Leave it out, as under torchrun."
                )
        backend, config = given.get("backend"), self._workers.backend_config
        if backend is not None:
            asked = {part.split(":")[-1] for part in str(backend).lower().split(",")}
            if missing := asked - set(config.replace(",", ":").split(":")):
                raise UnsupportedError(
                    f"job '{job}': init_process_group asks for {'/'.join(sorted(missing))}, but the workers of this "
                    f"run are joined by {config}. Leave backend out, or ask for one of these."
                )

    def default_group(self, original: Call, /) -> Any:
        """Return the default group; a function that relies on one is given it now."""
        world = self.here()
        needed = world is not None and world.made_when_needed and not world.inherits
        if needed and world is not None and world.values["default_pg"] is None and os.getpid() == self._process:
            dist.init_process_group()
            world.made_silently = True
        return original()

    def group_name(self, original: Call, /, *args: Any, **kwargs: Any) -> Any:
        """Return the name of a group that is about to be made; the job's own are told from all others."""
        world = self.here()
        name = original(*args, **kwargs)
        return name if world is None or world.inherits else type(name)(f"{name}@{world.label}")

    def destroy(self, original: Call, /, *args: Any, **kwargs: Any) -> None:
        """End a group of a job's; with its default group its whole world."""
        world, group = self.here(), args[0] if args else kwargs.get("group")
        if world is None or (group is not None and group is not dist.group.WORLD) or dist.group.WORLD is None:
            original(*args, **kwargs)
            return
        world.made_when_needed = False
        if world.inherits:  # the program's own; it stays, for the program and for the others
            world.inherits = False
            return
        values, default = world.values, world.values["default_pg"]
        values["default_pg"] = None  # else torch would clear what it keeps of the groups of the whole process
        for each in sorted(values["pg_names"], key=lambda each: str(values["pg_names"][each]), reverse=True):
            if each is default and self._workers.device_lane is not None:
                _unregister_process_group(each.group_name)  # what it shares with the others goes on
            else:
                original(each)
        world.clear()

    def outlives(self, model: Any, group: dist.ProcessGroup) -> None:
        """Keep a group until a model is gone that sends on it.

        A reducer that is the last to let go of a group waits for its threads, with the interpreter's lock held.
        """
        world = self.here()
        if world is not None and not world.inherits:
            weakref.finalize(model, self._let_go.append, group).atexit = False


def _share_device(world: World, shared: dist.ProcessGroup, config: str, asked: str | None) -> None:
    """Let what a job sends on a device go through the communicator that all jobs share."""
    values = world.values
    group = values["default_pg"]
    kinds = dist.BackendConfig(dist.Backend(config)).get_device_backend_map()
    for device in shared._device_types:
        if device.type != "cpu":
            kind = dist.Backend.backend_type_map[kinds[device.type]]
            group._register_backend(device, kind, shared._get_backend(device))
            group._set_default_backend(kind)
    values["pg_backend_config"][group] = config
    values["pg_map"][group] = (dist.Backend(asked or config), values["pg_map"][group][1])


def _set_defaults(backend: Any, init_method: Any) -> None:
    """Put back what `init_process_group` notes in torch's module for the whole process."""
    vars(_c10d).update(_backend=backend, _default_pg_init_method=init_method)
