"""What torch keeps per process or per thread: modes, autocast, defaults, determinism, kernel choices."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch._tensor_str
import torch.utils._device
from torch.nn.parallel import DistributedDataParallel

from motet.isolation.registry import add

_C: Any = torch._C
_cuda: Any = torch.cuda
_autograd: Any = _C._autograd

# Guards that changed inference mode, the last one on top. A guard undoes itself when destroyed, so it is held.
_inference_guards: list[Any] = []


def put_inference_mode(wanted: bool) -> None:
    """Enter or leave inference mode.

    There is no plain setter, only a guard: it saves autograd's thread state and the dispatch keys, and brings both
    back when it is left. So the guard that led here is left, if there is one, otherwise another is entered. Grad
    mode and autocast, which a guard brings back too, are entries that come later.
    """
    present = torch.is_inference_mode_enabled()
    if present == wanted:
        return
    if _inference_guards and _inference_guards[-1][0] == present:
        _inference_guards.pop()[1].__exit__(None, None, None)
    else:
        guard = _C._InferenceMode(wanted)
        guard.__enter__()
        _inference_guards.append((wanted, guard))


def take_modes() -> tuple[Any, ...]:
    """Return the stacks of function and dispatch modes, with the default device, which is a function mode."""
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    device = torch.utils._device.CURRENT_DEVICE
    function_modes = dispatch_modes = ()
    if count := _C._len_torch_function_stack():
        function_modes = tuple(map(_C._get_function_stack_at, range(count)))
    if count := _C._len_torch_dispatch_stack():
        dispatch_modes = tuple(map(_C._get_dispatch_stack_at, range(count)))
    return function_modes, dispatch_modes, context, device


def put_modes(value: tuple[Any, ...]) -> None:
    """Bring both stacks of modes and the default device back."""
    function_modes, dispatch_modes, context, device = value
    while _C._len_torch_dispatch_stack():
        _C._pop_torch_dispatch_stack(None)
    while _C._len_torch_function_stack():
        _C._pop_torch_function_stack()
    for mode in function_modes:
        _C._push_on_torch_function_stack(mode)
    for mode in dispatch_modes:
        _C._push_on_torch_dispatch_stack(mode)
    torch._GLOBAL_DEVICE_CONTEXT.device_context = context
    torch.utils._device.CURRENT_DEVICE = device


def take_saved_tensor_hooks() -> tuple[Any, ...]:
    """Return the default hooks for saved tensors (as of ``save_on_cpu``), the outermost first."""
    if _autograd._top_saved_tensors_default_hooks(False) is None:
        return ()
    hooks = _pop_saved_tensor_hooks()
    put_saved_tensor_hooks(hooks)
    return hooks


def put_saved_tensor_hooks(hooks: tuple[Any, ...]) -> None:
    """Make ``hooks`` the only default hooks for saved tensors."""
    _pop_saved_tensor_hooks()
    for pack, unpack in hooks:
        _autograd._push_saved_tensors_default_hooks(pack, unpack)


def _pop_saved_tensor_hooks() -> tuple[Any, ...]:
    hooks: list[Any] = []
    while (top := _autograd._top_saved_tensors_default_hooks(False)) is not None:
        hooks.append(top)
        _autograd._pop_saved_tensors_default_hooks()
    return tuple(reversed(hooks))


def _autocast_devices() -> tuple[str, ...]:
    accelerator = torch.accelerator.current_accelerator()
    return tuple(dict.fromkeys(("cpu", "cuda", *((accelerator.type,) if accelerator is not None else ()))))


_AUTOCAST_DEVICES = _autocast_devices()


def take_autocast() -> tuple[Any, ...]:
    """Return for each device type whether autocast is on and its dtype; whether casts are cached; nesting depth."""
    _C.autocast_increment_nesting()
    depth = _C.autocast_decrement_nesting()
    devices = [(_C.is_autocast_enabled(d), _C.get_autocast_dtype(d)) for d in _AUTOCAST_DEVICES]
    return (*devices, _C.is_autocast_cache_enabled(), depth)


def put_autocast(value: tuple[Any, ...]) -> None:
    """Bring autocast back. The depth matters: an inner region that counts as nested would not drop its cache."""
    *devices, cache, depth = value
    for device, (enabled, dtype) in zip(_AUTOCAST_DEVICES, devices, strict=True):
        _C.set_autocast_enabled(device, enabled)
        _C.set_autocast_dtype(device, dtype)
    _C.set_autocast_cache_enabled(cache)
    present = _C.autocast_increment_nesting() - 1
    _C.autocast_decrement_nesting()
    for _ in range(depth - present):
        _C.autocast_increment_nesting()
    for _ in range(present - depth):
        _C.autocast_decrement_nesting()


# (getter, setter) in torch._C; one that this torch does not have is left out.
_NAMES = (
    ("is_grad_enabled", "_set_grad_enabled"),
    ("_is_fwd_grad_enabled", "_set_fwd_grad_enabled"),
    ("_is_multithreading_enabled", "_set_multithreading_enabled"),
    ("get_default_dtype", "_set_default_dtype"),
    ("get_num_threads", "set_num_threads"),
    ("_get_deterministic_fill_uninitialized_memory", "_set_deterministic_fill_uninitialized_memory"),
    ("_get_cudnn_enabled", "_set_cudnn_enabled"),
    ("_get_cudnn_benchmark", "_set_cudnn_benchmark"),
    ("_get_cudnn_deterministic", "_set_cudnn_deterministic"),
    ("_cuda_get_cudnn_benchmark_limit", "_cuda_set_cudnn_benchmark_limit"),
    ("_get_mkldnn_enabled", "_set_mkldnn_enabled"),
    ("_get_mkldnn_deterministic", "_set_mkldnn_deterministic"),
    ("_get_nnpack_enabled", "_set_nnpack_enabled"),
    ("_get_flash_sdp_enabled", "_set_sdp_use_flash"),
    ("_get_mem_efficient_sdp_enabled", "_set_sdp_use_mem_efficient"),
    ("_get_math_sdp_enabled", "_set_sdp_use_math"),
    ("_get_cudnn_sdp_enabled", "_set_sdp_use_cudnn"),
    ("_get_overrideable_sdp_enabled", "_set_sdp_use_overrideable"),
    ("_get_math_sdp_allow_fp16_bf16_reduction", "_set_math_sdp_allow_fp16_bf16_reduction"),
    ("_get_sdp_priority_order", "_set_sdp_priority_order"),
    ("_get_cublas_allow_fp16_accumulation", "_set_cublas_allow_fp16_accumulation"),
    ("_get_cpu_allow_fp16_reduced_precision_reduction", "_set_cpu_allow_fp16_reduced_precision_reduction"),
    ("_get_linalg_preferred_backend", "_set_linalg_preferred_backend"),
    ("_get_blas_preferred_backend", "_set_blas_preferred_backend"),
    ("_check_sparse_tensor_invariants", "_set_check_sparse_tensor_invariants"),
    ("_get_qengine", "_set_qengine"),
    ("_get_warnAlways", "_set_warnAlways"),
)


def _put_reduction(setter: str) -> Callable[[Any], None]:
    def put(value: Any) -> None:
        getattr(_C, setter)(*(value if isinstance(value, tuple) else (value,)))

    return put


def _flags() -> tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...]:
    flags: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
        (getattr(_C, get), getattr(_C, put)) for get, put in _NAMES if hasattr(_C, get) and hasattr(_C, put)
    ]
    for dtype in ("fp16", "bf16"):
        get, put = (f"_{verb}_cublas_allow_{dtype}_reduced_precision_reduction" for verb in ("get", "set"))
        if hasattr(_C, get) and hasattr(_C, put):
            flags.append((getattr(_C, get), _put_reduction(put)))
    return tuple(flags)


_FLAGS = _flags()
_GETTERS = tuple(get for get, _ in _FLAGS)


def take_flags() -> list[Any]:
    """Return the values of all plain flags."""
    return [get() for get in _GETTERS]


def put_flags(value: list[Any]) -> None:
    """Set the flags that differ."""
    for (get, put), wanted in zip(_FLAGS, value, strict=True):
        if get() != wanted:
            put(wanted)


def take_determinism() -> tuple[bool, ...]:
    """Return whether deterministic algorithms are demanded, or only warned about; anomaly mode, and its NaN check."""
    return (
        _C._get_deterministic_algorithms(),
        _C._get_deterministic_algorithms_warn_only(),
        _C.is_anomaly_enabled(),
        _C.is_anomaly_check_nan_enabled(),
    )


def put_determinism(value: tuple[bool, ...]) -> None:
    """Set both again."""
    deterministic, warn_only, anomaly, check_nan = value
    _C._set_deterministic_algorithms(deterministic, warn_only=warn_only)
    _C.set_anomaly_enabled(anomaly, check_nan)


# The old settings come first: setting one of them sets several of the new ones. Then from the general to the
# particular, so that one which follows a more general one need not be set, and goes on following it.
_LEGACY_PRECISION = tuple(
    (getattr(_C, f"_get_{name}"), getattr(_C, f"_set_{name}"))
    for name in ("float32_matmul_precision", "cublas_allow_tf32", "cudnn_allow_tf32")
)
_PRECISION_KEYS = (
    ("generic", "all"),
    *(("cuda", op) for op in ("all", "matmul", "conv", "rnn")),
    *(("mkldnn", op) for op in ("all", "matmul", "conv", "rnn")),
)


def _legacy_precision(get: Callable[[], Any]) -> Any:
    try:
        return get()
    except RuntimeError:  # torch refuses to answer while a new setting contradicts it
        return None


def take_precision() -> list[Any]:
    """Return how float32 products are computed: torch's older settings, then its newer ones."""
    value = [_legacy_precision(get) for get, _ in _LEGACY_PRECISION]
    return value + [_C._get_fp32_precision_getter(*key) for key in _PRECISION_KEYS]


