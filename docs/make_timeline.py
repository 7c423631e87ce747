"""Draw `images/timeline.svg` from two real runs on a shaped link: one after another, and together.

::

    sudo .venv/bin/python docs/make_timeline.py [--rate 600mbit] [--turns 8] [--repeat 5]

The demo's transformer and recommender train on two workers, a core each, joined by a link that is held to the rate
(network namespaces: needs root). First with ``at_once=1``, where nothing hides a job's gradients but its own backward,
as under plain DDP; then together, a turn of each by turns. Drawn are as many turns of each job in either run, from
worker 0's trace; what starting the second job took is left out. Of several repeats in alternation, those with the
median time are drawn. Writes all figures to `images/timeline.json`, and a note for the pages beside it.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

JOBS = ("transformer", "recommender")
LEFT_OUT = 8  # turns at the beginning, in which buckets are rebuilt and memory is allocated
INK, PALE = ("#1f6fb4", "#c7620a"), ("#8fbfe6", "#f3b27a")
Spans = list[tuple[int, str, float, float]]  # job, "compute" or "sync", begin and end in seconds


def work(at_once: int, num_turns: int, run_dir: str, nice: int) -> None:
    """Be one worker of a run."""
    os.sched_setaffinity(0, {int(os.environ["RANK"]) % (os.cpu_count() or 1)})
    import motet
    from motet.demo import byte_gpt, recommender
    from motet.observe import TraceRecorder

    steps = LEFT_OUT + num_turns + 2
    calls = {
        "transformer": functools.partial(byte_gpt, num_steps=steps),
        "recommender": functools.partial(recommender, num_steps=steps),
    }
    be_nice(nice)  # not before: imports can wait for whoever else is on the machine
    # One lane a job, a turn each: what is drawn must not depend on what the planner finds.
    motet.run(calls, at_once=at_once, order="round-robin", observers=[TraceRecorder(Path(run_dir))])


def be_nice(nice: int) -> None:
    """Set the priority of this process and of its session, by which Linux weighs sessions against each other."""
    if nice:
        os.nice(nice)
        group = Path("/proc/self/autogroup")
        if group.exists():
            group.write_text(str(nice))


def measure(at_once: int, options: argparse.Namespace, folder: Path) -> Path:
    """Train on two workers that a link joins; return the folder with the trace."""
    from motet.shaped_links import shaped_links

    place = folder / f"at-once-{at_once}"
    place.mkdir()
    with shaped_links(2, rate=options.rate) as net:
        command = [sys.executable, __file__, "--work", str(at_once), "--folder", str(place)]
        command += ["--turns", str(options.turns), f"--nice={options.nice}"]
        log = (place / "log").open("w")
        workers = [
            net.popen(w, command, env={**net.torchrun_env(w), "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)
            for w in range(2)
        ]
        if any(worker.wait() for worker in workers):
            sys.exit((place / "log").read_text())
    return place


def spans_of(place: Path, num_turns: int, *, together: bool) -> Spans:
    """Return what worker 0 did in ``num_turns`` turns of each job, from second 0 on."""
    from motet.observe.parts import read_trace

    turns = read_trace(place).of_worker(0)[0].turns
    spans: Spans = []
    moment = 0.0
    for group in [JOBS] if together else [(job,) for job in JOBS]:
        chosen = [t for t in turns if t.job in group and LEFT_OUT < t.turn <= LEFT_OUT + num_turns]
        begin = min(turn.begin for turn in chosen)
        for turn in chosen:
            assert turn.launched is not None
            assert turn.completed is not None
            job = JOBS.index(turn.job)
            spans.append((job, "compute", turn.begin - begin + moment, turn.end - begin + moment))
            spans.append((job, "sync", turn.launched - begin + moment, turn.completed - begin + moment))
        moment = max(span[3] for span in spans)
    return spans


def draw(runs: Sequence[tuple[str, Spans]], caption: str) -> str:
    """Return the picture: for each run what the worker computes and synchronizes, below each other on one axis."""
    width, left, right, row, gap = 880, 96, 20, 26, 40
    longest = max(end for _, spans in runs for *_, end in spans)
    scale = (width - left - right) / longest
    parts, y = [], 74.0
    for job, name in enumerate(JOBS):
        x = left + 130 * job
        parts.append(f'<rect x="{x}" y="22" width="14" height="14" rx="2" fill="{INK[job]}"/>')
        parts.append(f'<text x="{x + 20}" y="34">{name}</text>')
    for title, spans in runs:
        took = max(end for *_, end in spans)
        parts.append(f'<text x="{left}" y="{y - 8:.0f}" class="title">{title}: {took:.2f} s</text>')
        for number, (kind, label) in enumerate((("compute", "compute"), ("sync", "network"))):
            top = y + number * (row + 4)
            parts.append(f'<text x="{left - 10}" y="{top + 18:.0f}" text-anchor="end">{label}</text>')
            parts.append(f'<rect x="{left}" y="{top:.0f}" width="{took * scale:.1f}" height="{row}" class="idle"/>')
            # Two jobs' gradients may be sent at once: each has half of the row.
            for job, _, begin, end in (span for span in spans if span[1] == kind):
                height = row if kind == "compute" else row / 2
                place = top + (row / 2 * job if kind == "sync" else 0)
                x, wide = left + begin * scale, max(0.8, (end - begin) * scale)
                parts.append(
                    f'<rect x="{x:.1f}" y="{place:.0f}" width="{wide:.1f}" height="{height:.0f}" fill="{INK[job]}" '
                    f'stroke="{PALE[job]}" stroke-width="0.6"/>'
                )
        y += 2 * row + 4 + gap
    step = next(s for s in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10) if longest / s <= 12)
    axis = y - gap + 10
    for tick in range(int(longest / step) + 1):
        x = left + tick * step * scale
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{axis:.0f}" y2="{axis + 5:.0f}" class="axis"/>')
        parts.append(f'<text x="{x:.1f}" y="{axis + 19:.0f}" text-anchor="middle">{tick * step:g}</text>')
    parts.append(f'<text x="{width - right}" y="{axis + 37:.0f}" text-anchor="end">seconds</text>')
    parts.append(f'<text x="{left}" y="{axis + 37:.0f}" class="small">{caption}</text>')
    height = axis + 50
    style = (
        "text{font:13px system-ui,sans-serif;fill:#222}.title{font-weight:600}.small{font-size:11px}.card{fill:#fff}"
        ".idle{fill:#e9e9ec}.axis{stroke:#888}@media(prefers-color-scheme:dark){text{fill:#e6e6e6}"
        ".card{fill:#1d2027}.idle{fill:#31353f}}"
    )
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" role="img" '
        f'aria-label="{"; ".join(f"{title}: {max(e for *_, e in s):.2f} s" for title, s in runs)}">\n'
        f'<style>{style}</style>\n<rect class="card" width="{width}" height="{height:.0f}" rx="8"/>\n{body}\n</svg>\n'
    )


def medians(spans: Spans) -> dict[str, dict[str, float]]:
    """Return the median seconds of a turn of each job."""
    return {
        name: {
            kind: round(statistics.median(e - b for j, k, b, e in spans if (j, k) == (job, kind)), 4)
            for kind in ("compute", "sync")
        }
        for job, name in enumerate(JOBS)
    }


def machine() -> str:
    """Return the processor's name and how many there are."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.split(':')[1].strip()}, {os.cpu_count()} cores"
    return f"{platform.machine()}, {os.cpu_count()} cores"


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", default="600mbit")
    parser.add_argument("--turns", type=int, default=8, help="turns of each job that are drawn")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--nice", type=int, default=0, help="of the training: below 0 where others work on the machine")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        work(options.work, options.turns, options.folder, options.nice)
        return
    solo, both = [], []
    for _ in range(options.repeat):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            solo.append(spans_of(measure(1, options, folder), options.turns, together=False))
            both.append(spans_of(measure(2, options, folder), options.turns, together=True))
    record(options, solo, both)


