"""The short form of a traceback names the user's own line, the error, and the first line of what it says."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from motet.errors import UnsupportedError
from motet.tracebacks import short_form

LIBRARY = """
import json
def fail(): raise AttributeError("gone.\\nUse another one; see\\n    https://example.org/notes")
def chain():
    try: json.loads("{")
    except ValueError as error: raise RuntimeError("cannot read it") from error
"""


def text_of(call: Callable[[], object]) -> str:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - whatever the script raises
        call()
    return "".join(traceback.format_exception(caught.type, caught.value, caught.tb.tb_next))


def run(folder: Path, source: str, name: str = "train.py") -> Callable[[], object]:
    """Return a call that runs a script of this source beside an installed library."""
    installed = folder / "site-packages" / "library.py"
    installed.parent.mkdir(parents=True, exist_ok=True)
    installed.write_text(LIBRARY)
    names: dict[str, object] = {}
    exec(compile(LIBRARY, str(installed), "exec"), names)
    path = folder / name
    path.write_text(source)
    return lambda: exec(compile(source, str(path), "exec"), {**names, "UnsupportedError": UnsupportedError})


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("\nraise ValueError('first\\n\\n  second')", "train.py:2: ValueError: first"),
        ("raise AssertionError", "train.py:1: AssertionError"),
        ("raise KeyError('a: b')", "train.py:1: KeyError: 'a: b'"),
        ("raise ValueError('\\n  told below')", "train.py:1: ValueError: told below"),
        ("\n\nfail()", "train.py:3: AttributeError: gone."),
        ("\nchain()", "train.py:2: RuntimeError: cannot read it"),
        ("try: fail()\nfinally:\n  {}['x']", "train.py:3: KeyError: 'x'"),
        ("import json\njson.loads('{')", "train.py:2: JSONDecodeError: Expecting property name"),
        ("raise UnsupportedError(\"job 'x': FSDP: use DDP\")", "train.py:1: UnsupportedError: FSDP: use DDP"),
        ("raise SystemExit('train.py: error: no')", "train.py:1: SystemExit: train.py: error: no"),
        ("class Odd(Exception):\n  pass\nraise Odd('x')", "train.py:3: Odd: x"),
        ("raise ExceptionGroup('several', [ValueError('one\\ntwo')])", "train.py:1: ExceptionGroup: several"),
        (
            "def down(n): down(n + 1)\ndown(0)",
            "train.py:1: RecursionError: maximum recursion depth exceeded",
        ),
        (
            "raise RuntimeError('Caught it in a worker.\\nOriginal Traceback (most recent call last):\\n"
            '  File "other.py", line 9, in f\\nValueError: inner\')',
            "train.py:1: RuntimeError: Caught it in a worker.",
        ),
        (
            "raise RuntimeError('Caught KeyError in DataLoader worker process 0.\\nOriginal Traceback (most recent "
            'call last):\\n  File "/x/site-packages/torch/worker.py", line 7, in f\\n    data = fetch()\\n'
            '  File "/x/data.py", line 9, in f\\nValueError: no sample\') from None',
            "data.py:9: ValueError: no sample",
        ),
        ("raise ValueError('x' * 5000)", "train.py:1: ValueError: xxx"),
    ],
)  # fmt: skip
def test_short_forms(tmp_path: Path, source: str, expected: str) -> None:
    short = short_form(text_of(run(tmp_path, source)))
    assert short.startswith(expected)
    assert "\n" not in short
    assert len(short) < 400
    assert "job '" not in short


def test_a_script_that_does_not_compile(tmp_path: Path) -> None:
    assert short_form(text_of(run(tmp_path, "x = 1\nfoo(\n"))) == "train.py:2: SyntaxError: '(' was never closed"


def test_a_file_below_the_working_directory_is_shown_with_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    text = text_of(run(tmp_path, "raise ValueError('x')", "models/net.py"))
    monkeypatch.chdir(tmp_path)
    assert short_form(text) == "models/net.py:1: ValueError: x"


def test_what_is_no_traceback_shows_its_first_line() -> None:
    assert short_form("job 'a', turn 3: NaN\nmore") == "job 'a', turn 3: NaN"
    assert short_form("") == ""
    left_out = (
        'left out: twice\nTraceback (most recent call last):\n  File "/x/train.py", line 4, in f\nValueError: y\n'
    )
    assert short_form(left_out) == "train.py:4: ValueError: y"
    assert short_form(left_out.replace("left out: twice", "on worker 1 alone, in turn 2:")) == short_form(left_out)
