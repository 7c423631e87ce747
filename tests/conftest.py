"""What all tests share: gangs of workers that stay alive from one test to the next."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from motet.testing import Gang

# Minutes each: `make test-all` runs them, `make test` does not.
_SLOW = (
    "clusters/test_hosts.py",
    "clusters/test_kubernetes.py",
    "clusters/test_optuna.py",
    "clusters/test_ray.py",
    "clusters/test_slurm.py",
    "clusters/test_tasks.py",
    "distributed/test_aggregation.py",
    "distributed/test_bit_identity_compiled.py",
    "distributed/test_both_houses.py",
    "distributed/test_checkpoints.py",
    "distributed/test_failures.py",
    "distributed/test_failures_cli.py",
    "distributed/test_links.py",
    "distributed/test_loopback_only.py",
    "distributed/test_isolation_between_jobs.py",
    "distributed/test_motet_run.py",
    "distributed/test_order_changes.py",
    "distributed/test_orphans.py",
    "distributed/test_plan.py",
    "distributed/test_process_state.py",
    "distributed/test_refusals.py",
    "distributed/test_resume",
    "distributed/test_patches_undone.py",
    "distributed/test_seeds_and_places.py",
    "distributed/test_start_or_go_on.py",
    "distributed/test_stops.py",
    "integrations/",
    "test_docs.py",
    "test_examples.py",
    "unit/demo/",
    "unit/checkpoints/",
    "unit/isolation/test_loggers.py",
    "unit/isolation/test_trackers.py",
    "unit/cli/test_run_any_file.py",
    "unit/test_shaped_links.py",
)


def pytest_configure() -> None:
    """Hear signals that whoever started the tests ignores (`nohup`, a shell's ``&``): Motet would ignore them, too."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what stands in a slow file."""
    here = Path(__file__).parent
    for item in items:
        if item.path.relative_to(here).as_posix().startswith(_SLOW):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def gangs() -> Iterator[Callable[[int], Gang]]:
    """Return the gang of so many workers: started when first asked for, and kept."""
    started: dict[int, Gang] = {}

    def gang_of(num_workers: int) -> Gang:
        return started.setdefault(num_workers, Gang(num_workers, timeout_seconds=90))

    yield gang_of
    for gang in started.values():
        gang.close()


@pytest.fixture
def new_gang() -> Iterator[Callable[[int], Gang]]:
    """Return a gang of so many workers for this test alone, which may harm it."""
    made: list[Gang] = []

    def make(num_workers: int) -> Gang:
        made.append(Gang(num_workers, timeout_seconds=60))
        return made[-1]

    yield make
    for gang in made:
        gang.close()
