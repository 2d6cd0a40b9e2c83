"""Variational reconstruction: the evidence lower bound of a VAE."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from medae.objectives.base import Loss, Objective
from medae.objectives.reconstruction import Similarity, compare, voxel_weights
from medae.preprocessing.batch import Batch
from medae.seeding import Draw


class VariationalConfig(Similarity):
    """Reconstruction plus ``kl`` times the divergence from the standard normal prior, both per voxel."""

    kind: Literal["variational"] = "variational"
    kl: float = Field(default=1.0, ge=0)

    def build(self, cell: tuple[int, ...]) -> Objective:
        """The objective; ``cell``, the bottleneck's cell in voxels, is not needed here."""
        return VariationalObjective(self)


def kl_per_voxel(mu: Tensor, logvar: Tensor, voxels: int) -> Tensor:
    """KL(N(mu, exp(logvar)) || N(0, 1)) summed over the latent, averaged over the batch, divided by ``voxels``.

    mu, logvar: ``[B, ...]``. Dividing by the patch's voxels keeps the balance of the evidence lower bound when the
    reconstruction term is a mean over voxels. Source: Kingma and Welling 2014, appendix B.
    """
    mu, logvar = mu.float(), logvar.float()
    divergence = 0.5 * (mu.square() + logvar.exp() - 1.0 - logvar)
    return divergence.flatten(1).sum(1).mean() / voxels


class VariationalObjective(Objective):
    """Evidence lower bound of a network whose Output carries ``mu`` and ``logvar``."""

    def __init__(self, config: VariationalConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, model: nn.Module, batch: Batch, draw: Draw) -> list[Loss]:
        """One loss over the batch."""
        output = model(batch.image)
        total, terms = compare(output.finest, batch.image, voxel_weights(batch, self.config.region), self.config)
        terms["kl"] = kl_per_voxel(output.extras["mu"], output.extras["logvar"], batch.image[0].numel())
        return [Loss(total + self.config.kl * terms["kl"], terms)]

    def example(self, model: nn.Module, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """``input`` and ``output``."""
        return {"input": batch.image, "output": model(batch.image).finest.float()}
