"""A blurred copy of the scan in the place of a reconstruction: a baseline for models that only blur."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from medae.anomaly.maps.base import SignedMap
from medae.anomaly.residual import Side, blurred
from medae.anomaly.scan import Scan
from medae.config import Config


class BlurConfig(Config):
    """sigma: standard deviation of the Gaussian, in voxels of the plan grid; in slices for a plan of slices."""

    kind: Literal["blur"] = "blur"
    sigma: float = Field(default=4.0, gt=0)


class BlurMap(SignedMap):
    """The scan less its own blurred copy, which is made inside the mask."""

    def __init__(self, config: BlurConfig, side: Side, channels: int) -> None:
        super().__init__(side, channels, None)
        self.config = config

    def signal(self, scan: Scan) -> Tensor:
        """Image less blurred image."""
        return scan.image - blurred(scan.image, scan.mask, self.config.sigma, scan.slice_axis)
