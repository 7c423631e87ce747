"""Links are as slow as they were asked to be, can be cut, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from motet.errors import UsageError
from motet.shaped_links import ShapedLinks, bits_per_second, shaped_links, why_not

needs_root = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

RECEIVE = """
import socket, sys
with socket.create_server((sys.argv[1], 5000)) as server:
    print("ready", flush=True)
    with server.accept()[0] as peer:
        peer.settimeout(float(sys.argv[2]))
        received = 0
        while data := peer.recv(1 << 16):
            received += len(data)
            print(received, flush=True)
"""
SEND = """
import socket, sys, time
begin = time.perf_counter()
with socket.create_connection((sys.argv[1], 5000)) as peer:
    peer.sendall(bytes(int(sys.argv[2])))
    peer.shutdown(socket.SHUT_WR)
    peer.recv(1)  # until the other side has everything
print(time.perf_counter() - begin)
"""


def start_receiver(net: ShapedLinks, patience_seconds: float = 30.0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RECEIVE, net.address(1), str(patience_seconds)]
    receiver = net.popen(1, command, stdout=subprocess.PIPE, text=True)
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "ready\n"
    return receiver


def send(net: ShapedLinks, num_bytes: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SEND, net.address(1), str(num_bytes)]
    return net.popen(0, command, stdout=subprocess.PIPE, text=True)


def seconds_to_send(net: ShapedLinks, num_bytes: int) -> float:
    with start_receiver(net) as receiver, send(net, num_bytes) as sender:
        seconds = float(sender.communicate()[0])
        received = receiver.communicate()[0].split()
    assert int(received[-1]) == num_bytes
    return seconds


@needs_root
def test_a_link_is_as_slow_as_asked_for_and_its_counters_show_it() -> None:
    with shaped_links(2, rate="80mbit") as net:
        assert seconds_to_send(net, 2_000_000) >= 0.18  # 0.2 s at that rate, less a burst of 128 KiB
        sent, received = net.traffic(0), net.traffic(1)
        assert 2_000_000 <= sent.sent_bytes <= 2_400_000
        assert 2_000_000 <= received.received_bytes <= 2_400_000
        net.set_rate("40mbit")
        assert seconds_to_send(net, 2_000_000) >= 0.36


@needs_root
def test_a_cut_link_carries_nothing_until_it_is_whole_again() -> None:
    with shaped_links(2, rate="80mbit") as net, start_receiver(net) as receiver:
        assert receiver.stdout is not None
        with send(net, 2_000_000) as sender:
            receiver.stdout.readline()
            net.set_link(1, up=False)
            before = net.traffic(1).received_bytes
            with pytest.raises(subprocess.TimeoutExpired):
                sender.wait(timeout=0.5)
            assert net.traffic(1).received_bytes == before
            net.set_link(1, up=True)
            assert sender.wait(timeout=30) == 0
        assert receiver.communicate()[0].split()[-1] == "2000000"


@needs_root
def test_workers_see_nothing_but_their_link() -> None:
    look = ["ip", "-o", "link"]
    with shaped_links(2, rate=None) as net, net.popen(0, look, stdout=subprocess.PIPE, text=True) as process:
        names = [line.split(": ")[1].split("@")[0] for line in process.communicate()[0].splitlines()]
    assert sorted(names) == ["eth0", "lo"]


@needs_root
def test_the_block_kills_what_still_runs_even_after_an_error() -> None:
    started = []

    def fail() -> None:
        with shaped_links(2) as net:
            started.append(net.popen(0, ["sleep", "1000"]))
            raise RuntimeError("in the block")

    with pytest.raises(RuntimeError, match="in the block"):
        fail()
    process = started[0]
    assert process.returncode == -signal.SIGKILL


BUILD_AND_WAIT = """
from motet.shaped_links import shaped_links
import sys
with shaped_links(2) as net:
    print(*(namespace.pid for namespace in (net._switch, *net._workers)), flush=True)
    sys.stdin.read()
"""


@needs_root
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_namespace_outlives_the_program_however_it_ends(how: signal.Signals) -> None:
    program = [sys.executable, "-c", BUILD_AND_WAIT]
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        holders = [int(pid) for pid in process.stdout.readline().split()]
        assert len(holders) == 3
        process.send_signal(how)
        process.wait(timeout=30)
    deadline = time.monotonic() + 10
    while any(is_alive(pid) for pid in holders) and time.monotonic() < deadline:
        os.sched_yield()
    assert not any(is_alive(pid) for pid in holders)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # an orphan that nobody has reaped yet holds nothing any more


def test_without_root_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda tool: f"/bin/{tool}")
    with pytest.raises(UsageError, match="need root"), shaped_links(2):
        pass


def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda tool: None if tool == "tc" else f"/bin/{tool}")
    assert "not found: tc" in str(why_not())


@pytest.mark.parametrize(("rate", "bits"), [("300mbit", 300_000_000), ("1Gbit", 10**9), ("2.5gbit", 2_500_000_000)])
def test_rates(rate: str, bits: int) -> None:
    assert bits_per_second(rate) == bits


@pytest.mark.parametrize("rate", ["", "fast", "300", "0mbit", "-1mbit", "300mb", "300 mbit"])
def test_rates_that_make_no_sense(rate: str) -> None:
    with pytest.raises(UsageError, match="as 300mbit"):
        bits_per_second(rate)


@needs_root
@pytest.mark.parametrize("num_workers", [0, -1, 1000])
def test_impossible_numbers_of_workers(num_workers: int) -> None:
    with pytest.raises(UsageError, match="join 1 to 250"), shaped_links(num_workers):
        pass


@needs_root
def test_a_worker_that_is_not_there() -> None:
    with shaped_links(1) as net, pytest.raises(UsageError, match="no worker 1"):
        net.address(1)