def put_precision(value: list[Any]) -> None:
    """Set the precisions that differ."""
    old, new = value[: len(_LEGACY_PRECISION)], value[len(_LEGACY_PRECISION) :]
    for (get, put), wanted in zip(_LEGACY_PRECISION, old, strict=True):
        if wanted is not None and _legacy_precision(get) != wanted:
            put(wanted)
    for key, wanted in zip(_PRECISION_KEYS, new, strict=True):
        if _C._get_fp32_precision_getter(*key) != wanted:
            _C._set_fp32_precision_setter(*key, wanted)


def _take_print_options() -> Any:
    return torch._tensor_str.PRINT_OPTS


def _put_print_options(value: Any) -> None:
    torch._tensor_str.PRINT_OPTS = value


def _take_cuda_device() -> tuple[int, ...] | None:
    if not _cuda.is_initialized():
        return None
    device = _C._cuda_getDevice()
    return (device, *_C._cuda_getCurrentStream(device))


def _put_cuda_device(value: tuple[int, ...] | None) -> None:
    if value is not None:
        device, stream_id, device_index, device_type = value
        _cuda.set_device(device)
        _C._cuda_setStream(stream_id=stream_id, device_index=device_index, device_type=device_type)


def _take_ddp_forward() -> Any:
    return DistributedDataParallel._active_ddp_module


