"""SegNet: a max-pooling encoder, and a decoder that unpools by the encoder's indices."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from medae.config import Config
from medae.models.base import Network, head_convolution
from medae.models.decoder import Decoder, DecoderConfig
from medae.models.encoder import EncoderConfig
from medae.models.output import Output


class SegNetConfig(Config):
    """classes: channels of the logits, background included. The decoder unpools by the indices unless it says otherwise."""

    kind: Literal["segnet"] = "segnet"
    encoder: EncoderConfig
    decoder: Annotated[DecoderConfig, AfterValidator(lambda decoder: decoder.filled("max_unpool"))] = DecoderConfig()
    classes: int = Field(ge=2)

    @model_validator(mode="after")
    def _fits(self) -> SegNetConfig:
        if self.encoder.downsampling != "maxpool":
            raise ValueError("a SegNet unpools by its encoder's max-pooling indices: set encoder.downsampling to maxpool")
        if self.decoder.upsampling != "max_unpool":
            raise ValueError(f"a SegNet upsamples by max_unpool; for {self.decoder.upsampling} choose a unet")
        self.decoder.check(self.encoder)
        if set(self.decoder.skip_kinds(self.encoder.levels)) != {"none"}:
            raise ValueError("a SegNet has pooling indices in the place of skips: remove decoder.skips, or choose a unet")
        return self

    def shortcuts(self) -> tuple[str, ...]:
        """What carries location past the bottleneck, in words."""
        return self.decoder.shortcuts(self.encoder)


class SegNet(Network):
    """Logits ``[B, classes, *S]``; the latent is the coarsest level. Source: Badrinarayanan et al. 2017."""

    config: SegNetConfig

    def __init__(self, config: SegNetConfig):
        super().__init__(config, config.encoder)
        self.decoder = Decoder(config.encoder, config.decoder)
        self.head = head_convolution(self.decoder.channels[0], config.classes, config.encoder.spatial_dims)

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Output:
        """image: ``[B, C, *S]``. visible: bool ``[B, 1, *S]`` for sparse encoding."""
        features = self.encoder(image, visible)
        latent = features.levels[-1]
        return Output((self.head(self.decoder(latent, features)[0]).float(),), latent)
