"""A network as a function from a tensor to a tensor."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medae.models.autoencoder import LESION
from medae.models.base import Network
from medae.models.networks import StoredConfig
from medae.models.output import Output


def has_lesion_head(config: StoredConfig) -> bool:
    """Whether the finest map of such a network ends with the logit of a lesion."""
    return bool(getattr(config, "lesion_head", False))


class FinestMap(nn.Module):
    """The finest map of a network, float32 ``[B, K, *S]``: logits of a segmenter, intensities of an autoencoder.

    With a lesion head, its logit is the last channel.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """image: ``[B, C, *S]``, on the plan's grid, normalised by its intensity scheme."""
        output: Output = self.network(image)
        lesion = output.extras.get(LESION)
        return output.finest if lesion is None else torch.cat([output.finest, lesion], dim=1)
