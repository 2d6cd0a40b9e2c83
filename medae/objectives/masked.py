"""Masked autoencoding: the network fills in blocks that were hidden from it."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from medae.config import Config
from medae.errors import ConfigError
from medae.models.encoder import EncoderConfig
from medae.objectives.base import Loss, Objective
from medae.objectives.reconstruction import voxel_weights, weighted_mean
from medae.preprocessing.batch import Batch
from medae.seeding import Draw


class MaskedConfig(Config):
    """Hide a share of blocks, ask for their content; visible voxels carry no loss.

    ratio: share of blocks hidden, drawn between the two numbers for each sample. block: voxels along each axis; None takes
    the bottleneck's cell (the product of the encoder's strides), so that a hidden block is hidden from a whole position of
    the bottleneck. A patch needs two blocks or more. sparse: hidden positions are masked again after every convolution and
    left out of the norms (Tian et al. 2023), instead of being seen as zeros.
    """

    corrupts: ClassVar[bool] = True
    kind: Literal["masked"] = "masked"
    ratio: tuple[float, float] = (0.6, 0.75)
    block: tuple[PositiveInt, ...] | None = None
    distance: Literal["l1", "l2"] = "l2"
    region: Literal["all", "foreground"] = "all"
    sparse: bool = False
    fill: float = Field(default=0.0, description="normalised intensity that hidden voxels are set to")

    @model_validator(mode="after")
    def _shares(self) -> MaskedConfig:
        low, high = self.ratio
        if not 0 < low <= high < 1:
            raise ValueError("ratio needs two shares with 0 < low <= high < 1")
        return self

    def check_block(self, encoder: EncoderConfig) -> None:
        """Raises ConfigError if the block does not have a number a spatial axis."""
        if self.block is not None and len(self.block) != encoder.spatial_dims:
            raise ConfigError(
                f"block has {len(self.block)} numbers for {encoder.spatial_dims} spatial dimensions.",
                where="objective.block",
                remedy=f"Give {encoder.spatial_dims} numbers of voxels, or none, for the bottleneck's cell: {encoder.cell}.",
            )

    def build(self, encoder: EncoderConfig) -> Objective:
        """The objective for networks with such an encoder, whose cell is the default block."""
        return MaskedObjective(self, self.block or encoder.cell)


def hidden_blocks(
    draw: Draw, count: int, size: tuple[int, ...], block: tuple[int, ...], ratio: tuple[float, float]
) -> Tensor:
    """Which voxels are hidden: bool ``[count, 1, *size]``, true = hidden, constant within a block.

    Each sample hides round(share x blocks) of its blocks, at least one and never all. Raises ConfigError where there is but
    one.
    """
    grid = tuple(math.ceil(length / edge) for length, edge in zip(size, block, strict=True))
    cells = math.prod(grid)
    if cells < 2:
        raise ConfigError(
            f"Blocks of {block} voxels leave a patch of {size} one block: hidden, there is nothing to see.",
            where="objective.block",
            remedy="Make the block smaller, or the patch larger.",
        )
    low, high = ratio
    share = low + (high - low) * draw.scoped("ratio").uniform(count)
    hidden = (share * cells).round().clamp(1, cells - 1)
    order = draw.scoped("blocks").uniform(count, (cells,)).argsort(dim=1).argsort(dim=1)
    mask = (order < hidden[:, None]).reshape(count, 1, *grid)
    for axis, edge in enumerate(block):
        mask = mask.repeat_interleave(edge, dim=axis + 2).narrow(axis + 2, 0, size[axis])
    return mask


class MaskedObjective(Objective):
    """Loss on the hidden voxels only, divided by their number."""

    def __init__(self, config: MaskedConfig, block: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        self.block = block

    def hidden(self, batch: Batch, draw: Draw) -> Tensor:
        """Which voxels are hidden, bool ``[B, 1, *S]``."""
        size = tuple(batch.image.shape[2:])
        return hidden_blocks(draw, len(batch), size, self.block, self.config.ratio).to(batch.image.device)

    def predict(self, model: nn.Module, batch: Batch, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The corrupted image and the network's answer, ``[B, C, *S]`` each."""
        corrupted = torch.where(hidden, torch.full_like(batch.image, self.config.fill), batch.image)
        output = model(corrupted, visible=~hidden) if self.config.sparse else model(corrupted)
        return corrupted, output.finest.float()

    def forward(self, model: nn.Module, batch: Batch, draw: Draw) -> list[Loss]:
        """One loss over the batch."""
        hidden = self.hidden(batch, draw)
        _, output = self.predict(model, batch, hidden)
        difference = output - batch.centre
        distance = difference.abs() if self.config.distance == "l1" else difference.square()
        total = weighted_mean(distance, voxel_weights(batch, self.config.region) * hidden)
        return [Loss(total, {f"masked_{self.config.distance}": total})]

    def example(self, model: nn.Module, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """``input``, ``corrupted`` and ``output``."""
        corrupted, output = self.predict(model, batch, self.hidden(batch, draw))
        return {"input": batch.centre, "corrupted": batch.middle(corrupted), "output": output}
