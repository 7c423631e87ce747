"""Programs that take their process for their own print, beside others, what they print alone: on all workers."""

from __future__ import annotations

import re
from pathlib import Path

from tests.processes.command import place_in, torchrun, words_of

CASES = Path(__file__).with_name("cases.py")
OF_LIBRARIES = re.compile(r"\w\.cpp:\d+\]")  # on stderr, with the time: what a profiler says of itself
TAGS = {"A": 2, "B": 3}


def test_each_prints_what_it_prints_alone(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "toolbox_elsewhere.py").write_text("name = None\n")
    each = {tag: f"--tag={tag} --number={number} --packages={packages}" for tag, number in TAGS.items()}
    with place_in(tmp_path / "place") as place:
        expected = {}
        for tag, arguments in each.items():
            torchrun(place, 2, CASES, *arguments.split(), options=["--redirects=3", f"--log-dir=logs-{tag}"])
            # Of its last try, if torch aborted at the end of one before.
            last = max((place.path / f"logs-{tag}").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
            logs = sorted(last.rglob("stdout.log"))
            expected[tag] = [log.read_text() for log in logs]
            assert [len(text) > 500 for text in expected[tag]] == [True, True]
        assert expected["A"] != expected["B"]
        status, out, err = place.motet(*words_of(2, CASES, list(each.values())))
        assert status == 0, (out, err)
        for tag in TAGS:
            (folder,) = [path for path in (place.path / "out" / "jobs").iterdir() if f"tag={tag}" in path.name]
            for worker, name in enumerate(("log.txt", "log-worker-1.txt")):
                found = (folder / name).read_text().splitlines(keepends=True)
                assert "".join(line for line in found if not OF_LIBRARIES.search(line)) == expected[tag][worker]
