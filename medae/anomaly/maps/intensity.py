"""The scan itself as an anomaly map, with no model: the baseline that every model is reported beside.

Thresholding the intensity of FLAIR alone beat published autoencoders on two public test sets (Meissen et al. 2021), so
a model that does not beat it has shown nothing.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from medae.anomaly.maps.base import SignedMap
from medae.anomaly.place import PlaceConfig
from medae.anomaly.residual import Side
from medae.anomaly.scan import Scan
from medae.config import Config


class IntensityConfig(Config):
    """The normalised intensity: its distance from 0, the mean or median of the foreground after normalisation.

    equalise: equalise the scan's histogram first, so that a voxel counts by its rank in the scan, from -0.5 to 0.5 (Meissen
    et al. 2021). place: compare with the mean and deviation of the same place in normal training scans: the voxel-wise
    model of normal anatomy.
    """

    kind: Literal["intensity"] = "intensity"
    equalise: bool = False
    place: PlaceConfig | None = None


class IntensityMap(SignedMap):
    """See ``IntensityConfig``."""

    def __init__(self, config: IntensityConfig, side: Side, channels: int) -> None:
        super().__init__(side, channels, config.place)
        self.config = config

    def signal(self, scan: Scan) -> Tensor:
        """The image, or its ranks inside the mask."""
        return equalised(scan.image, scan.mask) if self.config.equalise else scan.image


def equalised(image_CIJK: Tensor, mask_1IJK: Tensor) -> Tensor:
    """Each channel's ranks inside the mask, ties halved, from -0.5 to 0.5; zero outside. Float32 ``[C, I, J, K]``."""
    inside = mask_1IJK[0].numpy()
    result = np.zeros(tuple(image_CIJK.shape), dtype=np.float32)
    for channel, values in enumerate(image_CIJK.numpy()):
        chosen = values[inside]
        result[channel][inside] = (rankdata(chosen) - 0.5) / max(chosen.size, 1) - 0.5
    return torch.from_numpy(result)
