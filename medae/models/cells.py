"""A fine grid cut into cells of ``stride`` voxels: what space-to-depth, its inverse and unpooling share.

The last cell along an axis may be cut off: a grid of n voxels has ceil(n / stride) cells. All results have
the channels-last memory format, which is also the cheapest to build.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def coarse_size(size: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """Cells along each axis."""
    return tuple(-(-n // s) for n, s in zip(size, stride, strict=True))


def split_cells(x: Tensor, stride: Sequence[int]) -> Tensor:
    """``[B, C, *S]`` as ``[B, *S', C, P]``: the P voxels of each cell, first axis slowest; zeros where a cell is cut off."""
    size = x.shape[2:]
    missing = [-n % s for n, s in zip(size, stride, strict=True)]
    if any(missing):
        x = functional.pad(x, [width for amount in reversed(missing) for width in (0, amount)])
    cells = coarse_size(size, stride)
    axes = len(cells)
    x = x.movedim(1, -1).reshape(x.shape[0], *(n for pair in zip(cells, stride, strict=True) for n in pair), x.shape[1])
    return x.permute(0, *range(1, 2 * axes, 2), 2 * axes + 1, *range(2, 2 * axes + 1, 2)).flatten(axes + 2)


def join_cells(x: Tensor, stride: Sequence[int], size: Sequence[int]) -> Tensor:
    """The inverse of :func:`split_cells`: ``[B, *S', C, P]`` as ``[B, C, *size]``; what lies beyond ``size`` is dropped."""
    axes = len(stride)
    cells, channels = x.shape[1 : 1 + axes], x.shape[-2]
    x = x.unflatten(-1, tuple(stride))
    x = x.permute(0, *(axis for a in range(axes) for axis in (1 + a, 2 + axes + a)), 1 + axes)
    x = x.reshape(x.shape[0], *(n * s for n, s in zip(cells, stride, strict=True)), channels).movedim(-1, 1)
    return cut(x, size)


def cut(x: Tensor, size: Sequence[int]) -> Tensor:
    """The first ``size`` voxels of ``[B, C, *S]`` along each axis."""
    for axis, count in enumerate(size, start=2):
        if count < x.shape[axis]:  # a cut of nothing would still cost a copy in the backward pass
            x = x.narrow(axis, 0, count)
    return x


def space_to_depth(x: Tensor, stride: Sequence[int]) -> Tensor:
    """``[B, C, *S]`` as ``[B, C * P, *S']``: channel c, voxel p becomes channel c * P + p, as in torch's pixel_unshuffle."""
    return split_cells(x, stride).flatten(-2).movedim(-1, 1)


def depth_to_space(x: Tensor, stride: Sequence[int], size: Sequence[int]) -> Tensor:
    """The inverse of :func:`space_to_depth`: ``[B, C * P, *S']`` as ``[B, C, *size]`` (torch's pixel_shuffle)."""
    return join_cells(x.movedim(1, -1).unflatten(-1, (-1, math.prod(stride))), stride, size)


def any_visible(visible: Tensor, stride: Sequence[int]) -> Tensor:
    """``[B, 1, *S]`` bool at the cells: true where a voxel of the cell is visible."""
    return split_cells(visible, stride).any(-1).movedim(-1, 1)


def hide(x: Tensor, visible: Tensor | None) -> Tensor:
    """``x`` with zeros where it is not visible, whatever was there before (not-a-number too); ``x`` without a mask."""
    return x if visible is None else torch.where(visible, x, torch.zeros((), dtype=x.dtype, device=x.device))
