"""The random numbers of some samples of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medae.seeding import Draw


@dataclass(frozen=True)
class Draws:
    """Numbers for the samples at ``places`` of the local batch, each from its own stream: who else is in the batch changes
    nothing. They are drawn on the CPU, so that they are the same on every device, and given on ``device``.
    slices: that the samples' channels are of, one after the other; see ``by_channel``.
    """

    draw: Draw
    places: Sequence[int]
    device: torch.device
    slices: int = 1

    def scoped(self, name: str) -> Draws:
        """The same samples' numbers for another purpose."""
        return replace(self, draw=self.draw.scoped(name))

    def uniform(self, *shape: int) -> Tensor:
        """In [0, 1), float32 ``[places, *shape]``."""
        return torch.stack([torch.rand(shape, generator=self.draw.generator(b)) for b in self.places]).to(self.device)

    def by_channel(self, channels: int) -> Tensor:
        """In [0, 1), float32 ``[places, channels]``; a channel has the same number in all slices."""
        return self.uniform(channels // self.slices).repeat(1, self.slices)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, float32 ``[places, *shape]``."""
        return torch.stack([torch.randn(shape, generator=self.draw.generator(b)) for b in self.places]).to(self.device)
