"""What needs no torch does not import it: help, and mistakes on the command line or in a jobs file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from motet.launcher import torchrun_options

ASK = """
import sys
from motet.cli import main
try:
    status = main({words!r})
except SystemExit as ended:  # argparse, after the help
    status = ended.code
heavy = {{"torch", "numpy"}} & set(sys.modules)
assert not heavy, heavy
sys.exit(status)
"""


def ask(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ASK.format(words=list(words))], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("command", ["run", "plan", "resume", "report"])
def test_help(tmp_path: Path, command: str) -> None:
    done = ask(tmp_path, command, "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: motet {command}" in done.stdout
    assert ("--nproc-per-node" in done.stdout) == (command != "report")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "jobs.yaml"], "did you mean 'script'?"),
        (["plan", "jobs.yaml"], "did you mean 'script'?"),
        (["run", "missing.yaml"], "missing.yaml"),
        (["run", "jobs.yaml", "--oder", "a"], "--oder"),
        (["run", "train.py", "--each", "", "--order", "b"], "'b'"),
        (["run", "train.py", "--each", "", "--run-dir", "old"], "another run"),
        (["resume", "nothing"], "nothing"),
    ],
)
def test_mistakes(tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "jobs.yaml").write_text("jobs: {a: {scrpt: train.py}}")
    (tmp_path / "train.py").write_text("")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "run.json").write_text("{}")
    done = ask(tmp_path, *words)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr


FIRST_WORD = """
import sys
from motet.cli import main

class Stderr:
    def write(self, text):
        sys.__stderr__.write(f"{'torch' in sys.modules} {text}")
    def flush(self):
        pass

sys.stderr = Stderr()
sys.exit(main(["run", "train.py", "--each", "", "--nproc-per-node=0"]))
"""


def test_the_first_word_comes_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("")
    done = subprocess.run([sys.executable, "-c", FIRST_WORD], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    first, last = done.stderr.splitlines()
    assert first.startswith("False motet: checking 1 job")
    assert last.startswith("True motet: --nproc-per-node")


def test_the_options_are_those_of_the_torch_that_is_installed() -> None:
    """Made from torch's source, without the way out of importing torch: `_definition` raises where it cannot."""
    own = torchrun_options._definition(torchrun_options._HOME, torchrun_options._NAME)()
    theirs = get_args_parser()

    def described(parser: object) -> list[tuple[object, ...]]:
        return [
            (
                a.option_strings,
                a.dest,
                a.default,
                a.choices,
                a.help,
                a.nargs,
                a.metavar,
                getattr(a.type, "__name__", ""),
            )
            for a in parser._actions  # type: ignore[attr-defined]
        ]

    assert described(own) == described(theirs)
    assert own.format_help() == theirs.format_help()
    words = ["--nproc_per_node=3", "--standalone", "--redirects", "1", "job.py", "--x"]
    assert vars(own.parse_args(words)) == vars(theirs.parse_args(words))
