"""Count turns and hidden seconds while jobs train; started by torchrun."""

import functools

from program import train

import motet
from motet.events import Event, RunEnded, RunStarted, SyncEnded


class Hidden:
    """Sum up how long gradients were in flight, and how much of that was hidden."""

    def __init__(self) -> None:
        self.worker = 0
        self.in_flight = 0.0
        self.hidden = 0.0

    def observe(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self.worker = event.worker
        elif isinstance(event, SyncEnded):
            self.in_flight += event.completed - event.launched
            self.hidden += event.hidden_seconds
        elif isinstance(event, RunEnded) and self.worker == 0:
            print(f"{self.hidden:.2f} of {self.in_flight:.2f} s were hidden")


jobs = {f"width{width}": functools.partial(train, width) for width in (64, 512)}
motet.run(jobs, observers=[Hidden()])
