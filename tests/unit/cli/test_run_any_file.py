"""Whatever a jobs file holds, ``motet run`` starts workers for jobs that can run, or says one thing and ends."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.jobs.test_file_properties import broken, changed, check_specs_are_sound, dumped, valid

from motet.cli import main, run
from motet.jobs import JobSpec
from motet.run_dir import RunDir

NUM_CASES = 1000


class Started(Exception):
    """Workers would have been started."""


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    def run_workers(*words: Any, **options: Any) -> None:
        raise Started

    monkeypatch.setattr(run, "run_workers", run_workers)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "mod.py").write_text("def fun(**anything): ...\n")
    (tmp_path / "train.py").write_text("raise SystemExit('looking at me must not run me')\n")
    return tmp_path


@settings(
    max_examples=NUM_CASES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)
@given(data=st.data(), document=valid, kind=st.sampled_from(["valid", "broken", "changed", "bytes"]))
def test_one_clear_message_or_a_start(
    place: Path, capsys: pytest.CaptureFixture[str], data: st.DataObject, document: dict[str, Any], kind: str
) -> None:
    if kind == "valid":
        content = dumped(document, None).encode()
    elif kind == "bytes":
        content = data.draw(st.binary(max_size=60))
    else:
        content = broken(data, document, None) if kind == "broken" else changed(data, document)
    (place / "jobs.yaml").write_bytes(content)
    shutil.rmtree(place / "out", ignore_errors=True)
    started = False
    try:
        status = main(["run", "jobs.yaml", "--run-dir=out", "--quiet"])
    except Started:
        started = True
    out, err = capsys.readouterr()
    assert out == ""
    if started:
        assert err == ""
        check_specs_are_sound([JobSpec.from_json(job) for job in RunDir.open(place / "out").description["jobs"]])
        return
    assert status == 2, (out, err)
    assert kind != "valid", err
    assert err.startswith("motet: ")
    assert err.count("motet: ") == 1
    assert "Traceback" not in err
    assert not (place / "out").exists(), "nothing may be begun"
