"""Whatever stands in a jobs file: loading it gives jobs, or one UsageError of one line; nothing else, ever."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from motet.errors import UsageError
from motet.jobs.each import specs_from_each
from motet.jobs.file import load_jobs_file
from motet.jobs.names import is_name
from motet.jobs.spec import JobSpec

NUM_CASES = 400  # of each of the four kinds below
many = settings(max_examples=NUM_CASES, deadline=None, suppress_health_check=list(HealthCheck), database=None)

words = st.text("abcxyz_01", min_size=1, max_size=6).map(lambda text: "k" + text)
names = st.text("abcXYZ019._=+-", min_size=1, max_size=12).map(
    lambda text: "j" + text
)  # no argument begins so: a sweep makes none of them
plain_values = st.one_of(
    st.integers(-1000, 1000),
    st.floats(allow_nan=False),
    st.booleans(),
    st.none(),
    st.text(max_size=8),
    st.sampled_from(["1e-3", "no", "on", "null", "~", "{name}/{job_dir}", "2026-01-31", "0x1f", "- a", ": "]),
)
values = st.recursive(
    plain_values, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3)
)
flag_values = plain_values | st.lists(plain_values.filter(lambda value: value is not None), max_size=3)
turns = st.fixed_dictionaries({}, optional={"turns": st.integers(1, 10**6)})


def with_turns(entry: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    return entry | more


calls = st.builds(
    with_turns,
    st.fixed_dictionaries({"call": st.just("mod:fun")}, optional={"with": st.dictionaries(words, values, max_size=3)}),
    turns,
)
argvs = st.dictionaries(words, flag_values, max_size=3) | st.lists(st.text(max_size=5), max_size=3)
scripts = st.builds(
    with_turns,
    st.fixed_dictionaries(
        {"script": st.just("train.py")},
        optional={"args": argvs | st.lists(st.text(max_size=5), max_size=3).map(shlex.join)},
    ),
    turns,
)
varied = st.dictionaries(words, st.lists(st.integers(), min_size=1, max_size=3, unique=True), min_size=1, max_size=3)
sweeps = st.one_of(
    st.builds(lambda given, more: {"call": "mod:fun", "with": given} | more, varied, turns),
    st.builds(lambda given, more: {"script": "train.py", "args": given} | more, varied, turns),
)
jobs = st.dictionaries(names, calls | scripts, min_size=1, max_size=4)
valid = st.one_of(
    st.fixed_dictionaries({"jobs": jobs}, optional={"sweep": sweeps}),
    st.fixed_dictionaries({"sweep": sweeps}),
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "train.py").write_text("raise SystemExit('loading must not run me')\n")
    return folder / "jobs.yaml"


def check_specs_are_sound(specs: list[JobSpec]) -> None:
    assert specs
    assert len({spec.name for spec in specs}) == len(specs)
    for spec in specs:
        assert is_name(spec.name)
        assert isinstance(spec.arguments, dict if spec.kind == "call" else list)
        again = JobSpec.from_json(json.loads(json.dumps(spec.to_json())))
        assert repr(again) == repr(spec)  # not ==: a nan is not itself
        spec.filled("/somewhere")


def check_is_one_clear_message(error: UsageError, path: Path) -> None:
    message = str(error)
    assert message.startswith(f"{path}:")
    line = message.removeprefix(f"{path}:").partition(":")[0]
    # The end of a file that breaks off may count as the line after its last.
    assert 1 <= int(line) <= path.read_bytes().decode("utf-8", "replace").count("\n") + 2 or "UTF-8" in message
    assert message.isprintable()
    assert len(message) < 600


def load_or_explain(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        specs = load_jobs_file(path)
    except UsageError as error:
        check_is_one_clear_message(error, path)
    else:
        check_specs_are_sound(specs)


def dumped(document: object, flow: bool | None) -> str:
    text: str = yaml.safe_dump(document, default_flow_style=flow, sort_keys=False, allow_unicode=True)
    return text


class Quoting(yaml.SafeDumper):
    """Writes all text in quotes: PyYAML leaves 1e3 without them, which is a number to us."""


Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


@many
@given(document=valid, flow=st.sampled_from([True, False, None]))
def test_valid_files_load(path: Path, document: dict[str, Any], flow: bool | None) -> None:
    text = yaml.dump(document, Dumper=Quoting, default_flow_style=flow, sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")
    specs = load_jobs_file(path)
    check_specs_are_sound(specs)
    listed = document.get("jobs", {})
    assert [spec.name for spec in specs[: len(listed)]] == list(listed)
    for spec, entry in zip(specs, listed.values(), strict=False):
        assert spec.turns == entry.get("turns")
        if spec.kind == "call":
            assert spec.arguments == entry.get("with", {})


def broken(data: st.DataObject, document: dict[str, Any], flow: bool | None) -> bytes:
    """Draw what is left of a file after a few slips of the hand."""
    lines = dumped(document, flow).splitlines(keepends=True)
    for _ in range(data.draw(st.integers(1, 3))):
        kind = data.draw(st.sampled_from(["delete", "repeat", "indent", "swap", "insert", "cut"]))
        at = data.draw(st.integers(0, max(0, len(lines) - 1)))
        other = data.draw(st.integers(0, max(0, len(lines) - 1)))
        if not lines:
            break
        line = lines[at]
        column = data.draw(st.integers(0, len(line)))
        if kind == "delete":
            del lines[at]
        elif kind == "repeat":
            lines.insert(other, line)
        elif kind == "indent":
            lines[at] = data.draw(st.sampled_from([" ", "  ", "\t", ""])) + line.lstrip()
        elif kind == "swap":
            lines[at], lines[other] = lines[other], line
        elif kind == "insert":
            pieces = st.sampled_from([*":{}[],'\"&*!|>%@`#-? \n\t", "&a ", "*a", "<<: ", "!!set ", "---\n", "\\u"])
            lines[at] = line[:column] + data.draw(pieces | st.text(max_size=2)) + line[column:]
        else:
            lines[at] = line[:column]
    return "".join(lines).encode("utf-8", "surrogatepass")


def changed(data: st.DataObject, document: dict[str, Any]) -> bytes:
    """Draw a file with anything at all in place of one part, or under another key."""
    node: Any = document
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        child = node[key]
        if not isinstance(child, dict | list) or not child or data.draw(st.booleans()):
            break
        node = child
    new_keys = st.sampled_from(["jobs", "sweep", "call", "with", "script", "args", "turns", "trun", "../x", ""])
    if isinstance(node, dict) and data.draw(st.booleans()):
        node[data.draw(new_keys | st.text(max_size=4))] = node.pop(key)
    else:
        node[key] = data.draw(values | st.sampled_from(["mod.fun", "a.py", ".", [], {}, [[]], [{}], 10**400]))
    return dumped(document, None).encode("utf-8", "surrogatepass")


@many
@given(data=st.data(), document=valid, flow=st.sampled_from([True, False, None]))
def test_broken_text_is_explained(path: Path, data: st.DataObject, document: dict[str, Any], flow: bool | None) -> None:
    load_or_explain(path, broken(data, document, flow))


@many
@given(data=st.data(), document=valid)
def test_wrong_values_are_explained(path: Path, data: st.DataObject, document: dict[str, Any]) -> None:
    load_or_explain(path, changed(data, document))


@many
@given(content=st.binary(max_size=60) | st.text("jobsweepcall: {}[]'\"\n-&*!<>|%@,\t0", max_size=60).map(str.encode))
def test_any_bytes_are_explained(path: Path, content: bytes) -> None:
    load_or_explain(path, content)


@many
@given(each=st.lists(st.text(max_size=12) | st.text("-=ab01 '\"\\.", max_size=12), max_size=5))
def test_any_each_is_split_or_explained(path: Path, each: list[str]) -> None:
    try:
        specs = specs_from_each(path.parent / "train.py", each)
    except UsageError:
        return
    check_specs_are_sound(specs)
    assert [spec.arguments for spec in specs] == [shlex.split(text) for text in each]
