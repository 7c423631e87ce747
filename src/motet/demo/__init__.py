"""Three real models on data that every machine has, as ordinary PyTorch: nothing in them knows that Motet exists.

===============  =======================  =============================================  ===============
function         module                   learns                                         measure
===============  =======================  =============================================  ===============
``digits``       ``motet.demo.images``    handwritten digits, from 8 x 8 pixels          accuracy
``byte_gpt``     ``motet.demo.language``  the source of Python's standard library        bits per byte
``recommender``  ``motet.demo.pairs``     which identifiers a function of it mentions    recall at 10
===============  =======================  =============================================  ===============

Each function is the ``train`` of its module, imported when it is first asked for. Each module also runs alone under
plain DDP: ``torchrun --nproc-per-node=2 -m motet.demo.images``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from motet.demo.images import train as digits
    from motet.demo.language import train as byte_gpt
    from motet.demo.pairs import train as recommender

__all__ = ["byte_gpt", "digits", "recommender"]

_MODULES = {"digits": "images", "byte_gpt": "language", "recommender": "pairs"}


def __getattr__(name: str) -> Any:
    """Import a model's ``train`` on first use: a worker that trains one model should not pay for the others."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{_MODULES[name]}").train


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
