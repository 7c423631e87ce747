from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.unit.observe import synthetic
from tests.unit.observe.synthetic import THREE, Plan, sixteen

from motet.errors import UsageError
from motet.observe import build_report, report
from motet.observe.report import embedded_json
from motet.observe.report_page import _memory
from motet.observe.text import bytes_text

VOID = {"meta", "input", "link", "br", "hr", "img"}
EVIL = "</script><img src=x onerror=alert(1)>&\"'\u2028"


class Page(HTMLParser):
    """The elements of a page, its visible text and its scripts; fails where tags do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += " "
        if tag not in VOID:
            self._open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.text += " "
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts[-1] += data
        elif not self._open or self._open[-1] != "style":
            self.text += data

    @property
    def data(self) -> Any:
        return json.loads(self.scripts[0])


def built(run_dir: Path) -> tuple[str, Page]:
    html = build_report(run_dir).read_text(encoding="utf-8")
    return html, Page(html)


def test_the_first_screen_answers(tmp_path: Path) -> None:
    _, page = built(synthetic.record(tmp_path, THREE, prediction={"wall_seconds": 27.5}))
    text = " ".join(page.text.split())
    assert "3 models trained on 2 workers, all at once" in text
    first = text[: text.index("Who computed when")]
    assert re.search(r"Took 24\.\d s All 3 jobs finished", first)
    assert re.search(r"Time saved ≈ 1\d\.\d s 1\.\d\d times as fast as one after another", first)
    assert "Bottleneck both Computing and network alike" in first
    assert re.search(r"Sync hidden 9\d %", first)
    assert re.search(
        r"gpt motet\.demo:byte_gpt\(num_layers=4\) loss 2\.\d+ → 0\.\d+ returned 0\.93 finished 400/400", first
    )
    assert "predicted 27.5 s" in text


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    html, page = built(synthetic.record(tmp_path, sixteen()))
    assert "//" not in re.sub(r"/\*.*?\*/", "", html, flags=re.DOTALL)
    assert not re.search(r"https?:|@import|url\(", html)
    for tag, attributes in page.tags:
        assert tag not in {"link", "img", "iframe", "object", "base", "form"}
        assert not {"src", "href", "srcset", "action"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
    policy = next(attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes)
    assert policy is not None
    assert "default-src 'none'" in policy


def test_text_from_the_run_is_never_markup(tmp_path: Path) -> None:
    plans = {
        f"job{EVIL}": Plan(30, 0.01, 0.01, what={"target": EVIL, "arguments": {EVIL: EVIL}}),
        "other": Plan(20, 0.01, 0.01, status="failed", error=f"Traceback\n  {EVIL}\nValueError: {EVIL}"),
    }
    run_dir = synthetic.record(tmp_path, plans, notices=[EVIL])
    with (run_dir / "metrics.jsonl").open("a") as file:
        values = {EVIL: 1.0, "broken": "NaN"}
        file.write(json.dumps({"time": 1_790_000_001.0, "job": "other", "turn": 1, "values": values}) + "\n")
    html, page = built(run_dir)
    assert len(page.scripts) == 2
    assert "<img" not in html
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert page.data["jobs"] == list(plans)
    assert EVIL in {curve["name"] for curve in page.data["curves"]}
    assert page.text.count("onerror=alert(1)>") >= 6, "shown as text, though"


def test_embedded_json_reads_back_and_cannot_end_its_element() -> None:
    text = embedded_json({"a": EVIL, "<!--": "]]>"})
    assert json.loads(text) == {"a": EVIL, "<!--": "]]>"}
    assert not set("<>&\u2028") & set(text)
    with pytest.raises(ValueError, match="not JSON compliant"):
        embedded_json(float("nan"))


def test_the_timeline_holds_all_turns_of_a_short_run(tmp_path: Path) -> None:
    _, page = built(synthetic.record(tmp_path, THREE))
    workers = page.data["workers"]
    assert [(worker["worker"], len(worker["turns"])) for worker in workers] == [(0, 1200), (1, 1200)]
    for worker in workers:
        begins = [row[2] for row in worker["turns"]]
        assert begins == sorted(begins)
        assert all(0 <= row[0] < 3 and row[3] >= 0 for row in worker["turns"])
        assert all(0 <= share <= 1 for interval in worker["busy"] for share in interval[2:])
    assert page.data["seconds"] * 1e6 >= begins[-1]


def test_a_long_run_makes_a_small_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = synthetic.record(tmp_path, THREE)
    whole = build_report(run_dir).stat().st_size
    monkeypatch.setattr(report, "MOST_TURNS", 300)
    monkeypatch.setattr(report, "MOST_POINTS", 60)
    html, page = built(run_dir)
    assert len(html) < 0.6 * whole
    assert sum(len(worker["turns"]) for worker in page.data["workers"]) < 400


@pytest.mark.parametrize("missing", ["results.json", "metrics.jsonl", "run.json", "trace"])
def test_a_report_is_made_of_what_is_there(tmp_path: Path, missing: str) -> None:
    run_dir = synthetic.record(tmp_path, THREE)
    path = run_dir / missing
    if path.is_dir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    else:
        path.unlink()
    _, page = built(run_dir)
    assert all(name in page.text for name in THREE)


def test_one_job_alone_has_nothing_to_compare(tmp_path: Path) -> None:
    _, page = built(synthetic.record(tmp_path, {"only": Plan(30, 0.01, 0.02)}))
    assert "Time saved" not in page.text
    assert "1 model trained on 2 workers" in page.text


def test_what_a_job_held_is_counted_once() -> None:
    held = {"parameters_bytes": 1000, "gradients_bytes": 2000, "optimizer_bytes": 4000, "activations_bytes": None}
    shown = _memory({**held, "device": "cpu", "offload_bytes": 7000})
    assert bytes_text(7000) in shown
    assert "offload" not in shown
    assert bytes_text(14_000) not in shown


def test_no_run_no_report(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        build_report(tmp_path)
    assert list(tmp_path.iterdir()) == []
