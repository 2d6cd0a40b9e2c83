"""Elastic deformation by cubic B-splines."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from pydantic import Field, model_validator
from torch import Tensor

from medae.augmentation.draws import Draws
from medae.augmentation.spline import control_shape, spline
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

    def shifts(self, shape: Sequence[int], pitch: Sequence[float], still: Collection[int], draws: Draws) -> Tensor:
        """Smooth displacements in voxels of each axis, ``[B, D, *shape]`` float32.

        pitch: mm a voxel along the axes, so that shifts are as long in every direction. still: axes along which
        nothing moves.
        """
        longer = [min(pitch) / step for step in pitch]
        spacing = [self.spacing * factor for factor in longer]
        control = 2 * draws.uniform(len(shape), *control_shape(shape, spacing)) - 1
        limits = [0.0 if axis in still else self.displacement * factor for axis, factor in enumerate(longer)]
        return spline(control * torch.tensor(limits, device=control.device).view(-1, *[1] * len(shape)), shape, spacing)
