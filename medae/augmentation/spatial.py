"""The spatial draw: flip, rotation, scale and elastic deformation, composed into one map of voxel positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from medae.augmentation.elastic import Elastic
from medae.augmentation.ranges import Between
from medae.config import Config
from medae.seeding import Draw

THIN = 3.0
"""An axis this many times shorter (mm) than the longest keeps still: tilting it would turn the content out of the patch."""

TINY = 1e-6


class Rotation(Config):
    """Rotation by up to ``degrees`` either way, in 3D in each of the three planes in turn."""

    probability: float = Field(default=0.2, ge=0, le=1)
    degrees: float = Field(default=15.0, ge=0, le=180)


class Scale(Between):
    """One factor for all axes, log-uniform in [lower, upper]; above 1 the content grows."""

    probability: float = Field(default=0.2, ge=0, le=1)
    lower: float = Field(default=0.85, gt=0)
    upper: float = Field(default=1.15, gt=0)


@dataclass(frozen=True)
class Move:
    """What happens to one sample.

    flips: the spatial axes that are mirrored. positions: for each voxel of the result the voxel position it is read
    from, ``[*S, D]`` float32, the flips composed into it; None if nothing but the flips happens, which are then exact.
    """

    flips: tuple[int, ...]
    positions: Tensor | None


@dataclass(frozen=True)
class Spatial:
    """The spatial draws of a data set. flip: probability an axis. pitch: mm a voxel along the spatial axes."""

    flip: tuple[float, ...]
    rotation: Rotation
    scale: Scale
    elastic: Elastic
    pitch: tuple[float, ...]

    def moves(self, shape: Sequence[int], batch: int, draw: Draw, device: torch.device) -> list[Move]:
        """The move of each sample of a batch of patches of this shape.

        Numbers are drawn on the CPU, so that they are the same on every device; positions are made on ``device``.
        """
        dims = len(shape)
        chances = torch.tensor([self.rotation.probability, self.scale.probability, self.elastic.probability])
        gates_B3 = draw.scoped("gates").uniform(batch, (3,)) < chances
        flips_BD = draw.scoped("flip").uniform(batch, (dims,)) < torch.tensor(self.flip)
        turns_B3 = draw.scoped("rotation").uniform(batch, (3,))
        sizes_B = draw.scoped("scale").uniform(batch)
        still = still_axes(shape, self.pitch)
        moves = []
        for b in range(batch):
            flips = tuple(axis for axis in range(dims) if flips_BD[b, axis])
            rotated, scaled, bent = gates_B3[b].tolist()
            if not (rotated or scaled or bent):
                moves.append(Move(flips, None))
                continue
            matrix = torch.eye(dims, dtype=torch.float64)
            if rotated:
                matrix = self._rotation(dims, still, turns_B3[b]) @ matrix
            if scaled:
                factor = self.scale.lower * (self.scale.upper / self.scale.lower) ** float(sizes_B[b])
                matrix = (
                    torch.diag(torch.tensor([1.0 if axis in still else 1 / factor for axis in range(dims)])).double()
                    @ matrix
                )
            positions = self._positions(shape, matrix, device)
            if bent:
                generator = draw.scoped("elastic").generator(b)
                positions = positions + self.elastic.shifts(shape, self.pitch, still, generator).movedim(0, -1).to(device)
            for axis in flips:
                positions[..., axis] = (shape[axis] - 1) - positions[..., axis]
            moves.append(Move(flips, positions))
        return moves

    def _rotation(self, dims: int, still: frozenset[int], turns: Tensor) -> Tensor:
        """The product of a turn in each plane whose two axes may move, as a matrix in mm."""
        matrix = torch.eye(dims, dtype=torch.float64)
        planes = combinations([axis for axis in range(dims) if axis not in still], 2)
        for (first, second), turn in zip(planes, turns.tolist(), strict=False):
            angle = (2 * turn - 1) * math.radians(self.rotation.degrees)
            plane = torch.eye(dims, dtype=torch.float64)
            plane[first, first] = plane[second, second] = math.cos(angle)
            plane[first, second], plane[second, first] = -math.sin(angle), math.sin(angle)
            matrix = plane @ matrix
        return matrix

    def _positions(self, shape: Sequence[int], matrix: Tensor, device: torch.device) -> Tensor:
        """``[*S, D]``: centre + matrix * (voxel - centre), the matrix in mm, as sums and not as a product of matrices,
        whose rounding may depend on the size of the batch."""
        steps = torch.tensor(self.pitch, dtype=torch.float64)
        weights = ((matrix * steps) / steps[:, None]).tolist()
        lines = [torch.arange(size, dtype=torch.float32, device=device) - (size - 1) / 2 for size in shape]
        offsets = torch.meshgrid(*lines, indexing="ij")
        rows = []
        for size, row in zip(shape, weights, strict=True):
            position = torch.full_like(offsets[0], (size - 1) / 2)
            for weight, offset in zip(row, offsets, strict=True):
                position = position + weight * offset
            rows.append(position)
        return torch.stack(rows, dim=-1)


def still_axes(shape: Sequence[int], pitch: Sequence[float]) -> frozenset[int]:
    """The axes that rotation, scale and elastic deformation leave alone. pitch: mm a voxel."""
    extents = [size * step for size, step in zip(shape, pitch, strict=True)]
    return frozenset(axis for axis, extent in enumerate(extents) if extent * THIN < max(extents))


def resample(image: Tensor, labels: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Image and labels read at the given positions; zero beyond the edge and outside the mask.

    image: float32 ``[B, C, *S]``, linear; a voxel inside the mask is made of voxels inside the mask only, so that
    background and padding do not bleed into the edge. labels: integer ``[B, T, *S]``, the first is the mask, nearest
    neighbour. positions: ``[B, *S, D]`` in voxels.
    """
    sizes = torch.tensor(image.shape[2:], dtype=positions.dtype, device=positions.device)
    grid = ((2 * positions + 1) / sizes - 1).flip(-1)
    mask = labels[:, :1].to(image.dtype)
    weighted = functional.grid_sample(torch.cat([image * mask, mask], dim=1), grid, mode="bilinear", align_corners=False)
    nearest = functional.grid_sample(labels.to(image.dtype), grid, mode="nearest", align_corners=False)
    values = torch.where(nearest[:, :1] > 0, weighted[:, :-1] / weighted[:, -1:].clamp(min=TINY), 0)
    return values, nearest.to(labels.dtype)
