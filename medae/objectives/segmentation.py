"""Supervised segmentation: Dice and cross-entropy."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from monai.losses.dice import DiceCELoss
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from medae.config import Config
from medae.models.encoder import EncoderConfig
from medae.objectives.base import Loss, Objective
from medae.preprocessing.batch import Batch
from medae.seeding import Draw


class SegmentationConfig(Config):
    """Soft Dice over the foreground labels, taken over the whole batch (of a process), plus cross-entropy over all labels.

    Of the maps of a deeply supervised network, one at half the resolution counts half as much; the weights sum to one.
    target: name of the label map.
    """

    # the answer is not in the input: skips are what a segmenter wants
    corrupts: ClassVar[bool] = True

    kind: Literal["segmentation"] = "segmentation"
    target: str = "label"
    dice: float = Field(default=1.0, ge=0)
    cross_entropy: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _something(self) -> SegmentationConfig:
        if self.dice + self.cross_entropy == 0:
            raise ValueError("at least one of dice and cross_entropy needs a weight above 0")
        return self

    def build(self, encoder: EncoderConfig) -> Objective:
        """The objective for networks with such an encoder."""
        return SegmentationObjective(self)


class SegmentationObjective(Objective):
    """MONAI's DiceCELoss over every map that the network returns."""

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
        weights = [_share(maps[0], coarse) for coarse in maps]
        losses = [self.loss(logits.float(), _shrink(target, logits)) for logits in maps]
        total = torch.stack([w * loss for w, loss in zip(weights, losses, strict=True)]).sum() / sum(weights)
        return [Loss(total, {"dice_ce": losses[0]})]

    def example(self, model: nn.Module, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """``input``, ``target`` and ``output`` (the label of the largest logit)."""
        logits = model(batch.image).finest
        return {
            "input": batch.centre,
            "target": batch.target[self.config.target].float(),
            "output": logits.argmax(dim=1, keepdim=True).float(),
        }


def _share(finest: Tensor, coarse: Tensor) -> float:
    """Halved as often as the resolution, along the axis along which it fell most."""
    ratio = max(fine / few for fine, few in zip(finest.shape[2:], coarse.shape[2:], strict=True))
    return float(0.5 ** round(math.log2(ratio)))


def _shrink(target: Tensor, logits: Tensor) -> Tensor:
    """The label map at a coarser map's size, nearest neighbour."""
    size = tuple(logits.shape[2:])
    if tuple(target.shape[2:]) == size:
        return target
    return functional.interpolate(target.float(), size=size, mode="nearest-exact").to(target.dtype)
