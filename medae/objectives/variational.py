"""Variational reconstruction: the evidence lower bound of a VAE."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from medae.models.encoder import EncoderConfig
from medae.objectives.base import Loss, Objective
from medae.objectives.reconstruction import Similarity, compare, voxel_weights
from medae.preprocessing.batch import Batch
from medae.seeding import Draw


class VariationalConfig(Similarity):
    """Reconstruction plus ``kl`` times the divergence from the standard normal prior, both per voxel."""

    corrupts: ClassVar[bool] = False
    kind: Literal["variational"] = "variational"
    kl: float = Field(default=1.0, ge=0)

    def build(self, encoder: EncoderConfig) -> Objective:
        """The objective for networks with such an encoder."""
        return VariationalObjective(self)


def kl_per_voxel(mu: Tensor, logvar: Tensor, weights: Tensor) -> Tensor:
    """KL(N(mu, exp(logvar)) || N(0, 1)) summed over the latent and the batch, over the number of voxels that count.

    mu, logvar: ``[B, ...]``. weights: of the reconstruction term, 1 where a voxel counts, ``[B, C, *S]``. As that term is a
    mean over the same voxels, the balance of the evidence lower bound is kept. Source: Kingma and Welling 2014, appendix B.
    """
    mu, logvar = mu.float(), logvar.float()
    divergence = 0.5 * (mu.square() + logvar.exp() - 1.0 - logvar)
    return divergence.sum() / weights.sum().clamp_min(1.0)


class VariationalObjective(Objective):
    """Evidence lower bound of a network whose Output carries ``mu`` and ``logvar``."""

    def __init__(self, config: VariationalConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, model: nn.Module, batch: Batch, draw: Draw) -> list[Loss]:
        """One loss over the batch."""
        output = model(batch.image)
        weights = voxel_weights(batch, self.config.region)
        total, terms = compare(output.finest, batch.centre, weights, self.config)
        terms["kl"] = kl_per_voxel(output.extras["mu"], output.extras["logvar"], weights)
        return [Loss(total + self.config.kl * terms["kl"], terms)]

    def example(self, model: nn.Module, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """``input`` and ``output``."""
        return {"input": batch.centre, "output": model(batch.image).finest.float()}
