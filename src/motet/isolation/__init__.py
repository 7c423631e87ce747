"""The global state that each job must find as it left it.

Several jobs run by turns on one thread. What Python programs keep in globals is put away when a turn ends, and put
back when the next one begins. A registry holds one *entry* for each such thing: ``take()`` returns its present value,
``put(value)`` brings a value back.

::

    outside = take_all()                       # what the caller of the run had
    saved = {job: outside.copy() for job in jobs}

    outside = exchange(saved[job])             # a turn begins
    saved[job] = exchange(outside)             # it ends
    ...
    put_all(outside)

Where turns follow each other at once, most of ``outside`` need not be put back in between: `swap_out`, `swap_in` and
`restore_outside` are the same in three steps.

Rules:

- A `Saved` belongs to one owner and is put back once: some values are the live objects themselves (NumPy's bit
  generator, ``sys.path``), because rebinding an object costs a hundredth of copying it. Whoever starts another job
  from the same state takes `Saved.copy` (and calls `prepare_script` on it where the job is a script).
- Everything here is for the main thread, and for moments at which nothing is being computed. A turn never ends
  inside an autocast region that caches its casts (the cache is not kept; its nesting depth is).
- An entry is active only while the module that it needs is imported. Where that happened after a state was saved,
  ``fresh()`` returns what a first importer would have found.

Not kept here: context variables, NumPy's ``errstate`` and print options among them (each greenlet has a context of
its own: ``greenlet.gr_context = contextvars.copy_context()``); signal handlers (the default action of SIGUSR1 is to
end the process, so that one job's handler must not be away while another has its turn); locale, decimal; the
interpreter's switch interval, which a run sets for all of its jobs and puts back at its end. Settings of
``torch._dynamo`` and its like are context variables since torch 2.12; before, `torch_config` keeps them. Threads of a
job see what the job sees that has its turn.
"""

from __future__ import annotations

from motet.isolation import (
    frameworks,
    interpreter,
    loggers,
    operators,
    profiler,
    random_generators,
    scripts,
    torch_config,
    torch_flags,
    trackers,
)
from motet.isolation.registry import (
    Saved,
    exchange,
    put_all,
    register,
    registered,
    restore_outside,
    swap_in,
    swap_out,
    take_all,
    unregister,
)
from motet.isolation.scripts import note_modules, prepare_script
from motet.isolation.trackers import end_runs, open_runs

__all__ = [
    "Saved",
    "end_runs",
    "exchange",
    "note_modules",
    "open_runs",
    "prepare_script",
    "put_all",
    "register",
    "registered",
    "restore_outside",
    "swap_in",
    "swap_out",
    "take_all",
    "unregister",
]

for _family in (
    *(profiler, torch_flags, torch_config, operators, random_generators),
    *(scripts, interpreter, loggers, frameworks, trackers),
):
    _family.register_entries()
