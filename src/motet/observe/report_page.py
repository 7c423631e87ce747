"""The report's page as HTML. What it says stands in the page itself; scripts add the timeline and the curves.

All text that comes from a run passes through `escape`, or through `report.embedded_json`.
"""

from __future__ import annotations

import colorsys
import datetime
import shlex
from collections.abc import Iterator, Mapping
from html import escape
from importlib import resources
from string import Template
from typing import Any

from motet.observe import summary
from motet.observe.digest import JobDigest, RunDigest
from motet.observe.elsewhere import elsewhere_text
from motet.observe.metrics import Curve
from motet.observe.ranking import Logged
from motet.observe.text import bytes_text, count_text, seconds_text, share_text, shortened, value_text
from motet.tracebacks import short_form

SPARK_POINTS = 40
LONGEST_BAR_NAME = 22  # characters
MOST_SETTINGS = 400
MOST_OF_AN_ERROR = 20_000  # characters
MANY_JOBS = 8  # more of them get a line each

# One hue a job, for light and for dark pages: equally strong, and apart also for most colour-blind readers.
_COLOURS = (
    ("#3569c4", "#7aa5f2"),
    ("#cf7416", "#f0a45a"),
    ("#1f8a5f", "#58c596"),
    ("#b03f86", "#e486c0"),
    ("#7452c8", "#ab92f0"),
    ("#bd4a42", "#ee8a80"),
    ("#17849a", "#5cc0d4"),
    ("#7c7a1c", "#c3bf5c"),
)

_SPLIT_LABELS = {
    "startup": "jobs starting up: imports, building",
    "compute": "computing, nothing is in flight",
    "hidden": "computing while gradients are in flight (hidden sync)",
    "exposed": "waiting for gradients (exposed sync)",
    "idle": "idle: saving, other",
}
_JOB_SPLIT_LABELS = {
    "startup": "starting up: imports, building",
    "compute": "computing",
    "hidden": "its gradients are in flight, another job computes (hidden)",
    "exposed": "its gradients are in flight, nothing computes (exposed)",
    "idle": "ready, other jobs have their turn",
}


def page(run: RunDigest, data: str) -> str:
    """Return the whole page. ``data`` is JSON made safe for a script element."""
    template = Template(_asset("report.html"))
    return template.substitute(
        title=escape(f"{run.path.resolve().name} · Motet"),
        job_colours=_job_colours(len(run.jobs)),
        css=_asset("report.css"),
        header=_header(run),
        cards=_cards(run),
        jobs=_jobs_table(run),
        notes=_notes(run),
        timeline_note=_timeline_note(run),
        workers=_worker_options(run),
        split=_split(run),
        bound=_bound(run),
        configuration=_configuration(run),
        data=data,
        scripts=_asset("chart.js") + _asset("timeline.js") + _asset("curves.js"),
    )


def _asset(name: str) -> str:
    return resources.files("motet.observe").joinpath("page", name).read_text(encoding="utf-8")


def _job_colours(count: int) -> str:
    pairs = list(_COLOURS[:count]) if count <= len(_COLOURS) else [_spread(index, count) for index in range(count)]
    light = "".join(f"--job-{index}:{pair[0]};" for index, pair in enumerate(pairs))
    dark = "".join(f"--job-{index}:{pair[1]};" for index, pair in enumerate(pairs))
    return (
        f":root{{{light}}}@media(prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}}}}}"
        f":root[data-theme=dark]{{{dark}}}"
    )


def _spread(index: int, count: int) -> tuple[str, str]:
    """Return one of many hues; neighbours in the list differ in lightness too."""
    hue = index / count
    step = (index % 2) * 0.10
    return _hex(hue, 0.40 + step, 0.55), _hex(hue, 0.66 + step, 0.60)


def _hex(hue: float, lightness: float, saturation: float) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, lightness, saturation))


def _header(run: RunDigest) -> str:
    count = len(run.jobs)
    most = run.most_at_once
    at_once = f", {'all' if most == count else most} at once" if count > 1 else ""
    title = f"{count_text(count, 'model')} trained on {_workers(run)}{at_once}"
    began = ""
    if run.unix_time is not None:
        began = datetime.datetime.fromtimestamp(run.unix_time).astimezone().strftime("%d %B %Y, %H:%M") + " · "
    command = run.description.get("command")
    if isinstance(command, list):
        command = shlex.join(map(str, command))
    command = escape(str(command or ""))
    shown = f'<p class="command"><code title="{command}">{command}</code></p>' if command else ""
    return (
        f"<h1>{escape(title)}</h1>"
        f'<p class="headline">{escape(summary.headline(run))}</p>'
        f'<p class="origin">{escape(began + run.path.resolve().name)}</p>{shown}'
    )


