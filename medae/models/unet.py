"""U-Net: the encoder, and a decoder with skips."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from torch import Tensor, nn

from medae.config import Config
from medae.models.base import Network, head_convolution
from medae.models.decoder import Decoder, DecoderConfig
from medae.models.encoder import EncoderConfig
from medae.models.output import Output


class UNetConfig(Config):
    """classes: channels of the logits, background included. Skips are concatenated unless the decoder says otherwise.

    deep_supervision: a map from every level of the decoder, not from the finest alone.
    """

    kind: Literal["unet"] = "unet"
    encoder: EncoderConfig
    decoder: Annotated[DecoderConfig, AfterValidator(lambda decoder: decoder.filled(skips="concat"))] = DecoderConfig()
    classes: int = Field(ge=2)
    deep_supervision: bool = False

    @model_validator(mode="after")
    def _fits(self) -> UNetConfig:
        self.decoder.check(self.encoder)
        if self.deep_supervision:
            self.decoder.check_supervision(self.encoder)
        return self

    def shortcuts(self) -> tuple[str, ...]:
        """What carries location past the bottleneck, in words."""
        return self.decoder.shortcuts(self.encoder)


class UNet(Network):
    """Logits ``[B, classes, *S]``; the latent is the coarsest level. Source: Ronneberger et al. 2015, Çiçek et al. 2016."""

    config: UNetConfig

    def __init__(self, config: UNetConfig):
        super().__init__(config, config.encoder)
        self.decoder = Decoder(config.encoder, config.decoder)
        channels = self.decoder.channels if config.deep_supervision else self.decoder.channels[:1]
        self.head = nn.ModuleList(head_convolution(width, config.classes, config.encoder.spatial_dims) for width in channels)

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Output:
        """image: ``[B, C, *S]``. visible: bool ``[B, 1, *S]`` for sparse encoding."""
        features = self.encoder(image, visible)
        latent = features.levels[-1]
        maps = self.decoder(latent, features)
        return Output(tuple(head(x).float() for head, x in zip(self.head, maps, strict=False)), latent)
