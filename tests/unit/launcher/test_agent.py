"""What reaches the launcher while it starts workers, or while these end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent

from motet.launcher.agent import Agent
from motet.launcher.guardian import Guardian
from motet.launcher.options import parse_torchrun_options, worker_spec


def test_ctrl_z_while_workers_are_started_waits_for_the_last_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, said = [], []
    spec, config = worker_spec(parse_torchrun_options(["--nproc-per-node=1"]), "none", [], str(tmp_path))
    agent = Agent(spec, config, lambda agent: None, Guardian(), None, said.append)

    def start(self: Agent, group: object) -> dict[int, object]:
        agent.on_pause(signal.SIGTSTP, None)
        seen.append("started")
        return {}

    monkeypatch.setattr(LocalElasticAgent, "_start_workers", start)
    monkeypatch.setattr(os, "kill", lambda pid, number: seen.append(signal.Signals(number).name))
    agent._start_workers(agent._worker_group)
    assert seen == ["started", "SIGTSTP"]
    assert len(said) == 1
    assert said[0].startswith("was stopped (SIGTSTP)")
