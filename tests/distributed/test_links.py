"""Two machines, and the link between them goes down: for less than the timeout nobody notices, for longer all end."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.distributed.command import FAULTY, LONGEST_SECONDS, Place

from motet.shaped_links import ShapedLinks, shaped_links, why_not
from motet.testing import Gang

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
LOOP = {"steps": 120, "pause": 0.05, "tell": "ready"}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


@pytest.fixture
def net() -> Iterator[ShapedLinks]:
    with shaped_links(2, rate=None) as net:
        yield net


def start(net: ShapedLinks, place: Place, *words: str) -> list[subprocess.Popen[str]]:
    """Start the same command on both machines, as one does."""
    common = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint={net.address(0)}:29400"]
    own = [[f"--local-addr={net.address(machine)}", f"--rdzv-conf=is_host={1 - machine}"] for machine in range(2)]
    return [
        net.popen(
            machine,
            [sys.executable, "-m", "motet", words[0], *common, *own[machine], *words[1:]],
            env=place.environment,
            cwd=place.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for machine in range(2)
    ]


def ended(machines: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Wait for both; return status and stderr of each."""
    deadline = time.monotonic() + LONGEST_SECONDS
    notices = [machine.communicate(timeout=max(1.0, deadline - time.monotonic()))[1] for machine in machines]
    return [(machine.returncode, err) for machine, err in zip(machines, notices, strict=True)]


@pytest.mark.parametrize("machine", [0, 1])
def test_a_link_that_comes_back_in_time(
    net: ShapedLinks, place: Place, gangs: Callable[[int], Gang], machine: int
) -> None:
    machines = start(net, place, "run", place.jobs(a=LOOP, b={"seed": 2, "steps": 60}), "--run-dir=out", "--quiet")
    place.wait_until("ready", machines[0])
    net.set_link(machine, up=False)
    time.sleep(2)
    net.set_link(machine, up=True)
    assert [status for status, _ in ended(machines)] == [0, 0]
    assert place.jobs_of(field="result")["a"] == gangs(2).run(FAULTY, steps=120)[0]


@pytest.mark.parametrize("machine", [0, 1])
def test_a_link_that_stays_down(net: ShapedLinks, place: Place, gangs: Callable[[int], Gang], machine: int) -> None:
    words = ("run", place.jobs(a=LOOP, b={"seed": 2, "steps": 60}), "--run-dir=out", "--timeout=4s", "--quiet")
    machines = start(net, place, *words)
    place.wait_until("out/checkpoints/a/turn-00000005", machines[0])
    net.set_link(machine, up=False)
    begin = time.monotonic()
    report = ended(machines)
    print(f"down for {time.monotonic() - begin:.1f} s: {report}")
    for status, err in report:
        assert status == 4, report
        assert "timeout is 4 s" in err or "Nothing has moved" in err or "lost" in err, err
        assert "Traceback" not in err
    assert time.monotonic() - begin < 60
    net.set_link(machine, up=True)
    assert "turn-00000005" in place.checkpoints("a"), "resumable"
    machines = start(net, place, "resume", "out", "--quiet")
    assert [status for status, _ in ended(machines)] == [0, 0]
    assert place.jobs_of(field="result") == {
        "a": gangs(2).run(FAULTY, steps=120)[0],
        "b": gangs(2).run(FAULTY, seed=2, steps=60)[0],
    }
