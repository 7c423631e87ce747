"""A trial that all workers hold, of which worker 0 alone talks to the study's storage."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, NoReturn, Protocol

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import BaseTrial, Trial

from motet.handle import current_job
from motet.integrations.decisions import Decisions


class TrialFailed(Exception):
    """An objective returned something that is not its value (not numbers, NaN, too many of them)."""


class AsksTrial(Protocol):
    """Asks the trial that the study knows, wherever it is: for an attribute by its path, or what a method returns."""

    def __call__(self, path: str, *args: Any, **kwargs: Any) -> Any: ...


def answer_of(real: Trial, path: str, *args: Any, **kwargs: Any) -> Any:
    """Return what an attribute of a trial is, or what its method returns."""
    found = attrgetter(path)(real)
    return found(*args, **kwargs) if callable(found) else found


class SharedTrial(BaseTrial):
    """What an objective gets as its trial: every call is made on all workers, and answered alike.

    On worker 0 the study's own trial gives each ``answer``; the others have None. A suggestion, `should_prune` and an
    attribute cost the other workers a wait for worker 0 (a tenth of a millisecond where all are there); what is known
    already, `report`, and `should_prune` of a study that never prunes cost nothing. Attributes that worker 0 alone
    cannot answer for all (``study.trials``, ``storage``) are not there.
    """

    def __init__(self, answer: AsksTrial | None, begun: Mapping[str, Any], decisions: Decisions) -> None:
        self._answer = answer
        self._number = int(begun["number"])
        self._start = begun["start"]
        self._prunes = bool(begun["prunes"])
        self._decisions = decisions
        self._asked: dict[str, BaseDistribution] = {}
        self._params: dict[str, Any] = {}
        self.study = SharedStudy(answer, decisions)

    def _ask(self, question: str, answer: Callable[[AsksTrial], Any]) -> Any:
        def answer_here() -> Any:
            assert self._answer is not None
            return answer(self._answer)

        return self._decisions.ask(question, answer_here)

    def _suggest(self, name: str, distribution: BaseDistribution, suggest: Callable[[AsksTrial], Any]) -> Any:
        if self._asked.get(name) == distribution:
            return self._params[name]  # a loop that asks at every step
        value = self._ask(f"suggest {name}", suggest)
        if isinstance(distribution, CategoricalDistribution):
            value = distribution.choices[value]
        self._asked.setdefault(name, distribution)
        self._params.setdefault(name, value)
        current_job().set_parameters(**{name: value})
        return value

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Suggest a float, the same on all workers."""
        distribution = FloatDistribution(low, high, log=log, step=step)
        return float(
            self._suggest(name, distribution, lambda real: real("suggest_float", name, low, high, step=step, log=log))
        )

    def suggest_uniform(self, name: str, low: float, high: float) -> float:
        """Suggest a float; older than `suggest_float`."""
        return self.suggest_float(name, low, high)

    def suggest_loguniform(self, name: str, low: float, high: float) -> float:
        """Suggest a float from the logarithmic domain; older than `suggest_float`."""
        return self.suggest_float(name, low, high, log=True)

    def suggest_discrete_uniform(self, name: str, low: float, high: float, q: float) -> float:
        """Suggest a multiple of ``q``; older than `suggest_float`."""
        return self.suggest_float(name, low, high, step=q)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Suggest an integer, the same on all workers."""
        distribution = IntDistribution(low, high, log=log, step=step)
        return int(
            self._suggest(name, distribution, lambda real: real("suggest_int", name, low, high, step=step, log=log))
        )

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Suggest one of ``choices``, the same on all workers."""
        distribution = CategoricalDistribution(choices)

        def suggest(real: AsksTrial) -> int:
            return int(distribution.to_internal_repr(real("suggest_categorical", name, choices)))

        return self._suggest(name, distribution, suggest)

    def report(self, value: float, step: int) -> None:
        """Report an intermediate value: worker 0's counts. Costs nothing between the workers.

        What the storage raises is raised with the next question, on all workers.
        """
        try:
            value, step = float(value), int(step)
        except (TypeError, ValueError):
            raise TypeError(f"trial.report takes a number and a step, not {value!r} and {step!r}") from None
        if self._answer is not None:
            try:
                self._answer("report", value, step)
            except Exception as error:
                self._decisions.hold(error)
        current_job().log(reported=value)

    def should_prune(self) -> bool:
        """Return whether the study's pruner would end this trial here; the same on all workers."""
        return self._prunes and bool(self._ask("should_prune", lambda real: bool(real("should_prune"))))

    def set_user_attr(self, key: str, value: Any) -> None:
        """Set an attribute: worker 0's value counts."""
        self._ask(f"set_user_attr {key}", lambda real: real("set_user_attr", key, value))

    def set_constraint(self, key: str, value: float) -> None:
        """Set a constraint's value: worker 0's counts."""
        self._ask(f"set_constraint {key}", lambda real: real("set_constraint", key, value))

    @property
    def number(self) -> int:
        """The trial's number in its study."""
        return self._number

    @property
    def params(self) -> dict[str, Any]:
        """What was suggested so far."""
        return dict(self._params)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """What it was suggested from."""
        return dict(self._asked)

    @property
    def user_attrs(self) -> dict[str, Any]:
        """The trial's attributes, as worker 0 knows them."""
        return dict(self._ask("user_attrs", lambda real: real("user_attrs")))

    @property
    def constraints(self) -> dict[str, float]:
        """The trial's constraints, as worker 0 knows them."""
        return dict(self._ask("constraints", lambda real: real("constraints")))

    @property
    def datetime_start(self) -> datetime.datetime | None:
        """When the trial began."""
        return None if self._start is None else datetime.datetime.fromisoformat(self._start)

    @property
    def relative_params(self) -> dict[str, Any]:
        """What the sampler has chosen beforehand."""
        return dict(self._ask("relative_params", lambda real: real("relative_params")))

    def settled(self, value: Any) -> float | list[float]:
        """Return the value that the trial ends with, worker 0's; raise `TrialFailed` on all workers if it is none."""
        values = self._ask("the value", lambda real: _feasible(value, len(real("study.directions"))))
        if isinstance(values, str):
            raise TrialFailed(f"trial {self._number} ends without a value: {values}")
        if len(values) == 1:
            current_job().log(value=values[0])
            return float(values[0])
        return [float(number) for number in values]


