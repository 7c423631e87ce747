"""Modules that are not in a script's folder: which of them each job has a copy of, and which all share."""

from __future__ import annotations

import importlib
import shutil
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from tests.unit.isolation.test_scripts import TURNS, run
from tests.unit.isolation.test_scripts import _everything_as_before as _everything_as_before

from motet import isolation
from motet.isolation import scripts
from motet.jobs.script import Script

# A script that keeps its argument in a module, and finds it there again in later turns.
KEEPS = """
import sys, told
{imports}
module.value.append(sys.argv[1])
for turn in range(3):
    told.end_turn()
    {imports}
    assert module.value == [sys.argv[1]], module.value
told.turns.append(sys.argv[1])
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    path = list(sys.path)
    (tmp_path / "scripts").mkdir()
    yield tmp_path
    sys.path[:] = path
    sys.path_importer_cache.clear()
    for name in [name for name in sys.modules if name.startswith(("own_", "gin"))]:
        del sys.modules[name]


def both(place: Path, imports: str) -> None:
    """Run a script twice, by turns, that imports something as ``module``; each must have its own."""
    script = place / "scripts" / "train.py"
    script.write_text(KEEPS.format(imports=imports))
    run(Script(script, ["a"]), Script(script, ["b"]))
    assert TURNS == ["a", "b"]


def module(path: Path, text: str = "value = []\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("how", ["before the run", "in the script"])
def test_a_package_beside_the_folder_of_scripts(place: Path, how: str) -> None:
    module(place / "own_toolbox" / "__init__.py", "")
    module(place / "own_toolbox" / "settings.py")
    line = f"sys.path.append({str(place)!r})"
    if how == "before the run":  # as an editable install or PYTHONPATH
        sys.path.append(str(place))
        line = ""
    both(place, f"import os; {line or 'pass'}; from own_toolbox import settings as module")
    assert "own_toolbox" not in sys.modules


def test_a_module_imported_in_a_later_turn(place: Path) -> None:
    sys.path.append(str(place))
    module(place / "own_late.py")
    script = place / "scripts" / "train.py"
    script.write_text(
        "import sys, told\ntold.end_turn()\nimport own_late\nown_late.value.append(sys.argv[1])\ntold.end_turn()\n"
        "import own_late as again\nassert again is own_late\ntold.turns.append(own_late.value)\n"
    )
    run(Script(script, ["a"]), Script(script, ["b"]))
    assert TURNS == [["a"], ["b"]]


def test_a_namespace_over_several_folders_one_of_them_installed(place: Path) -> None:
    module(place / "one" / "own_company" / "models.py")
    module(place / "two" / "own_company" / "data.py")
    module(place / "lib" / "site-packages" / "own_company" / "client.py")
    sys.path += [str(place / "lib" / "site-packages"), str(place / "one"), str(place / "two")]
    both(place, "import own_company.client, own_company.data; import own_company.models; module = own_company.models")


def test_a_module_in_a_zip_file(place: Path) -> None:
    with zipfile.ZipFile(place / "code.zip", "w") as file:
        file.writestr("own_zipped.py", "value = []\n")
    sys.path.append(str(place / "code.zip"))
    both(place, "import own_zipped as module")


def test_a_module_that_a_script_makes(place: Path) -> None:
    both(
        place,
        "from types import ModuleType; module = sys.modules.setdefault('own_made', ModuleType('own_made')); "
        "module.value = getattr(module, 'value', [])",
    )


def test_a_script_does_not_see_what_its_caller_has_imported_and_the_caller_keeps_it(place: Path) -> None:
    sys.path.append(str(place))
    module(place / "own_callers.py")
    callers = importlib.import_module("own_callers")
    both(place, "import own_callers as module")
    assert sys.modules["own_callers"] is callers
    assert callers.value == []


def test_what_is_installed_is_everyones(place: Path) -> None:
    folders = {"own_site": "lib/site-packages", "own_dist": "lib/dist-packages", "own_beside_it": "target"}
    for name, folder in folders.items():
        module(place / folder / f"{name}.py")
        sys.path.append(str(place / folder))
    module(place / "target" / "own_of_target" / "__init__.py", "value = []\n")
    module(place / "target" / "own-1.0.dist-info" / "RECORD", "own_of_target/__init__.py,,\n")  # pip's --target
    script = place / "scripts" / "train.py"
    script.write_text(
        "import told, own_site, own_dist, own_of_target, own_beside_it\n"
        "told.turns.append((own_site, own_dist, own_of_target))\ntold.turns.append(own_beside_it)\ntold.end_turn()\n"
    )
    run(Script(script, ["a"]), Script(script, ["b"]))
    assert TURNS[0] == TURNS[2]
    assert TURNS[1] is not TURNS[3]


def test_installed_packages_of_one_state_are_each_jobs_with_what_builds_on_them(place: Path) -> None:
    installed = place / "lib" / "site-packages"
    sys.path.append(str(installed))
    module(installed / "gin" / "__init__.py", "class Singleton:\n    instances = {}\n")
    module(installed / "own_builds_on_gin.py", "from gin import Singleton\n")
    module(installed / "own_builds_on_that.py", "import own_builds_on_gin\nvalue = []\n")
    module(installed / "own_builds_on_none.py", "loads = []\n")
    both(
        place,
        "import own_builds_on_that as module, own_builds_on_none; import gin; "
        "assert own_builds_on_none.loads.append(1) is None; "
        "from own_builds_on_gin import Singleton; assert Singleton is gin.Singleton; "
        "assert Singleton.instances.setdefault('one', sys.argv[1]) == sys.argv[1]",
    )
    assert len(sys.modules["own_builds_on_none"].loads) == 8, "this one is shared"
    assert "gin" not in sys.modules


def test_a_compiled_module_is_loaded_once_and_found_again(place: Path) -> None:
    import xxhash._xxhash

    compiled = sys.modules["told"].compiled = set()
    package = place / "own_compiled"
    module(package / "__init__.py", "value = []\nfrom . import _xxhash\n")
    shutil.copy(xxhash._xxhash.__file__, package)
    sys.path.append(str(place))
    both(place, "import own_compiled as module, own_compiled._xxhash; told.compiled.add(module._xxhash)")
    assert len(compiled) == 1
    assert all("CompiledOnce" not in type(finder).__name__ for finder in sys.meta_path)


def test_a_script_finds_its_own_module_where_another_has_imported_one_that_is_installed(place: Path) -> None:
    installed = place / "lib" / "site-packages"
    module(installed / "own_named_alike.py", "value = ['installed']\n")
    module(place / "other" / "own_named_alike.py", "value = ['beside']\n")
    sys.path.append(str(installed))
    for folder in ("scripts", "other"):
        (place / folder / "train.py").write_text(
            "import told, own_named_alike\ntold.end_turn()\nimport own_named_alike as again\n"
            "assert again is own_named_alike\ntold.turns.append(again.value)\n"
        )
    run(Script(place / "scripts" / "train.py"), Script(place / "other" / "train.py"))
    assert TURNS == [["installed"], ["beside"]]


def test_modules_may_be_imported_by_a_thread_at_any_moment() -> None:
    """Nothing may walk ``sys.modules`` while it changes."""
    outside = isolation.take_all()
    state, over = outside.copy(), threading.Event()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def imports() -> None:
        number = 0
        while not over.is_set():
            number += 1
            sys.modules[f"own_thread_{number % 500}"] = ModuleType("own_thread")
            sys.modules.pop(f"own_thread_{(number * 7) % 500}", None)

    thread = threading.Thread(target=imports)
    thread.start()
    try:
        for _ in range(150):
            scripts._note_mark((0, "", 0))
            other = isolation.exchange(state)
            state = isolation.exchange(other)
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(interval)
        isolation.put_all(state)
        isolation.put_all(outside)
