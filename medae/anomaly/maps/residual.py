"""The residual: where a scan differs from what a model of normal anatomy makes of it."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from medae.anomaly.maps.base import SignedMap
from medae.anomaly.place import PlaceConfig
from medae.anomaly.residual import Measure, Side, signed_residual
from medae.anomaly.scan import Scan
from medae.config import Config


class ResidualConfig(Config):
    """measure: what is compared, see ``anomaly.residual.signed_residual``. place: take the residual that normal training
    scans have at the same place for granted, in deviations of it."""

    kind: Literal["residual"] = "residual"
    measure: Measure = "difference"
    place: PlaceConfig | None = None


class ResidualMap(SignedMap):
    """See ``ResidualConfig``."""

    def __init__(self, config: ResidualConfig, side: Side, channels: int) -> None:
        super().__init__(side, channels, config.place)
        self.config = config

    def signal(self, scan: Scan) -> Tensor:
        """Scan less reconstruction, by the measure."""
        return signed_residual(scan.image, scan.reconstruction, scan.mask, self.config.measure, scan.slice_axis)
