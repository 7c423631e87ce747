"""Memory of tensors that something other than torch has the address of."""

from __future__ import annotations

from typing import Any

import torch

from motet.patching import Call


def export(original: Call, tensor: torch.Tensor, /, *args: Any, **kwargs: Any) -> Any:
    """Hand a tensor's memory over by DLPack, and have it stay where it is from then on: `motet.frozen` moves memory.

    torch itself marks what NumPy has been given, and leaves out what DLPack hands over. So NumPy is given it.
    """
    exported = original(tensor, *args, **kwargs)
    if tensor.device.type == "cpu" and tensor.layout == torch.strided:
        torch.empty(0, dtype=torch.uint8, device="cpu").set_(tensor.untyped_storage()).numpy()
    return exported
