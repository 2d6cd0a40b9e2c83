"""A pretext loss on unlabelled scans while fine-tuning: the encoder goes on learning what it needs no labels for."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from medae.models.autoencoder import AutoencoderConfig
from medae.models.base import head_convolution
from medae.models.decoder import Decoder
from medae.models.encoder import EncoderConfig
from medae.models.output import Output
from medae.objectives.base import Loss, Objective
from medae.objectives.denoising import DenoisingConfig
from medae.objectives.registry import ObjectiveConfig, build_objective
from medae.objectives.unlabelled import UNLABELLED, SemisupervisedConfig, SemisupervisedObjective, still_statistics
from medae.preprocessing.batch import Batch
from medae.preprocessing.streams import stream_draw
from medae.seeding import Draw

THINNEST, THINNER = 8, 4
"""Channels of the branch's decoder: a fourth of the encoder's at the same level, at least 8."""


class JointConfig(SemisupervisedConfig):
    """Add the loss of a pretext objective on unlabelled scans, through the segmenter's encoder and a decoder of its own.

    pretext: any objective of an autoencoder without skips. fades: whether the weight falls linearly to 0 at the end of the
    training.
    """

    kind: Literal["joint"] = "joint"
    pretext: ObjectiveConfig = DenoisingConfig()
    weight: float = Field(default=0.5, ge=0)
    fades: bool = False

    def weight_at(self, step: int, steps: int) -> float:
        """The weight in ``step`` (from 0) of a training of ``steps``."""
        return self.weight * (1 - step / steps) if self.fades else self.weight

    def build(self, supervised: Objective, encoder: EncoderConfig, steps: int) -> JointObjective:
        """The objective, its decoder's weights drawn from torch's global generator."""
        return JointObjective(self, supervised, encoder, steps)


class Branch(nn.Module):
    """From the bottleneck back to the image: a thin decoder without skips, and a head."""

    def __init__(self, encoder: EncoderConfig) -> None:
        super().__init__()
        thin = (*(max(THINNEST, width // THINNER) for width in encoder.widths[:-1]), encoder.widths[-1])
        self.decoder = Decoder(encoder.model_copy(update={"widths": thin}), AutoencoderConfig(encoder=encoder).decoder)
        self.head = head_convolution(self.decoder.channels[0], encoder.channels, encoder.spatial_dims)


class SharedAutoencoder(nn.Module):
    """An autoencoder made of a segmenter's encoder and a branch; it owns neither."""

    def __init__(self, encoder: nn.Module, branch: Branch) -> None:
        super().__init__()
        self.encoder, self.branch = encoder, branch

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Output:
        """image: ``[B, C, *S]``. visible: bool ``[B, 1, *S]`` for sparse encoding."""
        features = self.encoder(image, visible)
        latent = features.levels[-1]
        return Output((self.branch.head(self.branch.decoder(latent, features)[0]).float(),), latent)


class JointObjective(SemisupervisedObjective):
    """The supervised loss on the labelled batch plus the weighted pretext loss on the unlabelled one.

    Both go into the shared encoder in one update, and what is clipped (``fit.clip``) is the norm of both gradients together,
    the branch's included. The branch is trained with them and is kept in the checkpoint; the segmenter does not have it.
    """

    def __init__(self, config: JointConfig, supervised: Objective, encoder: EncoderConfig, steps: int) -> None:
        super().__init__(supervised, steps)
        self.config = config
        self.pretext = build_objective(config.pretext, AutoencoderConfig(encoder=encoder))
        self.branch = Branch(encoder)

    def autoencoder(self) -> nn.Module:
        """The shared encoder with the branch, in the training's precision."""
        network: Any = self.trained.network
        # its parts are in the modes that they were put in: a frozen norm stays frozen
        return self.trained.mixed(SharedAutoencoder(network.encoder, self.branch))

    def forward(self, model: nn.Module, batch: Batch, draw: Draw) -> list[Loss]:
        """One loss over both batches; the labelled one goes first, so that its dropout is that of the supervised twin."""
        (labelled,) = self.supervised(model, batch, draw)
        own = stream_draw(draw, batch, UNLABELLED)
        with still_statistics(self.trained.network):
            (pretext,) = self.pretext(self.autoencoder(), batch.streams[UNLABELLED], own)
        weight = self.config.weight_at(draw.step, self.steps)
        terms = {**labelled.terms, **{f"unlabelled_{name}": value for name, value in pretext.terms.items()}}
        return [Loss(labelled.total + weight * pretext.total, terms)]

    def example(self, model: nn.Module, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """What the pretext objective shows of the unlabelled batch."""
        return self.pretext.example(self.autoencoder(), batch.streams[UNLABELLED], stream_draw(draw, batch, UNLABELLED))