def _workers(run: RunDigest) -> str:
    return count_text(run.num_workers, "worker")


def _cards(run: RunDigest) -> str:
    cards = [_took_card(run)]
    if len(run.jobs) > 1:
        cards.append(_saved_card(run))
    if run.ranking is not None:
        value = value_text(run.ranking.values[run.ranking.best])
        cards.append((f"Best {run.ranking.metric}", value, f"{summary.best_text(run)}."))
    word, why = run.bottleneck()
    cards.append(("Bottleneck", word, why[0].upper() + why[1:] + "."))
    if run.hidden_share is not None:
        cards.append(
            (
                "Sync hidden",
                share_text(run.hidden_share),
                "of the time that gradients were in flight (sync), something was being computed meanwhile.",
            )
        )
    return "".join(
        f'<div class="card"><h2>{escape(name)}</h2><p class="big">{escape(value)}</p><p>{escape(text)}</p></div>'
        for name, value, text in cards
    )


def _took_card(run: RunDigest) -> tuple[str, str, str]:
    counts: dict[str, int] = {}
    for job in run.jobs:
        counts[job.status] = counts.get(job.status, 0) + 1
    jobs = "all " if len(counts) == 1 and len(run.jobs) > 1 else ""
    text = ", ".join(f"{jobs}{count_text(count, 'job')} {status}" for status, count in counts.items())
    turns = sum(job.turns for job in run.jobs)
    return "Took", seconds_text(run.wall_seconds), f"{text}; {turns:,} turns (training steps) in all.".capitalize()


def _saved_card(run: RunDigest) -> tuple[str, str, str]:
    alone, saved = run.estimate.one_after_another_seconds, run.saved_seconds
    if saved > 0.01 * alone:
        text = f"{alone / run.training_seconds:.2f} times as fast as one after another (≈ {seconds_text(alone)})."
        return "Time saved", "≈ " + seconds_text(saved), text
    text = f"One after another would have taken about {seconds_text(alone)}, not counting the start."
    return "Time saved", "none", text


