"""Elastic deformation by cubic B-splines."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from pydantic import Field, model_validator
from torch import Tensor

from medae.config import Config

INJECTIVE = 0.4
"""Displacement over control spacing up to which a cubic B-spline deformation cannot fold (Choi and Lee 2000)."""


class Elastic(Config):
    """Smooth deformation by control points that move at random. Lengths are in voxels of the finest axis.

    displacement: largest shift of a control point along an axis. spacing: of the control points.
    """

    probability: float = Field(default=0.1, ge=0, le=1)
    displacement: float = Field(default=3.0, ge=0)
    spacing: float = Field(default=16.0, ge=2)

    @model_validator(mode="after")
    def _does_not_fold(self) -> Elastic:
        if self.displacement > INJECTIVE * self.spacing:
            raise ValueError(f"displacement must be at most {INJECTIVE} of spacing, or the anatomy folds over itself")
        return self

    def shifts(
        self, shape: Sequence[int], pitch: Sequence[float], still: Collection[int], generator: torch.Generator
    ) -> Tensor:
        """A smooth displacement in voxels of each axis, ``[D, *shape]`` float32 on the CPU.

        pitch: mm a voxel along the axes, so that shifts are as long in every direction. still: axes along which
        nothing moves.
        """
        longer = [min(pitch) / step for step in pitch]
        bases = [_basis(size, max(self.spacing * factor, 1.0)) for size, factor in zip(shape, longer, strict=True)]
        control = 2 * torch.rand((len(shape), *(basis.shape[1] for basis in bases)), generator=generator) - 1
        limits = [0.0 if axis in still else self.displacement * factor for axis, factor in enumerate(longer)]
        field = control * torch.tensor(limits).view(-1, *[1] * len(shape))
        for basis in bases:
            # contracts the first control axis and appends its voxel axis: after all axes the order is restored
            field = torch.tensordot(field, basis, dims=([1], [1]))
        return field


def _basis(size: int, spacing: float) -> Tensor:
    """Uniform cubic B-spline weights, ``[size, control points]``; each row sums to 1."""
    places = torch.arange(size, dtype=torch.float32) / spacing
    first = places.floor().long()
    t = places - first
    weights = torch.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], dim=1) / 6
    basis = torch.zeros(size, int(first.max()) + 4)
    return basis.scatter_(1, first[:, None] + torch.arange(4), weights)
