"""The pages say what is so: commands and options exist, snippets run, links lead somewhere, named tests are there.

`docs/tidy.py` keeps the files that pages show in them, and their paragraphs at one column.

What runs: a fenced block after ``<!-- run -->`` is run in a folder of the page's own, after the blocks that follow
``<!-- save NAME -->`` (``save NAME from PATH``: the block is that file) have been saved there. Every other command is
checked against the parsers, every other piece of Python is compiled and its names of Motet's looked up, every jobs file
is loaded.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import io
import os
import re
import shlex
import signal
import subprocess
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from docs import tidy
from tests.distributed.tables import LOOPS, SINCE

import motet
from motet.cli import COMMANDS, main
from motet.jobs import load_jobs_file
from motet.launcher.torchrun_options import torchrun_options
from motet.results import JobResult, Results
from motet.torch_versions import torch_version

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *(path for path in DOCS.rglob("*.md") if "adr" not in path.parts)])
SNIPPETS = DOCS / "snippets"
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
RUN_SECONDS = 240
OPTION = re.compile(r"--[a-z][a-z-]+")


class Block(NamedTuple):
    """A fenced block: the page, the comment before it, its language, its text with what it includes."""

    page: Path
    mark: str
    language: str
    text: str

    @property
    def name(self) -> str:
        return self.page.relative_to(ROOT).as_posix()


def blocks(*languages: str) -> list[Block]:
    """Return all blocks of the pages in these languages."""
    found = []
    for page in PAGES:
        for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
            found.append(Block(page, match["mark"] or "", match["language"], match["text"]))
    return [block for block in found if not languages or block.language in languages]


def commands(block: Block) -> list[list[str]]:
    """Return the words of each command in a block, without comments, variables set before it, and ``srun``."""
    lines = [line.split("  #")[0].strip() for line in block.text.replace("\\\n", " ").splitlines()]
    return [shlex.split(line) for line in lines if line and not line.startswith("#")]


def motet_words(words: list[str]) -> list[str] | None:
    """Return a command's words from ``motet`` on, None if it is something else."""
    for index, word in enumerate(words):
        if word == "motet" and (index == 0 or words[index - 1] in {"srun", "-m", "do"}):
            return words[index + 1 :]
    return None


