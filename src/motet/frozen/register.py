"""Which jobs of a worker hold equal frozen weights, in which file they lie, and what that saves. Nothing is moved here.

Bytes are known by a name that is equal for equal bytes. A file is written as soon as a second job has claimed the same
bytes, by that job: a worker whose jobs have nothing in common pays for finding that out, and for nothing else.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field


@dataclass
class _Bytes:
    """``claims``: jobs that hold these bytes; ``users``: those of them that share.

    ``writer``: who has been asked to write them, and to which file.
    """

    num_bytes: int
    claims: set[str] = field(default_factory=set)
    users: set[str] = field(default_factory=set)
    writer: tuple[str, int] | None = None
    file: int | None = None

    @property
    def is_to_be_written(self) -> bool:
        """Whether several jobs hold these bytes, and nobody has written them or been asked to."""
        return self.file is None and self.writer is None and len(self.claims) > 1


@dataclass(frozen=True)
class ClaimAnswer:
    """What a job is to do: share the bytes that lie in files, by file; write others to a new one, file ``number``."""

    share: Mapping[int, list[str]]
    write: list[str]
    number: int


class Register:
    """What all jobs of a worker have claimed."""

    def __init__(self) -> None:
        self._bytes: dict[str, _Bytes] = {}
        self._fixed: defaultdict[str, dict[str, int]] = defaultdict(dict)  # by job
        self._num_files = 0
        self._most: dict[str, int] = {}

    def claim(self, job: str, found: Mapping[str, int]) -> ClaimAnswer:
        """Take note of what a job holds; return what it is to do now."""
        share: defaultdict[int, list[str]] = defaultdict(list)
        write: list[str] = []
        for name, num_bytes in found.items():
            entry = self._bytes.setdefault(name, _Bytes(num_bytes))
            entry.claims.add(job)
            if entry.file is not None:
                share[entry.file].append(name)
            elif entry.is_to_be_written:
                write.append(name)
        return self._ask(job, write, share)

    def unwritten(self) -> dict[str, ClaimAnswer]:
        """Return whom to ask, and for what: several jobs hold it, and who was asked has ended, or failed."""
        write: defaultdict[str, list[str]] = defaultdict(list)
        for name, entry in self._bytes.items():
            if entry.is_to_be_written:
                write[min(entry.claims)].append(name)
        return {job: self._ask(job, names, {}) for job, names in write.items()}

    def _ask(self, job: str, write: list[str], share: Mapping[int, list[str]]) -> ClaimAnswer:
        self._num_files += bool(write)
        for name in write:
            self._bytes[name].writer = (job, self._num_files)
        return ClaimAnswer(dict(share), write, self._num_files)

    def keeps(self, job: str, fixed: Mapping[str, int]) -> None:
        """Take note of what a job holds that has to stay where it is."""
        self._fixed[job].update(fixed)

    def kept(self) -> Saving:
        """Return what cannot be shared for that reason: how many jobs hold how much, and what would be saved."""
        num_holders = Counter(name for fixed in self._fixed.values() for name in fixed)
        equal = {name for name, number in num_holders.items() if number > 1}
        sizes = {name: size for fixed in self._fixed.values() for name, size in fixed.items() if name in equal}
        jobs = sum(1 for fixed in self._fixed.values() if equal & fixed.keys())
        saved = sum(size * (num_holders[name] - 1) for name, size in sizes.items())
        return Saving(jobs, sum(sizes.values()), saved)

    def wrote(self, job: str, number: int, names: Collection[str]) -> dict[str, list[str]]:
        """Take note of a file that a job was asked for; return, by job, what each can share now.

        That is the writer, and whoever claimed it before. What it was asked for beside is not written.
        """
        can: defaultdict[str, list[str]] = defaultdict(list)
        for name, entry in self._bytes.items():
            if entry.writer == (job, number):
                entry.writer = None
                if name in names:
                    entry.file = number
                    for each in sorted(entry.claims):
                        can[each].append(name)
        return dict(can)

    def shares(self, job: str, names: Iterable[str]) -> None:
        """Take note that a job uses a file's pages."""
        entries = [self._bytes[name] for name in names if name in self._bytes]
        for entry in entries:
            entry.users.add(job)
        for user in set[str]().union(*(entry.users for entry in entries)):
            self._most[user] = max(self.shared_bytes(user), self._most.get(user, 0))

    def owns(self, job: str, names: Iterable[str]) -> list[int]:
        """Take note that a job holds these bytes no more, or by itself; return the files of which nobody uses any."""
        before = self._files()
        for name in names:
            if (entry := self._bytes.get(name)) is not None:
                entry.claims.discard(job)
                entry.users.discard(job)
                if entry.writer is not None and entry.writer[0] == job:
                    entry.writer = None
                if not entry.claims:
                    del self._bytes[name]
        return sorted(before - self._files())

    def ended(self, job: str) -> list[int]:
        """Take note that a job has ended; return the files of which nobody uses any more."""
        self._fixed.pop(job, None)
        return self.owns(job, list(self._bytes))

    def uses(self, number: int) -> bool:
        """Whether anybody uses a file."""
        return number in self._files()

    def _files(self) -> set[int]:
        return {entry.file for entry in self._bytes.values() if entry.file is not None}

    def shared_bytes(self, job: str) -> int:
        """Return how much of a job's weights other jobs hold with it."""
        return sum(entry.num_bytes for entry in self._bytes.values() if job in entry.users and len(entry.users) > 1)

    def most_shared_bytes(self, job: str) -> int:
        """Return the most that it ever was."""
        return self._most.get(job, 0)

    def saving(self) -> Saving:
        """Return what sharing saves now."""
        shared = [entry for entry in self._bytes.values() if len(entry.users) > 1]
        jobs = set[str]().union(*(entry.users for entry in shared))
        return Saving(
            len(jobs),
            sum(entry.num_bytes for entry in shared),
            sum(entry.num_bytes * (len(entry.users) - 1) for entry in shared),
        )


@dataclass(frozen=True, order=True)
class Saving:
    """How many jobs share how many bytes, and how many more these would be."""

    num_jobs: int
    num_bytes: int
    saved_bytes: int
