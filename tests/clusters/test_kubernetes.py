"""The manifests: their commands on two hosts, with exactly the variables of each operator, on a read-only root."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.clusters.hosts import ROOT, Hosts, ended
from tests.distributed.command import FAULTY

from motet.testing import Gang

LONG = {"steps": 200, "pause": 0.02, "every": 10}
SHORT = {"steps": 12, "every": 5}
# As in the pod: a volume at /mnt, an emptyDir at /tmp, and nothing else that can be written to.
POD = (
    'mount --bind "$0" /mnt && mount --bind / / && mount -o remount,bind,ro / && mount -t tmpfs none /tmp && '
    '! touch /here 2>/dev/null && cd / && exec "$@"'
)


def command_of(manifest: str) -> list[str]:
    """Return the command of the manifest's container."""
    content = yaml.safe_load((ROOT / "examples" / "kubernetes" / manifest).read_text())

    def find(value: Any) -> list[str] | None:
        if isinstance(value, dict):
            if isinstance(value.get("command"), list):
                return value["command"]
            value = list(value.values())
        found = (find(each) for each in value) if isinstance(value, list) else ()
        return next((each for each in found if each is not None), None)

    found = find(content)
    assert found is not None
    return found


def trainer_v2(rank: int) -> dict[str, str]:
    address = {"PET_MASTER_ADDR": "h0", "PET_MASTER_PORT": "29500"}
    return {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_NODE_RANK": str(rank), **address}


def operator_v1(rank: int) -> dict[str, str]:
    address = {"MASTER_ADDR": "h0", "MASTER_PORT": "23456"}
    return {"RANK": str(rank), "WORLD_SIZE": "2", "PYTHONUNBUFFERED": "1", **address}


def operator_v1_newer(rank: int) -> dict[str, str]:
    pet = {**trainer_v2(rank), "PET_MASTER_PORT": "23456"}
    return {**operator_v1(rank), **pet}


def jobset(rank: int) -> dict[str, str]:
    return {"JOB_COMPLETION_INDEX": str(rank), "LEADER": "h0"}


Variables = Callable[[int], dict[str, str]]


@pytest.fixture
def hosts(three_hosts: Hosts) -> Iterator[Hosts]:
    (three_hosts.shared / "mnt").mkdir()
    yield three_hosts
    for process in three_hosts.processes():
        process.kill()
    shutil.rmtree(three_hosts.shared / "mnt")


def start(hosts: Hosts, rank: int, manifest: str, variables: Variables) -> subprocess.Popen[str]:
    volume = str(hosts.shared / "mnt")
    motet = shutil.which("motet", path=hosts.environment["PATH"])
    assert motet is not None
    # The wrapper of the hosts lies below /tmp, which is the pod's own here.
    shutil.copy(motet, hosts.shared / "mnt" / "motet")
    path = {"PATH": "/mnt:" + hosts.environment["PATH"]}
    words = ["sh", "-c", POD, volume, *command_of(manifest)]
    return hosts.start(f"h{rank}", *words, variables={**variables(rank), **path})


def jobs(hosts: Hosts, **loops: dict[str, Any]) -> None:
    content = {"jobs": {name: {"call": FAULTY, "with": arguments} for name, arguments in loops.items()}}
    (hosts.shared / "mnt" / "jobs.yaml").write_text(json.dumps(content))


def results(hosts: Hosts) -> dict[str, Any]:
    return json.loads((hosts.shared / "mnt/runs/7/results.json").read_text())


def alone(gangs: Callable[[int], Gang], loop: dict[str, Any], **changed: Any) -> Any:
    return gangs(2).run(FAULTY, **{**loop, "pause": 0.0, **changed})[0]


@pytest.mark.in_ci
@pytest.mark.parametrize(
    ("manifest", "variables"),
    [
        ("trainjob.yaml", trainer_v2),
        ("pytorchjob.yaml", operator_v1),
        ("pytorchjob.yaml", operator_v1_newer),
        ("jobset.yaml", jobset),
    ],
)
def test_a_manifest(hosts: Hosts, gangs: Callable[[int], Gang], manifest: str, variables: Variables) -> None:
    jobs(hosts, a=SHORT, b=SHORT | {"seed": 2})
    answers = [ended(process) for process in [start(hosts, rank, manifest, variables) for rank in (1, 0)]]
    assert [status for status, _, _ in answers] == [0, 0], answers
    found = results(hosts)
    assert found["num_workers"] == 2
    assert found["jobs"]["b"]["result"] == alone(gangs, SHORT, seed=2)


@pytest.mark.parametrize(("manifest", "variables"), [("trainjob.yaml", trainer_v2), ("jobset.yaml", jobset)])
def test_a_pod_is_restarted(hosts: Hosts, gangs: Callable[[int], Gang], manifest: str, variables: Variables) -> None:
    jobs(hosts, a=LONG)
    first, second = (start(hosts, rank, manifest, variables) for rank in (0, 1))
    deadline = time.monotonic() + 150
    checkpoints = Path(hosts.shared, "mnt/runs/7/checkpoints/a")
    while not list(checkpoints.glob("turn-????????")):
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    hosts.crash("h1")
    second.communicate()
    again = start(hosts, 1, manifest, variables)
    answers = [ended(first), ended(again)]
    assert [status for status, _, _ in answers] == [0, 0], answers
    assert results(hosts)["jobs"]["a"]["result"] == alone(gangs, LONG)
