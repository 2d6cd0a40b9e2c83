"""What an objective is: a module that turns a model and a batch into losses."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from medae.preprocessing.batch import Batch
from medae.seeding import Draw


@dataclass(frozen=True)
class Loss:
    """One scalar to minimise. terms: its parts, for the log. parameters: the named parameter group it trains."""

    total: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    parameters: str = "model"


class Objective(nn.Module):
    """Base of every objective. It owns its corruption; every random number comes from ``draw``.

    ``corrupts``: whether the network sees a corrupted input. Without corruption a network with skips or pooling
    indices learns the identity, so that combination is refused.
    """

    corrupts: bool = False

    def forward(self, model: nn.Module, batch: Batch, draw: Draw) -> list[Loss]:
        """The losses of one step."""
        raise TypeError(f"{type(self).__name__} is an abstract objective")

    def example(self, model: nn.Module, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """For figures: what the network saw and made, by name (``input``, ``corrupted``, ``output``), ``[B, C, *S]``."""
        raise TypeError(f"{type(self).__name__} is an abstract objective")
