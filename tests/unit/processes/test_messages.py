"""Every message between processes is read as it was written, and one that was cut off is refused."""

from __future__ import annotations

import json

import pytest

from motet.processes import job_messages, messages
from motet.processes.messages import Message, pack, unpack

START = job_messages.Start(
    name="a",
    seat=1,
    attempt=0,
    worker=1,
    num_workers=2,
    table=3,
    wake=[4, 5],
    strict=False,
    channel=6,
    prefix="motet/0/1/jobs",
    spec={"kind": "script", "target": "train.py"},
    given={"number": 3},
    asks=7,
    turns=None,
    cwd=None,
    env={"MODE": "fast\n"},
    environment={},
    run_dir=None,
    job_dir=None,
    checkpoints=None,
    seed=7,
    on_nan="ignore",
    start="b",
    timeout_seconds=1.5,
    separate_disks=False,
    own_disk=False,
    share_frozen=True,
)
EVERY_TYPE: list[Message] = [
    START,
    job_messages.Forked(7),
    job_messages.Exited(7, -9),
    job_messages.LogReport(3, {"loss": 0.25, "name": 1.0}),
    job_messages.LengthReport(None),
    job_messages.ParametersReport({"lr": 0.1, "act": "relu", "none": None}),
    job_messages.NoticeReport("two\nlines"),
    job_messages.FileReport("renames", "a.txt", 7, target="b.txt", now=[[1, 2], None]),
    messages.ClashReport("a", "writes", "a.txt", ["b"]),
    job_messages.DivergenceReport(9, "NaN"),
    job_messages.SaveReport(9),
    job_messages.ResumeReport(40),
    job_messages.HoldingsReport(3, {"parameters_bytes": 8}, [5, 9]),
    job_messages.Question(1, "YQ=="),
    job_messages.Answer(1, "Yg=="),
    messages.RoomReport(2, [1.5, 2.0, 3.0], None),
    job_messages.EndReport("failed", 3, "ValueError", "ValueError: ä", 1, None),
    job_messages.FrozenClaim({"8-ab": 8}, {"9-cd": 9}),
    job_messages.FrozenUse(["8-ab"], []),
    job_messages.FrozenFailure("no memory"),
    job_messages.FrozenFile(1, {"8-ab": 4096}),
    job_messages.FrozenAnswer(2, ["9-cd"]),
    messages.ExitReport("a", 0, "", 3, "", None, -9, "last\u2028line"),
    messages.ProgressReport({"a": 0.5}, {"a": 0.25}, {"a": 40}, {"a": 3, "b": 0}, {"a": None, "b": 5}),
    messages.StopRequest(2),
    messages.FailRequest("a", "why", stops_run=True),
    messages.StartJob("a", 1, 0),
    messages.StartJob("trial-0", 1, 0, {"number": 0}),
    messages.FollowOrder(["a", "b", "a"], "the costs are known"),
    messages.EndJob("a"),
    messages.Notify("a", "text"),
    messages.Notify(None, "text"),
    messages.Conclude("a", "failed", 3, "on worker 1 alone", 1),
    messages.Skip("a"),
    messages.Stop(1),
    messages.Finish(),
    messages.Abandon("worker 1 has left the run"),
]


def test_every_type_is_tried_here() -> None:
    assert {type(message) for message in EVERY_TYPE} == set(messages._TYPES.values())


@pytest.mark.parametrize("message", EVERY_TYPE, ids=lambda message: type(message).__name__)
def test_a_message_is_one_line_and_is_read_as_it_was_written(message: Message) -> None:
    line = pack(message)
    assert "\n" not in line
    assert unpack(line) == message
    assert type(unpack(line.encode())) is type(message)


def test_a_message_that_was_cut_off_is_refused() -> None:
    line = pack(START)
    for length in range(len(line)):
        with pytest.raises(json.JSONDecodeError):
            unpack(line[:length])
