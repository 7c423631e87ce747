"""The frozen weights of the job that lives in this process: other jobs of its worker may hold the same (ADR 29).

The worker keeps the register and holds the files (`motet.processes.shared_weights`). The job claims what it holds when
it has built a model in DDP, and when its first turn has ended, and looks for answers where its turns end. It waits for
one in a single place: after a model is built, when it does not have the turn.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

from torch import nn

from motet.frozen import pages
from motet.frozen.notices import BUSY
from motet.frozen.weights import JobWeights, can_share, has_grown, modules_here, others_rest
from motet.memory.footprint import SETTLED_TURN, is_measured
from motet.processes.channel import Channel
from motet.processes.job_messages import FrozenAnswer, FrozenClaim, FrozenFailure, FrozenFile, FrozenUse, NoticeReport

ANSWER_SECONDS = 2.0


class OwnWeights:
    """This job's frozen weights, on their way to be shared."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._weights = JobWeights({})
        self._allocated = pages.allocated_bytes()
        self._can_share = can_share()

    def built(self, model: nn.Module) -> None:
        """Look at a model that was built just now; blocks until the worker has answered, if there is anything to ask.

        What can be shared is shared before the job goes on, so that jobs which start together do not hold it all at
        the same time.
        """
        if self._can_share:
            self._weights.find(model.modules())
            if self._claim():
                self._channel.wait(ANSWER_SECONDS)
                self._take_answers()

    def turn_ended(self, turns: int) -> None:
        """After the first turn look at all that there is; later take answers, and give up what was written to."""
        if not self._can_share:
            return
        if turns == 1 and has_grown(self._allocated):
            self._weights.find(modules_here())
        if not self._claim() and self._weights.num_found and turns == SETTLED_TURN:
            self._channel.send(NoticeReport(BUSY))
        self._take_answers()
        if self._weights.num_shared and is_measured(turns) and (owns := self._weights.written()):
            self._channel.send(FrozenUse(shares=[], owns=owns))

    def _claim(self) -> bool:
        if not self._weights.num_found or not others_rest():
            return False
        found = self._weights.name()
        self._channel.send(FrozenClaim(found, self._weights.fixed()))
        return True

    def _take_answers(self) -> None:
        for message in self._channel.received():
            match message:
                case FrozenFile(number, places):
                    self._share(number, places)
                case FrozenAnswer(number, write):
                    self._write(number, write)

    def _share(self, number: int, places: Mapping[str, int]) -> None:
        file, shared = self._channel.take_file(), dict[str, int]()
        try:
            shared = self._weights.share(file, places)
        except OSError as error:
            self._channel.send(FrozenFailure(str(error)))
        finally:
            os.close(file)
        self._channel.send(FrozenUse(shares=sorted(shared), owns=sorted(places.keys() - shared.keys())))

    def _write(self, number: int, names: Collection[str]) -> None:
        if not names:
            return
        try:
            file, places = self._weights.write(names)
        except OSError as error:
            self._channel.send(FrozenFailure(str(error)))
            return
        self._channel.send(FrozenFile(number, places), file)
        os.close(file)
