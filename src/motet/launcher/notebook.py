"""In a notebook, ``motet.launch`` shows how the run goes below its cell, and the report when it has ended."""

from __future__ import annotations

import contextlib
import contextvars
import html
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from motet.launcher.notebook_status import EVERY_SECONDS, status_path

REPORT_HEIGHT = 640  # pixels


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook (not a shell of IPython's)."""
    interactive = sys.modules.get("IPython")
    shell = None if interactive is None else interactive.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


@contextlib.contextmanager
def shown_inline(run_dir: Path) -> Iterator[None]:
    """Show below the cell how the run in ``run_dir`` goes, for the duration of the block."""
    from IPython.display import HTML, display

    handle: Any = display(HTML("<div>starting the workers …</div>"), display_id=True)  # type: ignore[no-untyped-call]
    over = threading.Event()
    shown = ""

    def update() -> None:
        nonlocal shown
        if (page := status_html(run_dir)) is not None and page != shown:
            handle.update(HTML(page))  # type: ignore[no-untyped-call]
            shown = page

    def follow() -> None:
        while not over.wait(EVERY_SECONDS):
            update()

    # A kernel knows by the context below which cell an output belongs.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(follow,), daemon=True, name="motet-notebook")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        update()


def show_report(run_dir: Path) -> None:
    """Show the run's report below the cell, as a page of its own inside the notebook."""
    from IPython.display import HTML, display

    from motet.observe import build_report, write_trace

    try:
        write_trace(run_dir)
        page = build_report(run_dir).read_text(encoding="utf-8")
    except Exception as error:  # the run itself is over and well
        sys.stderr.write(f"motet: no report could be built ({type(error).__name__}: {error})\n")
        return
    # The sandbox: what a run logged cannot reach the notebook.
    frame = (
        f'<iframe srcdoc="{html.escape(page)}" sandbox="allow-scripts" width="100%" height="{REPORT_HEIGHT}" '
        'style="border: 1px solid #8884"></iframe>'
    )
    display(HTML(f"<div>{frame}</div>"))  # type: ignore[no-untyped-call]


def status_html(run_dir: Path) -> str | None:
    """Return how the run stands as a table, or None if nothing is known yet."""
    try:
        status = json.loads(status_path(run_dir).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    rows = "".join(_row_html(name, job) for name, job in status["jobs"].items())
    head = "".join(f"<th>{title}</th>" for title in ("job", "state", "turns", "latest"))
    return f"<div><table><tr>{head}</tr>{rows}</table>{status['seconds']:.0f} s</div>"


def _row_html(name: str, job: dict[str, Any]) -> str:
    turns = f"{job['turns']} of {job['expected']}" if job["expected"] else str(job["turns"])
    latest = ", ".join(f"{key} {value:.4g}" for key, value in job["values"].items())
    cells = "".join(f"<td>{html.escape(text)}</td>" for text in (name, job["state"], turns, latest))
    return f"<tr>{cells}</tr>"
