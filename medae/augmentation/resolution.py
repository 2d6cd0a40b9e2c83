"""Loss of sharpness: blur and simulated low resolution, both averages of the foreground along the axes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from medae.augmentation.draws import Draws
from medae.augmentation.foreground import TINY
from medae.augmentation.ranges import Between
from medae.augmentation.separable import inside

FAR = 8.0
"""Sigmas beyond which a weight is left out in any case; exponentials that are nearly zero take ten times as long."""


class Blur(Between):
    """Gaussian blur of the foreground; sigma is uniform in [lower, upper] voxels of the finest axis."""

    probability: float = Field(default=0.1, ge=0, le=1)
    lower: float = Field(default=0.5, gt=0)
    upper: float = Field(default=1.0, gt=0)

    def apply(self, x: Tensor, mask: Tensor, draws: Draws, pitch: Sequence[float]) -> Tensor:
        """The same width in mm along every axis; averages inside the mask only."""
        sigma = self.uniform(draws.uniform())
        kernels = [_gaussian(size, sigma * min(pitch) / step) for size, step in zip(x.shape[2:], pitch, strict=True)]
        return inside(x, mask, kernels)


class LowResolution(Between):
    """A scan of larger voxels, brought back to this spacing: averages over cells, then linear interpolation.

    Cells are uniformly [lower, upper] times as long as the voxels of the finest axis; an axis whose voxels are longer than
    that stays as it is. one_axis: probability that instead one axis alone, each equally likely, gets cells so many times
    as long as its own voxels: thick slices.
    """

    probability: float = Field(default=0.25, ge=0, le=1)
    lower: float = Field(default=1.0, ge=1)
    upper: float = Field(default=2.0, ge=1)
    one_axis: float = Field(default=0.5, ge=0, le=1)

    def apply(self, x: Tensor, mask: Tensor, draws: Draws, pitch: Sequence[float]) -> Tensor:
        """Averages inside the mask only; the sampling grid is lost, the patch's size is not."""
        dims = len(pitch)
        numbers = draws.uniform(3)
        factor = self.uniform(numbers[:, 0])
        alone = numbers[:, 1] < self.one_axis
        chosen = (numbers[:, 2] * dims).long()
        cells = []
        for axis, (size, step) in enumerate(zip(x.shape[2:], pitch, strict=True)):
            own = torch.where(chosen == axis, factor, 1.0)
            cells.append(_coarse(size, torch.where(alone, own, (factor * min(pitch) / step).clamp(min=1))))
        return inside(x, mask, cells)


def _gaussian(size: int, sigma: Tensor) -> Tensor:
    """Weights ``[B, size, size]`` of a Gaussian cut off beyond three sigma ``[B]``; what they add up to does not matter."""
    places = torch.arange(size, dtype=torch.float32, device=sigma.device)
    apart = (places[:, None] - places).abs()
    wide = sigma.view(-1, 1, 1)
    weights = torch.exp(-0.5 * (apart / wide).clamp(max=FAR) ** 2)
    return torch.where(apart <= torch.ceil(3 * wide), weights, 0)


def _coarse(size: int, factor: Tensor) -> Tensor:
    """Weights ``[B, size, size]``: means over cells ``factor`` ``[B]`` voxels long, then linear interpolation of these.

    Cells lie about the middle of the axis, the outermost are cut off by its ends. A factor of 1 changes nothing.
    """
    long = factor.view(-1, 1, 1)
    count = torch.ceil(size / long)
    voxels = torch.arange(size, dtype=torch.float32, device=factor.device).view(1, 1, -1)
    cells = torch.arange(size, dtype=torch.float32, device=factor.device).view(1, -1, 1)
    start = size / 2 + (cells - count / 2) * long
    overlap = torch.minimum(voxels + 1, start + long) - torch.maximum(voxels, start)
    overlap = torch.where(cells < count, overlap.clamp(min=0), 0)
    averages = overlap / overlap.sum(2, keepdim=True).clamp(min=TINY)
    # where the middle of each voxel lies among those of the cells
    place = ((voxels + 0.5 - size / 2) / long + (count - 1) / 2).clamp(min=torch.zeros_like(count), max=count - 1)
    shares = (1 - (place - cells).abs()).clamp(min=0)
    return torch.bmm(shares.transpose(1, 2), averages)
