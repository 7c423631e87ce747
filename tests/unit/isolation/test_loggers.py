"""Log handlers and frameworks' loggers, with jobs that take turns."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from motet import isolation
from motet.isolation import loggers


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """Return a framework's logger as an import leaves it; put right afterwards."""
    found = logging.getLogger("lightning.pytorch")
    before = (found.level, found.propagate, found.disabled, list(found.handlers))
    found.setLevel(logging.INFO)
    yield found
    found.level, found.propagate, found.disabled, found.handlers[:] = before
    logging.Logger.manager._clear_cache()  # type: ignore[attr-defined]


def test_a_level_is_the_jobs_own(logger: logging.Logger) -> None:
    saved = isolation.take_all().copy()
    outside = isolation.exchange(saved)
    assert logger.isEnabledFor(logging.INFO)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    job = isolation.exchange(outside)
    assert logger.isEnabledFor(logging.INFO), "what was cached while the job had its turn is not believed"
    assert logger.propagate
    outside = isolation.exchange(job)
    assert (logger.level, logger.propagate) == (logging.ERROR, False)
    isolation.put_all(outside)


def test_who_comes_later_finds_what_an_import_leaves(logger: logging.Logger) -> None:
    other = loggers.take_loggers()
    del other["lightning.pytorch"]  # saved before the framework was imported
    logger.setLevel(logging.CRITICAL)
    loggers.put_loggers(other)
    assert logger.level == logging.INFO


def test_handlers_write_to_the_job_that_has_its_turn() -> None:
    terminal, log_of_a, log_of_b = io.StringIO(), io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(terminal)  # as a framework makes it when it is imported before the run
    record = logging.makeLogRecord({"msg": "said"})
    outside = isolation.take_all()
    saved = {}
    for name, log in (("a", log_of_a), ("b", log_of_b)):
        saved[name] = outside.copy()
        before = isolation.exchange(saved[name])
        loggers.redirect((None, terminal), log, log)
        saved[name] = isolation.exchange(before)
    for name in ("a", "b", "a"):
        before = isolation.exchange(saved[name])
        handler.emit(record)
        saved[name] = isolation.exchange(before)
    handler.emit(record)
    assert [s.getvalue().count("said") for s in (log_of_a, log_of_b, terminal)] == [2, 1, 1]


def test_a_handler_of_the_jobs_own_is_left_alone() -> None:
    mine, terminal = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(mine)
    loggers.redirect((None, terminal), io.StringIO(), io.StringIO())
    assert handler.stream is mine
