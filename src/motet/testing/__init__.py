"""For tests of training code: worker processes that stay, a tiny job, faults on demand.

A `Gang` is a set of workers joined by a process group. A test sends it a function; every worker runs it, and the test
gets what each returned. Starting a gang takes well under a second, so a test that kills workers can have its own::

    with Gang(3) as gang:
        losses = gang.run("my_tests.loops:train", 0.1)     # a list, one result a worker

Everything stays on loopback, on ports that the system chooses. Importing this imports no torch.
"""

from __future__ import annotations

from motet.testing.faults import Fault, tiny_job, with_fault
from motet.testing.gang import Call, Gang, GangCallError, Outcome

__all__ = ["Call", "Fault", "Gang", "GangCallError", "Outcome", "tiny_job", "with_fault"]
