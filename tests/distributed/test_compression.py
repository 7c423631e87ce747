"""Gradients that are sent as bfloat16: a job ends as under plain DDP with the same compression, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from motet.errors import UsageError
from motet.jobs import load_jobs_file
from motet.testing import Gang

JOBS = "tests.distributed.jobs_compression"


@pytest.mark.parametrize("num_workers", [1, 2, 3])
@pytest.mark.parametrize("kind", ["plain", "bucket view", "accumulation", "around the seam"])
def test_equal_to_plain_ddp_with_the_same_hook(gangs: Callable[[int], Gang], kind: str, num_workers: int) -> None:
    for sent in gangs(num_workers).run(f"{JOBS}:must_equal_the_hook", kind):
        if kind == "around the seam":  # every other turn is not deferred, and not counted
            assert 0 < sent["small"] < sent["plain"]
        else:
            assert sent["small"] * 2 == sent["plain"]


def test_double_precision_is_sent_as_a_quarter(gangs: Callable[[int], Gang]) -> None:
    for sent in gangs(2).run(f"{JOBS}:must_equal_the_hook", "plain", "float64"):
        assert sent["small"] * 4 == sent["plain"]


def test_with_aggregation(gangs: Callable[[int], Gang]) -> None:
    for sent in gangs(2).run(f"{JOBS}:must_equal_the_hook", "plain", sync="aggregate"):
        assert sent["small"] * 2 == sent["plain"]


def test_a_job_may_say_otherwise_than_the_run(gangs: Callable[[int], Gang]) -> None:
    for sent in gangs(2).run(f"{JOBS}:what_the_run_says"):
        assert sent["as-run"] * 2 == sent["otherwise"] == sent["own-hook"]


def test_an_unknown_compression_is_refused(gangs: Callable[[int], Gang]) -> None:
    for message in gangs(1).run(f"{JOBS}:unknown_compression"):
        assert "compress (--compress) takes bf16 or none; it was given 'bf61'; did you mean 'bf16'?" in message


def test_in_a_jobs_file(tmp_path: Path) -> None:
    file = tmp_path / "jobs.yaml"
    text = 'jobs:\n  small: {{call: "motet.demo:digits", compress: {}}}\n  plain: {{call: "motet.demo:digits"}}\n'
    file.write_text(text.format("bf16"))
    small, plain = load_jobs_file(file)
    assert (small.compress, plain.compress) == ("bf16", None)
    assert type(small).from_json(small.to_json()) == small
    file.write_text(text.format("fb16"))
    with pytest.raises(UsageError, match=r"jobs.yaml:2: .*compress is bf16 or none, not 'fb16'; did you mean 'bf16'"):
        load_jobs_file(file)
