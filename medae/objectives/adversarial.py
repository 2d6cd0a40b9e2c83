"""Adversarial training: a second network tells reconstructions from scans, and the first learns to be taken for one.

What a pixel-wise loss leaves blurred is sharpened, since blur is what gives a reconstruction away. With a variational part
it is the AnoVAEGAN of Baur et al. 2018, "Deep autoencoding models for unsupervised anomaly segmentation in brain MR images";
the loss is the non-saturating one of Goodfellow et al. 2014 over patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import softplus

from medae.config import Config
from medae.models.base import head_convolution
from medae.models.encoder import Encoder, EncoderConfig
from medae.models.output import Output
from medae.objectives.base import Loss, Objective, Trained
from medae.objectives.combined import CombinedConfig, PartConfig
from medae.objectives.reconstruction import voxel_weights
from medae.preprocessing.batch import Batch
from medae.seeding import Draw

DISCRIMINATOR = "discriminator"


class DiscriminatorConfig(Config):
    """widths: channels a level; each level halves the image. A voxel of the last level judges the patch that it sees.

    There is no normalisation: it would take away how strong fine detail is, by which blur is told.
    """

    widths: tuple[int, ...] = Field(default=(32, 64, 128), min_length=2)

    def encoder(self, network: EncoderConfig) -> EncoderConfig:
        """Its convolutions: for images that the network makes, with the usual kernels of 3."""
        dims, levels = network.spatial_dims, len(self.widths)
        halves = ((2,) * dims,) * levels
        return EncoderConfig(
            spatial_dims=dims,
            in_channels=network.channels,
            stem="space_to_depth",
            widths=self.widths,
            strides=halves,
            kernels=((3,) * dims,) * levels,
            norm="none",
        )


class Discriminator(nn.Module):
    """Logits of "this is a scan" for patches of images ``[B, C, *S]``: ``[B, 1, *S']``."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.head = head_convolution(config.widths[-1], 1, config.spatial_dims)

    def forward(self, image: Tensor) -> Output:
        """Above 0 for what it takes for a scan."""
        return Output((self.head(self.encoder(image, None).levels[-1]).float(),))


class AdversarialConfig(Config):
    """Another objective, and the wish to be taken for a scan. of: that objective. weight: of the wish, beside it.
    discriminator: the second network.

    Both networks see scan and reconstruction inside the foreground only: what lies outside is no one's concern.
    """

    kind: Literal["adversarial"] = "adversarial"
    of: Annotated[PartConfig | CombinedConfig, Field(discriminator="kind")]
    weight: float = Field(default=0.02, gt=0)
    discriminator: DiscriminatorConfig = DiscriminatorConfig()

    @property
    def corrupts(self) -> bool:
        """Whether every part of the other objective corrupts what the network sees."""
        return self.of.corrupts

    def build(self, encoder: EncoderConfig) -> Objective:
        """The objective for networks with such an encoder."""
        return AdversarialObjective(self, self.of.build(encoder), Discriminator(self.discriminator.encoder(encoder)))


class AdversarialObjective(Objective):
    """The other objective's losses, the first with the generator's term; and the discriminator's own loss."""

    def __init__(self, config: AdversarialConfig, of: Objective, discriminator: Discriminator) -> None:
        super().__init__()
        self.config, self.of, self.discriminator = config, of, discriminator
        self._mixed: list[nn.Module] = [discriminator]  # a list: the wrapped one is not a second submodule

    def attach(self, trained: Trained) -> None:
        """Let the discriminator compute in the training's precision."""
        self.of.attach(trained)
        self._mixed = [trained.mixed(self.discriminator)]

    def parameter_groups(self) -> Mapping[str, nn.Module]:
        """The discriminator has an optimiser of its own."""
        return {DISCRIMINATOR: self.discriminator}

    def forward(self, model: nn.Module, batch: Batch, draw: Draw) -> list[Loss]:
        """Every reconstruction that the other objective asks for is judged."""
        judge, listening = self._mixed[0], _Listening(model)
        first, *others = self.of(listening, batch, draw)
        inside = voxel_weights(batch, "foreground")
        real, fakes = batch.centre * inside, [made * inside for made in listening.heard]
        generator = torch.stack([softplus(-judge(fake).finest).mean() for fake in fakes]).mean()
        taken = softplus(-judge(real).finest).mean()
        seen_through = torch.stack([softplus(judge(fake.detach()).finest).mean() for fake in fakes]).mean()
        terms = {**first.terms, "adversarial": generator}
        return [
            Loss(first.total + self.config.weight * generator, terms, first.parameters),
            *others,
            Loss((taken + seen_through) / 2, {"scan": taken, "reconstruction": seen_through}, DISCRIMINATOR),
        ]

    def example(self, model: nn.Module, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """As of the other objective."""
        return self.of.example(model, batch, draw)


class _Listening(nn.Module):
    """A network whose outputs are kept: float32 ``[B, C, *S]`` each."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = [model]  # a list: the network's modes and parameters are not this module's
        self.heard: list[Tensor] = []

    def forward(self, *arguments: Tensor, **named: Tensor) -> Output:
        output: Output = self._model[0](*arguments, **named)
        self.heard.append(output.finest.float())
        return output
