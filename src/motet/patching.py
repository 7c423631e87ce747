"""How a table of `motet.patches` is put in place, and taken back.

A function of torch's or Python's that is written in Python is redirected by exchanging its code object, not the name in
a module: a loop that did ``from torch.distributed import init_process_group`` long before the run is redirected as
well. Classes are patched in their own dictionary for the same reason. What is written in C has no code to exchange:
there the name is, and who imported it before the run goes on with the original.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from motet.patches import Patch

Call = Callable[..., Any]

_in_place: list[object] = []  # who answers
_jumps: dict[str, tuple[Call, Call]] = {}  # by place: who answers there, and the original


@contextlib.contextmanager
def in_place(patches: Iterable[Patch], answers: Any, world_values: Iterable[str] = ()) -> Iterator[None]:
    """Have ``answers`` answer for everything in a table, for the duration of the block. Blocks do not nest.

    ``world_values``: the properties that are asked for of what has ``world_values`` for its answer.
    """
    assert not _in_place, "patches are in place already"
    with contextlib.ExitStack() as undo:
        _in_place.append(answers)
        undo.callback(_in_place.clear)
        undo.callback(_jumps.clear)
        for patch in patches:
            if (place := _resolve(patch)) is None:
                continue
            owner, name = place
            original = owner.__dict__[name]
            if patch.answer == "world_values":
                undo.callback(_ask_for_properties(original, world_values, answers.world_values))
            elif isinstance(owner, types.ModuleType) and _is_plain(original):
                undo.callback(_exchange_code(patch.where, original, _answer(patch, answers)))
            else:
                undo.callback(replace(owner, name, _passing(_answer(patch, answers), original)))
        yield


def replace_names(patches: Iterable[Patch], answers: Any, eager: Callable[[Call], Call]) -> None:
    """Have ``answers`` answer for everything in a table, for as long as this process lives.

    ``eager`` makes what torch.compile does not trace.
    """
    for patch in patches:
        if (place := _resolve(patch)) is not None:
            owner, name = place
            passing = _passing(_answer(patch, answers), getattr(owner, name))
            setattr(owner, name, eager(passing) if patch.eager else passing)


def replace(owner: Any, name: str, replacement: Any) -> Call:
    """Exchange what a module or a class holds under a name; return what puts it back."""
    undo = functools.partial(setattr, owner, name, owner.__dict__[name])
    setattr(owner, name, replacement)
    return undo


def is_in_place() -> bool:
    """Whether a table is in place until its block ends."""
    return bool(_in_place)


def _resolve(patch: Patch) -> tuple[Any, str] | None:
    """Return the module or class that holds what is patched, and its name there; None where it need not be there."""
    module, _, path = patch.where.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    if name not in owner.__dict__:
        assert patch.optional, f"{patch.where} is not there"
        return None
    return owner, name


def _answer(patch: Patch, answers: Any) -> Call:
    if not patch.instead:
        answer: Call = getattr(answers, patch.answer)
        return answer

    def refused(original: Call, /, *args: Any, **kwargs: Any) -> Any:
        answers.refuse(patch.answer, patch.instead)
        return original(*args, **kwargs)

    return refused


def _passing(answer: Call, original: Call) -> Call:
    """Return what passes a call on to ``answer``, and looks like the original."""
    if isinstance(original, type):
        return functools.partial(answer, original)
    if isinstance(original, types.BuiltinFunctionType):  # which is no method wherever it is kept, and has no frame
        return functools.update_wrapper(functools.partial(answer, original), original)

    @functools.wraps(original)
    def passes(*args: Any, **kwargs: Any) -> Any:
        return answer(original, *args, **kwargs)

    return passes


def _is_plain(function: object) -> bool:
    return callable(function) and isinstance(inspect.unwrap(function), types.FunctionType)


def _exchange_code(where: str, function: Call, answer: Call) -> Call:
    """Exchange the code of a function for a jump to ``answer``; return what undoes it."""
    inner = inspect.unwrap(function)
    assert isinstance(inner, types.FunctionType), where
    assert not inner.__code__.co_freevars, where
    code, defaults, kwdefaults = inner.__code__, inner.__defaults__, inner.__kwdefaults__
    original = types.FunctionType(code, inner.__globals__, inner.__name__, defaults, inner.__closure__)
    original.__kwdefaults__ = kwdefaults
    _jumps[where] = (answer, original)
    # Dynamo decides by file name what it traces: keep the file of the original.
    inner.__code__ = _write_jump(where).replace(co_filename=code.co_filename, co_name=code.co_name)

    def undo() -> None:
        inner.__code__ = code

    return undo


def _jump(where: str, *args: Any, **kwargs: Any) -> Any:
    answer, original = _jumps[where]
    return answer(original, *args, **kwargs)


@functools.cache
def _write_jump(where: str) -> types.CodeType:
    # The jump runs with the globals of torch's module, so it must import what it calls.
    body = f"    from motet.patching import _jump\n    return _jump({where!r}, *args, **kwargs)\n"
    namespace: dict[str, Any] = {}
    exec(f"def jump(*args, **kwargs):\n{body}", namespace)
    jump = namespace["jump"]
    assert isinstance(jump, types.FunctionType)
    return jump.__code__


def _ask_for_properties(whole: Any, names: Iterable[str], ask: Callable[[], dict[str, Any] | None]) -> Call:
    """Have an object's properties be looked up in what ``ask`` returns, if that is not None; return what undoes it.

    The object stays, with another class: whoever has imported it by its name is answered as well.
    """
    before: type = type(whole)

    def looked_up(name: str, inherited: property) -> property:
        def get(self: Any) -> Any:
            values = ask()
            return inherited.__get__(self) if values is None else values[name]

        def put(self: Any, value: Any) -> None:
            values = ask()
            if values is None:
                inherited.__set__(self, value)
            else:
                values[name] = value

        return property(get, put)

    found = {name: getattr(before, name, None) for name in names}
    properties = {name: looked_up(name, value) for name, value in found.items() if isinstance(value, property)}
    object.__setattr__(whole, "__class__", type(before.__name__, (before,), properties))
    return functools.partial(object.__setattr__, whole, "__class__", before)
