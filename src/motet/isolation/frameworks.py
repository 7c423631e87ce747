"""What training frameworks keep one of per process: states, ranks, verbosity, progress bars.

Every entry is inactive until its framework is imported. Lightning's seeds (``PL_GLOBAL_SEED``) are environment
variables and need no entry here.
"""

from __future__ import annotations

import os
import sys
import weakref
from typing import Any

from motet.isolation.registry import add

_ACCELERATE_CLASSES = ("PartialState", "AcceleratorState", "GradientState")


def _classes() -> tuple[Any, ...]:
    state = sys.modules["accelerate.state"]
    return tuple(getattr(state, name) for name in _ACCELERATE_CLASSES if hasattr(state, name))


def take_accelerate() -> tuple[dict[str, Any], ...]:
    """Return the dictionaries that all instances of Accelerate's states share, as they are."""
    return tuple(cls._shared_state for cls in _classes())


def put_accelerate(value: tuple[dict[str, Any], ...]) -> None:
    """Bind them again: instances that a job made before go on using the dictionaries of that job."""
    for cls, shared in zip(_classes(), value, strict=True):
        cls._shared_state = shared


def fresh_accelerate() -> tuple[dict[str, Any], ...]:
    """Return empty dictionaries: nobody has made a state yet."""
    return tuple({} for _ in _classes())


def _copy_accelerate(value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    return tuple(dict(shared) for shared in value)


def _rank_zero() -> Any:
    # Lightning and torchmetrics look at an attribute of this function.
    return sys.modules["lightning_utilities.core.rank_zero"].rank_zero_only


def take_rank_zero() -> int | None:
    """Return the worker that Lightning believes itself to be."""
    return getattr(_rank_zero(), "rank", None)


def put_rank_zero(value: int | None) -> None:
    """Bring it back; None where nobody has said it yet."""
    if value is not None:
        _rank_zero().rank = value
    elif hasattr(_rank_zero(), "rank"):
        del _rank_zero().rank


def fresh_rank_zero() -> int | None:
    """Return what Lightning finds out when it is imported."""
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
        if name in os.environ:
            return int(os.environ[name])
    return 0


def take_transformers() -> tuple[Any, ...]:
    """Return whether Transformers shows progress bars, the hook that makes them, and the hub's own switches."""
    module = sys.modules["transformers.utils.logging"]
    return getattr(module, "_tqdm_active", None), getattr(module, "_tqdm_hook", None), _take_hub_bars()


def put_transformers(value: tuple[Any, ...]) -> None:
    """Bring them back."""
    module = sys.modules["transformers.utils.logging"]
    active, hook, hub = value
    for name, content in (("_tqdm_active", active), ("_tqdm_hook", hook)):
        if hasattr(module, name):
            setattr(module, name, content)
    switches = _hub_bars()
    if switches is not None and hub is not None and switches != hub:
        switches.clear()
        switches.update(hub)


def fresh_transformers() -> tuple[Any, ...]:
    """Return what a first import finds: bars are shown unless the environment says otherwise."""
    switched_off = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS", "").upper() in {"1", "ON", "YES", "TRUE"}
    return not switched_off, None, {}


def _hub_bars() -> dict[str, bool] | None:
    return getattr(sys.modules.get("huggingface_hub.utils.tqdm"), "progress_bars_disabled", None)


def _take_hub_bars() -> dict[str, bool] | None:
    switches = _hub_bars()
    return None if switches is None else dict(switches)


_AUTO = tuple(
    f"transformers.models.auto.{name}"
    for name in (
        *("configuration_auto", "modeling_auto", "tokenization_auto", "processing_auto"),
        *("image_processing_auto", "feature_extraction_auto", "video_processing_auto"),
    )
)
_auto_seen: set[str] = set()
_auto_mappings_found: list[Any] = []  # new ones come last


def _auto_mappings() -> list[Any]:
    """Return the mappings of Transformers' auto classes."""
    for name in _AUTO:
        if name in sys.modules and name not in _auto_seen:
            _auto_seen.add(name)
            for value in list(vars(sys.modules[name]).values()):
                if "_extra_content" in getattr(value, "__dict__", {}) and all(
                    value is not known for known in _auto_mappings_found
                ):
                    _auto_mappings_found.append(value)
    return _auto_mappings_found


def take_auto_classes() -> list[dict[Any, Any]]:
    """Return what was registered with Transformers' auto classes (``AutoConfig.register``), as it is."""
    return [mapping._extra_content for mapping in _auto_mappings()]


def put_auto_classes(value: list[dict[Any, Any]]) -> None:
    """Bind it again. Nothing was registered with a mapping that was imported later."""
    for number, mapping in enumerate(_auto_mappings()):
        mapping._extra_content = value[number] if number < len(value) else {}


def take_tqdm() -> Any:
    """Return the set of tqdm's open bars itself: a bar's position counts those above it, which are of its own job."""
    return sys.modules["tqdm.std"].tqdm._instances


def put_tqdm(value: Any) -> None:
    """Bind it again."""
    sys.modules["tqdm.std"].tqdm._instances = value


def fresh_tqdm() -> Any:
    """Return an empty set: no bar is open."""
    return weakref.WeakSet()


def take_rich() -> Any:
    """Return rich's global console itself: it shows one live display at a time, and each job may have one."""
    return sys.modules["rich"]._console


def put_rich(value: Any) -> None:
    """Bind it again; None: made on first use."""
    sys.modules["rich"]._console = value  # type: ignore[attr-defined]


def register_entries() -> None:
    """Register this family's entries."""
    add(
        "accelerate",
        take_accelerate,
        put_accelerate,
        module="accelerate.state",
        fresh=fresh_accelerate,
        copy=_copy_accelerate,
    )
    add(
        "lightning's rank",
        take_rank_zero,
        put_rank_zero,
        module="lightning_utilities.core.rank_zero",
        fresh=fresh_rank_zero,
        skip_equal=True,
    )
    add(
        "transformers",
        take_transformers,
        put_transformers,
        module="transformers.utils.logging",
        fresh=fresh_transformers,
        skip_equal=True,
    )
    add(
        "transformers' auto classes",
        take_auto_classes,
        put_auto_classes,
        module=_AUTO[0],
        fresh=list,
        copy=lambda value: [dict(content) for content in value],
    )
    add("tqdm", take_tqdm, put_tqdm, module="tqdm.std", fresh=fresh_tqdm, copy=lambda value: fresh_tqdm())
    add("rich", take_rich, put_rich, module="rich", fresh=lambda: None, copy=lambda value: None)
