"""Which paths are of interest: those at which two jobs could lose each other something."""

from __future__ import annotations

import itertools
import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_SYSTEM = ("/dev", "/proc", "/sys")
# Where libraries keep what they could make again, for all processes of a user.
_CACHES = (
    *("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE", "TRANSFORMERS_CACHE"),
    *("TORCH_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "CUDA_CACHE_PATH"),
    *("MPLCONFIGDIR", "NUMBA_CACHE_DIR", "WANDB_CACHE_DIR", "NLTK_DATA", "TFHUB_CACHE_DIR", "PYTHONPYCACHEPREFIX"),
)
_NAMES = re.compile(r"torchinductor_.*|triton|__pycache__|.*\.lock|.*\.lck|.*\.pyc|lock|lockfile|\.nfs.*")
# What trackers keep for all runs together.
_TRACKERS = frozenset({"mlruns", "mlartifacts", "mlflow.db", "wandb", ".neptune", ".comet"})
# TensorBoard reads a folder of these as one run, whatever the files are called.
_EVENTS = re.compile(r"events\.out\.tfevents\..*")

_APART = re.compile(r"""[\s<>;&|=,'"`()\[\]{}]+""")
_NO_PATH = re.compile(r"[\0\n]")
MAX_ARGUMENTS, MOST_FOLDERS = 32, 3


class Places:
    """What is watched, as the environment of the run says. ``run_dir``: there, only the jobs' own folders are."""

    def __init__(self, run_dir: Path | None, environment: Mapping[str, str] = os.environ) -> None:
        caches = [environment[name] for name in _CACHES if environment.get(name)]
        home = os.path.expanduser("~")
        caches += [os.path.join(home, ".cache"), os.path.join(home, ".config"), os.path.join(home, ".triton")]
        self._left_out = tuple({os.path.join(os.path.realpath(path), "") for path in (*_SYSTEM, *caches)})
        self._run_dir = None if run_dir is None else os.path.join(os.path.realpath(run_dir), "")

    def resolve(self, path: object, folder: int | str = -1, *, follow: bool = True) -> str | None:
        """Return the one name of the file that ``path`` means here and now; None if nobody minds who writes it.

        ``folder``: a descriptor or a path that a relative one starts from; -1: the working directory.
        ``follow``: what a link leads to is meant, not the link.
        """
        try:
            text = os.fsdecode(path)  # type: ignore[arg-type]
        except TypeError:  # a descriptor: it was seen when it was opened
            return None
        try:
            if folder != -1 and not os.path.isabs(text):
                start = os.readlink(f"/proc/self/fd/{folder}") if isinstance(folder, int) else folder
                text = os.path.join(start, text)
            head, name = os.path.split(os.path.abspath(text))
            found = os.path.join(os.path.realpath(head), name)
            if follow and os.path.islink(found):
                found = os.path.realpath(found)
        except (OSError, ValueError):
            return None
        return None if self._is_left_out(found, name) else _as_given(found, name)

    def _is_left_out(self, found: str, name: str) -> bool:
        if found.startswith(self._left_out) or _NAMES.fullmatch(name):
            return True
        parts = found.split(os.sep)
        if not _TRACKERS.isdisjoint(parts) or any(_NAMES.fullmatch(part) for part in parts[1:-1]):
            return True
        if self._run_dir is None or not found.startswith(self._run_dir):
            return False
        return not found.startswith(self._run_dir + "jobs" + os.sep)


def _as_given(found: str, name: str) -> str:
    return os.path.dirname(found) if _EVENTS.fullmatch(name) else found


def path_of_database(database: object) -> str | None:
    """Return the file that ``sqlite3.connect`` would write; None for one in memory, or that is only read."""
    try:
        text = os.fsdecode(database)  # type: ignore[arg-type]
    except TypeError:
        return None
    if not text.startswith("file:"):
        return None if text in ("", ":memory:") else text
    path, _, query = text.removeprefix("file:").partition("?")
    options = urllib.parse.parse_qs(query)
    if options.get("mode", [""])[0] in ("ro", "memory") or options.get("immutable", ["0"])[0] not in ("0", "no"):
        return None
    if path.startswith("//"):
        path = "/" + path[2:].partition("/")[2]
    return urllib.parse.unquote(path) or None


def arguments_of(command: object, folder: str) -> Iterator[str]:
    """Yield the arguments of a command that could name files, seen from ``folder``, and files below folders.

    An argument may hold a whole program (``sh -c``, ``python -c``), so each is taken apart, too.
    """
    given: Any = [command] if isinstance(command, (str, bytes)) else command
    try:
        texts = [os.fsdecode(word) for word in given]
    except TypeError:
        return
    parts = dict.fromkeys(part for text in texts for part in (text, *_APART.split(text)) if _may_be_path(part))
    words = list(itertools.islice(parts, MAX_ARGUMENTS))
    yield from words
    folders = [word for word in words if word not in (".", "/") and os.path.isdir(os.path.join(folder, word))]
    for place, word in itertools.product(folders[:MOST_FOLDERS], words):
        if word not in folders:
            yield os.path.join(place, os.path.basename(word))


def _may_be_path(word: str) -> bool:
    return 0 < len(word) < 1000 and not word.startswith("-") and not _NO_PATH.search(word)
