"""What objectives that learn from unlabelled scans beside the labelled ones have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import Field
from torch import nn

from medae.config import Config
from medae.models.blocks import Norm
from medae.objectives.base import Objective, Trained

UNLABELLED = "unlabelled"
"""The stream that these objectives read. Its batches carry no label map."""


class SemisupervisedConfig(Config):
    """Keys of every such objective.

    batch: unlabelled samples a step; the plan's batch if null. weight: of the loss on them beside the supervised one. twin:
    whether the same arm without the unlabelled scans is trained too.
    """

    kind: str
    batch: int | None = Field(default=None, ge=1)
    weight: float = Field(default=1.0, ge=0)
    twin: bool = True

    def samples(self, labelled: int) -> int:
        """Unlabelled samples a step beside so many labelled ones."""
        return labelled if self.batch is None else self.batch


class SemisupervisedObjective(Objective):
    """A supervised objective and what is learnt beside it. steps: of the training."""

    def __init__(self, supervised: Objective, steps: int) -> None:
        super().__init__()
        self.supervised, self.steps = supervised, steps
        self._trained: Trained | None = None

    def attach(self, trained: Trained) -> None:
        """Take what is being trained."""
        self._trained = trained

    @property
    def trained(self) -> Trained:
        """What is being trained. Raises TypeError before ``attach``."""
        if self._trained is None:
            raise TypeError("the objective has not been attached to what it trains")
        return self._trained


@contextmanager
def still_statistics(network: nn.Module) -> Iterator[None]:
    """Within it the running statistics of batch norm do not move: they are to fit what the segmenter is given, which no
    corrupted patch is."""
    moving = [norm for norm in network.modules() if isinstance(norm, Norm) and norm.momentum]
    kept = [norm.momentum for norm in moving]
    try:
        for norm in moving:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(moving, kept, strict=True):
            norm.momentum = momentum
