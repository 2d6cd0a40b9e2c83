"""What every network is, and the last layer that they share."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from medae.config import Config
from medae.models.blocks import projection
from medae.models.encoder import Encoder, EncoderConfig
from medae.models.output import Output

HEAD_SCALE = 0.1
"""Small first outputs: segmenters start near even odds, autoencoders near zero, residual ones near their input."""


class Network(nn.Module):
    """Base of every network. Its encoder's parameters are under ``encoder.``, with the same names in all networks.

    config: builds the same network again. A decoder is under ``decoder.``, last layers are under ``head.``.
    """

    config: Any
    encoder: Encoder

    def __init__(self, config: Config, encoder: EncoderConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(encoder)

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Output:
        """image: ``[B, C, *S]``. visible: bool ``[B, 1, *S]`` for sparse encoding. Maps are float32 at any precision."""
        raise TypeError(f"{type(self).__name__} is an abstract network")


def head_convolution(inputs: int, outputs: int, spatial_dims: int) -> nn.Conv2d | nn.Conv3d:
    """A 1x1 convolution to the network's output, small at the start."""
    return projection(inputs, outputs, spatial_dims, scale=HEAD_SCALE)
