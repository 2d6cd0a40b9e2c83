"""Supervised segmentation: Dice and cross-entropy."""

from __future__ import annotations

from typing import Literal

import torch
from monai.losses.dice import DiceCELoss
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from medae.config import Config
from medae.objectives.base import Loss, Objective
from medae.preprocessing.batch import Batch
from medae.seeding import Draw


class SegmentationConfig(Config):
    """Soft Dice over the foreground labels, taken over the whole batch, plus cross-entropy over all labels.

    target: name of the label map. Coarser maps of a deeply supervised network count half as much a level, the
    weights sum to one.
    """

    kind: Literal["segmentation"] = "segmentation"
    target: str = "label"
    dice: float = Field(default=1.0, ge=0)
    cross_entropy: float = Field(default=1.0, ge=0)

    def build(self, cell: tuple[int, ...]) -> Objective:
        """The objective; ``cell``, the bottleneck's cell in voxels, is not needed here."""
        return SegmentationObjective(self)


class SegmentationObjective(Objective):
    """MONAI's DiceCELoss over every map that the network returns."""

    corrupts = True  # the answer is not in the input: skips are what a segmenter wants

    def __init__(self, config: SegmentationConfig) -> None:
        super().__init__()
        self.config = config
        self.loss = DiceCELoss(
            include_background=False,
            to_onehot_y=True,
            softmax=True,
            batch=True,
            lambda_dice=config.dice,
            lambda_ce=config.cross_entropy,
        )

    def forward(self, model: nn.Module, batch: Batch, draw: Draw) -> list[Loss]:
        """One loss over the batch."""
        target = batch.target[self.config.target]
        maps = model(batch.image).maps
        weights = [0.5**level for level in range(len(maps))]
        losses = [self.loss(logits.float(), _shrink(target, logits)) for logits in maps]
        total = torch.stack([w * loss for w, loss in zip(weights, losses, strict=True)]).sum() / sum(weights)
        return [Loss(total, {"dice_ce": losses[0]})]

    def example(self, model: nn.Module, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """``input``, ``target`` and ``output`` (the label of the largest logit)."""
        logits = model(batch.image).finest
        return {
            "input": batch.image,
            "target": batch.target[self.config.target].float(),
            "output": logits.argmax(dim=1, keepdim=True).float(),
        }


def _shrink(target: Tensor, logits: Tensor) -> Tensor:
    """The label map at a coarser map's size, nearest neighbour."""
    size = tuple(logits.shape[2:])
    if tuple(target.shape[2:]) == size:
        return target
    return functional.interpolate(target.float(), size=size, mode="nearest-exact").to(target.dtype)
