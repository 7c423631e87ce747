"""Observers of a run (`motet.events`): live progress, logged values, the trace; and what is built from their files.

::

    text, account            numbers as people read them; sums of where time went
    metrics, trace           write metrics.jsonl and trace/ while the run goes
    parts, chrome            read the trace's parts; merge them into trace.json
    printed                  the last line that a job printed
    digest, summary          the facts of a run; the same as sentences
    report, report_page      report.html (page/ holds its style and scripts)
    progress                 live, on worker 0's terminal
"""

from __future__ import annotations

from motet.observe.chrome import write_trace
from motet.observe.metrics import MetricsWriter
from motet.observe.progress import Progress
from motet.observe.report import build_report
from motet.observe.summary import summary_text
from motet.observe.trace import TraceRecorder

__all__ = ["MetricsWriter", "Progress", "TraceRecorder", "build_report", "summary_text", "write_trace"]
