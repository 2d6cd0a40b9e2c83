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

from medae.augmentation.draws import Draws
from medae.augmentation.elastic import Elastic
from medae.augmentation.foreground import TINY
from medae.augmentation.ranges import Between
from medae.config import Config
from medae.seeding import Draw

THIN = 3.0
"""An axis this many times shorter (mm) than the longest keeps still: tilting it would turn the content out of the patch."""


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
class Moves:
    """What happens to the samples of a batch.

    flipped: by the axes that are mirrored, the places of samples to which nothing else happens: these flips are exact.
    places: of the samples that are resampled. origins: for each axis, where in the patch each voxel of their results is
    read from, ``[places, *S]`` float32 in voxels, the flips composed into it.
    """

    flipped: dict[tuple[int, ...], list[int]]
    places: list[int]
    origins: list[Tensor]

    def positions(self, lead: Sequence[int]) -> list[Tensor]:
        """The origins in a window that begins ``lead`` voxels before the patch."""
        return [origin + first if first else origin for origin, first in zip(self.origins, lead, strict=True)]


@dataclass(frozen=True)
class Spatial:
    """The spatial draws of a data set. flip: probability an axis. pitch: mm a voxel along the spatial axes."""

    flip: tuple[float, ...]
    rotation: Rotation
    scale: Scale
    elastic: Elastic
    pitch: tuple[float, ...]

    def moves(self, shape: Sequence[int], batch: int, draw: Draw, device: torch.device) -> Moves:
        """The moves of a batch of patches of this shape.

        Numbers are drawn on the CPU, so that they are the same on every device; origins are made on ``device``.
        """
        dims = len(shape)
        chances = torch.tensor([self.rotation.probability, self.scale.probability, self.elastic.probability])
        gates_B3 = draw.scoped("gates").uniform(batch, (3,)) < chances
        flips_BD = draw.scoped("flip").uniform(batch, (dims,)) < torch.tensor(self.flip)
        places = gates_B3.any(1).nonzero().flatten().tolist()
        flipped: dict[tuple[int, ...], list[int]] = {}
        for b in range(batch):
            if b not in places and flips_BD[b].any():
                flipped.setdefault(tuple(flips_BD[b].nonzero().flatten().tolist()), []).append(b)
        if not places:
            return Moves(flipped, [], [])
        still = still_axes(shape, self.pitch)
        matrices = self._matrices(gates_B3[places], still, Draws(draw, places, torch.device("cpu")))
        origins = self._affine(shape, matrices.to(device))
        bent = [n for n, b in enumerate(places) if gates_B3[b, 2]]
        if bent:
            draws = Draws(draw.scoped("elastic"), [places[n] for n in bent], device)
            shifts = self.elastic.shifts(shape, self.pitch, still, draws)
            for axis, origin in enumerate(origins):
                origin[bent] += shifts[:, axis]
        for axis, origin in enumerate(origins):
            mirrored = flips_BD[places, axis].nonzero().flatten().tolist()
            if mirrored:
                origin[mirrored] = (shape[axis] - 1) - origin[mirrored]
        return Moves(flipped, places, origins)

    def _matrices(self, gates_N3: Tensor, still: frozenset[int], draws: Draws) -> Tensor:
        """From a place in the result to where it is read, both from the middle and in voxels: ``[N, D, D]`` float32."""
        dims = len(self.pitch)
        turns_N3 = draws.scoped("rotation").uniform(3)
        factors_N = self.scale.log_uniform(draws.scoped("scale").uniform().double())
        steps = torch.tensor(self.pitch, dtype=torch.float64)
        moving = torch.tensor([axis not in still for axis in range(dims)])
        matrices = []
        for (rotated, scaled, _), turns, factor in zip(gates_N3.tolist(), turns_N3, factors_N, strict=True):
            matrix = self._rotation(dims, still, turns) if rotated else torch.eye(dims, dtype=torch.float64)
            if scaled:
                matrix = torch.diag(torch.where(moving, 1 / factor, 1.0)) @ matrix
            matrices.append((matrix * steps) / steps[:, None])
        return torch.stack(matrices).float()

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

    def _affine(self, shape: Sequence[int], matrices: Tensor) -> list[Tensor]:
        """For each axis ``[N, *S]``: middle + matrix * (voxel - middle), as sums and not as a product of matrices, whose
        rounding may depend on the size of the batch."""
        dims = len(shape)
        lines = []
        for axis, size in enumerate(shape):
            line = torch.arange(size, dtype=torch.float32, device=matrices.device) - (size - 1) / 2
            lines.append(line.view(1, *[size if other == axis else 1 for other in range(dims)]))
        origins = []
        for size, row in zip(shape, matrices.unbind(1), strict=True):
            origin = torch.full_like(lines[0][:, :1], (size - 1) / 2)
            for weight, line in zip(row.unbind(1), lines, strict=True):
                origin = origin + weight.view(-1, *[1] * dims) * line
            origins.append(origin)
        return origins


def still_axes(shape: Sequence[int], pitch: Sequence[float]) -> frozenset[int]:
    """The axes that rotation, scale and elastic deformation leave alone. pitch: mm a voxel."""
    extents = [size * step for size, step in zip(shape, pitch, strict=True)]
    return frozenset(axis for axis, extent in enumerate(extents) if extent * THIN < max(extents))


def resample(image: Tensor, labels: Tensor, positions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Image and labels read at the given positions; zero beyond the edge and outside the mask.

    image: float32 ``[B, C, *S]``, linear; a voxel inside the mask is made of voxels inside the mask only, so that
    background and padding do not bleed into the edge. labels: whole numbers, float32 ``[B, T, *S]``, the first is the
    mask, nearest neighbour. positions: for each axis, ``[B, *P]`` in voxels; the results have the shape P.
    """
    sizes = image.shape[2:]
    axes = [(2 * place + 1) / size - 1 for place, size in zip(positions, sizes, strict=True)]
    grid = torch.stack(axes[::-1], dim=-1)
    mask = labels[:, :1]
    weighted = functional.grid_sample(torch.cat([image * mask, mask], dim=1), grid, mode="bilinear", align_corners=False)
    nearest = functional.grid_sample(labels, grid, mode="nearest", align_corners=False)
    values = torch.where(nearest[:, :1] > 0, weighted[:, :-1] / weighted[:, -1:].clamp(min=TINY), 0)
    return values, nearest
