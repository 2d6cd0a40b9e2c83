"""FCN: the encoder, and score layers that are summed across levels."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from medae.config import Config
from medae.models.base import Network, head_convolution
from medae.models.encoder import EncoderConfig, Features
from medae.models.output import Output
from medae.models.upsampling import Upsampler


class FCNConfig(Config):
    """classes: channels of the logits, background included.

    upsampling: the way up of the scores; unpooling would leave holes in them. scored: how many levels have a score layer,
    counted from the coarsest (all if None; 1 is the paper's FCN-32s, 3 its FCN-8s). There is no decoder.
    deep_supervision: the sum of the scores at every level on the way up is a map, not that at the image's alone.
    """

    kind: Literal["fcn"] = "fcn"
    encoder: EncoderConfig
    classes: int = Field(ge=2)
    upsampling: Literal["nearest", "linear", "cubic", "transposed", "pixelshuffle"] = "linear"
    scored: PositiveInt | None = None
    deep_supervision: bool = False

    @model_validator(mode="after")
    def _fits(self) -> FCNConfig:
        if self.scored is not None and self.scored > self.encoder.levels:
            raise ValueError(f"scored asks for {self.scored} levels, but the encoder has {self.encoder.levels}")
        return self

    def shortcuts(self) -> tuple[str, ...]:
        """What carries location past the bottleneck, in words."""
        return () if self.scored == 1 else ("score layers of finer levels (sum)",)


class _ScoreHead(nn.Module):
    """Score layers of the coarsest levels, brought up and summed a level at a time."""

    def __init__(self, config: FCNConfig):
        super().__init__()
        encoder, classes = config.encoder, config.classes
        scored = config.scored or encoder.levels
        self.scores = nn.ModuleList(
            head_convolution(width, classes, encoder.spatial_dims) for width in encoder.widths[-scored:]
        )
        self.ups = nn.ModuleList(Upsampler(config.upsampling, classes, classes, stride) for stride in encoder.strides)

    def forward(self, features: Features) -> tuple[Tensor, ...]:
        """The sum at the image's size, then those at which a level's scores were added, finer ones first."""
        scores = [layer(x) for layer, x in zip(reversed(self.scores), reversed(features.levels), strict=False)]
        total, *finer = scores
        sums = [total]
        for level in reversed(range(len(self.ups))):
            total = self.ups[level](total, features.sizes[level])
            if finer:
                total = total + finer.pop(0)
                sums.insert(0, total)
        # a plain stem's scores have the image's size already: their sum is the finest map, not a coarser one beside it
        size = total.shape[2:]
        return (total, *(coarse for coarse in sums if coarse.shape[2:] != size))


class FCN(Network):
    """Logits ``[B, classes, *S]``; the latent is the coarsest level. Source: Long et al. 2015."""

    config: FCNConfig

    def __init__(self, config: FCNConfig):
        super().__init__(config, config.encoder)
        self.head = _ScoreHead(config)

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Output:
        """image: ``[B, C, *S]``. visible: bool ``[B, 1, *S]`` for sparse encoding."""
        features = self.encoder(image, visible)
        maps = self.head(features)
        supervised = maps if self.config.deep_supervision else maps[:1]
        return Output(tuple(x.float() for x in supervised), features.levels[-1])
