"""Several maps as one: their weighted sum, each in units of what normal voxels have."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medae.anomaly.maps.base import AnomalyMap, Scans
from medae.anomaly.scan import Scan
from medae.errors import DataError


class SumMap(AnomalyMap):
    """The weighted mean of maps, each divided by the root mean square that normal calibration voxels have in it."""

    unit: Tensor

    def __init__(self, parts: Sequence[AnomalyMap], weights: Sequence[float]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.weights = [weight / sum(weights) for weight in weights]
        self.register_buffer("unit", torch.ones(len(parts), dtype=torch.float64))

    @property
    def scales(self) -> bool:
        """Always: the parts' units are those of normal scans."""
        return True

    def scale(self, scans: Scans) -> None:
        """Take the unit of each part. Raises DataError if normal voxels have nothing but 0 in one."""
        squares, count = torch.zeros_like(self.unit), 0
        for scan in scans():
            squares += torch.stack([part(scan)[scan.normal].double().square().sum() for part in self._parts()])
            count += int(scan.normal.sum())
        if not bool((squares > 0).all()):
            raise DataError(
                "A part of the sum is 0 in all normal voxels, so that it has no unit.",
                where="scoring.map",
                remedy="Leave the part out.",
            )
        self.unit = (squares / count).sqrt()

    def forward(self, scan: Scan) -> Tensor:
        """The weighted mean of the parts."""
        total = torch.zeros(scan.mask.shape)
        for part, weight, unit in zip(self._parts(), self.weights, self.unit.tolist(), strict=True):
            total += weight / unit * part(scan)
        return total

    def _parts(self) -> list[AnomalyMap]:
        return [part for part in self.parts if isinstance(part, AnomalyMap)]
