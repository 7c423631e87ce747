"""The registry: what is taken comes back, to its owner alone."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable, Generator, Iterator
from types import ModuleType

import pytest

from motet import isolation
from motet.errors import MotetError, UsageError

Job = Generator[None, None, None]


def alternate(*jobs: Job) -> None:
    """Run generators by turns, as the pipeline runs jobs; a ``yield`` ends a turn."""
    outside = isolation.take_all()
    saved = {job: outside.copy() for job in jobs}
    while saved:
        for job in list(saved):
            outside = isolation.exchange(saved[job])
            try:
                next(job)
            except StopIteration:
                isolation.put_all(outside)
                del saved[job]
            else:
                saved[job] = isolation.exchange(outside)


def check_apart(read: Callable[[], object], *changes: Callable[[], object]) -> None:
    """Check that jobs find what they changed, one that changes nothing what was there, and the caller as well."""
    before = read()
    after = []

    def changing(change: Callable[[], object]) -> Job:
        assert read() == before
        yield
        change()
        mine = read()
        after.append(mine)
        for _ in range(3):
            yield
            assert read() == mine

    def idle() -> Job:
        for _ in range(5):
            assert read() == before
            yield

    alternate(*(changing(change) for change in changes), idle())
    assert read() == before
    for mine in after:
        assert mine != before, "the change must be one"


@pytest.fixture
def setting() -> Iterator[list[object]]:
    """A user's own global, known to the isolation as ``mine``."""
    place: list[object] = ["first"]
    isolation.register("mine", take=lambda: list(place), put=lambda value: place.__setitem__(slice(None), value))
    yield place
    if "mine" in isolation.registered():
        isolation.unregister("mine")


def test_a_users_own_entry(setting: list[object]) -> None:
    check_apart(lambda: list(setting), lambda: setting.append("a"), setting.clear)


def test_without_an_entry_a_global_is_common(setting: list[object]) -> None:
    isolation.unregister("mine")
    with pytest.raises(AssertionError):
        check_apart(lambda: list(setting), lambda: setting.append("a"), setting.clear)


def test_take_changes_nothing_and_put_brings_back(setting: list[object]) -> None:
    saved = isolation.take_all()
    assert setting == ["first"]
    setting[:] = ["second"]
    isolation.put_all(saved)
    assert setting == ["first"]


def test_names_are_unique_and_must_exist(setting: list[object]) -> None:
    with pytest.raises(UsageError, match=r"'mine' is registered already.*unregister\('mine'\)"):
        isolation.register("mine", lambda: None, lambda value: None)
    with pytest.raises(UsageError, match=r"'mime'.*mine"):
        isolation.unregister("mime")
    with pytest.raises(UsageError, match="needs a name, got ''"):
        isolation.register("", lambda: None, lambda value: None)
    with pytest.raises(UsageError, match="put must be callable, got 3"):
        isolation.register("other", lambda: None, 3)  # type: ignore[arg-type]
    assert "other" not in isolation.registered()


def test_a_take_that_fails_is_named_and_nothing_was_changed(setting: list[object]) -> None:
    saved = isolation.take_all().copy()
    saved.values["mine"] = ["other"]
    isolation.register("broken", take=lambda: 1 // 0, put=lambda value: None)
    try:
        with pytest.raises(MotetError, match="'broken' could not be taken: ZeroDivisionError") as caught:
            isolation.exchange(saved)
    finally:
        isolation.unregister("broken")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert setting == ["first"]


def test_a_put_that_fails_is_named_and_all_others_are_put() -> None:
    place = ["first"]

    def fail(value: object) -> None:
        raise KeyError("gone")

    isolation.register("broken", take=lambda: None, put=fail)
    isolation.register("mine", take=lambda: place[0], put=lambda value: place.__setitem__(0, value))
    try:
        saved = isolation.take_all()
        place[0] = "second"
        with pytest.raises(MotetError, match=r"'broken' could not be put back: KeyError.*unregister\('broken'\)"):
            isolation.put_all(saved)
    finally:
        isolation.unregister("broken")
        isolation.unregister("mine")
    assert place == ["first"]


def test_a_copy_that_fails_is_named() -> None:
    isolation.register("broken", take=lambda: None, put=lambda value: None, copy=lambda value: value.nothing)
    try:
        with pytest.raises(MotetError, match="'broken' could not be copied: AttributeError"):
            isolation.take_all().copy()
    finally:
        isolation.unregister("broken")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], ModuleType]]:
    """A library that a job may import, with one setting."""

    def load() -> ModuleType:
        module = ModuleType("a_library")
        module.setting = "default"  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "a_library", module)
        return module

    yield load
    isolation.unregister("a library")


@pytest.mark.parametrize(("fresh", "found"), [(lambda: "default", "default"), (None, "set by a")])
def test_an_entry_rests_until_its_module_is_imported(
    library: Callable[[], ModuleType], fresh: Callable[[], str] | None, found: str
) -> None:
    isolation.register(
        "a library",
        take=lambda: sys.modules["a_library"].setting,
        put=lambda value: setattr(sys.modules["a_library"], "setting", value),
        module="a_library",
        fresh=fresh,
    )

    def importing() -> Job:
        assert "a library" not in isolation.take_all().values
        module = library()
        module.setting = "set by a"  # type: ignore[attr-defined]
        for _ in range(2):
            yield
            assert module.setting == "set by a"

    def later() -> Job:
        assert sys.modules["a_library"].setting == found
        sys.modules["a_library"].setting = "set by b"  # type: ignore[attr-defined]
        yield
        assert sys.modules["a_library"].setting == "set by b"

    alternate(importing(), later())
    assert sys.modules["a_library"].setting == found


def test_live_objects_are_copied_for_each_job() -> None:
    place = [["shared"]]
    isolation.register("live", take=lambda: place[0], put=lambda value: place.__setitem__(0, value), copy=list)
    original = place[0]
    try:
        check_apart(lambda: list(place[0]), lambda: place[0].append("a"), lambda: place[0].remove("shared"))
        assert place[0] is original
    finally:
        isolation.unregister("live")


def test_a_state_that_was_taken_again_since_is_copied_not_shared() -> None:
    place = [["shared"]]
    isolation.register("live", take=lambda: place[0], put=lambda value: place.__setitem__(0, value), copy=list)
    try:
        early = isolation.take_all()  # and, without a copy, given to a job
        outside = isolation.exchange(early)
        place[0].append("a")
        of_job = isolation.exchange(outside)
        assert place[0] == ["shared"]
        outside = isolation.exchange(of_job)
        assert place[0] == ["shared", "a"]
        isolation.put_all(outside)
    finally:
        isolation.unregister("live")


def test_nothing_is_kept_that_nobody_holds() -> None:
    class Value:
        def __init__(self) -> None:
            alive.add(self)

    alive: weakref.WeakSet[Value] = weakref.WeakSet()
    isolation.register("value", take=Value, put=lambda value: None)
    try:
        outside = isolation.take_all()
        job = outside.copy()
        for _ in range(5):
            outside = isolation.exchange(job)
            job = isolation.exchange(outside)
        gc.collect()
        assert len(alive) == 2  # the two states at hand
    finally:
        isolation.unregister("value")
