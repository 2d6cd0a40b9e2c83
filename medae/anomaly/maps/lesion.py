"""What a lesion head finds: how surprising it would be if a voxel were normal."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from medae.anomaly.maps.base import AnomalyMap
from medae.anomaly.residual import Side
from medae.anomaly.scan import Scan
from medae.config import Config
from medae.errors import ConfigError
from medae.models.networks import StoredConfig


class LesionHeadConfig(Config):
    """-ln(1 - p), where p is the probability of a lesion by the model's lesion head (``network.lesion_head``), which the
    objective ``lesions`` has trained on synthetic ones: 0.7 is even odds, 3 is 95 %. What counts as a lesion, bright or
    dark, is what it was shown; ``side`` has no effect."""

    kind: Literal["lesion_head"] = "lesion_head"

    def check(self, network: StoredConfig) -> None:
        """Raises ConfigError for a network without a lesion head."""
        if not getattr(network, "lesion_head", False):
            raise ConfigError(
                "The map asks for a lesion head, which the network does not have.",
                where="scoring.map",
                remedy="Set network.lesion_head: true and objective.kind: lesions, or take a map of residuals.",
            )


class LesionHeadMap(AnomalyMap):
    """See ``LesionHeadConfig``."""

    def __init__(self, config: LesionHeadConfig, side: Side, channels: int) -> None:
        super().__init__()

    def forward(self, scan: Scan) -> Tensor:
        """The surprise inside the mask."""
        return torch.where(scan.mask, scan.surprise, 0.0)
