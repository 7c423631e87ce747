"""The frozen weights of the job that lives in this process: other jobs of its worker may hold the same (ADR 29).

The worker keeps the register and holds the files (`motet.processes.shared_weights`). The job claims what it holds when
it has built a model in DDP, and when its first turn has ended, and looks for answers where its turns end. It waits for
one in a single place: after a model is built, when it does not have the turn. What is in use when it would be shared is
tried again, in turns that are further and further apart.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection

import torch
from torch import nn

from motet.frozen import pages
from motet.frozen.in_use import Stillness
from motet.frozen.notices import BUSY
from motet.frozen.weights import JobWeights, can_share, has_grown, modules_here
from motet.memory.footprint import SETTLED_TURN
from motet.processes.channel import Channel
from motet.processes.job_messages import FrozenAnswer, FrozenClaim, FrozenFailure, FrozenFile, FrozenUse, NoticeReport

ANSWER_SECONDS = 2.0


class OwnWeights:
    """This job's frozen weights, on their way to be shared. What fails here ends nothing: the job keeps its own."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._weights = JobWeights({})
        self._answers: deque[tuple[FrozenAnswer | FrozenFile, int | None]] = deque()  # with the file that came
        self._allocated = pages.allocated_bytes()
        self._can_share = can_share()

    def built(self, model: nn.Module) -> None:
        """Look at a model that was built just now; blocks until the worker has answered, if there is anything to ask.

        What can be shared is shared before the job goes on, so that jobs which start together do not hold it all at
        the same time.
        """
        self._try(lambda: self._look_at(model))

    def turn_ended(self, turns: int) -> None:
        """After the first turn look at all that there is; later take answers, and give up what was written to."""
        self._try(lambda: self._go_on(turns))

    def _try(self, call: Callable[[], None]) -> None:
        if not self._can_share:
            return
        try:
            with torch._C.DisableTorchFunction():  # what the program has laid around torch's functions
                call()
        except Exception as error:
            self._can_share = False
            self._channel.send(FrozenFailure(f"{type(error).__name__}: {error}"))
            self._channel.send(FrozenUse(shares=[], owns=self._weights.names))
            for _, file in self._answers:
                if file is not None:
                    os.close(file)

    def _look_at(self, model: nn.Module) -> None:
        self._weights.find(model.modules())
        if self._claim(Stillness()):
            self._channel.wait(ANSWER_SECONDS)
            self._receive()
            self._take_answers(Stillness())

    def _go_on(self, turns: int) -> None:
        if turns == 1 and has_grown(self._allocated):
            self._weights.find(modules_here())
        measured, still = self._weights.is_due(turns), Stillness()
        if self._receive() or measured or not self._weights.in_use:
            self._claim(still)
            self._take_answers(still)
            self._weights.in_use = self._weights.num_found > 0 or len(self._answers) > 0
            if self._weights.in_use and measured and turns >= SETTLED_TURN:
                self._channel.send(NoticeReport(BUSY))
        if self._weights.num_shared and measured and (owns := self._weights.written(still)):
            self._channel.send(FrozenUse(shares=[], owns=owns))

    def _claim(self, still: Stillness) -> bool:
        """Claim what has been found and is not in use; return whether there was any."""
        if not self._weights.num_found:
            return False
        before = self._weights.num_found
        found = self._weights.name(still)
        if self._weights.num_found == before:
            return False
        self._channel.send(FrozenClaim(found, self._weights.fixed()))
        return True

    def _receive(self) -> bool:
        """Take what the worker has sent; return whether there was anything."""
        before = len(self._answers)
        for message in self._channel.received():
            if isinstance(message, FrozenFile):
                self._answers.append((message, self._channel.take_file()))
            elif isinstance(message, FrozenAnswer) and message.write:
                self._answers.append((message, None))
        return len(self._answers) > before

    def _take_answers(self, still: Stillness) -> None:
        for _ in range(len(self._answers)):
            message, file = self._answers.popleft()
            if isinstance(message, FrozenAnswer):
                self._write(message.number, message.write, still)
            elif still:
                self._share(message, file, still)
            else:
                self._answers.append((message, file))

    def _share(self, message: FrozenFile, file: int | None, still: Stillness) -> None:
        if file is None:  # it did not come: too many are open
            self._channel.send(FrozenUse(shares=[], owns=sorted(message.places)))
            return
        try:
            done = self._weights.share(file, message.places, still)
        except BaseException:
            os.close(file)
            raise
        if done.later:
            places = {name: message.places[name] for name in sorted(done.later)}
            self._answers.append((FrozenFile(message.number, places), file))
        else:
            os.close(file)
        if done.error is not None:
            self._channel.send(FrozenFailure(done.error))
        owns = message.places.keys() - done.shared.keys() - done.later
        self._channel.send(FrozenUse(shares=sorted(done.shared), owns=sorted(owns)))

    def _write(self, number: int, names: Collection[str], still: Stillness) -> None:
        written = self._weights.write(names, still)
        if written.error is not None:
            self._channel.send(FrozenFailure(written.error))
        if written.file is not None:
            self._channel.send(FrozenFile(number, written.places), written.file)
            os.close(written.file)
        if owns := set(names) - written.places.keys():
            self._channel.send(FrozenUse(shares=[], owns=sorted(owns)))
