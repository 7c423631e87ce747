"""The facts of a run, derived once for both the terminal's summary and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from motet.confidential import masked
from motet.divergence import Diverged, diverged_text, from_json
from motet.errors import CheckpointError, UsageError
from motet.observe.account import Estimate, JobSums, estimate
from motet.observe.metrics import Curve, read_metrics
from motet.observe.parts import Trace, read_trace, sums_of
from motet.observe.printed import last_line
from motet.observe.ranking import BOOKKEEPING, Logged, Mode, Ranking, interest, ranking
from motet.observe.text import share_text
from motet.results import Results
from motet.run_dir import read_json, wrong_keys
from motet.schedule.bound import efficiency as efficiency_of

IDLE_NETWORK_SHARE = 0.02


@dataclass(frozen=True)
class JobDigest:
    """What a reader wants to know of one job. ``sums`` are worker 0's."""

    name: str
    what: str
    status: str
    turns: int
    expected_turns: int | None
    error: str | None
    result: str | None
    sums: JobSums
    logged: tuple[Logged, ...]
    memory: Mapping[str, Any] | None = None  # `motet.memory.footprint.Footprint`, as results.json has it
    diverged: str = ""  # what of it ended in NaN or infinity
    target: str = ""  # the program that it runs
    values: Mapping[str, Logged] = field(default_factory=dict)  # all that it logged or returned, by name
    last_printed: str | None = None  # the last line that it printed, where it logged and returned nothing


@dataclass(frozen=True)
class RunDigest:
    """What a reader wants to know of a run. Sums are worker 0's; other workers take the same turns."""

    path: Path
    description: Mapping[str, Any]
    unix_time: float | None
    complete: bool
    num_workers: int
    wall_seconds: float
    jobs: tuple[JobDigest, ...]
    waiting_seconds: float
    estimate: Estimate
    bound_seconds: float
    efficiency: float | None
    predicted_seconds: float | None
    startup_seconds: float  # worker 0 was busy with the start of jobs
    notices: tuple[str, ...]
    trace: Trace
    curves: Mapping[str, Mapping[str, Curve]]
    ranking: Ranking | None

    @property
    def saved_seconds(self) -> float:
        """Time saved against one job after another, estimated; negative where running together was slower.

        Either way every job has to start up.
        """
        return self.estimate.one_after_another_seconds - self.training_seconds

    @property
    def most_at_once(self) -> int:
        """How many jobs were there at the same time, at most."""
        spans = [(job.sums.begin, job.sums.end) for job in self.jobs if job.sums.begin is not None]
        moments = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
        now = most = 0
        for _, change in moments:
            now += change
            most = max(most, now)
        return most

    @property
    def training_seconds(self) -> float:
        """The run's time without the start-up of jobs."""
        return max(0.0, self.wall_seconds - self.startup_seconds)

    @property
    def compute_share(self) -> float:
        """Share of the run's time, without start-up, in which the worker computed."""
        return min(1.0, self.estimate.compute_seconds / self.training_seconds) if self.training_seconds else 0.0

    @property
    def network_share(self) -> float:
        """Share of the run's time, without start-up, in which gradients were in flight."""
        return min(1.0, self.estimate.network_seconds / self.training_seconds) if self.training_seconds else 0.0

    @property
    def hidden_share(self) -> float | None:
        """Share of the time that gradients were in flight in which the worker computed; None without any."""
        in_flight = sum(job.sums.sync_seconds for job in self.jobs)
        hidden = sum(job.sums.hidden_seconds for job in self.jobs)
        return min(1.0, hidden / in_flight) if in_flight > 0 else None

    def wall_shares(self) -> dict[str, float]:
        """Split the run's seconds into startup, compute, hidden, exposed and idle."""
        rest, guess = self.training_seconds, self.estimate
        split = split_wall(rest, guess.compute_seconds, self.waiting_seconds, guess.network_seconds)
        return {"startup": self.startup_seconds, **split}

    def bottleneck(self) -> tuple[str, str]:
        """Return what held the run back, in a word, and why."""
        compute, network = self.compute_share, self.network_share
        of = "the time after start-up" if self.startup_seconds > 0.02 * self.wall_seconds else "the time"
        busy = f"workers computed {share_text(compute)} of {of}; gradients were in flight {share_text(network)}"
        longest = self.estimate.longest_job
        longest_seconds = self.estimate.alone_seconds.get(longest or "", 0.0)
        others = max(self.estimate.compute_seconds, self.estimate.network_seconds)
        if self.num_workers == 1 or network < IDLE_NETWORK_SHARE:
            return "compute", f"{busy}, so there was next to nothing to hide"
        if len(self.jobs) > 1 and longest_seconds > 1.1 * others:
            return "one job", f"{longest} alone needs most of this time: it waits for its own gradients; {busy}"
        if max(compute, network) < 0.6:
            return "neither", f"{busy}; the rest was waiting, starting and saving"
        if network > 1.05 * compute:
            return "network", busy
        if compute > 1.05 * network:
            return "compute", busy
        return "both", f"computing and network alike: {busy}"


