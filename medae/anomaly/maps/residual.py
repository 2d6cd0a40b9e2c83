"""The residual: where a scan differs from what a model of normal anatomy makes of it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator
from torch import Tensor

from medae.anomaly.draws import DrawsConfig
from medae.anomaly.maps.base import SignedMap
from medae.anomaly.place import PlaceConfig
from medae.anomaly.residual import Measure, Side, signed_residual
from medae.anomaly.restore import RestoreConfig
from medae.anomaly.scan import Scan
from medae.config import Config

FLOOR = 0.1
"""A deviation that every voxel has at least, in units of the normalised image: that a few draws agree is no proof. It is
fixed, so that the scans of a cohort are measured by one rule."""


class ResidualConfig(Config):
    """measure: what is compared, see ``anomaly.residual.signed_residual``. place: take the residual that normal training
    scans have at the same place for granted, in deviations of it. draws: compare with the mean of several reconstructions.
    restore: compare with the scan after steps towards what the model believes in, in the place of its reconstruction.
    mahalanobis: in units of how far these lie apart at each voxel and channel, of the difference only."""

    kind: Literal["residual"] = "residual"
    measure: Measure = "difference"
    place: PlaceConfig | None = None
    draws: DrawsConfig | None = None
    restore: RestoreConfig | None = None
    mahalanobis: bool = False

    @model_validator(mode="after")
    def _has_units(self) -> Self:
        if self.mahalanobis and (self.draws is None or self.measure != "difference"):
            raise ValueError("mahalanobis takes the difference in units of several draws: give draws, and no other measure")
        if self.restore is not None and self.draws is not None:
            raise ValueError("a scan is compared with its restored copy or with several draws, not both")
        return self


class ResidualMap(SignedMap):
    """See ``ResidualConfig``."""

    def __init__(self, config: ResidualConfig, side: Side, channels: int) -> None:
        super().__init__(side, channels, config.place)
        self.config = config

    def signal(self, scan: Scan) -> Tensor:
        """Scan less reconstruction, by the measure."""
        draws, restore, deviation = self.config.draws, self.config.restore, None
        if draws is not None:
            expected, deviation = scan.drawn(draws)
        else:
            expected = scan.reconstruction if restore is None else scan.restored(restore)
        signed = signed_residual(scan.image, expected, scan.mask, self.config.measure, scan.slice_axis)
        if not self.config.mahalanobis or deviation is None:
            return signed
        return signed / (deviation.square() + FLOOR**2).sqrt()
