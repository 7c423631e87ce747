"""What Motet cannot train is refused at its start, with what to use instead; the others train on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from motet.testing import Gang


@pytest.fixture
def ends(framework_gang: Gang, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Return what trains two loops together and tells how each ended, by worker."""

    def run(one: str, other: str) -> list[dict[str, Any]]:
        return framework_gang.run("tests.integrations.harness:end_of", one, other, folder=str(tmp_path))

    return run


Ends = Callable[..., list[dict[str, Any]]]


@pytest.mark.parametrize(
    ("loop", "what"),
    [
        ("fully_sharded", "FSDP"),
        ("tensor_parallel", "tensor parallelism"),
        ("deepspeed", "DeepSpeed"),
    ],
)
def test_refused_with_what_to_use_instead(ends: Ends, loop: str, what: str) -> None:
    for report in ends(f"loops_refused:{loop}", "loops_plain:train"):
        assert report["one"][0] == "failed"
        assert f"UnsupportedError: job 'one': {what}" in report["one"][1]
        assert 'strategy="ddp"' in report["one"][1]
        assert report["other"][0] == "finished"


def test_tpus_are_refused(ends: Ends) -> None:
    report = ends("loops_refused:tpu", "loops_plain:train")[0]
    assert "asks for xla, but the workers of this run are joined by" in report["one"][1]
    assert report["other"][0] == "finished"


def test_handlers_of_stop_signals_are_each_jobs_own(ends: Ends) -> None:
    name = "loops_refused:handlers"
    for report in ends(name, name):
        assert report["one"] == report["other"] == ("finished", None, [True, True, True, True, "default_int_handler"])


def test_a_stop_signal_is_the_runs(ends: Ends) -> None:
    name = "loops_refused:stopped"
    for report in ends(name, name):
        assert [report["one"][0], report["other"][0]] == ["stopped", "stopped"]