def split_wall(wall: float, compute: float, waiting: float, network: float) -> dict[str, float]:
    """Split ``wall`` seconds of a worker: computing with nothing in flight, computing while gradients are in flight
    (hidden), waiting for gradients (exposed), and neither (idle). The four sum up to ``wall`` or a little more."""
    hidden = min(compute, max(0.0, network - waiting))
    return {
        "compute": compute - hidden,
        "hidden": hidden,
        "exposed": waiting,
        "idle": max(0.0, wall - compute - waiting),
    }


def digest(
    run_dir: Path, *, with_turns: bool = False, metric: str | None = None, mode: Mode | None = None
) -> RunDigest:
    """Gather the facts of the run in ``run_dir``; UsageError if there is no run.

    ``metric``, ``mode``: by which value jobs are compared, and whether less (``min``) or more (``max``) is better.

    A run that is still going, or was killed, has no results.json: what the traces and logs hold is used.
    """
    description = masked(_read_json(run_dir / "run.json"))
    for key in wrong_keys(description or {}):  # edited by hand: then without it
        del description[key]
    results_data = _read_json(run_dir / "results.json")
    if description is None and results_data is None and not (run_dir / "trace").is_dir():
        raise UsageError(f"{run_dir} holds no run (no run.json, results.json or trace). Give the run's directory.")
    results = _results(results_data)
    trace = read_trace(run_dir, with_turns=with_turns)
    curves = read_metrics(run_dir / "metrics.jsonl")
    first_worker = trace.of_worker(trace.workers[0]) if trace.workers else []
    sums = _job_sums(trace, results)
    names = _job_names(description or {}, results, trace, sums)
    network = sum(float(part.sums.get("network_seconds", 0.0)) for part in first_worker)
    waiting = sum(float(part.sums.get("waiting_seconds", 0.0)) for part in first_worker)
    if not network:
        network = sum(job.sync_seconds for job in sums.values())
        waiting = sum(max(0.0, job.sync_seconds - job.hidden_seconds) for job in sums.values())
    wall = max(trace.seconds, results.wall_seconds if results is not None else 0.0)
    if results is not None and len(trace.attempts) <= 1:
        wall = results.wall_seconds
    guess = estimate({name: sums.get(name, JobSums()) for name in names}, min(network, wall) if wall else network)
    startup = sum(job.startup_seconds for job in sums.values())
    whole = results if len(trace.attempts) <= 1 else None  # otherwise they speak of the last attempt alone
    bound = (whole.bound_seconds if whole else None) or guess.bound_seconds
    efficiency = (whole.efficiency if whole else None) or efficiency_of(bound, wall - startup)
    jobs = tuple(_job(name, run_dir, description or {}, results, trace, sums, curves) for name in names)
    return RunDigest(
        path=run_dir,
        description=description or {},
        unix_time=trace.attempts[0][0] if trace.attempts else None,
        complete=results is not None,
        num_workers=_num_workers(results, trace),
        wall_seconds=wall,
        jobs=jobs,
        ranking=_ranking(jobs, description or {}, metric, mode),
        waiting_seconds=waiting,
        estimate=guess,
        bound_seconds=bound,
        efficiency=efficiency,
        startup_seconds=startup,
        predicted_seconds=_prediction(description or {}, results_data or {}),
        notices=_notices(results, trace),
        trace=trace,
        curves=curves,
    )


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        data = read_json(path)
    except (OSError, CheckpointError):
        return None
    return data if isinstance(data, dict) else None


