"""A linear operation along each axis in turn, each sample with its own.

As products of matrices: on two CPU cores a tenth of the time of convolutions by PyTorch, and a sample's result does not
depend on who else is in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medae.augmentation.foreground import TINY


def along_axes(x: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    """x ``[B, C, *S]`` multiplied along each spatial axis by that axis' matrices ``[B, T, S]``; None leaves it alone."""
    for axis, matrix in enumerate(matrices, start=2):
        if matrix is None:
            continue
        shape = list(x.shape)
        if axis == x.ndim - 1:
            rows = x.reshape(shape[0], -1, shape[axis])
            x = torch.bmm(rows, matrix.transpose(1, 2))
        else:
            before = math.prod(shape[1:axis])
            columns = x.reshape(shape[0] * before, shape[axis], -1)
            x = torch.bmm(matrix.repeat_interleave(before, dim=0), columns)
        shape[axis] = matrix.shape[1]
        x = x.reshape(shape)
    return x


def inside(x: Tensor, mask: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    """Averages along the axes made of voxels inside the mask only, so that the background does not bleed in.

    x ``[B, C, *S]``; mask: bool, of the same shape. Voxels outside the mask stay as they are.
    """
    weights = mask.to(x.dtype)
    total, share = along_axes(torch.cat([x * weights, weights], dim=1), matrices).chunk(2, dim=1)
    return torch.where(mask, total / share.clamp(min=TINY), x)
