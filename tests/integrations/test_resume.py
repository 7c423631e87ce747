"""Frameworks go on from their own checkpoints when Motet resumes a run: as alone, stopped and resumed there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.distributed.command import Place
from tests.distributed.identity import differences
from tests.integrations.conftest import NUM_WORKERS, skip_without
from tests.integrations.loops_resumed import EVERY, NUM_STEPS

from motet.testing import Gang

LOOPS = "tests.integrations.loops_resumed:"
NAMES = ("lightning", "hugging_face")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


def test_frameworks_resume_from_their_own_checkpoints(place: Place, framework_gang: Gang) -> None:
    for name in NAMES:
        skip_without(f"loops_{name}:")
    jobs = {name: {"call": LOOPS + name, "with": {"folder": "{job_dir}/out"}} for name in NAMES}
    jobs["lightning"]["with"] |= {"preempted_at": EVERY + 2}  # type: ignore[operator]
    (place.path / "jobs.yaml").write_text(json.dumps({"jobs": jobs}))
    words = ("run", f"--nproc-per-node={NUM_WORKERS}", "jobs.yaml", "--run-dir=out", "--quiet")
    status, out, err = place.motet(*words)
    assert status == 3, (out, err)
    assert place.jobs_of() == dict.fromkeys(NAMES, "stopped")
    turns = place.jobs_of(field="turns")
    assert all(EVERY < turn < NUM_STEPS for turn in turns.values()), turns

    status, out, err = place.motet("resume", "out")
    assert status == 0, (out, err)
    began = {name: reports["began_after"] for name, reports in place.jobs_of(field="result").items()}
    for name in NAMES:
        taken = turns[name] - 1  # it was stopped before the step of its last turn
        assert began[name] == taken // EVERY * EVERY > 0, "it went on from its last checkpoint"
        assert place.jobs_of(field="turns")[name] == NUM_STEPS - began[name]
        assert any(f"'{name}'" in notice and "starts again" in notice for notice in place.results()["notices"])
        alone = place.path / "alone" / name
        reports = framework_gang.run(f"{LOOPS}stopped_and_resumed_alone", name, str(alone), turns[name])
        assert reports == [{"began_after": began[name]}] * NUM_WORKERS
        final = torch.load(place.path / "out" / "jobs" / name / "out" / "final.pt", weights_only=True)
        expected = torch.load(alone / "resumed" / "final.pt", weights_only=True)
        assert differences(final, expected, name) == []
        if name == "hugging_face":  # its Trainer keeps random generators and the place in the data
            assert differences(final, torch.load(alone / "whole" / "final.pt", weights_only=True), name) == []