def record(options: argparse.Namespace, solo: list[Spans], both: list[Spans]) -> None:
    """Write the picture, its figures and its note."""
    all_seconds = {"one after another": [seconds_of(s) for s in solo], "together": [seconds_of(s) for s in both]}
    one, other = median_run(solo), median_run(both)
    date = datetime.date.today().isoformat()
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True).strip()
    about = f"{options.turns} turns of each model, 2 workers, a core each, link of {options.rate}; measured {date}"
    images = Path(__file__).parent / "images"
    images.joinpath("timeline.svg").write_text(draw([("One after another", one), ("Together", other)], about))
    command = f"python docs/make_timeline.py --rate {options.rate} --turns {options.turns} --repeat {options.repeat}"
    command += f" --nice={options.nice}" if options.nice else ""
    figures = {
        "command": command,
        "date": date,
        "commit": commit,
        "machine": machine(),
        "load": round(os.getloadavg()[1], 1),
        "seconds": all_seconds,
        "median turns": {"one after another": medians(one), "together": medians(other)},
    }
    images.joinpath("timeline.json").write_text(json.dumps(figures, indent=2) + "\n")
    ratio = seconds_of(one) / seconds_of(other)
    note = (
        f"Drawn are {options.turns} turns of each of the demo's transformer and recommender on worker 0, of two "
        f"workers with a core each, joined by a link of {options.rate}: {seconds_of(one):.2f} s one after another (as "
        f"under plain DDP, each backward overlapping its own gradients), {seconds_of(other):.2f} s together, "
        f"{ratio:.2f} times as fast. Each is the median of {options.repeat} runs in alternation, on {date}, commit "
        f"{commit}, {machine()}; others worked on the machine (load {figures['load']}), so take it as a picture of how "
        f"it goes, not of how much it gains. Command: `{command}`. All figures: `docs/images/timeline.json`.\n"
    )
    images.joinpath("timeline-note.txt").write_text(note)
    print(json.dumps(figures, indent=2))


def seconds_of(spans: Spans) -> float:
    """Return when the last of them ends."""
    return round(max(end for *_, end in spans), 3)


def median_run(runs: list[Spans]) -> Spans:
    """Return the run with the median time (of an even number, the slower of the two in the middle)."""
    return sorted(runs, key=seconds_of)[len(runs) // 2]


if __name__ == "__main__":
    main()
