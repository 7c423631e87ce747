"""Who holds up an end of the run, and what is notified meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from motet.launcher import ends
from motet.launcher.ends import ENDS, IMPORTS, JOINS, WRITES, Ends
from motet.run_dir import RunDir


class Scene:
    """Two workers that write down what they do, and a launcher that looks."""

    def __init__(self, path: Path, *, timeout_seconds: float, rows: bool) -> None:
        self.now, self.notified = 100.0, list[str]()
        self.run_dir = RunDir.create(path, {})
        self.ends = Ends(self.run_dir, timeout_seconds, self.notified.append, rows=rows)
        self.ends.begin([0, 1])

    def look(self, seconds: float, *states: str) -> str | None:
        """Let workers do something else, and look for so long."""
        for worker, state in enumerate(states):
            if state:
                self.run_dir.write_state(worker, state)
        for _ in range(round(seconds)):
            self.now += 1.0
            if (overdue := self.ends.look([0, 1])) is not None:
                return overdue
        return None


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(ends.time, "monotonic", lambda: made.now if made else 100.0)
    made: Scene | None = None
    made = Scene(tmp_path / "out", timeout_seconds=100.0, rows=False)
    return made


def test_a_worker_that_hangs_in_an_import_is_named(scene: Scene) -> None:
    assert scene.look(90, IMPORTS, IMPORTS) is None
    overdue = scene.look(120, JOINS)
    assert overdue is not None
    assert overdue.startswith("The run has not begun: nothing has moved for 101 s")
    assert "worker 0: joining the others\n  worker 1: importing" in overdue


def test_a_worker_that_never_says_anything_is_named(scene: Scene) -> None:
    overdue = scene.look(200, JOINS)
    assert overdue is not None
    assert "worker 1: starting" in overdue


def test_one_that_does_not_end_is_named(scene: Scene) -> None:
    assert scene.look(50, WRITES, ENDS) is None
    overdue = scene.look(200)
    assert overdue is not None
    assert overdue.startswith("The run has not come to its end")
    assert "worker 0: writing results" in overdue


def test_a_short_timeout_does_not_mean_imports(tmp_path: Path, scene: Scene) -> None:
    scene.ends = Ends(scene.run_dir, 1.0, scene.notified.append, rows=False)
    assert scene.look(59, IMPORTS, IMPORTS) is None
    assert scene.look(10) is not None
    scene.ends = Ends(scene.run_dir, 1.0, scene.notified.append, rows=False)
    assert scene.look(10, ENDS, ENDS) is not None


def test_jobs_are_left_to_the_workers(scene: Scene) -> None:
    for worker in (0, 1):
        scene.run_dir.state_path(worker).write_text("a 7 computing\n")
    assert scene.look(1000) is None


def test_a_launcher_that_was_stopped_blames_nobody(scene: Scene) -> None:
    assert scene.look(3, IMPORTS, IMPORTS) is None
    scene.now += 10_000
    assert scene.look(50) is None


def test_what_takes_long_is_reported_and_less_and_less_often(scene: Scene) -> None:
    scene.look(10, IMPORTS, IMPORTS)
    assert scene.notified[0] == "worker 0: importing, for 2 s now"
    assert 4 <= len(scene.notified) <= 6
    for worker in (0, 1):
        scene.run_dir.state_path(worker).write_text("a 7 computing\n")
    scene.notified.clear()
    scene.look(1000)
    assert scene.notified[0] == "worker 0: turn 7 of job 'a' (computing), for 2 s now"
    assert len(scene.notified) < 60


def test_rows_show_jobs_and_nothing_else_does(tmp_path: Path, scene: Scene) -> None:
    scene.ends = Ends(scene.run_dir, 100.0, scene.notified.append, rows=True)
    for worker in (0, 1):
        scene.run_dir.state_path(worker).write_text("a 7 computing\n")
    scene.look(30)
    assert scene.notified == []
    scene.look(10, WRITES, ENDS)
    assert scene.notified


def test_what_an_earlier_start_wrote_is_forgotten(scene: Scene) -> None:
    scene.run_dir.write_state(0, ENDS)
    scene.ends.begin([0, 1])
    assert scene.run_dir.read_state(0) is None


def test_a_run_directory_that_is_removed_is_reported_once(scene: Scene) -> None:
    scene.look(2, JOINS, JOINS)
    scene.notified.clear()
    shutil.rmtree(scene.run_dir.path)
    assert scene.look(1000) is None
    assert len(scene.notified) == 1
    assert "has been removed" in scene.notified[0]