class SharedStudy:
    """What an objective may ask of ``trial.study``: answered by worker 0, the same on all workers."""

    def __init__(self, answer: AsksTrial | None, decisions: Decisions) -> None:
        self._answer = answer
        self._decisions = decisions

    def _ask(self, name: str) -> Any:
        def answer() -> Any:
            assert self._answer is not None
            return self._answer(f"study.{name}")

        return self._decisions.ask(f"study.{name}", answer)

    def stop(self) -> None:
        """Begin no more trials; those under way go on."""
        if self._answer is not None:
            try:
                self._answer("study.stop")
            except Exception as error:
                self._decisions.hold(error)

    @property
    def study_name(self) -> str:
        """The study's name."""
        return str(self._ask("study_name"))

    @property
    def directions(self) -> list[StudyDirection]:
        """What is to be minimized or maximized."""
        return [StudyDirection(direction) for direction in self._ask("directions")]

    @property
    def direction(self) -> StudyDirection:
        """Whether the value is to be minimized or maximized."""
        return StudyDirection(self._ask("direction"))

    @property
    def best_value(self) -> float:
        """The best value so far; ValueError where there is none."""
        return float(self._ask("best_value"))

    @property
    def best_params(self) -> dict[str, Any]:
        """The parameters of the best trial so far; ValueError where there is none."""
        return dict(self._ask("best_params"))

    @property
    def user_attrs(self) -> dict[str, Any]:
        """The study's attributes."""
        return dict(self._ask("user_attrs"))

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"trial.study.{name} is not known to all workers; in an objective there are stop(), study_name, direction, "
            "directions, best_value, best_params, user_attrs. Use callbacks for the rest: worker 0 runs them."
        )


def _feasible(value: Any, num_objectives: int) -> list[float] | str:
    """Return the value or values as floats, or what is wrong with them."""
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    try:
        numbers = [float(number) for number in values]
    except (TypeError, ValueError, RuntimeError):
        return f"the objective returned {value!r:.200}, which is not a number"
    if len(numbers) != num_objectives:
        return f"the objective returned {len(numbers)} values, and the study has {num_objectives} objectives"
    if any(math.isnan(number) for number in numbers):
        return "the objective returned NaN"
    return numbers
