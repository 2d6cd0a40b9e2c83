"""Ensembles: networks of one configuration with different weights, whose answers are averaged.

Probabilities of segmenters, images of autoencoders. Being networks like any other, they are stored, loaded, served and slid
over a scan like any other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from medae.config import Config
from medae.models.autoencoder import LESION, AutoencoderConfig
from medae.models.base import Network
from medae.models.encoder import EncoderConfig
from medae.models.fcn import FCNConfig
from medae.models.output import Output
from medae.models.segnet import SegNetConfig
from medae.models.unet import UNetConfig
from medae.models.vae import VAEConfig


class _SeveralConfig(Config):
    member: Any
    members: int = Field(ge=2)

    @property
    def encoder(self) -> EncoderConfig:
        """The members' own: they take the same images."""
        encoder: EncoderConfig = self.member.encoder
        return encoder

    def shortcuts(self) -> tuple[str, ...]:
        """What carries location past the bottleneck, in words."""
        found: tuple[str, ...] = self.member.shortcuts()
        return found


class EnsembleConfig(_SeveralConfig):
    """Of segmenters. member: what each of them is. members: how many."""

    kind: Literal["ensemble"] = "ensemble"
    member: Annotated[UNetConfig | SegNetConfig | FCNConfig, Field(discriminator="kind")]


class AutoencoderEnsembleConfig(_SeveralConfig):
    """Of autoencoders. member: what each of them is. members: how many."""

    kind: Literal["autoencoder_ensemble"] = "autoencoder_ensemble"
    member: Annotated[AutoencoderConfig | VAEConfig, Field(discriminator="kind")]

    @property
    def lesion_head(self) -> bool:
        """Whether the members have one."""
        return isinstance(self.member, AutoencoderConfig) and self.member.lesion_head


class _Several(Network):
    """Networks that answer together. Member n is under ``members.n.``."""

    def __init__(self, config: _SeveralConfig, members: Sequence[Network]):
        nn.Module.__init__(self)  # it has its members' encoders and none of its own
        self.config = config
        self.members = nn.ModuleList(members)


class Ensemble(_Several):
    """Logits ``[B, classes, *S]`` whose softmax is the mean of the members' softmax."""

    config: EnsembleConfig

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Output:
        """image: ``[B, C, *S]``. visible: bool ``[B, 1, *S]`` for sparse encoding. The logarithm of the mean probability."""
        logs = torch.stack([member(image, visible).finest.float().log_softmax(dim=1) for member in self.members])
        return Output((logs.logsumexp(dim=0) - math.log(len(self.members)),))


class AutoencoderEnsemble(_Several):
    """The mean of the members' images, ``[B, out_channels, *S]``. It has no latent.

    With lesion heads ``extras`` has ``lesion``, the log-odds of their mean probability, ``[B, 1, *S]``.
    """

    config: AutoencoderEnsembleConfig

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Output:
        """image: ``[B, C, *S]``. visible: bool ``[B, 1, *S]`` for sparse encoding."""
        outputs = [member(image, visible) for member in self.members]
        mean = torch.stack([output.finest for output in outputs]).mean(dim=0)
        if not self.config.lesion_head:
            return Output((mean,))
        logits = torch.stack([output.extras[LESION] for output in outputs])
        odds = logsigmoid(logits).logsumexp(dim=0) - logsigmoid(-logits).logsumexp(dim=0)
        return Output((mean,), extras={LESION: odds})
