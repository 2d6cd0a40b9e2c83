"""Plain reconstruction: the network returns what it was given."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from monai.losses.ssim_loss import SSIMLoss
from pydantic import Field, model_validator
from torch import Tensor, nn

from medae.config import Config
from medae.models.encoder import EncoderConfig
from medae.objectives.base import Loss, Objective
from medae.preprocessing.batch import Batch
from medae.seeding import Draw

SSIM_WINDOW = 7


class Similarity(Config):
    """Weights of the terms that compare an output with its target.

    l1: mean absolute difference, over the voxels of ``region`` in the channels that are present. l2: mean squared
    difference, over the same. ssim: 1 - structural similarity (Wang et al. 2004, Gaussian window of 7 voxels), over all
    voxels of the channels in which one counts. ssim_range: the data range in normalised units that SSIM's constants are
    relative to.
    """

    l1: float = Field(default=1.0, ge=0)
    l2: float = Field(default=0.0, ge=0)
    ssim: float = Field(default=0.0, ge=0)
    ssim_range: float = Field(default=6.0, gt=0)
    region: Literal["all", "foreground"] = "all"

    @model_validator(mode="after")
    def _something(self) -> Similarity:
        if self.l1 + self.l2 + self.ssim == 0:
            raise ValueError("at least one of l1, l2 and ssim needs a weight above 0")
        return self


def voxel_weights(batch: Batch, region: Literal["all", "foreground"]) -> Tensor:
    """1 where a voxel counts, else 0: float32 ``[B, C, *S]``. Absent channels never count."""
    present = batch.present.reshape(*batch.present.shape, *[1] * (batch.image.ndim - 2))
    weights = present if region == "all" else present & batch.mask
    return weights.expand(batch.centre.shape).float()


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Sum of values x weights over the sum of weights; 0 where no voxel counts."""
    return (values * weights).sum() / weights.sum().clamp_min(1.0)


def compare(output: Tensor, target: Tensor, weights: Tensor, similarity: Similarity) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of the terms and each term by name, in float32.

    output, target, weights: ``[B, C, *S]`` of the same shape.
    """
    difference = output.float() - target.float()
    terms: dict[str, Tensor] = {}
    if similarity.l1:
        terms["l1"] = weighted_mean(difference.abs(), weights)
    if similarity.l2:
        terms["l2"] = weighted_mean(difference.square(), weights)
    if similarity.ssim:
        terms["ssim"] = _ssim(output.float(), target.float(), weights, similarity.ssim_range)
    total = torch.stack([getattr(similarity, name) * value for name, value in terms.items()]).sum()
    return total, terms


def _ssim(output: Tensor, target: Tensor, weights: Tensor, data_range: float) -> Tensor:
    """1 - structural similarity, the mean over the channels in which a voxel counts."""
    window = [min(SSIM_WINDOW, size) for size in output.shape[2:]]
    loss = SSIMLoss(spatial_dims=output.ndim - 2, data_range=data_range, win_size=window, reduction="none")
    each = loss(output.flatten(0, 1)[:, None], target.flatten(0, 1)[:, None])[:, 0]
    return weighted_mean(each, weights.flatten(2).amax(2).flatten())


class ReconstructionConfig(Similarity):
    """Reproduce the input; only through a bottleneck, since a network with skips would learn the identity."""

    corrupts: ClassVar[bool] = False
    kind: Literal["reconstruction"] = "reconstruction"

    def build(self, encoder: EncoderConfig) -> Objective:
        """The objective for networks with such an encoder."""
        return ReconstructionObjective(self)


class ReconstructionObjective(Objective):
    """Loss between a patch and its reconstruction."""

    def __init__(self, config: ReconstructionConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, model: nn.Module, batch: Batch, draw: Draw) -> list[Loss]:
        """One loss over the batch."""
        output = model(batch.image).finest
        total, terms = compare(output, batch.centre, voxel_weights(batch, self.config.region), self.config)
        return [Loss(total, terms)]

    def example(self, model: nn.Module, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """``input`` and ``output``."""
        return {"input": batch.centre, "output": model(batch.image).finest.float()}