@cache
def help_of(command: str) -> str:
    """Return what ``motet COMMAND --help`` prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit):
        main([command, "--help"])
    return out.getvalue()


def own_options(command: str) -> set[str]:
    """Return a command's own options, without torchrun's and --help."""
    described = help_of(command).split("\noptions:\n")[1].split("torchrun's options:")[0]
    return set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", described, re.MULTILINE)) - {"--help"}


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in tidy.PAGES])
def test_a_page_is_whole_as_a_plain_file(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "--8<--" not in text
    assert tidy.tidy(text) == text, "run docs/tidy.py (make format): it shows files as they are, and wraps paragraphs"


SHELL = blocks("sh", "")
MOTET = [
    pytest.param(words[0], words[1:], id=f"{block.name}: {' '.join(words)[:60]}")
    for block in SHELL
    for command in commands(block)
    if (words := motet_words(command))
]


@pytest.mark.parametrize(("command", "words"), MOTET)
def test_commands_exist_with_their_options(command: str, words: list[str]) -> None:
    if command.startswith("-"):
        assert command in {"--version", "--help"}
        return
    assert command in COMMANDS
    for word in words:
        if word.startswith("--") and not word.startswith("--lr"):
            assert word.split("=")[0] in OPTION.findall(help_of(command)), f"motet {command} has no {word}"


def test_something_is_checked() -> None:
    assert len(MOTET) > 15
    assert len([block for block in blocks() if block.mark == "run"]) > 8


@pytest.mark.parametrize("command", list(COMMANDS))
def test_the_reference_lists_every_option_and_no_other(command: str) -> None:
    page = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    section = page.split(f"\n## motet {command}\n")[1].split("\n## ")[0]
    listed = {option for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for option in OPTION.findall(row)}
    assert listed == own_options(command)


def test_the_reference_lists_torchruns_options() -> None:
    page = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    section = page.split("\n## torchrun's options\n")[1].split("Left out")[0]
    theirs = {next(word for word in action.option_strings if OPTION.fullmatch(word)) for action in torchrun_options()}
    newer = {"--shutdown-timeout": (2, 13), "--log-line-prefix-template": (2, 15)}
    listed = set(OPTION.findall(section)) | newer.keys()
    assert listed - {option for option, since in newer.items() if (torch_version() or ()) < since} == theirs


@pytest.mark.parametrize("block", [pytest.param(b, id=b.name) for b in blocks("python") if "save" not in b.mark])
def test_python_is_sound(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "motet":
            module = import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"
        elif isinstance(node, ast.Attribute) and (name := ast.unparse(node)).startswith("motet."):
            found: object = motet
            for part in name.split(".")[1:]:
                if not hasattr(found, part):
                    import_module(name.rpartition(".")[0])
                found = getattr(found, part)


@pytest.mark.parametrize("block", [pytest.param(b, id=b.name) for b in blocks("yaml") if "command:" not in b.text])
def test_jobs_files_are_read(block: Block, tmp_path: Path) -> None:
    place = tmp_path / "jobs.yaml"
    place.write_text(block.text, encoding="utf-8")
    described = yaml.safe_load(block.text)
    if not {"jobs", "sweep"} & set(described):
        pytest.skip("something else than a jobs file")
    for script in re.findall(r"script: ([\w.]+)", block.text):
        (tmp_path / script).touch()
    assert load_jobs_file(place)


def save_all(page: Path, place: Path) -> None:
    """Save what the reader of a page would have: the snippets, which pages refer to by their names, and its blocks."""
    for snippet in SNIPPETS.iterdir():
        if snippet.is_file():
            (place / snippet.name).write_bytes(snippet.read_bytes())
    for block in blocks():
        if block.page == page and block.mark.startswith("save "):
            (place / block.mark.split()[1]).write_text(block.text, encoding="utf-8")


RUN = sorted({block.page for block in blocks() if block.mark == "run"})


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in RUN])
def test_a_page_can_be_followed(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for word, module in (("mixed.yaml", "transformers"), ("mixed.yaml", "lightning")):
        if word in text and find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    save_all(page, tmp_path)
    environment = {name: value for name, value in os.environ.items() if name not in {"RANK", "WORLD_SIZE"}}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment["OMP_NUM_THREADS"] = "1"
    for block in blocks():
        if block.page == page and block.mark == "run":
            for words in commands(block):
                report = _run(words, tmp_path, environment)
                assert report.returncode == 0, f"{shlex.join(words)}\n{report.stdout[-3000:]}\n{report.stderr[-3000:]}"
    if page.name == "tutorial.md":
        every_file_is_explained(tmp_path / "runs" / "second")


def _run(words: list[str], place: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command in a session of its own, of which nothing stays when it takes too long."""
    with subprocess.Popen(
        words, cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, err = process.communicate(timeout=RUN_SECONDS)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def every_file_is_explained(run_dir: Path) -> None:
    page = (DOCS / "reference" / "run-directory.md").read_text(encoding="utf-8")
    unnamed = [
        path.relative_to(run_dir).as_posix()
        for path in run_dir.rglob("*")
        if path.is_file()
        and path.name not in page
        and f"`{path.relative_to(run_dir).parts[0]}/`" not in page
        and path.name != "model.pt"  # what the job itself wrote
    ]
    assert not unnamed


def test_results_are_documented() -> None:
    page = (DOCS / "reference" / "results.md").read_text(encoding="utf-8")
    job, run = page.split("\n## A job\n")[1].split("\n## The run\n")
    for kind, section in ((JobResult, job), (Results, run)):
        fields = {field.name for field in dataclasses.fields(kind)}
        assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == fields


@cache
def cases_of_tests() -> dict[str, set[str]]:
    """Return the tests of the directories that the feature table names, each with the words of its parameters."""
    found: dict[str, set[str]] = {}
    for path in [*(ROOT / "tests/distributed").glob("test_*.py"), *(ROOT / "tests/integrations").glob("test_*.py")]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                words = {
                    leaf.value
                    for decorator in node.decorator_list
                    for leaf in ast.walk(decorator)
                    if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
                }
                found.setdefault(node.name, set()).update(words)
    return found


def test_every_test_that_the_feature_table_names_exists() -> None:
    page = (DOCS / "reference" / "features.md").read_text(encoding="utf-8")
    cells = [cell for row in re.findall(r"^\|.*\|$", page, re.MULTILINE) for cell in row.strip("|").split("|")[1:]]
    named = [name for cell in cells for name in re.findall(r"`(.*?)`", cell)]
    assert len(named) > 60
    newer = [loop for loops in SINCE.values() for loop in loops]
    for name in named:
        test, _, case = name.removesuffix("]").partition("[")
        if ":" in test:
            assert test in {*LOOPS, *newer}, f"{test} is no loop of tests/distributed/tables.py"
        else:
            assert test in cases_of_tests(), f"there is no test {test}"
            assert not case or case in cases_of_tests()[test], f"{test} has no case {case}"


def test_tests_that_pages_name_exist() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for page in PAGES:
        for name in re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8")):
            assert f"def {name}(" in sources, f"{page.name} names {name}"
        for path in re.findall(
            r"`((?:tests|src|benchmarks|docs|examples)/[\w/.-]+)`", page.read_text(encoding="utf-8")
        ):
            assert (ROOT / path).exists(), f"{page.name} names {path}"


def test_pages_fetch_nothing() -> None:
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "font: false" in config
    assert "repo_url" not in config
    assert "http" not in config
    for drawing in (DOCS / "images").glob("*.svg"):
        content = drawing.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http" not in content, drawing.name


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="needs the extra docs")
def test_the_docs_are_built_without_a_warning(tmp_path: Path) -> None:
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONWARNINGS": "ignore"}
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    report = _run(words, ROOT, environment)
    assert report.returncode == 0, report.stdout + report.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        fetched = re.findall(r'<(?:script|img|link|iframe)[^>]*(?:src|href)="(https?://[^"]*)"', page.read_text())
        assert not fetched, f"{page.name} fetches {fetched[0]}"
