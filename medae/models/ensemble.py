"""An ensemble: segmenters of one configuration with different weights, whose probabilities are averaged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medae.config import Config
from medae.models.base import Network
from medae.models.encoder import EncoderConfig
from medae.models.fcn import FCNConfig
from medae.models.output import Output
from medae.models.segnet import SegNetConfig
from medae.models.unet import UNetConfig


class EnsembleConfig(Config):
    """member: what each of them is. members: how many."""

    kind: Literal["ensemble"] = "ensemble"
    member: Annotated[UNetConfig | SegNetConfig | FCNConfig, Field(discriminator="kind")]
    members: int = Field(ge=2)

    @property
    def encoder(self) -> EncoderConfig:
        """The members' own: they take the same images."""
        return self.member.encoder

    def shortcuts(self) -> tuple[str, ...]:
        """What carries location past the bottleneck, in words."""
        return self.member.shortcuts()


class Ensemble(Network):
    """Logits ``[B, classes, *S]`` whose softmax is the mean of the members' softmax. Member n is under ``members.n.``.

    Being a network like any other, it is stored, loaded, served and slid over a scan like any other.
    """

    config: EnsembleConfig

    def __init__(self, config: EnsembleConfig, members: Sequence[Network]):
        nn.Module.__init__(self)  # it has its members' encoders and none of its own
        self.config = config
        self.members = nn.ModuleList(members)

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Output:
        """image: ``[B, C, *S]``. visible: bool ``[B, 1, *S]`` for sparse encoding. The logarithm of the mean probability."""
        logs = torch.stack([member(image, visible).finest.float().log_softmax(dim=1) for member in self.members])
        return Output((logs.logsumexp(dim=0) - math.log(len(self.members)),))
