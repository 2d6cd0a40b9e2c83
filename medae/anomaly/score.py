"""The scan score: one number that says how abnormal a scan is."""

from __future__ import annotations

import numpy as np

from medae.errors import DataError
from medae.metrics.voxelscores import check_same_grid


def scan_score(processed: np.ndarray, mask: np.ndarray, top_share: float = 0.01) -> float:
    """Mean of the highest ``top_share`` of the map's values inside the mask.

    A mean over the whole brain drowns a small lesion and a maximum is a single voxel's noise; the mean of the top 1 %
    (about 15 ml of a brain) stands between them. A share, not a number of voxels, so that it does not depend on the
    voxel size; at least one voxel. Units of the map, so comparable only between scans of one model and plan.

    processed: float map; mask: non-zero inside; same shape. Raises GeometryError (shapes), DataError (empty mask, or
    a share outside (0, 1]).
    """
    check_same_grid(map=processed, mask=mask)
    if not 0 < top_share <= 1:
        raise DataError(f"A top share of {top_share} is outside (0, 1].", remedy="Use 0.01 for the top 1 %.")
    values = processed[mask != 0]
    if values.size == 0:
        raise DataError("The brain mask is empty.", remedy="Check the scan and its foreground rule.")
    count = max(1, round(top_share * values.size))
    return float(np.mean(np.partition(values, values.size - count)[-count:], dtype=np.float64))
