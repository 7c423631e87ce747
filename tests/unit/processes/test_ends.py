"""What came of a job follows from how its processes ended, and names the one that began it."""

from __future__ import annotations

import signal

import pytest

from motet.processes.ends import End, judge

ECHO = "RuntimeError: [pair.cc:553] Connection closed by peer [127.0.0.1]:4242"


def end(worker: int, number: int = 0, status: str = "", turns: int = 5, exit_status: int = 0, **more: object) -> End:
    fields = {"kind": "", "error": None, "asked": False, **more}
    return End(worker, number, status, turns, exit_status=exit_status, **fields)  # type: ignore[arg-type]


def raised(worker: int, number: int = 0, error: str = "ValueError: no", turns: int = 5, **more: object) -> End:
    kind = error.partition(":")[0]
    return end(worker, number, "failed", turns, exit_status=1, kind=kind, error=error, **more)


def killed(worker: int, number: int = 0, by: int = signal.SIGKILL, **more: object) -> End:
    return end(worker, number, exit_status=-by, **more)


def verdict(*ends: End, stopping: bool = False) -> tuple[str, int, int | None, bool]:
    found = judge({each.worker: each for each in ends}, stopping=stopping)
    return found.status, found.turns, found.worker, found.alone


def error_of(*ends: End) -> str:
    found = judge({each.worker: each for each in ends}, stopping=False).error
    assert found is not None
    return found


def test_a_job_whose_processes_end_well_has_finished() -> None:
    assert verdict(end(0, status="finished", turns=8), end(1, status="finished", turns=8)) == (
        "finished",
        8,
        None,
        False,
    )
    assert verdict(end(0, turns=8), end(1, status="finished", turns=11)) == ("finished", 11, None, False)


def test_pruned_and_stopped_are_no_failures() -> None:
    assert verdict(end(0, status="pruned"), end(1, status="pruned"))[0] == "pruned"
    assert verdict(end(0, status="stopped"), end(1, status="stopped"))[0] == "stopped"
    assert verdict(end(0, status="stopped"), end(1, status="finished"))[0] == "stopped"


@pytest.mark.parametrize("other", [killed(1), raised(1), end(1, exit_status=7)])
def test_what_fails_while_the_run_is_stopped_is_a_part_of_the_stop(other: End) -> None:
    assert verdict(end(0, status="stopped"), other, stopping=True) == ("stopped", 5, None, False)
    assert verdict(end(0, status="finished"), end(1, status="finished"), stopping=True)[0] == "finished"


def test_an_error_that_all_workers_meet_in_one_turn_is_the_jobs_own() -> None:
    assert verdict(raised(1, 1), raised(0, 2)) == ("failed", 5, 0, False)
    assert verdict(end(0, exit_status=7), end(1, exit_status=7)) == ("failed", 5, 0, False)
    assert verdict(raised(0)) == ("failed", 5, 0, False)  # one worker


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (raised(0, 1, turns=5), raised(1, 2, turns=6)),  # in another turn
        (raised(0, 1), raised(1, 2, "KeyError: 'x'")),  # another error
        (end(0, 1, exit_status=7), end(1, 2, exit_status=8)),
        (killed(0, 1), killed(1, 2)),  # a signal says nothing of the program
        (raised(0, 1, ECHO), raised(1, 2, ECHO)),  # both lost another one
    ],
)
def test_what_workers_do_not_meet_alike_may_be_tried_again(first: End, second: End) -> None:
    assert verdict(first, second) == ("failed", first.turns, 0, True)


def test_who_lost_a_peer_is_not_to_blame_even_if_it_was_the_first_to_be_received() -> None:
    assert verdict(raised(0, 1, ECHO), killed(1, 2)) == ("failed", 5, 1, True)
    assert "killed by SIGKILL" in error_of(raised(0, 1, ECHO), killed(1, 2))
    assert "no such layer" in error_of(raised(1, 2, "ValueError: no such layer"), raised(0, 1, ECHO))


def test_who_was_asked_to_end_is_not_to_blame() -> None:
    assert verdict(killed(0, 1, signal.SIGTERM, asked=True), raised(1, 2)) == ("failed", 5, 1, True)
    assert verdict(end(0, 1, status="stopped", asked=True), killed(1, 2)) == ("failed", 5, 1, True)


def test_one_that_ended_well_beside_one_that_failed_does_not_save_the_job() -> None:
    assert verdict(end(0, 1, status="finished", turns=9), raised(1, 2, turns=8)) == ("failed", 8, 1, True)


def test_if_all_were_asked_the_first_one_is_named() -> None:
    asked = [killed(worker, 2 - worker, signal.SIGTERM, asked=True) for worker in range(2)]
    assert verdict(*asked) == ("failed", 5, 1, True)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (killed(0), ["killed by SIGKILL", "out of memory?"]),
        (killed(0, by=signal.SIGSEGV), ["killed by SIGSEGV"]),
        (killed(0, by=63), ["63"]),
        (end(0, exit_status=7), ["ended with exit status 7"]),
        (end(0, exit_status=7, last_on_stderr="no licence"), ["exit status 7", "last on stderr: no licence"]),
        (raised(0, error="ValueError: no"), ["ValueError: no"]),
    ],
)
def test_how_it_ended_is_reported(how: End, words: list[str]) -> None:
    text = error_of(how, end(1, status="finished"))
    assert all(word in text for word in words), text
    assert "memory" not in text or how.exit_status == -signal.SIGKILL
