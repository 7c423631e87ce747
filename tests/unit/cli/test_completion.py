"""What a shell offers when a command is completed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from motet.cli import COMMANDS
from motet.cli.completion import script

ASK = """
source {script}
COMP_WORDS=({words}) COMP_CWORD={place}
_motet
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def offered(tmp_path: Path) -> object:
    (tmp_path / "completion.bash").write_text(script())

    def ask(*words: str) -> list[str]:
        text = ASK.format(
            script=tmp_path / "completion.bash",
            words=" ".join(f"'{word}'" for word in ("motet", *words)),
            place=len(words),
        )
        done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True)
        assert not done.stderr
        return done.stdout.split()

    return ask


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash(offered: object) -> None:
    assert callable(offered)
    assert offered("") == list(COMMANDS)
    assert offered("re") == ["resume", "report"]
    assert offered("run", "--nproc") == ["--nproc-per-node"]
    assert {"--retry-failed", "--only"} <= set(offered("resume", "--"))
    assert "--each" not in offered("resume", "--")
    assert offered("run", "--sync", "a") == offered("run", "--sync", "=", "a") == ["all-reduce", "aggregate"]
    assert offered("run", "--sync", "=") == ["all-reduce", "aggregate"]
    assert offered("run", "--sync=ag") == ["--sync=aggregate"]  # as zsh tells it
    assert offered("completion", "z") == ["zsh"]
    assert offered("run", "train.") == []  # names of files: the shell's own
