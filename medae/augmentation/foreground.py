"""Statistics inside a mask, a channel and sample: ``[B, C, 1, ..]`` of x and mask ``[B, C, *S]``."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TINY = 1e-6
"""What ranges, deviations and shares are at least, where one is divided by them."""


def mean(x: Tensor, mask: Tensor) -> Tensor:
    """The mean; 0 where the mask is empty."""
    return _total(torch.where(mask, x, 0)) / _total(mask).clamp(min=1)


def moments(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation; 0 where the mask is empty."""
    centre = mean(x, mask)
    return centre, mean((x - centre) ** 2, mask).sqrt()


def limits(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum and maximum; infinite where the mask is empty."""
    axes = tuple(range(2, x.ndim))
    lowest = torch.where(mask, x, math.inf).amin(axes, keepdim=True)
    return lowest, torch.where(mask, x, -math.inf).amax(axes, keepdim=True)


def _total(x: Tensor) -> Tensor:
    """Sums a sample at a time: a sum over a whole batch may add in an order that depends on how large it is."""
    sums = torch.stack([sample.flatten(1).sum(1) for sample in x])
    return sums.view(*sums.shape, *[1] * (x.ndim - 2))
