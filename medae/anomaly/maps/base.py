"""What every anomaly map is: a number a voxel, the higher the less normal it looks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from torch import Tensor, nn

from medae.anomaly.place import PlaceConfig, Template
from medae.anomaly.residual import Side, one_sided
from medae.anomaly.scan import Scan

Scans = Callable[[], Iterable[Scan]]
"""Scans one at a time, from the first again at each call: memory holds one."""


class AnomalyMap(nn.Module, ABC):
    """A map of a scan on the plan grid. What it has learnt from normal scans is in its buffers and travels with the weights.

    Scans that it learns from are never scored: training scans give what is normal at a place (``SignedMap.learn``), scans
    kept for calibration how high normal voxels score (``scale``). Only the ``normal`` voxels of either count.
    """

    @property
    def scales(self) -> bool:
        """Whether ``scale`` does anything: the pass over the scans is spared otherwise."""
        return False

    def scale(self, scans: Scans) -> None:
        """Take how high normal voxels score from calibration scans."""

    @abstractmethod
    def forward(self, scan: Scan) -> Tensor:
        """Float32 ``[1, I, J, K]``, zero outside the mask, never below 0 inside."""


class SignedMap(AnomalyMap):
    """A map of something that is expected to be 0: what remains of it, on the side that counts.

    place: compare each voxel with the same place of normal scans, in standard deviations.
    """

    def __init__(self, side: Side, channels: int, place: PlaceConfig | None) -> None:
        super().__init__()
        self.side: Side = side
        self.template = None if place is None else Template(place, channels)

    @property
    def learns(self) -> bool:
        """With a template."""
        return self.template is not None

    def learn(self, scans: Scans) -> None:
        """The mean and the deviation of the signal at each place."""
        if self.template is not None:
            self.template.learn(scans, self.signal)

    @abstractmethod
    def signal(self, scan: Scan) -> Tensor:
        """What is expected to be 0: float32 ``[C, I, J, K]``."""

    def forward(self, scan: Scan) -> Tensor:
        """The side of the signal that counts, in its units, or in deviations of its place."""
        signal = self.signal(scan)
        if self.template is not None:
            signal = self.template.standardise(signal, scan)
        return one_sided(signal, scan.mask, self.side, scan.prepared.present)
