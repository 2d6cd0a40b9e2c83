"""Restoration: the network undoes what was done to its input (Models Genesis)."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from medae.models.encoder import EncoderConfig
from medae.objectives.base import Loss, Objective
from medae.objectives.distortion import mirror, nonlinear, paint, shuffle
from medae.objectives.reconstruction import Similarity, compare, voxel_weights
from medae.preprocessing.batch import Batch
from medae.seeding import Draw


class RestorationConfig(Similarity):
    """Distort the foreground in several ways at once, ask for the scan as it was.

    The defaults are those of the program of Zhou et al. 2021 ("Models Genesis"); where that shuffles 10,000 overlapping
    windows, windows tile the patch here, so that it can be done on the device. nonlinear: probability of a random monotone
    map of the intensities, over the range that they have in the foreground, rising or falling. shuffling: probability that
    voxels trade places within small windows. painting: probability that a part is replaced by noise. outpainting: share of
    the painted samples in which all but a few windows are painted, instead of a few windows. flip: probability of a mirror
    image along an axis drawn at random, of input and target alike. window: largest edge of a window to shuffle, as a share
    of the patch.
    """

    corrupts: ClassVar[bool] = True
    kind: Literal["restoration"] = "restoration"
    l1: float = Field(default=0.0, ge=0)
    l2: float = Field(default=1.0, ge=0)
    nonlinear: float = Field(default=0.9, ge=0, le=1)
    shuffling: float = Field(default=0.5, ge=0, le=1)
    painting: float = Field(default=0.9, ge=0, le=1)
    outpainting: float = Field(default=0.8, ge=0, le=1)
    flip: float = Field(default=0.4, ge=0, le=1)
    window: float = Field(default=0.1, gt=0, le=1)

    @model_validator(mode="after")
    def _distorts(self) -> RestorationConfig:
        if self.nonlinear + self.shuffling + self.painting == 0:
            raise ValueError("at least one of nonlinear, shuffling and painting needs a probability above 0")
        return self

    def build(self, encoder: EncoderConfig) -> Objective:
        """The objective for networks with such an encoder."""
        return RestorationObjective(self)


class RestorationObjective(Objective):
    """Loss between the patch, mirrored or not, and what the network made of its distorted form."""

    def __init__(self, config: RestorationConfig) -> None:
        super().__init__()
        self.config = config

    def flips(self, batch: Batch, draw: Draw) -> tuple[Tensor, Tensor]:
        """Which samples are mirrored, bool ``[B]``, and along which spatial axis, int ``[B]``, both on the CPU."""
        count = len(batch)
        axis = (draw.scoped("axis").uniform(count) * (batch.image.ndim - 2)).long()
        return draw.scoped("flip").uniform(count) < self.config.flip, axis

    def distort(self, batch: Batch, draw: Draw) -> tuple[Batch, Tensor]:
        """The batch to restore, some samples mirrored, and its distorted image, of the same shape."""
        config, count = self.config, len(batch)
        chosen = {
            name: draw.scoped(name).uniform(count) < getattr(config, name) for name in ("shuffling", "nonlinear", "painting")
        }
        flipped, axis = self.flips(batch, draw)
        image, mask = (mirror(each, flipped, axis) for each in (batch.image, batch.mask))
        clean = replace(batch, image=image, mask=mask)
        inside = clean.in_every_slice(voxel_weights(clean, "foreground").bool())
        x = shuffle(image, inside, chosen["shuffling"], draw.scoped("shuffle"), config.window)
        x = nonlinear(x, inside, chosen["nonlinear"], draw.scoped("intensity"), batch.slices)
        return clean, paint(x, inside, chosen["painting"], draw.scoped("paint"), config.outpainting)

    def forward(self, model: nn.Module, batch: Batch, draw: Draw) -> list[Loss]:
        """One loss over the batch."""
        clean, distorted = self.distort(batch, draw)
        output = model(distorted).finest
        total, terms = compare(output, clean.centre, voxel_weights(clean, self.config.region), self.config)
        return [Loss(total, terms)]

    def example(self, model: nn.Module, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """``input``, ``corrupted`` and ``output``; mirrored samples turned back, so that a figure's sides are the body's."""
        _, distorted = self.distort(batch, draw)
        output = model(distorted).finest.float()
        corrupted, output = (mirror(each, *self.flips(batch, draw)) for each in (batch.middle(distorted), output))
        return {"input": batch.centre, "corrupted": corrupted, "output": output}
