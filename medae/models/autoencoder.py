"""Autoencoder: encoder, bottleneck, decoder, head."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, PositiveInt, model_validator
from torch import Tensor

from medae.config import Config
from medae.models.base import Network, head_convolution
from medae.models.bottleneck import Bottleneck, BottleneckConfig, SpatialBottleneck, check_bottleneck
from medae.models.cells import hide
from medae.models.decoder import Decoder, DecoderConfig
from medae.models.encoder import EncoderConfig, Features
from medae.models.output import Output

LESION = "lesion"
"""The logits of a lesion head among a network's extras."""

INPUT_ADDED = "the input itself, added to the output (residual)"


class AutoencoderConfig(Config):
    """out_channels: of the output, those of an input's slice if None. residual: the head adds the network's
    input to its output. lesion_head: a further output says where lesions are; the objective ``lesions`` trains it."""

    kind: Literal["autoencoder"] = "autoencoder"
    encoder: EncoderConfig
    decoder: Annotated[DecoderConfig, AfterValidator(lambda decoder: decoder.filled())] = DecoderConfig()
    bottleneck: BottleneckConfig = SpatialBottleneck()
    out_channels: PositiveInt | None = None
    residual: bool = False
    lesion_head: bool = False

    @model_validator(mode="after")
    def _fits(self) -> AutoencoderConfig:
        self.decoder.check(self.encoder)
        check_bottleneck(self.bottleneck, self.encoder)
        if self.residual and self.out_channels not in (None, self.encoder.channels):
            raise ValueError("residual adds the input to the output, so leave out_channels out")
        return self

    def shortcuts(self) -> tuple[str, ...]:
        """What carries location past the bottleneck, in words."""
        return self.decoder.shortcuts(self.encoder) + ((INPUT_ADDED,) if self.residual else ())


class Autoencoder(Network):
    """Reproduces its input, ``[B, out_channels, *S]``; the latent is the bottleneck.

    With a lesion head ``extras`` has ``lesion``, the logits of a lesion, ``[B, 1, *S]``.
    """

    config: AutoencoderConfig

    def __init__(self, config: AutoencoderConfig):
        super().__init__(config, config.encoder)
        self.bottleneck = Bottleneck(config.bottleneck, config.encoder)
        self.decoder = Decoder(config.encoder, config.decoder)
        self.outputs = config.out_channels or config.encoder.channels
        dims, channels = config.encoder.spatial_dims, self.outputs + config.lesion_head
        self.head = head_convolution(self.decoder.channels[0], channels, dims)

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Output:
        """image: ``[B, C, *S]``. visible: bool ``[B, 1, *S]`` for sparse encoding; hidden voxels reach no output."""
        features = self.encoder(image, visible)
        latent = self.bottleneck.squeeze(features.levels[-1])
        made = self._made(latent, features)
        output = made[:, : self.outputs]
        if self.config.residual:
            slices = self.config.encoder.slices
            output = output + hide(image.chunk(slices, dim=1)[slices // 2], visible).float()
        return Output((output,), latent, {LESION: made[:, self.outputs :]} if self.config.lesion_head else {})

    def decode(self, latent: Tensor, features: Features) -> Tensor:
        """The image of a latent, float32 ``[B, out_channels, *S]``, without the input that a residual network adds.

        features: of the encoder, for sizes and skips.
        """
        return self._made(latent, features)[:, : self.outputs]

    def _made(self, latent: Tensor, features: Features) -> Tensor:
        return self.head(self.decoder(self.bottleneck.expand(latent), features)[0]).float()
