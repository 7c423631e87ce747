"""SLURM on the hosts of a test: a controller on ``login``, a daemon on each host, and munge; no systemd, no database.

Debian's packages ``slurm-wlm`` and ``munge`` (22.05). Everything lies in the hosts' own folder, also munge's key and
socket, so several clusters can be up at a time, and nothing of the machine's own is touched.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from tests.clusters.hosts import Hosts

_CONFIGURATION = """
ClusterName=motet
SlurmctldHost=login(10.77.0.254)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=PLACE/munge/socket
CredType=cred/munge
StateSaveLocation=PLACE/state
SlurmdSpoolDir=PLACE/spool.%n
SlurmctldPidFile=PLACE/slurmctld.pid
SlurmdPidFile=PLACE/slurmd.%n.pid
SlurmctldLogFile=PLACE/slurmctld.log
SlurmdLogFile=PLACE/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SchedulerParameters=sched_interval=2,bf_interval=2,requeue_setup_env_fail
MinJobAge=3600
KillWait=30
JobRequeue=1
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE
"""


def missing() -> str | None:
    """Return why there is no SLURM here, or None."""
    for tool in ("slurmctld", "slurmd", "sbatch", "munged"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed (Debian: apt-get install slurm-wlm munge)"
    return None


class Slurm:
    """A cluster of the hosts. Use it as a context."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self._place = hosts.shared / "slurm"

    def __enter__(self) -> Slurm:
        place = self._place
        for folder in ("state", "munge", *(f"spool.{name}" for name in self.hosts.names)):
            (place / folder).mkdir(parents=True, mode=0o711)
        self.hosts.shared.chmod(0o755)
        nodes = [f"NodeName={n} NodeAddr={self.hosts.address(n)} CPUs=4 State=UNKNOWN" for n in self.hosts.names]
        text = _CONFIGURATION.replace("PLACE", str(place)) + "\n".join(nodes) + "\n"
        (place / "slurm.conf").write_text(text)
        (place / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        self.hosts.environment["SLURM_CONF"] = str(place / "slurm.conf")
        self._start_munge()
        self._daemon("login", "slurmctld", "-f", str(place / "slurm.conf"))
        for name in self.hosts.names:
            self._daemon(name, "slurmd", "-N", name, "-f", str(place / "slurm.conf"))
        deadline = time.monotonic() + 60
        while not self._all_idle():
            assert time.monotonic() < deadline, (place / "slurmctld.log").read_text()
            time.sleep(0.3)
        return self

    def _all_idle(self) -> bool:
        return self.command("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == str(len(self.hosts.names))

    def __exit__(self, *_: object) -> None:
        for file in (self._place / "munge" / "pid", *self._place.glob("*.pid")):
            if file.exists():
                subprocess.run(["kill", file.read_text().strip()], check=False, capture_output=True)

    def _start_munge(self) -> None:
        place = self._place / "munge"
        (place / "key").write_bytes(os.urandom(128))
        (place / "key").chmod(0o400)
        place.chmod(0o755)
        files = {"socket": "socket", "key-file": "key", "log-file": "log", "pid-file": "pid", "seed-file": "seed"}
        options = [f"--{option}={place / file}" for option, file in files.items()]
        self._daemon("login", "munged", "--force", *options)

    def _daemon(self, host: str, *words: str) -> None:
        log = self._place / f"start.{host}.{words[0]}.log"
        with open(log, "w") as report:  # not a pipe: the daemon keeps it
            command = self.hosts.on(host, *words)
            environment = {n: v for n, v in self.hosts.environment.items() if n != "PYTHONPATH"}
            status = subprocess.call(
                command, stdin=subprocess.DEVNULL, stdout=report, stderr=report, env=environment, cwd=self._place
            )
        assert status == 0, log.read_text()

    def command(self, *words: str) -> str:
        """Run a command of SLURM's on the login node, and return what it printed."""
        status, out, err = self.hosts.run("login", *words)
        assert status == 0, (words, out, err)
        return out

    def submit(self, script: str, *options: str, variables: dict[str, str] | None = None) -> int:
        """Submit a batch script; return the number of the job."""
        path = self.hosts.shared / f"script-{time.monotonic_ns()}.sbatch"
        path.write_text(script)
        status, out, err = self.hosts.run("login", "sbatch", "--parsable", *options, str(path), variables=variables)
        assert status == 0, (out, err)
        return int(out)

    def state(self, job: int) -> str:
        """Return what SLURM says of a job: ``RUNNING``, ``COMPLETED``, …"""
        found = re.search(r"JobState=(\S+)", self.command("scontrol", "show", "job", str(job)))
        assert found is not None
        return found[1]

    def wait_until(self, job: int, *states: str, seconds: float = 120.0) -> str:
        """Wait until a job is in one of these states; return what it has printed."""
        deadline = time.monotonic() + seconds
        while (state := self.state(job)) not in states:
            assert time.monotonic() < deadline, (state, self.printed(job), self._logged(job))
            time.sleep(0.3)
        return self.printed(job)

    def wait_for_text(self, job: int, text: str, times: int = 1, seconds: float = 120.0) -> None:
        """Wait until a job has printed something, so many times."""
        deadline = time.monotonic() + seconds
        while self.printed(job).count(text) < times:
            assert time.monotonic() < deadline, (self.state(job), self.printed(job))
            time.sleep(0.1)

    def start_again(self, job: int) -> None:
        """Wait until a requeued job is pending, and have it start now: SLURM would let it wait for two minutes."""
        self.wait_until(job, "PENDING")
        deadline = time.monotonic() + 30
        while not self._all_idle():  # sooner, SLURM takes the end of the first start for that of the second
            assert time.monotonic() < deadline
            time.sleep(0.3)
        self.command("scontrol", "update", f"JobId={job}", "StartTime=now")

    def _logged(self, job: int) -> str:
        """Return what the controller has said of a job."""
        lines = (self._place / "slurmctld.log").read_text(errors="replace").splitlines()
        return "\n".join(line for line in lines if f"JobId={job}" in line or "error" in line)

    def printed(self, job: int) -> str:
        """Return what a job has printed so far (``--output=out.%j.txt``)."""
        path = Path(self.hosts.shared, f"out.{job}.txt")
        return path.read_text(errors="replace") if path.exists() else ""
