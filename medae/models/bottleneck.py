"""What lies between encoder and decoder of an autoencoder: a map or a vector."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from medae.config import Config
from medae.models.blocks import projection
from medae.models.encoder import EncoderConfig


class SpatialBottleneck(Config):
    """A map of ``channels`` (the encoder's own if None) at the coarsest level's size."""

    kind: Literal["spatial"] = "spatial"
    channels: PositiveInt | None = None


class DenseBottleneck(Config):
    """A vector of ``size`` numbers, over a 1x1 convolution to ``channels``.

    input_size: the image's voxels along each spatial axis; the network then takes images of just that size.
    Source: Baur et al. 2021, "Autoencoders for unsupervised anomaly segmentation in brain MR images".
    """

    kind: Literal["dense"] = "dense"
    size: PositiveInt
    channels: PositiveInt = 16
    input_size: tuple[PositiveInt, ...]


BottleneckConfig = Annotated[SpatialBottleneck | DenseBottleneck, Field(discriminator="kind")]


def check_bottleneck(config: SpatialBottleneck | DenseBottleneck, encoder: EncoderConfig) -> None:
    """Raise ValueError if the bottleneck's input size does not have the encoder's axes."""
    if isinstance(config, DenseBottleneck) and len(config.input_size) != encoder.spatial_dims:
        raise ValueError(f"a dense bottleneck's input_size needs {encoder.spatial_dims} numbers, one a spatial axis")


class Bottleneck(nn.Module):
    """``squeeze`` to the latent and ``expand`` back to the encoder's width.

    parts: latents that are made at once, along the channel axis (2 for a mean and a log variance).
    """

    def __init__(self, config: SpatialBottleneck | DenseBottleneck, encoder: EncoderConfig, parts: int = 1):
        super().__init__()
        self.config = config
        self.grid: tuple[int, ...] | None = None
        width, dims = encoder.widths[-1], encoder.spatial_dims
        if isinstance(config, DenseBottleneck):
            self.grid = encoder.sizes(config.input_size)[-1]
            count = config.channels * math.prod(self.grid)
            flat = nn.Sequential(projection(width, config.channels, dims), nn.Flatten(), _linear(count, parts * config.size))
            unflat = nn.Unflatten(1, (config.channels, *self.grid))
            self.down: nn.Module = flat
            self.up: nn.Module = nn.Sequential(_linear(config.size, count), unflat, projection(config.channels, width, dims))
        else:
            channels = config.channels or width
            free = config.channels is None and parts == 1
            self.down = nn.Identity() if free else projection(width, parts * channels, dims)
            self.up = nn.Identity() if config.channels is None else projection(channels, width, dims)

    def squeeze(self, x: Tensor) -> Tensor:
        """``[B, width, *S']`` to ``[B, parts * Z]`` (dense) or ``[B, parts * Z, *S']`` (spatial).

        Raises ValueError if the image was not of a dense bottleneck's input size.
        """
        if isinstance(self.config, DenseBottleneck) and tuple(x.shape[2:]) != self.grid:
            raise ValueError(
                f"this network has a dense bottleneck and takes images of {self.config.input_size} voxels only; the image "
                f"leaves {tuple(x.shape[2:])} voxels at the bottleneck instead of {self.grid}"
            )
        latent: Tensor = self.down(x)
        return latent

    def expand(self, latent: Tensor) -> Tensor:
        """``[B, Z]`` or ``[B, Z, *S']`` to ``[B, width, *S']``."""
        features: Tensor = self.up(latent)
        return features


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=1 / math.sqrt(inputs))
    nn.init.zeros_(layer.bias)
    return layer
