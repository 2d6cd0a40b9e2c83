"""Denoising: the network removes noise that was added to its input."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from medae.models.encoder import EncoderConfig
from medae.objectives.base import Loss, Objective
from medae.objectives.coarse import coarse_noise
from medae.objectives.reconstruction import Similarity, compare, voxel_weights
from medae.preprocessing.batch import Batch
from medae.seeding import Draw


class DenoisingConfig(Similarity):
    """Add normal noise inside the foreground, ask for the clean image.

    noise: ``white`` is independent a voxel; ``coarse`` is drawn on a grid of about ``cell`` voxels and
    interpolated linearly, so that it looks like lesions (Kascenas et al. 2022: 16 x 16 points on a 128 x 128
    slice, a cell of 8), and moved at random by up to a cell, so that no place of a patch has more of it than another;
    ``both`` is their sum. sigma: standard deviation of the voxels or of the grid, in normalised
    intensity units; every sample draws its own between the two numbers, with ``both`` one for each noise.
    """

    corrupts: ClassVar[bool] = True
    kind: Literal["denoising"] = "denoising"
    l1: float = Field(default=0.0, ge=0)
    l2: float = Field(default=1.0, ge=0)
    region: Literal["all", "foreground"] = "foreground"
    noise: Literal["coarse", "white", "both"] = "coarse"
    sigma: tuple[float, float] = (0.5, 0.5)
    cell: int = Field(default=8, ge=1)

    @model_validator(mode="after")
    def _deviations(self) -> DenoisingConfig:
        low, high = self.sigma
        if not 0 <= low <= high or high == 0:
            raise ValueError("sigma needs two deviations with 0 <= low <= high, and some noise: high above 0")
        return self

    def build(self, encoder: EncoderConfig) -> Objective:
        """The objective for networks with such an encoder."""
        return DenoisingObjective(self)


class DenoisingObjective(Objective):
    """Loss between the clean patch and what the network made of the noisy one."""

    def __init__(self, config: DenoisingConfig) -> None:
        super().__init__()
        self.config = config

    def corrupt(self, batch: Batch, draw: Draw) -> Tensor:
        """The noisy image, shaped as the batch's; noise is added inside the mask and in present channels only.

        All slices of an image have the same noise: what one of them lacks, another could give away.
        """
        if self.config.noise == "both":
            noise = self.noise(batch, draw.scoped("coarse"), "coarse") + self.noise(batch, draw.scoped("white"), "white")
        else:
            noise = self.noise(batch, draw, self.config.noise)
        return batch.image + batch.in_every_slice(noise * voxel_weights(batch, "foreground"))

    def noise(self, batch: Batch, draw: Draw, kind: str) -> Tensor:
        """One kind of noise, everywhere, ``[B, C, *S]``."""
        image = batch.centre
        size = tuple(image.shape[2:])
        count, channels = image.shape[:2]
        low, high = self.config.sigma
        sigma = low + (high - low) * draw.scoped("sigma").uniform(count)
        if kind == "white":
            noise = draw.scoped("noise").normal(count, (channels, *size))
        else:
            noise = coarse_noise(size, count, channels, self.config.cell, draw)
        return (noise * sigma.reshape(count, *[1] * (len(size) + 1))).to(image.device)

    def forward(self, model: nn.Module, batch: Batch, draw: Draw) -> list[Loss]:
        """One loss over the batch."""
        output = model(self.corrupt(batch, draw)).finest
        total, terms = compare(output, batch.centre, voxel_weights(batch, self.config.region), self.config)
        return [Loss(total, terms)]

    def example(self, model: nn.Module, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """``input``, ``corrupted`` and ``output``."""
        corrupted = self.corrupt(batch, draw)
        output = model(corrupted).finest.float()
        return {"input": batch.centre, "corrupted": batch.middle(corrupted), "output": output}
