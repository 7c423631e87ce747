"""Where a bucket stands in the gradients' place, they come back: when it has arrived, and when it never will."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from motet.gradients.buckets import MIN_ALIAS_BYTES, Bucket, DeferredDDP


def aliased() -> tuple[nn.Parameter, Tensor, Bucket, Any]:
    """Return a parameter, its own gradient, the bucket that stands in its place, and what ends that."""
    parameter = nn.Parameter(torch.zeros(MIN_ALIAS_BYTES // 4))
    own = parameter.grad = torch.ones_like(parameter)
    bucket = Bucket.of(torch.full((parameter.numel(),), 7.0), [parameter])
    model = DeferredDDP(None, 2, lambda: None)  # type: ignore[arg-type]
    ways = model.copy_back_of(bucket, lambda: bucket.buffer)
    assert parameter.grad is not own
    assert parameter.grad.data_ptr() == bucket.buffer.data_ptr()
    return parameter, own, bucket, ways


def test_gradients_come_back_with_what_has_arrived() -> None:
    parameter, own, bucket, (copy_back, _) = aliased()
    copy_back()
    assert parameter.grad is own
    assert own.eq(7.0).all()
    assert not bucket.aliased


def test_gradients_come_back_as_they_were_where_the_bucket_is_dropped() -> None:
    parameter, own, bucket, (_, drop) = aliased()
    drop()
    assert parameter.grad is own
    assert own.eq(1.0).all()
    assert not bucket.aliased, "it holds nobody's memory any more"
