"""Smooth random fields: uniform cubic B-splines over a coarse grid of control points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medae.augmentation.separable import along_axes


def control_shape(shape: Sequence[int], spacing: Sequence[float]) -> tuple[int, ...]:
    """How many control points, ``spacing`` voxels apart, a field of this shape needs along each axis."""
    return tuple(int((size - 1) // _apart(step)) + 4 for size, step in zip(shape, spacing, strict=True))


def spline(control: Tensor, shape: Sequence[int], spacing: Sequence[float]) -> Tensor:
    """The field of control points ``[B, N, *control_shape]``: float32 ``[B, N, *S]``, within the range of the points."""
    bases = [_basis(size, _apart(step)).to(control.device) for size, step in zip(shape, spacing, strict=True)]
    return along_axes(control, [basis.expand(len(control), -1, -1) for basis in bases])


def _apart(spacing: float) -> float:
    """Control points nearer than the voxels would only be more noise."""
    return max(spacing, 1.0)


def _basis(size: int, spacing: float) -> Tensor:
    """Weights ``[size, control points]``; each row sums to 1."""
    places = torch.arange(size, dtype=torch.float32) / spacing
    first = places.floor().long()
    t = places - first
    weights = torch.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], dim=1) / 6
    basis = torch.zeros(size, control_shape((size,), (spacing,))[0])
    return basis.scatter_(1, first[:, None] + torch.arange(4), weights)
