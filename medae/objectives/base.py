"""What an objective is: a module that turns a model and a batch into losses."""

from __future__ import annotations

from collections.abc import Callable
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


@dataclass(frozen=True)
class Trained:
    """What is being trained, for an objective that needs more of it than its forward pass.

    network: as it was built, in none of the training's wrappings. average: the moving average of its weights, which
    moves after every step; None without ``fit.ema``. mixed: makes a module compute in the training's precision.
    """

    network: nn.Module
    average: nn.Module | None
    mixed: Callable[[nn.Module], nn.Module]


class Objective(nn.Module):
    """Base of every objective. It owns its corruption; every random number comes from ``draw``."""

    def attach(self, trained: Trained) -> None:
        """Called once before the first step. What is kept of it must not become a submodule: it has its own place."""

    def forward(self, model: nn.Module, batch: Batch, draw: Draw) -> list[Loss]:
        """The losses of one step."""
        raise TypeError(f"{type(self).__name__} is an abstract objective")

    def example(self, model: nn.Module, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """For figures: what the network saw and made, by name (``input``, ``corrupted``, ``output``), ``[B, C, *S]``."""
        raise TypeError(f"{type(self).__name__} is an abstract objective")
