"""The example notebook runs, and shows progress and report below its cell."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import motet.launcher.notebook as notebook
from motet.events import JobEnded, JobStarted, MetricsLogged, RunEnded, RunStarted, SyncEnded
from motet.launcher.notebook_status import StatusFile, status_path

EXAMPLE = Path(__file__).parents[2] / "examples" / "notebook.ipynb"


def synced(time: float, job: str, turn: int) -> SyncEnded:
    return SyncEnded(time, job, turn, 0.0, 0.0, 0.0, 0.0, 0, 0)


def test_the_status_of_a_run_becomes_a_table(tmp_path: Path) -> None:
    status = StatusFile(tmp_path)
    assert notebook.status_html(tmp_path) is None
    status.observe(RunStarted(1.0, 0.0, 0, 2, ("a<b>", "b"), ("a<b>", "b")))
    status.observe(JobStarted(1.0, "a<b>", 10))
    status.observe(synced(1.1, "a<b>", 1))
    table = notebook.status_html(tmp_path)
    assert table is not None
    assert "a&lt;b&gt;" in table
    assert "<td>0</td>" in table
    assert "1 of 10" not in table, "written at most twice a second"
    status.observe(MetricsLogged(1.6, "a<b>", 2, {"loss": 0.25}))
    assert "1 of 10</td><td>loss 0.25" in (notebook.status_html(tmp_path) or "")
    status.observe(JobEnded(1.7, "b", "pruned", 3, None))
    assert "<td>pruned</td><td>3</td>" in (notebook.status_html(tmp_path) or "")
    status.observe(RunEnded(4.0, 3.0))
    assert "3 s" in (notebook.status_html(tmp_path) or "")


def test_other_workers_write_no_status(tmp_path: Path) -> None:
    status = StatusFile(tmp_path)
    status.observe(RunStarted(1.0, 0.0, 1, 2, ("a",), ("a",)))
    status.observe(synced(2.0, "a", 1))
    assert not status_path(tmp_path).exists()


@pytest.mark.parametrize(("shell", "is_notebook"), [(None, False), (SimpleNamespace(), False), ("kernel", True)])
def test_a_notebook_is_known_by_its_kernel(monkeypatch: pytest.MonkeyPatch, shell: Any, is_notebook: bool) -> None:
    shell = SimpleNamespace(kernel=1) if shell == "kernel" else shell
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert notebook.in_notebook() is is_notebook


# Jupyter's own: sockets and loops that its client leaves to the garbage collector.
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_the_example_notebook_runs_and_shows_progress_and_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("nbclient", "ipykernel", "cloudpickle", "sklearn"):
        pytest.importorskip(package)
    nbformat = pytest.importorskip("nbformat")
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(EXAMPLE.parents[1] / "src"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    content = nbformat.read(EXAMPLE, as_version=4)
    nbformat.validate(content)
    assert not any(cell.get("outputs") for cell in content.cells), "kept without outputs"
    content.cells[2].source = content.cells[2].source.replace("num_epochs=4", "num_epochs=1")
    NotebookClient(content, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    outputs = content.cells[4].outputs
    pages = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert "".join(pages).count("<td>finished</td>") == 3, "the last look at the progress"
    assert "accuracy 0." in pages[0]
    assert "<iframe srcdoc=" in pages[1]
    assert "width-32" in pages[1]
    said = content.cells[6].outputs[0].text
    assert said.count("finished after 23 turns, accuracy 0.") == 3
    assert len(list((tmp_path / "runs").glob("*/report.html"))) == 1


PROGRAM = """
import torch, motet
torch.set_num_threads(2)
numbers = torch.arange(1 << 20, dtype=torch.float32)
expected = numbers.sin().sum().item()  # on several threads

class Found:
    def __init__(self, value):
        self.value = value

def train():
    print("printed by a job")
    return Found(numbers.sin().sum().item())

results = motet.run({"a": train, "b": train}, house="process")
assert all(job.result.value == expected for job in results.values()), results
print("well")
"""


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_what_a_notebook_defines_runs_in_processes_of_its_own(tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(PROGRAM)])
    nbclient.NotebookClient(page, timeout=100, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = "".join(output.get("text", "") for output in page.cells[0].outputs)
    assert "[a] printed by a job" in shown
    assert "\nwell\n" in shown