def _put_ddp_forward(value: Any) -> None:
    # Lightning's manual optimization runs its training step, with its backwards, inside a DDP model's forward.
    DistributedDataParallel._active_ddp_module = value


def register_entries() -> None:
    """Register this family's entries. The order of the first five matters: a guard brings back what follows."""
    add(
        "torch inference mode",
        torch.is_inference_mode_enabled,
        put_inference_mode,
        skip_equal=True,
        invalidates_later=True,
        restore_between_turns=True,
    )
    add("torch modes", take_modes, put_modes, skip_equal=True, restore_between_turns=True)
    add(
        "torch saved tensor hooks",
        take_saved_tensor_hooks,
        put_saved_tensor_hooks,
        skip_equal=True,
        restore_between_turns=True,
    )
    add("torch flags", take_flags, put_flags, skip_equal=True, restore_between_turns=True)
    add("torch autocast", take_autocast, put_autocast, skip_equal=True, restore_between_turns=True)
    add("torch determinism", take_determinism, put_determinism, skip_equal=True, restore_between_turns=True)
    add("torch float32 precision", take_precision, put_precision, skip_equal=True)
    add("torch DDP forward", _take_ddp_forward, _put_ddp_forward)
    add("torch print options", _take_print_options, _put_print_options, copy=copy.copy)
    add("torch cuda device", _take_cuda_device, _put_cuda_device, skip_equal=True, restore_between_turns=True)
