"""Changes of intensity inside a mask. Voxels outside it, and channels that are absent, stay as they are.

In every ``apply``: x is the normalised intensities ``[B, C, *S]`` float32 of the samples that it happens to. mask: bool,
of the same shape, true in the foreground of channels that are present. draws: those samples' random numbers. pitch: mm a
voxel along S. Normalised intensities are centred on zero, so what multiplies a signal multiplies the distance from the
foreground's minimum, the darkest signal there is, and not the distance from zero, which is the middle of the range.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor, where

from medae.augmentation.draws import Draws
from medae.augmentation.foreground import TINY, limits, mean, moments
from medae.augmentation.ranges import Between
from medae.augmentation.spline import control_shape, spline
from medae.config import Config


class BiasField(Config):
    """The slow shading of MR, a smooth factor on the signal; of mean 1, since normalisation would have taken out the rest.

    gain: at control points the factor is log-uniform in [1/gain, gain], the same for all channels: they share a coil.
    spacing: of the control points, in voxels of the finest axis.
    """

    probability: float = Field(default=0.2, ge=0, le=1)
    gain: float = Field(default=2.0, ge=1)
    spacing: float = Field(default=48.0, ge=2)

    def apply(self, x: Tensor, mask: Tensor, draws: Draws, pitch: Sequence[float]) -> Tensor:
        """The field times the distance from the foreground's minimum, which stays."""
        shape = x.shape[2:]
        spacing = [self.spacing * min(pitch) / step for step in pitch]
        control = 2 * draws.uniform(1, *control_shape(shape, spacing)) - 1
        field = self.gain ** spline(control, shape, spacing).expand_as(x)
        lowest, _ = limits(x, mask)
        return where(mask, lowest + (x - lowest) * (field / mean(field, mask).clamp(min=TINY)), x)


class Gamma(Between):
    """A power of the foreground's range, a channel, log-uniform in [lower, upper]; mean and deviation are kept."""

    probability: float = Field(default=0.15, ge=0, le=1)
    lower: float = Field(default=0.7, gt=0)
    upper: float = Field(default=1.5, gt=0)

    def apply(self, x: Tensor, mask: Tensor, draws: Draws, pitch: Sequence[float]) -> Tensor:
        """The range of the foreground onto [0, 1], the power, then the mean and deviation that it had."""
        exponents = self.log_uniform(_one_a_channel(x, draws))
        lowest, highest = limits(x, mask)
        curved = ((x - lowest) / (highest - lowest).clamp(min=TINY)).clamp(0, 1) ** exponents
        (centre, std), (new_centre, new_std) = moments(x, mask), moments(curved, mask)
        return where(mask, (curved - new_centre) / new_std.clamp(min=TINY) * std + centre, x)


class InvertedGamma(Gamma):
    """The same power of the inverted image: it stretches the bright end where `gamma` stretches the dark one."""

    probability: float = Field(default=0.1, ge=0, le=1)

    def apply(self, x: Tensor, mask: Tensor, draws: Draws, pitch: Sequence[float]) -> Tensor:
        """Inverted, changed, and turned back."""
        return -super().apply(-x, mask, draws, pitch)


class Contrast(Between):
    """A factor a channel, uniform in [lower, upper], on the distance from the foreground's mean; the range stays."""

    probability: float = Field(default=0.15, ge=0, le=1)
    lower: float = Field(default=0.75, gt=0)
    upper: float = Field(default=1.25, gt=0)

    def apply(self, x: Tensor, mask: Tensor, draws: Draws, pitch: Sequence[float]) -> Tensor:
        """Values stay between the foreground's minimum and maximum."""
        factors = self.uniform(_one_a_channel(x, draws))
        centre = mean(x, mask)
        lowest, highest = limits(x, mask)
        return where(mask, (centre + (x - centre) * factors).clamp(lowest, highest), x)


class Brightness(Config):
    """A shift a channel, uniform in [-shift, shift] normalised units.

    There is no factor beside it: the normalisation has taken the gain out; what could be left of one is a shift and a
    contrast.
    """

    probability: float = Field(default=0.15, ge=0, le=1)
    shift: float = Field(default=0.2, ge=0)

    def apply(self, x: Tensor, mask: Tensor, draws: Draws, pitch: Sequence[float]) -> Tensor:
        """The same shift for all voxels of a channel's foreground."""
        return where(mask, x + (2 * _one_a_channel(x, draws) - 1) * self.shift, x)


class Noise(Config):
    """White Gaussian noise; its standard deviation is uniform in [0, std], in normalised units."""

    probability: float = Field(default=0.15, ge=0, le=1)
    std: float = Field(default=0.1, ge=0)

    def apply(self, x: Tensor, mask: Tensor, draws: Draws, pitch: Sequence[float]) -> Tensor:
        """Independent noise in every voxel and channel of the foreground."""
        strength = self.std * draws.uniform().view(-1, *[1] * (x.ndim - 1))
        return where(mask, x + draws.scoped("white").normal(*x.shape[1:]) * strength, x)


def _one_a_channel(x: Tensor, draws: Draws) -> Tensor:
    """Uniform numbers ``[B, C, 1, ..]``."""
    return draws.by_channel(x.shape[1]).view(*x.shape[:2], *[1] * (x.ndim - 2))
