"""What is said through a job's handle, when the job has ended, and when it ends before it has begun."""

from __future__ import annotations

import gc
import signal
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from motet.coroutines import RunningJob, Turns
from motet.events import Event, MetricsLogged
from motet.gradients.nonfinite import FiniteCheck
from motet.intercept.process import ProcessSeams
from motet.jobs.outcome import JobStopped
from motet.pipeline.requests import JobRequests


def test_the_handle_of_a_job_that_has_ended_harms_nobody() -> None:
    live: dict[str, Any] = {"a": SimpleNamespace(turn=4, num_turns=None)}
    events: list[Event] = []
    notices: list[tuple[str, str]] = []
    turns: Any = SimpleNamespace()
    finite = FiniteCheck(events.append, lambda *words: None)
    requests = JobRequests(turns, live, events.append, lambda *words: notices.append(words), finite)
    handle = requests.handle_of("a", None)
    handle.log(loss=1.0)
    assert [(type(event), event.turn) for event in events] == [(MetricsLogged, 4)]  # type: ignore[attr-defined]
    del live["a"]
    handle.log(loss=2.0)
    handle.expect(turns=9)
    handle.set_parameters(lr=0.1)
    assert len(events) == 1
    assert {job for job, _ in notices} == {"a"}
    assert "after it had ended" in notices[0][1]


@pytest.mark.parametrize(
    ("thrown", "status", "error"),
    [
        (JobStopped(), "stopped", None),
        (JobStopped("pruned"), "pruned", None),
        (JobStopped("failed", "no room"), "failed", "no room"),
        (KeyboardInterrupt(), "stopped", None),
    ],
)
def test_a_job_that_is_ended_before_it_has_begun(thrown: BaseException, status: str, error: str | None) -> None:
    turns = Turns()
    handle: Any = SimpleNamespace(log_for_trainer=lambda values: None, logs_itself=False)
    job = RunningJob("a", lambda: None, SimpleNamespace(), handle)  # type: ignore[arg-type]
    turns.admit(job)
    turns.take(job, throw=thrown)
    assert job.outcome is not None
    assert (job.outcome.status, job.outcome.error) == (status, error)


def test_a_jobs_signal_handlers_go_with_it() -> None:
    class Trainer:
        def on_signal(self, *ignored: object) -> None:
            pass

    class Job:
        name = "a"

    job = Job()
    turns: Any = SimpleNamespace(running_here=lambda: job)
    seams = ProcessSeams(turns, lambda *ignored: None)
    kept: list[weakref.ref[Trainer]] = []

    def loop() -> None:
        trainer = Trainer()
        kept.append(weakref.ref(trainer))
        assert seams.signal(signal.signal, signal.SIGTERM, trainer.on_signal) == signal.SIG_DFL
        assert seams.getsignal(signal.getsignal, signal.SIGTERM) == trainer.on_signal

    loop()
    seams.forget(turns.running_here())
    gc.collect()
    assert kept[0]() is None
