"""Changes of intensity inside a mask. Voxels outside it, and channels that are absent, stay as they are.

In every ``apply``: x is one sample's normalised intensities ``[C, *S]`` float32. mask: bool ``[C, *S]``, true in the
foreground of channels that are present. draw: that sample's random numbers. pitch: mm a voxel along S.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from medae.augmentation.ranges import Between
from medae.config import Config
from medae.seeding import Draw

TINY = 1e-6


class Blur(Between):
    """Gaussian blur of the foreground; sigma is uniform in [lower, upper] voxels of the finest axis."""

    probability: float = Field(default=0.1, ge=0, le=1)
    lower: float = Field(default=0.5, gt=0)
    upper: float = Field(default=1.0, gt=0)

    def apply(self, x: Tensor, mask: Tensor, draw: Draw, pitch: Sequence[float]) -> Tensor:
        """Weights of voxels outside the mask go to those inside, so that the background does not bleed in."""
        sigma = self.lower + (self.upper - self.lower) * float(draw.uniform(1))
        sigmas = [sigma * min(pitch) / step for step in pitch]
        weights = mask.to(x.dtype)
        total, share = _smooth(torch.cat([x * weights, weights]), sigmas).chunk(2)
        return torch.where(mask, total / share.clamp(min=TINY), x)


class Gamma(Between):
    """A power of the foreground's range, a channel, log-uniform in [lower, upper]; mean and deviation are kept."""

    probability: float = Field(default=0.15, ge=0, le=1)
    lower: float = Field(default=0.7, gt=0)
    upper: float = Field(default=1.5, gt=0)

    def apply(self, x: Tensor, mask: Tensor, draw: Draw, pitch: Sequence[float]) -> Tensor:
        """The range of the foreground onto [0, 1], the power, then the mean and deviation that it had."""
        exponents = self.lower * (self.upper / self.lower) ** _one_a_channel(x, draw)
        lowest, highest = _range(x, mask)
        curved = ((x - lowest) / (highest - lowest).clamp(min=TINY)).clamp(0, 1) ** exponents
        (mean, std), (new_mean, new_std) = _moments(x, mask), _moments(curved, mask)
        return torch.where(mask, (curved - new_mean) / new_std.clamp(min=TINY) * std + mean, x)


class Contrast(Between):
    """A factor a channel, uniform in [lower, upper], on the distance from the foreground's mean; the range stays."""

    probability: float = Field(default=0.15, ge=0, le=1)
    lower: float = Field(default=0.75, gt=0)
    upper: float = Field(default=1.25, gt=0)

    def apply(self, x: Tensor, mask: Tensor, draw: Draw, pitch: Sequence[float]) -> Tensor:
        """Values stay between the foreground's minimum and maximum."""
        factors = self.lower + (self.upper - self.lower) * _one_a_channel(x, draw)
        mean, _ = _moments(x, mask)
        return torch.where(mask, (mean + (x - mean) * factors).clamp(*_range(x, mask)), x)


class Brightness(Config):
    """A shift a channel, uniform in [-shift, shift] normalised units."""

    probability: float = Field(default=0.15, ge=0, le=1)
    shift: float = Field(default=0.2, ge=0)

    def apply(self, x: Tensor, mask: Tensor, draw: Draw, pitch: Sequence[float]) -> Tensor:
        """The same shift for all voxels of a channel's foreground."""
        return torch.where(mask, x + (2 * _one_a_channel(x, draw) - 1) * self.shift, x)


class Noise(Config):
    """White Gaussian noise; its standard deviation is uniform in [0, std], in normalised units."""

    probability: float = Field(default=0.15, ge=0, le=1)
    std: float = Field(default=0.1, ge=0)

    def apply(self, x: Tensor, mask: Tensor, draw: Draw, pitch: Sequence[float]) -> Tensor:
        """Independent noise in every voxel and channel of the foreground."""
        white = draw.scoped("white").normal(1, tuple(x.shape), x.device)[0]
        return torch.where(mask, x + white * (self.std * float(draw.uniform(1))), x)


def _one_a_channel(x: Tensor, draw: Draw) -> Tensor:
    """Uniform numbers ``[C, 1, ..]``, drawn on the CPU so that they are the same on every device."""
    return draw.uniform(1, (x.shape[0],)).to(x.device).view(-1, *[1] * (x.ndim - 1))


def _smooth(x: Tensor, sigmas: Sequence[float]) -> Tensor:
    convolve = functional.conv3d if len(sigmas) == 3 else functional.conv2d
    rows = x[:, None]
    for axis, sigma in enumerate(sigmas):
        radius = math.ceil(3 * sigma)
        kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device) / sigma) ** 2)
        along = [1] * len(sigmas)
        along[axis] = 2 * radius + 1
        padding = [radius if other == axis else 0 for other in range(len(sigmas))]
        rows = convolve(rows, (kernel / kernel.sum()).view(1, 1, *along), padding=padding)
    return rows[:, 0]


def _moments(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation inside the mask, ``[C, 1, ..]``."""
    axes = tuple(range(1, x.ndim))
    count = mask.sum(axes, keepdim=True).clamp(min=1)
    mean = torch.where(mask, x, 0).sum(axes, keepdim=True) / count
    variance = torch.where(mask, (x - mean) ** 2, 0).sum(axes, keepdim=True) / count
    return mean, variance.sqrt()


def _range(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum and maximum inside the mask, ``[C, 1, ..]``."""
    axes = tuple(range(1, x.ndim))
    lowest = torch.where(mask, x, math.inf).amin(axes, keepdim=True)
    return lowest, torch.where(mask, x, -math.inf).amax(axes, keepdim=True)
