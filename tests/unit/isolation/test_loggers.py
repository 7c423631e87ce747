"""Loggers, their handlers, and where log lines go, with jobs that take turns."""

from __future__ import annotations

import io
import logging
import logging.config
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from tests.unit.isolation.test_isolation import Job, alternate

from motet import isolation
from motet.isolation import loggers

TURNS = 4
QUIET = {"version": 1, "disable_existing_loggers": False, "handlers": {"file": {"class": "logging.NullHandler"}}}


@pytest.fixture(autouse=True)
def _everything_as_before() -> Iterator[None]:
    before = isolation.take_all()
    yield
    isolation.put_all(before)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """Return a framework's logger as an import leaves it; put right afterwards."""
    found = logging.getLogger("lightning.pytorch")
    before = (found.level, found.propagate, found.disabled, list(found.handlers))
    found.setLevel(logging.INFO)
    isolation.take_all()
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


def in_two_jobs(body: Callable[[str], object]) -> list[io.StringIO]:
    """Let two jobs, "a" and "b", each call ``body`` and log once a turn; return what each found."""
    logs = [io.StringIO(), io.StringIO()]

    def job(name: str, log: io.StringIO) -> Job:
        body(name)
        logger = logging.getLogger("trainer")
        logger.setLevel(logging.INFO)
        logger.addHandler(logging.StreamHandler(log))
        logger.propagate = False
        for turn in range(TURNS):
            yield
            assert logging.getLogger("trainer") is logger
            logger.info("%s %d", name, turn)

    alternate(job("a", logs[0]), job("b", logs[1]))
    for name, log in zip("ab", logs, strict=True):
        assert log.getvalue().splitlines() == [f"{name} {turn}" for turn in range(TURNS)]
    return logs


@pytest.mark.parametrize("when", ["before the run", "in the jobs"])
def test_a_logger_of_any_name_logs_for_its_job(when: str) -> None:
    if when == "before the run":
        logging.getLogger("trainer")
    in_two_jobs(lambda name: None)
    assert not logging.getLogger("trainer").handlers


def test_what_a_job_does_to_its_loggers_is_its_own() -> None:
    """Filters, being off, the class, the factory of records, attributes, handlers by name."""
    seen = []
    shared = logging.getLogger("clash_library")
    isolation.take_all()

    class Record(logging.LogRecord):
        pass

    class Tagged(logging.Logger):
        pass

    def body(name: str) -> None:
        assert type(logging.getLogger("trainer.made")) is logging.Logger
        seen.append((shared.disabled, list(shared.filters), hasattr(shared, "once"), set(logging._handlers)))
        shared.disabled = name == "a"
        shared.addFilter(lambda record: False)
        shared.once = name
        logging.setLoggerClass(Tagged)
        logging.setLogRecordFactory(Record)
        logging.config.dictConfig(QUIET)
        assert type(logging.getLogger("trainer.of_class")) is Tagged

    before = set(logging._handlers)  # type: ignore[attr-defined]
    in_two_jobs(body)
    assert seen == [(False, [], False, before)] * 2
    assert not shared.disabled
    assert logging.getLoggerClass() is logging.Logger
    assert logging.getLogRecordFactory() is logging.LogRecord


def test_a_configuration_that_closes_all_handlers_closes_the_jobs(tmp_path: Path) -> None:
    """``dictConfig`` closes and forgets every handler that there is, and switches loggers off."""

    def writer() -> Job:
        logger = logging.getLogger("writer")
        handler = logging.FileHandler(tmp_path / "log.txt", mode="w")
        logger.addHandler(handler)
        for turn in range(3):
            yield
            logger.warning("turn %d", turn)
        handler.close()

    def other() -> Job:
        logging.getLogger("writer")
        yield
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": True})
        yield

    alternate(writer(), other())
    assert (tmp_path / "log.txt").read_text().split("\n") == ["turn 0", "turn 1", "turn 2", ""]


def test_a_library_that_is_imported_in_a_turn_logs_as_each_job_has_configured(tmp_path: Path) -> None:
    """Whichever job imports it first: the module holds one logger, whose name need not be the module's."""
    library = tmp_path / "site-packages"
    library.mkdir()
    (library / "clash_logs.py").write_text(
        "import logging\nlogger, other = logging.getLogger(__name__), logging.getLogger('Of The Library')\n"
        "other.addHandler(logging.NullHandler())\n"
    )
    sys.path.append(str(library))
    logs = {"a": io.StringIO(), "b": io.StringIO(), "c": io.StringIO()}

    def job(name: str, level: int) -> Job:
        configured_before = name == "b"
        if configured_before:
            logging.getLogger("clash_logs").setLevel(level)
        yield
        import clash_logs  # type: ignore[import-not-found]

        logging.basicConfig(stream=logs[name], format="%(message)s", level=logging.DEBUG, force=True)
        if not configured_before:
            clash_logs.logger.setLevel(level)
        clash_logs.other.propagate = name != "c"
        for _ in range(TURNS):
            yield
            assert logging.getLogger("clash_logs").level == clash_logs.logger.level == level
            clash_logs.logger.info("info")
            clash_logs.other.warning("other")
            assert len(clash_logs.other.handlers) == 1

    try:
        alternate(job("a", logging.INFO), job("b", logging.ERROR), job("c", logging.NOTSET))
    finally:
        sys.path.remove(str(library))
        sys.modules.pop("clash_logs", None)
    found = {name: (log.getvalue().count("info"), log.getvalue().count("other")) for name, log in logs.items()}
    assert found == {"a": (TURNS, TURNS), "b": (0, TURNS), "c": (TURNS, 0)}


def test_who_comes_later_finds_what_an_import_leaves(logger: logging.Logger) -> None:
    logger.setLevel(logging.CRITICAL)
    attributes = loggers._as_imported(logger)
    assert attributes["level"] == logging.INFO
    assert logger.level == logging.CRITICAL


def test_parents_are_the_jobs_own() -> None:
    """``a.b`` of one job must not come under the ``a`` of another."""
    logging.getLogger("clash_parent.child.leaf")
    isolation.take_all()

    def child() -> Job:
        leaf = logging.getLogger("clash_parent.child.leaf")
        for _ in range(3):
            assert leaf.parent is logging.root
            yield

    def parent() -> Job:
        found = logging.getLogger("clash_parent")
        for _ in range(3):
            assert logging.getLogger("clash_parent.child.leaf").parent is found
            yield

    alternate(child(), parent())


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


def test_modules_are_looked_at_without_waking_them() -> None:
    class Sleeping:
        @property
        def __class__(self) -> type:  # type: ignore[override]
            raise AssertionError("a whole library would be imported")

    module = ModuleType("clash_sleeping")
    module.it = Sleeping()  # type: ignore[attr-defined]
    sys.modules["clash_sleeping"] = module
    job, outside = isolation.take_all().copy(), isolation.take_all()
    outside = isolation.exchange(job)
    sys.modules["clash_sleeping_too"] = module
    logging.getLogger("clash_sleeping_logger")
    isolation.put_all(outside)
    del sys.modules["clash_sleeping"], sys.modules["clash_sleeping_too"]
