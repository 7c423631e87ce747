"""Who learns what happens in a run: its observers, and the user. None of them can harm the training."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from motet.events import Event, Notice, Observer
from motet.same_files import aside


class Observers:
    """Passes every event to each of ``observers``, and every notice to the user (``notify_user``), once.

    ``settle`` brings back what an observer's code would find without Motet; called before it runs. Observers run on the
    thread that made this alone: what other threads report waits for the next event there.
    """

    def __init__(
        self, observers: Sequence[Observer], notify_user: Callable[[str], None], settle: Callable[[], None]
    ) -> None:
        self._observers = list(observers)
        self._notify_user = notify_user
        self._settle = settle
        self._notices: dict[tuple[str | None, str], None] = {}
        self._thread = threading.get_ident()
        self._from_threads: deque[Event] = deque()

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user was notified of, in order."""
        return tuple(f"job '{job}' {text}" if job else text for job, text in self._notices)

    def observe(self, event: Event) -> None:
        """Pass an event to all observers. One that fails is left out from then on, and the user is notified."""
        if threading.get_ident() != self._thread:
            self._from_threads.append(event)
            return
        while self._from_threads:
            self._pass_on(self._from_threads.popleft())
        self._pass_on(event)

    def _pass_on(self, event: Event) -> None:
        for observer in tuple(self._observers):
            if not getattr(observer, "changes_nothing_global", False):
                self._settle()
            try:
                with aside():  # what it writes is not the doing of the job that logs
                    observer.observe(event)
            except Exception as error:
                self._observers.remove(observer)
                self.notify(
                    None,
                    f"the observer {type(observer).__name__} failed and is left out from now on "
                    f"({type(error).__name__}: {error}); the training goes on.",
                )

    def notify(self, job: str | None, text: str) -> None:
        """Notify the user and the observers of something about ``job`` (None: the run), unless they know it already."""
        if (job, text) not in self._notices:
            self._notices[job, text] = None
            self._notify_user(f"job '{job}' {text}" if job else text)
            self.observe(Notice(time=time.perf_counter(), job=job, text=text))
