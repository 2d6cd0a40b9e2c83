"""Synthetic lesions: the network says where they are, and what the scan would be without them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from monai.losses.dice import DiceLoss
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from medae.models.autoencoder import LESION
from medae.models.encoder import EncoderConfig
from medae.objectives.base import Loss, Objective
from medae.objectives.drawn_lesions import LesionShape, with_lesion
from medae.objectives.reconstruction import Similarity, compare, voxel_weights, weighted_mean
from medae.preprocessing.batch import Batch
from medae.seeding import Draw


class LesionsConfig(Similarity):
    """Draw lesions into normal scans, ask for the scan without them, and by the network's lesion head where they are: after
    Tan et al. 2022 (foreign patch interpolation) and Baugh et al. 2023 (several kinds of drawn anomalies).

    share: of the samples that have lesions. most: there are up to so many of them in one. shape: what they look like.
    cross_entropy, dice: weights of the terms of the lesion head; beside them stand those of the scan. Only voxels of the
    foreground count.
    """

    corrupts: ClassVar[bool] = True
    kind: Literal["lesions"] = "lesions"
    region: Literal["all", "foreground"] = "foreground"
    share: float = Field(default=0.8, gt=0, le=1)
    most: int = Field(default=3, ge=1)
    shape: LesionShape = LesionShape()
    cross_entropy: float = Field(default=1.0, ge=0)
    dice: float = Field(default=0.5, ge=0)

    def build(self, encoder: EncoderConfig) -> Objective:
        """The objective for networks with such an encoder."""
        return LesionsObjective(self)


@dataclass(frozen=True)
class Drawn:
    """image: with lesions, ``[B, slices x C, *S]``. lesion: 1 in lesions of the middle slice, else 0, ``[B, 1, *S]``."""

    image: Tensor
    lesion: Tensor


class LesionsObjective(Objective):
    """Losses of the scan without its lesions and of where they are."""

    def __init__(self, config: LesionsConfig) -> None:
        super().__init__()
        self.config = config
        self.overlap = DiceLoss(batch=True, smooth_nr=1.0, smooth_dr=1.0)

    def draw(self, batch: Batch, draw: Draw) -> Drawn:
        """The batch with its lesions."""
        count = len(batch)
        some = draw.scoped("share").uniform(count) < self.config.share
        number = some * (1 + (draw.scoped("number").uniform(count) * self.config.most).floor())
        image, lesion = batch.image, torch.zeros_like(batch.image[:, :1])
        for place in range(self.config.most):
            image, soft = with_lesion(batch, image, place < number, self.config.shape, draw.scoped(f"lesion {place}"))
            lesion = torch.maximum(lesion, (batch.middle(soft) > 0.5).float())
        return Drawn(image, lesion)

    def forward(self, model: nn.Module, batch: Batch, draw: Draw) -> list[Loss]:
        """One loss over the batch."""
        drawn = self.draw(batch, draw)
        output = model(drawn.image)
        total, terms = compare(output.finest, batch.centre, voxel_weights(batch, self.config.region), self.config)
        logits, inside = output.extras[LESION].float(), batch.mask.float()
        each = functional.binary_cross_entropy_with_logits(logits, drawn.lesion, reduction="none")
        terms["cross_entropy"] = weighted_mean(each, inside)
        terms["dice"] = self.overlap(logits.sigmoid() * inside, drawn.lesion)
        total = total + self.config.cross_entropy * terms["cross_entropy"] + self.config.dice * terms["dice"]
        return [Loss(total, terms)]

    def example(self, model: nn.Module, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """``input``, ``corrupted``, ``output`` and ``found``: the lesion head's probabilities, 1 as bright as the input.

        Outside the foreground, where nothing is asked of the head, nothing is found.
        """
        drawn = self.draw(batch, draw)
        output = model(drawn.image)
        found = (output.extras[LESION].float().sigmoid() * batch.mask).expand(batch.centre.shape)
        return {
            "input": batch.centre,
            "corrupted": batch.middle(drawn.image),
            "output": output.finest.float(),
            "found": batch.centre.amax() * found,
        }
