"""Two jobs that write one file are told of where each is a process, too: whoever writes, and on any worker."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.distributed.command import LONGEST_SECONDS, ROOT
from tests.distributed.jobs_files import CLASHES, NEEDED, SHARED
from tests.processes.command import HOUSE, place_in

from motet.jobs import JobSpec
from motet.processes.job_messages import FileReport
from motet.processes.messages import pack, unpack
from motet.processes.process_job import ProcessJob
from motet.processes.reporting_ledger import ReportingLedger
from motet.processes.shared_files import SharedFiles

PROGRAM = """
import json, sys
from tests.distributed.jobs_files import run_all
print("result:", json.dumps(run_all(json.loads(sys.argv[1]), sys.argv[2])))
"""
SAVES = """
import argparse, torch, torch.distributed as dist
parser = argparse.ArgumentParser()
for name in ("--tag", "--writer", "--steps", "--save-to"):
    parser.add_argument(name)
options = parser.parse_args()
dist.init_process_group("gloo")
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 1))
for _ in range(int(options.steps)):
    model(torch.randn(4, 2)).square().mean().backward()
    if dist.get_rank() == int(options.writer):
        torch.save(options.tag, options.save_to)
"""


def test_whoever_writes_is_seen_and_what_is_shared_is_not_reported(tmp_path: Path) -> None:
    clashing = [kind for kind in CLASHES if kind not in NEEDED or importlib.util.find_spec(NEEDED[kind]) is not None]
    command = [sys.executable, "-c", PROGRAM, json.dumps([*clashing, *SHARED]), str(tmp_path)]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST_SECONDS)
    assert done.returncode == 0, done.stderr
    report, ended = json.loads(done.stdout.rpartition("result:")[2])
    assert ended == dict.fromkeys(ended, "finished")
    of_pairs, at_the_end = report[: len(clashing)], report[len(clashing) :]
    assert [text.split(" ")[1] for text in of_pairs] == [f"'{kind}.second'" for kind in clashing]
    for kind, text in zip(clashing, of_pairs, strict=True):
        assert f"which job '{kind}.first' of this run has written" in text
        assert str(tmp_path / kind) in text
        assert "--job-cwd" in text
    listed = [f"jobs '{kind}.first' and '{kind}.second' have written the same files" for kind in clashing]
    assert [text.partition(",")[0] for text in at_the_end] == listed


@pytest.mark.parametrize(("writer", "answer"), [(1, "stop-job"), (0, "error")])
def test_what_is_answered(tmp_path: Path, writer: int, answer: str) -> None:
    with place_in(tmp_path) as place:
        (tmp_path / "saves.py").write_text(SAVES)
        each = [f"--each=--tag {tag} --writer {writer} --steps 800 --save-to best.pt" for tag in "ab"]
        options = ["--run-dir=out", f"--on-same-file={answer}"]
        status, out, err = place.motet("run", "--nproc-per-node=2", HOUSE, "saves.py", *each, *options)
        assert status == {"stop-job": 1, "error": 3}[answer], (out, err)
        results = place.results()
        names = list(results["jobs"])
        before, clash, after = results["notices"]
        best = tmp_path / "best.pt"
        assert before.startswith(f"jobs '{names[0]}' and '{names[1]}' were told to write to the same place, {best}")
        second = clash.split("'")[1]
        [other] = set(names) - {second}
        assert clash.startswith(f"job '{second}' writes {best}, which job '{other}' of this run has written: ")
        assert after.startswith("jobs ")
        assert str(best) in after
        assert f"which job '{other}' of this run has written" in " ".join(err.split())
        statuses = {name: job["status"] for name, job in results["jobs"].items()}
        assert statuses == {second: "failed", other: "finished" if answer == "stop-job" else "stopped"}
        assert f"as --on-same-file {answer} asks" in results["jobs"][second]["error"]


class Reporting:
    """What jobs tell of files, given to the worker's ledger; ``notices``: what comes of it."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.files = SharedFiles(
            "warn", lambda job, text: self.notices.append(f"{job}: {text}"), lambda job, why: None, None
        )

    def report(self, job: str, event: str, at: int, path: str = "/best", **more: Any) -> None:
        report = unpack(pack(FileReport(event, path, at, **{"verb": event, **more})))
        assert isinstance(report, FileReport)
        self.files.receive(job, report)


def test_what_jobs_report_is_put_in_the_order_in_which_it_happened() -> None:
    reporting = Reporting()
    # One after the other, each makes a draft and moves it to a name of its own; the second is listened to first.
    reporting.report("b", "makes", 3)
    reporting.report("b", "renames", 4, target="/b")
    reporting.files.settle(1)
    reporting.report("a", "makes", 1)
    reporting.report("a", "renames", 2, target="/a")
    reporting.files.settle(9)
    assert reporting.notices == []


def test_a_change_is_laid_at_the_door_of_who_reported_it() -> None:
    reporting = Reporting()
    reporting.report("a", "writes", 10)
    reporting.report("b", "changed", 20, since=5, now=[[1, 1, 1], None])  # it only had the file open meanwhile
    reporting.files.settle()
    assert reporting.notices == []
    reporting.report("b", "changed", 40, since=30, now=[[2, 2, 2], None])  # nobody else did anything since
    reporting.files.settle()
    assert len(reporting.notices) == 1
    assert reporting.notices[0].startswith("b: writes /best, which job 'a'")


def test_one_change_that_two_jobs_see_is_one_jobs() -> None:
    reporting = Reporting()
    for job, at in (("a", 20), ("b", 21)):
        reporting.report(job, "changed", at, since=15, now=[[1, 1, 1], None])
    reporting.files.settle()
    assert reporting.notices == []


def test_jobs_report_with_the_moment() -> None:
    sent: list[FileReport] = []
    ledger = ReportingLedger(sent.append)
    ledger.writes("a", "/x")
    ledger.makes("a", "/x")
    ledger.renames("a", "/x", "/y")
    ledger.removes("a", "/y")
    assert [report.event for report in sent] == ["writes", "makes", "renames", "removes"]
    assert sorted(report.at for report in sent) == [report.at for report in sent]


def test_the_same_output_is_reported_before_anything_is_imported() -> None:
    reporting = Reporting()
    specs = [JobSpec(name, "call", "nowhere.to_be:found", {"save_to": "out", "lr": 0.1}) for name in "ab"]
    jobs = [ProcessJob(spec.name, None, spec.to_json()) for spec in specs]
    reporting.files.begin([*jobs, ProcessJob("c", partial(dict, save_to="out"), None)])
    [text] = reporting.notices
    assert text.startswith("None: jobs 'a' and 'b' were told to write to the same place, ")
