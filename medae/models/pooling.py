"""Max pooling that remembers where each maximum came from, and unpooling back to those places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from medae.models.cells import any_visible, hide


class _MaxPool(torch.autograd.Function):
    """Non-overlapping max pooling whose gradient is the unpooling: deterministic where torch's own 3D backward is not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        pool = functional.max_pool2d if len(stride) == 2 else functional.max_pool3d
        pooled, indices = pool(x, stride, stride, ceil_mode=True, return_indices=True)
        ctx.mark_non_differentiable(indices)
        ctx.save_for_backward(indices)
        ctx.size = x.shape[2:]
        return pooled, indices

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (indices,) = ctx.saved_tensors
        return max_unpool(gradients[0], indices, ctx.size), None


def max_pool(x: Tensor, stride: tuple[int, ...], visible: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The maximum of each cell and where it was.

    x: ``[B, C, *S]``. visible: bool ``[B, 1, *S]``; hidden voxels never win, and a cell without a visible voxel is zero.
    Returns values ``[B, C, *S']`` and int64 indices of the same shape into the flattened ``S``, as torch's max_pool does.
    """
    if visible is None:
        pooled, indices = _MaxPool.apply(x, stride)
        return pooled, indices
    lowest = torch.full((), torch.finfo(x.dtype).min, dtype=x.dtype, device=x.device)
    pooled, indices = _MaxPool.apply(torch.where(visible, x, lowest), stride)
    return hide(pooled, any_visible(visible, stride)), indices


def max_unpool(x: Tensor, indices: Tensor, size: Sequence[int]) -> Tensor:
    """Each value at the place its maximum came from, zeros elsewhere.

    x, indices: ``[B, C, *S']`` as from :func:`max_pool`. Returns ``[B, C, *size]``. A scatter rather than torch's
    max_unpool, which is refused under deterministic algorithms; the places are distinct, so the order cannot matter.
    """
    flat = x.new_zeros((*x.shape[:2], *size)).flatten(2)
    return flat.scatter(2, indices.flatten(2), x.flatten(2)).unflatten(2, tuple(size))