def _results(data: Mapping[str, Any] | None) -> Results | None:
    try:
        return None if data is None else Results.from_json(data)
    except (ValueError, KeyError, TypeError, AttributeError):  # edited by hand
        return None


def _num_workers(results: Results | None, trace: Trace) -> int:
    if results is not None:
        return results.num_workers
    return max((part.num_workers for part in trace.parts), default=1)


def _job_sums(trace: Trace, results: Results | None) -> dict[str, JobSums]:
    """Return worker 0's sums over all attempts, or what results.json holds where no trace was recorded."""
    sums: dict[str, JobSums] = {}
    if trace.workers:
        for part in trace.of_worker(trace.workers[0]):
            for name, job in sums_of(part).items():
                sums.setdefault(name, JobSums()).add(job, part.offset)
        return sums
    if results is not None:
        for name, result in results.jobs.items():
            sums[name] = JobSums(result.turns, result.compute_seconds, result.sync_seconds, result.hidden_seconds)
            sums[name].end, sums[name].startup_seconds = results.wall_seconds, result.startup_seconds
    return sums


def _job_specs(description: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return run.json's jobs by name, whether it lists them or maps them."""
    jobs = description.get("jobs")
    if isinstance(jobs, Mapping):
        return {str(name): spec if isinstance(spec, Mapping) else {"target": spec} for name, spec in jobs.items()}
    if isinstance(jobs, list):
        return {
            str(spec["name"]) if isinstance(spec, Mapping) and "name" in spec else str(spec): spec
            if isinstance(spec, Mapping)
            else {}
            for spec in jobs
        }
    return {}


def _job_names(
    description: Mapping[str, Any], results: Results | None, trace: Trace, sums: Mapping[str, JobSums]
) -> list[str]:
    names = dict.fromkeys(_job_specs(description))
    names.update(dict.fromkeys(name for part in trace.parts for name in part.jobs))
    names.update(dict.fromkeys(results.jobs if results is not None else ()))
    names.update(dict.fromkeys(sums))
    return list(names)


def _what(spec: Mapping[str, Any]) -> str:
    """Say in a line what a job runs."""
    target = str(spec.get("target") or spec.get("script") or spec.get("call") or "")
    if spec.get("kind") == "script":
        target = Path(target).name
    arguments = spec.get("arguments") or spec.get("args") or spec.get("with") or ()
    if isinstance(arguments, Mapping):
        inner = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        return f"{target}({inner})" if target else inner
    if isinstance(arguments, str):
        return f"{target} {arguments}"
    return " ".join([target, *map(str, arguments)]).strip()


def _job(
    name: str,
    run_dir: Path,
    description: Mapping[str, Any],
    results: Results | None,
    trace: Trace,
    sums: Mapping[str, JobSums],
    curves: Mapping[str, Mapping[str, Curve]],
) -> JobDigest:
    spec = _job_specs(description).get(name, {})
    result = results.jobs.get(name) if results is not None else None
    own = sums.get(name, JobSums())
    marks = [mark for part in trace.parts for mark in part.marks if mark.job == name]
    ended = [mark.text for mark in marks if mark.kind == "job ended"]
    expected = next((mark.turns for mark in reversed(marks) if mark.turns), spec.get("turns"))
    logged = [
        Logged(value, *by_job[name].ends(), count=len(by_job[name].values), diverged=str(by_job[name].diverged() or ""))
        for value, by_job in curves.items()
        if name in by_job
    ]
    logged.sort(key=lambda one: interest(one.name))
    informative = [one for one in logged if interest(one.name)[0] < BOOKKEEPING]
    returned = _returned(result.result) if result else None
    if returned:
        informative = [returned, *(one for one in informative if one.name != returned.name)]
    shown = None if result is None or result.result is None or returned else _one_line(result.result)
    diverged = diverged_text(from_json(result.nonfinite)) if result else ""
    if not diverged:  # the run still goes, or was killed
        found = {value: _diverged(by_job.get(name)) for value, by_job in curves.items()}
        diverged = diverged_text({value: since for value, since in found.items() if since})
    values = {one.name: one for one in logged} | ({returned.name: returned} if returned else {})
    return JobDigest(
        name=name,
        target=str(spec.get("target") or spec.get("script") or spec.get("call") or ""),
        values=values,
        diverged=diverged,
        what=_what(spec),
        status=result.status if result else ended[-1] if ended else "not ended" if own.turns else "not started",
        turns=result.turns if result else own.turns,
        expected_turns=expected if isinstance(expected, int) else None,
        error=result.error if result else None,
        memory=result.memory if result else None,
        result=shown,
        sums=own,
        logged=tuple(informative or logged),
        last_printed=None if logged or returned or shown else last_line(run_dir / "jobs" / name / "log.txt"),
    )


def _diverged(curve: Curve | None) -> Diverged | None:
    return curve.diverged() if curve is not None else None


def _ranking(
    jobs: Sequence[JobDigest], description: Mapping[str, Any], metric: str | None, mode: Mode | None
) -> Ranking | None:
    """Return which job did best; what the run was started with counts where nothing is asked for now."""
    if metric is not None or mode is not None:
        return ranking(jobs, metric or description.get("metric"), mode)
    given: Any = description.get("metric"), description.get("mode")
    try:
        return ranking(jobs, *given)
    except UsageError:  # no job has come to log it
        return None


def _returned(result: Any) -> Logged | None:
    """Return what a job says of itself, if its result has the keys ``before`` and ``after``."""
    if not isinstance(result, Mapping):
        return None
    values = [result.get(name) for name in ("before", "after", "baseline")]
    before, after, baseline = [float(v) if isinstance(v, int | float) else None for v in values]
    if before is None or after is None:
        return None
    return Logged(str(result.get("metric", "result")), before, after, 2, baseline)


def _one_line(value: Any) -> str:
    if isinstance(value, Mapping) and set(value) == {"repr", "file"}:  # a result that is not JSON
        value = value["repr"]
    if isinstance(value, Mapping) and value and all(isinstance(one, int | float) for one in value.values()):
        return ", ".join(f"{name} {_one_line(one)}" for name, one in value.items())
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.5g}"
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else text[:79] + "…"


def _notices(results: Results | None, trace: Trace) -> tuple[str, ...]:
    texts = list(results.notices if results is not None else ())
    for part in trace.parts:
        for mark in part.marks:
            if mark.kind == "notice" and not any(mark.text in text for text in texts):
                texts.append(f"job '{mark.job}' {mark.text}" if mark.job else mark.text)
    return tuple(texts)


def _prediction(description: Mapping[str, Any], results: Mapping[str, Any]) -> float | None:
    """Return the predicted wall seconds, which ``motet plan`` may have left in results.json or run.json."""
    for data in (results, description):
        prediction = data.get("prediction")
        if isinstance(prediction, Mapping):
            prediction = prediction.get("wall_seconds")
        if isinstance(prediction, int | float) and not isinstance(prediction, bool) and prediction > 0:
            return float(prediction)
    return None
