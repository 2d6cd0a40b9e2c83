"""A network as a function from a tensor to a tensor."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from medae.models.base import Network


class FinestMap(nn.Module):
    """The finest map of a network, float32 ``[B, K, *S]``: logits of a segmenter, intensities of an autoencoder."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """image: ``[B, C, *S]``, on the plan's grid, normalised by its intensity scheme."""
        return cast(Tensor, self.network(image).finest)