def _jobs_table(run: RunDigest) -> str:
    places = {job.name: index for index, job in enumerate(run.jobs)}  # of its colour
    rows = "".join(_job_row(run, places[job.name], job) for job in summary.by_rank(run))
    many = " many" if len(run.jobs) > MANY_JOBS else ""
    return (
        f'<table class="jobs{many}"><thead><tr><th scope="col">Job</th><th scope="col">How well: before → after</th>'
        '<th scope="col"><span class="unseen">Curve</span></th><th scope="col">Status</th>'
        '<th scope="col" class="number">Turns</th><th scope="col" class="number">Computing</th>'
        '<th scope="col" class="number">Gradients</th><th scope="col" class="number">Memory</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _job_row(run: RunDigest, index: int, job: JobDigest) -> str:
    logged = "".join(_logged(one) for one in job.logged[:2])
    if job.result and len(job.logged) < 2:
        logged += f'<div><span class="metric">returned</span> <b>{escape(job.result)}</b></div>'
    if job.last_printed and not logged:
        last_printed = f'<span class="last-line">{escape(job.last_printed)}</span>'
        logged = f'<div class="printed"><span class="metric last">printed last</span> {last_printed}</div>'
    curve = next((run.curves[one.name].get(job.name) for one in job.logged if one.name in run.curves), None)
    spark = _spark(curve, index) if curve else ""
    error = f'<pre class="error">{escape(job.error.strip()[-MOST_OF_AN_ERROR:])}</pre>' if job.error else ""
    if error:
        error = f'<details class="failure"><summary>{escape(short_form(job.error or ""))}</summary>{error}</details>'
    size = job.sums.num_bytes / job.sums.num_syncs if job.sums.num_syncs else 0
    return (
        f'<tr><th scope="row" title="{escape(job.what)}">'
        f'<span class="dot" style="background:var(--job-{index})"></span>{escape(job.name)}{_best(run, job)}'
        f'<div class="what">'
        f"{escape(job.what)}</div>{error}</th>"
        f"<td>{logged or '<span class=muted>nothing logged</span>'}</td><td>{spark}</td>"
        f'<td><span class="status {escape(job.status.split()[0])}">{escape(job.status)}</span>{_diverged(job)}</td>'
        f'<td class="number" data-name="turns">{escape(summary.turns_text(job))}</td>'
        f'<td class="number" data-name="computing">{escape(seconds_text(job.sums.compute_seconds))}</td>'
        f'<td class="number" data-name="gradients">{escape(bytes_text(size) + " a turn" if size else "–")}</td>'
        f'<td class="number" data-name="memory">{_memory(job.memory)}</td></tr>'
    )


def _best(run: RunDigest, job: JobDigest) -> str:
    if run.ranking is None or run.ranking.best != job.name:
        return ""
    return f' <span class="best" title="{escape(summary.best_text(run))}">best {escape(run.ranking.metric)}</span>'


def _memory(held: Mapping[str, Any] | None) -> str:
    """Return what a job held in all, with its parts on hovering."""
    kinds = ("parameters", "gradients", "optimizer", "activations")  # what moves with --offload idle is among them
    parts = {kind: size for kind in kinds if (size := (held or {}).get(f"{kind}_bytes"))}
    if not parts:
        return "–"
    listed = ", ".join(f"{name} {bytes_text(size)}" for name, size in parts.items())
    if shared := (held or {}).get("shared_bytes"):
        listed += f"; {bytes_text(shared)} of the parameters are shared with other jobs"
    return f'<span title="{escape(listed)}">{escape(bytes_text(sum(parts.values())))}</span>'


def _diverged(job: JobDigest) -> str:
    return f'<div class="diverged">{escape(job.diverged)}</div>' if job.diverged else ""


def _logged(one: Logged) -> str:
    before = f"{escape(value_text(one.first))} → " if one.count > 1 else ""
    baseline = (
        f' <span class="muted">baseline {escape(value_text(one.baseline))}</span>' if one.baseline is not None else ""
    )
    after = escape(one.diverged or value_text(one.last))
    return f'<div><span class="metric">{escape(one.name)}</span> {before}<b>{after}</b>{baseline}</div>'


def _spark(curve: Curve, index: int) -> str:
    values = [mean for _, _, mean in curve.thinned(SPARK_POINTS) if mean is not None]
    if len(values) < 2:
        return ""
    least, most = min(values), max(values)
    height = most - least or 1.0
    points = " ".join(
        f"{100 * i / (len(values) - 1):.1f},{22 - 20 * (value - least) / height:.1f}" for i, value in enumerate(values)
    )
    return (
        f'<svg class="spark" viewBox="0 0 100 24" preserveAspectRatio="none" aria-hidden="true">'
        f'<polyline points="{points}" style="stroke:var(--job-{index})"/></svg>'
    )


def _notes(run: RunDigest) -> str:
    notes = [text for text in [elsewhere_text(run), *run.notices] if text]
    if not run.complete:
        notes.insert(0, "This run has no results yet: it is still going, or it was killed. All figures are so far.")
    if not notes:
        return ""
    return '<ul class="notes">' + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"


def _timeline_note(run: RunDigest) -> str:
    notes = []
    if run.trace.thinned():
        notes.append(f"The recording is {run.trace.thinned()}.")
    if len(run.trace.workers) > 8:
        notes.append(f"The first 8 of {len(run.trace.workers)} workers are shown; trace.json holds all.")
    return escape(" ".join(notes))


def _worker_options(run: RunDigest) -> str:
    shown = run.trace.workers[:8]
    all_fit = len(shown) * (len(run.jobs) + 1) <= 20
    options = f'<option value="all"{" selected" if all_fit else ""}>all workers</option>' if len(shown) > 1 else ""
    for place, worker in enumerate(shown):
        selected = " selected" if place == 0 and not all_fit else ""
        options += f'<option value="{worker}"{selected}>worker {worker}</option>'
    return options


def _split(run: RunDigest) -> str:
    total = run.wall_shares()
    rows = [_bar("The whole run", total, _SPLIT_LABELS, run.wall_seconds, "total")]
    life = max(run.wall_seconds, 1e-9)
    names = shortened([job.name for job in run.jobs], LONGEST_BAR_NAME)
    for index, job in enumerate(run.jobs):
        sums = job.sums
        lived = max(0.0, sums.end - (sums.begin or 0.0))
        hidden = max(0.0, sums.hidden_seconds - sums.overlap_seconds)
        exposed = max(0.0, sums.sync_seconds - sums.hidden_seconds)
        spans = {"startup": sums.startup_seconds, "compute": sums.compute_seconds, "hidden": hidden, "exposed": exposed}
        spans["idle"] = max(0.0, lived - sum(spans.values()))
        rows.append(_bar(names[job.name], spans, _JOB_SPLIT_LABELS, life, f"job-{index}"))
    return "".join(rows)


def _bar(name: str, spans: Mapping[str, float], labels: Mapping[str, str], full: float, kind: str) -> str:
    full = max(full, sum(spans.values()), 1e-9)
    pieces = "".join(
        f'<span class="piece {key}" style="width:{100 * seconds / full:.3f}%" '
        f'title="{escape(labels[key])}: {escape(seconds_text(seconds))}">'
        f"{share_text(seconds / full) if seconds / full > 0.07 else ''}</span>"
        for key, seconds in spans.items()
        if seconds > 0
    )
    text = "; ".join(f"{labels[key]} {seconds_text(seconds)}" for key, seconds in spans.items())
    dot = "" if kind == "total" else f'<span class="dot" style="background:var(--{kind})"></span>'
    total = " total" if kind == "total" else ""
    return (
        f'<div class="bar-row{total}"><div class="bar-name">{dot}{escape(name)}</div>'
        f'<div class="bar" role="img" aria-label="{escape(name + ": " + text)}">{pieces}</div></div>'
    )


def _bound(run: RunDigest) -> str:
    guess = run.estimate
    rows: list[tuple[str, float, str, str]] = [
        ("computing, all jobs", guess.compute_seconds, "limit", "the workers cannot do it in less"),
        ("network, all gradients", guess.network_seconds, "limit", "the network cannot do it in less"),
    ]
    longest = guess.longest_job
    if longest is not None and len(run.jobs) > 1:
        name = shortened([longest], LONGEST_BAR_NAME - 6)[longest]
        rows.append((f"{name} alone", guess.alone_seconds[longest], "limit", "no job ends sooner than alone"))
    rows.append(("bound", run.bound_seconds, "bound", "the least that these costs allow"))
    if run.predicted_seconds is not None:
        rows.append(("predicted", run.predicted_seconds, "predicted", summary.difference_text(run)))
    note = f"efficiency {run.efficiency:.2f} = bound / measured" if run.efficiency is not None else ""
    if run.startup_seconds > 0.02 * run.wall_seconds:
        note += f"; without {seconds_text(run.startup_seconds)} in which jobs started up"
    rows.append(("measured", run.training_seconds, "measured", note))
    if len(run.jobs) > 1:
        rows.append(("one after another", guess.one_after_another_seconds, "alone", "estimated"))
    full = max(seconds for _, seconds, _, _ in rows) or 1.0
    return "".join(
        f'<div class="bound-row {kind}"><div class="bar-name">{escape(name)}</div><div class="track">'
        f'<span class="fill" style="width:{100 * seconds / full:.2f}%"></span></div>'
        f'<div class="bound-value"><b>{escape(seconds_text(seconds))}</b> <span>{escape(text)}</span></div></div>'
        for name, seconds, kind, text in rows
    )


def _configuration(run: RunDigest) -> str:
    settings = list(_flat(run.description, ""))[:MOST_SETTINGS]
    if not settings:
        return '<p class="muted">This run left no run.json.</p>'
    rows = "".join(f'<tr><th scope="row">{escape(n)}</th><td>{escape(value)}</td></tr>' for n, value in settings)
    return f'<table class="configuration"><tbody>{rows}</tbody></table>'


def _flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield nested settings as (path, text), short lists of plain values in one."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list) and any(isinstance(inner, Mapping | list) for inner in value):
        for index, inner in enumerate(value):
            name = str(index)
            if isinstance(inner, Mapping) and "name" in inner:
                name = str(inner["name"])
            shown = {key: one for key, one in inner.items() if key != "name"} if isinstance(inner, Mapping) else inner
            yield from _flat(shown, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        yield path, " ".join(map(str, value))
    elif isinstance(value, bool):
        yield path, str(value).lower()
    else:
        yield path, "" if value is None else str(value)
