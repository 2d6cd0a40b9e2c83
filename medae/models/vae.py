"""Variational autoencoder: the latent is drawn from a normal distribution that the encoder gives."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, PositiveInt, model_validator
from torch import Tensor

from medae.config import Config
from medae.models.base import Network, head_convolution
from medae.models.bottleneck import Bottleneck, BottleneckConfig, SpatialBottleneck, check_bottleneck
from medae.models.decoder import Decoder, DecoderConfig
from medae.models.encoder import EncoderConfig, Features
from medae.models.output import Output

LOGVAR_RANGE = (-20.0, 10.0)
"""Keeps the standard deviation between 4.5e-5 and 148, within what half precision can hold."""


class VAEConfig(Config):
    """latent: a vector or a map. out_channels: of the output, those of an input's slice if None."""

    kind: Literal["vae"] = "vae"
    encoder: EncoderConfig
    decoder: Annotated[DecoderConfig, AfterValidator(lambda decoder: decoder.filled())] = DecoderConfig()
    latent: BottleneckConfig = SpatialBottleneck()
    out_channels: PositiveInt | None = None

    @model_validator(mode="after")
    def _fits(self) -> VAEConfig:
        self.decoder.check(self.encoder)
        check_bottleneck(self.latent, self.encoder)
        return self

    def shortcuts(self) -> tuple[str, ...]:
        """What carries location past the bottleneck, in words."""
        return self.decoder.shortcuts(self.encoder)


class VAE(Network):
    """Reproduces its input; ``extras`` are ``mu`` and ``logvar`` float32, ``latent`` is what was decoded.

    In training mode the latent is drawn with torch's global generator, in evaluation mode it is the mean.
    Source: Kingma and Welling 2014.
    """

    config: VAEConfig

    def __init__(self, config: VAEConfig):
        super().__init__(config, config.encoder)
        self.bottleneck = Bottleneck(config.latent, config.encoder, parts=2)
        self.decoder = Decoder(config.encoder, config.decoder)
        outputs = config.out_channels or config.encoder.channels
        self.head = head_convolution(self.decoder.channels[0], outputs, config.encoder.spatial_dims)

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Output:
        """image: ``[B, C, *S]``. visible: bool ``[B, 1, *S]`` for sparse encoding; hidden voxels reach no output."""
        features = self.encoder(image, visible)
        mu, logvar = self.bottleneck.squeeze(features.levels[-1]).float().chunk(2, 1)
        logvar = logvar.clamp(*LOGVAR_RANGE)
        latent = mu + torch.randn_like(mu) * (0.5 * logvar).exp() if self.training else mu
        return Output((self.decode(latent, features),), latent, {"mu": mu, "logvar": logvar})

    def decode(self, latent: Tensor, features: Features) -> Tensor:
        """The image of a latent, float32 ``[B, out_channels, *S]``. features: of the encoder, for sizes and skips."""
        return self.head(self.decoder(self.bottleneck.expand(latent), features)[0]).float()
