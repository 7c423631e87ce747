"""Smaller messages, where the user asks for them: gradients are sent as bfloat16 (``--compress bf16``, ADR 0014).

The arithmetic is that of torch's ``bf16_compress_hook``: each worker's gradients are rounded to bfloat16 and divided
by the number of workers, in bfloat16; the sum is taken in bfloat16, as the backend takes it (gloo and NCCL both can);
the result is converted back. So a job ends with exactly the weights that it reaches alone under plain DDP with that
hook, and not with those that it reaches without: half the bytes, eight bits of each gradient's precision.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_PACKED = torch.bfloat16
_LARGER = (torch.float32, torch.float64)


def may_be_smaller(parameters: Iterable[Tensor]) -> bool:
    """Whether gradients of such parameters can be sent as bfloat16, and any would be smaller."""
    dtypes = {parameter.dtype for parameter in parameters}
    return any(dtype in _LARGER for dtype in dtypes) and not any(dtype.is_complex for dtype in dtypes)


class Packer:
    """Packs the buckets of one DDP model, into the same memory each turn: a turn's buckets arrive before the next."""

    def __init__(self) -> None:
        self._packed: dict[int, Tensor] = {}

    def pack(self, index: int, buffer: Tensor, num_workers: int) -> Tensor | None:
        """Return bucket ``index`` divided by the number of workers, as bfloat16; None if it would not be smaller."""
        if buffer.dtype not in _LARGER or buffer.layout != torch.strided:
            return None
        packed = self._packed.get(index)
        if packed is None or packed.shape != buffer.shape or packed.device != buffer.device:
            packed = self._packed[index] = torch.empty_like(buffer, dtype=_PACKED)
        return packed.copy_(buffer).div_(num_workers)

    def clear(self) -> None:
        """Let go of the memory."""
        self._packed.clear()
