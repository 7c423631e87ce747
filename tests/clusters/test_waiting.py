"""While hosts are awaited it is said so, and what does not come about ends in one sentence."""

from __future__ import annotations

import signal

import pytest
from tests.clusters.hosts import Hosts, ended
from tests.clusters.runs import SHORT, jobs, meeting, place_of, start


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("nobody else", "Only 1 of 2 hosts at h0"),
        ("no such name", "there is no host of the name nowhere"),
        ("nobody listens", "Connection refused"),
    ],
)
def test_a_host_that_never_comes(hosts: Hosts, case: str, message: str) -> None:
    jobs(hosts, a=SHORT)
    endpoint = "nowhere" if case == "no such name" else "h0"
    words = [*meeting(2, "--rdzv-conf=join_timeout=3", endpoint=endpoint), "--run-dir", str(place_of(hosts))]
    status, out, err = ended(start(hosts, "h0" if case == "nobody else" else "h1", "jobs.yaml", *words))
    assert (status, message in err) == (4, True), (out, err)
    assert "Traceback" not in err
    assert "until" in err


def test_another_rdzv_id_is_named(hosts: Hosts) -> None:
    jobs(hosts, a=SHORT)
    words = ["jobs.yaml", *meeting(2, "--rdzv-conf=join_timeout=30"), "--run-dir", str(place_of(hosts))]
    first = start(hosts, "h0", *words)
    status, _, err = ended(start(hosts, "h1", *[word.replace("--rdzv-id=7", "--rdzv-id=8") for word in words]))
    assert (status, "h1 came with --rdzv-id 8" in err) == (4, True), err
    first.send_signal(signal.SIGTERM)
    status, _, err = ended(first)
    assert (status, "stopped by SIGTERM" in err) == (3, True), err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("interface", "message"), [("lo", "is GLOO_SOCKET_IFNAME right"), ("eth9", "GLOO_SOCKET_IFNAME is eth9 on h1")]
)
def test_a_wrong_interface_is_named(hosts: Hosts, interface: str, message: str) -> None:
    jobs(hosts, a=SHORT)
    words = ["jobs.yaml", *meeting(2, "--rdzv-conf=join_timeout=25"), "--run-dir", str(place_of(hosts))]
    first = start(hosts, "h0", *words)
    status, _, err = ended(start(hosts, "h1", *words, variables={"GLOO_SOCKET_IFNAME": interface}))
    assert (status in (2, 4), message in err) == (True, True), err
    status, _, err = ended(first)
    assert status == 4, err
