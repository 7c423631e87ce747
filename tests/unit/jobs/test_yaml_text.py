from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from motet.errors import UsageError
from motet.jobs.yaml_text import Mapped, parse_yaml, plain


def value_of(text: str) -> object:
    tree = parse_yaml(f"key: {text}\n", "jobs.yaml")
    assert isinstance(tree, Mapped)
    return plain(tree)["key"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 1e-3),
        ("-3E4", -3e4),
        ("1.", 1.0),
        (".5", 0.5),
        ("0.1", 0.1),
        ("12", 12),
        ("-12", -12),
        ("010", 10),
        ("0x1f", 31),
        ("0o17", 15),
        ("1_000_000", 1_000_000),
        ("2026_01_31", "2026_01_31"),
        ("12:30", "12:30"),
        ("2026-01-31", "2026-01-31"),
        ("12e4567", "12e4567"),
        ("1.2.3", "1.2.3"),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1e-3'", "1e-3"),
        ('"no"', "no"),
        ("!!str 12", "12"),
        ("!!str", ""),
        ("y", "y"),
        ("[1, [a, {b: c}]]", [1, ["a", {"b": "c"}]]),
    ],
)
def test_words_mean_what_they_look_like(text: str, expected: object) -> None:
    found = value_of(text)
    assert found == expected
    assert type(found) is type(expected)


def test_nan_is_a_number() -> None:
    found = value_of(".nan")
    assert isinstance(found, float)
    assert math.isnan(found)


@pytest.mark.parametrize("word", ["yes", "No", "ON", "off"])
def test_unclear_truth_values_are_refused(word: str) -> None:
    with pytest.raises(UsageError, match=rf"^jobs.yaml:1: an unquoted {word} is unclear: write (true|false), or"):
        value_of(word)


def test_anchors_and_merges() -> None:
    text = "base: &b {lr: 1, width: 2}\njob:\n  <<: *b\n  lr: 3\nboth: {<<: [{a: 1}, {a: 2, b: 3}]}\nagain: *b\n"
    tree = parse_yaml(text, "jobs.yaml")
    assert tree is not None
    assert plain(tree) == {
        "base": {"lr": 1, "width": 2},
        "job": {"lr": 3, "width": 2},
        "both": {"a": 1, "b": 3},
        "again": {"lr": 1, "width": 2},
    }


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, r"'a' is given twice \(first in line 1\)"),
        ("a: 1\n'a': 3\n", 2, r"'a' is given twice \(first in line 1\)"),
        ("x: {}\ny:\n  <<: {a: 1}\n  <<: {b: 1}\n", 4, r"'<<' is given twice \(first in line 3\)"),
        ("a: 1\nb: [1, 2\nc: 3\n", 3, "not valid YAML: .*line 2"),
        ("a:\n\tb: 1\n", 2, "not valid YAML: .*indent with spaces"),
        ("a: 'x\n", 2, "not valid YAML: .*quoted scalar"),
        ("a: b: c\n", 1, "not valid YAML: mapping values are not allowed here"),
        ("a: *nothing\n", 1, "not valid YAML: found undefined alias 'nothing'"),
        ("a: 1\n---\nb: 1\n", 2, "not valid YAML: but found another document"),
        ('a: 1\nb: "\\UFFFFFFFF"\n', 2, "not valid YAML"),
        ("a: 1\nb: \x01\n", 2, "the character .* is not allowed"),
        ('a: "\\ud800"\n', 1, "half a character"),
        ('a: 1\n"\\ud800": 1\n', 2, "cannot be a key"),
        ("a: 1\n'': 1\n", 2, "cannot be a key"),
        ("a: 1\n[b]: 1\n", 2, "a key must be a plain word"),
        ("a: 1\nb: !!python/object/apply:os.system ['true']\n", 2, "python/object/apply:os.system' is not allowed"),
        ("a: !!set {x}\n", 1, "the tag .* is not allowed"),
        ("a: !!int 3\n", 1, "the tag .* is not allowed"),
        ("a: &a [*a]\n", 1, "nested too deeply, or within itself"),
        ("a: " + "[" * 60 + "]" * 60, 1, "nested too deeply"),
        ("a: " + "[" * 5000, 1, "nested too deeply"),
        ("a: " + "9" * 5000, 1, "a number of 5000 digits is too long"),
        ("a: 1\n<<: 3\n", 2, "<< takes a mapping"),
        ("a: 1\n<<: [1]\n", 2, "<< takes a mapping"),
    ],
)
def test_errors_name_the_line(text: str, line: int, message: str) -> None:
    with pytest.raises(UsageError, match=rf"^jobs.yaml:{line}: .*{message}") as caught:
        parse_yaml(text, "jobs.yaml")
    assert "\n" not in str(caught.value)


def test_aliases_cannot_blow_up() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    with pytest.raises(UsageError, match="counting what aliases repeat"):
        parse_yaml("\n".join(lines), "jobs.yaml")


def test_no_code_runs(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    for tag in ("python/object/apply:os.mkdir", "python/object/new:os.mkdir", "python/name:os.mkdir"):
        with pytest.raises(UsageError):
            parse_yaml(f"jobs: !!{tag} ['{witness}']\n", "jobs.yaml")
    assert not witness.exists()


@pytest.mark.parametrize("text", ["", "\n\n", "# only words\n", "---\n"])
def test_nothing_is_nothing(text: str) -> None:
    tree = parse_yaml(text, "jobs.yaml")
    assert tree is None or plain(tree) is None


@pytest.mark.parametrize(
    "text",
    [
        "jobs: " + "[" * 4000 + "]" * 4000,
        "jobs: " + "{a: " * 4000,
        "jobs:\n" + "- " * 4000 + "x",
        "\n".join(" " * depth + f"k{depth}:" for depth in range(1000)),
    ],
)
def test_deep_nesting_is_refused_while_it_is_read(text: str) -> None:
    begin = time.process_time()
    with pytest.raises(UsageError, match="nested too deeply"):
        parse_yaml(text, "jobs.yaml")
    assert time.process_time() - begin < 0.5  # seconds of the processor: a few hundredths
