"""Questions that worker 0 answers for all workers, in the same order everywhere."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Self

from motet import errors
from motet.errors import DivergenceError
from motet.workers import Workers


class Decisions:
    """One series of questions, each of which all workers ask at the same place.

    Answers travel as JSON through the store that all workers share. An answer costs worker 0 one message; the others
    wait until it is there. What worker 0's answer raises is raised on every worker.

    ``broadcast(make_text, key)`` calls ``make_text`` on worker 0 and returns its text on every worker; ``forget(keys)``
    frees the store of what was broadcast.
    """

    def __init__(
        self,
        name: str,
        worker: int,
        broadcast: Callable[[Callable[[], str], str], str],
        forget: Callable[[Iterable[str]], None] = lambda keys: None,
    ) -> None:
        self._name = name
        self._worker = worker
        self._broadcast = broadcast
        self._forget = forget
        self._num_asked = 0
        self._num_forgotten = 0
        self._held: Exception | None = None

    @classmethod
    def of_workers(cls, workers: Workers, name: str) -> Self:
        """Return a series of questions that the workers of a run ask."""
        broadcast = partial(workers.broadcast_from_0, keep=True)
        return cls(name, workers.worker, lambda make, key: broadcast(make, key=key), workers.forget_broadcasts)

    @classmethod
    def of_worker_0(cls, name: str) -> Self:
        """Return a series of questions that worker 0 asks itself."""
        return cls(name, 0, lambda make, key: make())

    def ask(self, question: str, answer: Callable[[], Any]) -> Any:
        """Return what ``answer`` returns on worker 0, as JSON gives it back; the others do not call it.

        Blocks until worker 0 has answered. Raises what it raised, or what it held since the last question; on other
        workers its like (builtin exceptions and Optuna's keep their type). Raises `DivergenceError` where worker 0
        was asked something else.
        """
        raised: Exception | None = None

        def decide() -> str:
            nonlocal raised
            try:
                raised, self._held = self._held, None
                if raised is None:
                    return json.dumps({"question": question, "answer": answer()})
            except Exception as error:
                raised = error
            kind = type(raised)
            return json.dumps({"question": question, "error": [kind.__module__, kind.__name__, str(raised)]})

        self._num_asked += 1
        reply = json.loads(self._broadcast(decide, self._key(self._num_asked)))
        if raised is not None:
            raise raised
        if reply["question"] != question:
            raise DivergenceError(
                f"Worker {self._worker} asks '{question}' where worker 0 asks '{reply['question']}': all "
                "workers must ask the same in the same order. Look for an `if` on the rank."
            )
        if "error" in reply:
            raise _like(*reply["error"])
        return reply["answer"]

    def hold(self, error: Exception) -> None:
        """Have the next question raise ``error`` on all workers. For worker 0, between questions."""
        self._held = self._held or error

    def forget(self) -> None:
        """Free the store of what was answered so far; when all workers are known to have read it."""
        self._forget(map(self._key, range(self._num_forgotten + 1, self._num_asked + 1)))
        self._num_forgotten = self._num_asked

    def _key(self, number: int) -> str:
        return f"{self._name}/{number}"


def _like(module: str, name: str, text: str) -> Exception:
    """Return an exception like one that worker 0 met."""
    if module == "builtins":
        home: Any = builtins
    elif module == "motet.errors":
        home = errors
    elif module == "optuna.exceptions":
        import optuna.exceptions

        home = optuna.exceptions
    else:
        return RuntimeError(f"{name}: {text} (on worker 0)")
    kind = getattr(home, name, RuntimeError)
    try:
        error = kind(text)
    except Exception:  # it takes other arguments
        error = RuntimeError(f"{name}: {text}")
    assert isinstance(error, Exception)
    error.add_note("Worker 0 met this and broadcast it to all workers.")
    return error
