"""The scan score: one number that says how abnormal a scan is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from medae.config import Config
from medae.errors import DataError
from medae.metrics.lesions import components
from medae.metrics.voxelscores import check_same_grid

LEVEL_SHARES = (0.5, 0.1, 0.01, 0.001)
"""Shares of the mask: a level is the value that so many voxels reach."""

SPREAD = 0.05
"""That levels of normal scans are taken to have at least, as a share of their mean: a few scans may agree by chance."""


class ScanScoreConfig(Config):
    """How a map becomes one number.

    kind: ``top`` is the mean of the highest ``share`` of the map inside the mask, ``mean`` that of all of it, ``largest`` is
    the volume (ml) of the largest piece at or above the calibrated threshold, ``learned`` how far the levels that half, a
    tenth, a hundredth and a thousandth of the mask reach lie above those of normal calibration scans, in their deviations
    (root mean square; what lies below counts as 0). share: of ``top``.

    A mean over the whole brain drowns a small lesion and a maximum is a single voxel's noise; the mean of the top 1 % (about
    15 ml of a brain) stands between them. Shares of the mask, not numbers of voxels, so that scores do not depend on the
    voxel size.
    """

    kind: Literal["top", "mean", "largest", "learned"] = "top"
    share: float = Field(default=0.01, gt=0, le=1)

    def describe(self) -> str:
        """In words, for a report."""
        return {
            "top": f"the mean of the highest {self.share:.1%} of the map inside the mask",
            "mean": "the mean of the map inside the mask",
            "largest": "the volume (ml) of its largest piece at or above the threshold",
            "learned": "how far the map's levels lie above those of normal calibration scans, in deviations",
        }[self.kind]


def top_mean(values: np.ndarray, share: float) -> float:
    """The mean of the highest share of some values, at least of one."""
    count = max(1, round(share * values.size))
    return float(np.mean(np.partition(values, values.size - count)[-count:], dtype=np.float64))


def levels(values: np.ndarray) -> tuple[float, ...]:
    """What the shares of ``LEVEL_SHARES`` of some values reach."""
    rising = np.sort(values)
    return tuple(float(rising[min(values.size - 1, int(np.ceil((1 - share) * values.size)))]) for share in LEVEL_SHARES)


def largest_piece_ml(flagged: np.ndarray, voxel_ml: float) -> float:
    """The volume of the largest connected piece (faces, edges, corners) of a mask; 0 of an empty one."""
    pieces, count = components(flagged)
    return float(np.bincount(pieces.ravel())[1:].max() * voxel_ml) if count else 0.0


def unlikeness(own: Sequence[float], normal: Sequence[Sequence[float]]) -> float:
    """How far levels lie above those of normal scans, see ``ScanScoreConfig``.

    own: of a scan. normal: of each normal scan. Raises DataError with fewer than two of these.
    """
    if len(normal) < 2:
        raise DataError(
            f"{len(normal)} normal calibration scans do not say how much normal scans differ.",
            where="scoring.scan_score",
            remedy="Give more normal validation scans, or take kind: top.",
        )
    table = np.asarray(normal, dtype=np.float64)
    spread = np.maximum(table.std(axis=0, ddof=1), SPREAD * np.abs(table.mean(axis=0)) + 1e-6)
    above = np.maximum((np.asarray(own) - table.mean(axis=0)) / spread, 0.0)
    return float(np.sqrt(np.mean(above**2)))


def inside(processed: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The values of a map inside a mask of the same shape. Raises GeometryError (shapes), DataError (empty mask)."""
    check_same_grid(map=processed, mask=mask)
    values = processed[mask != 0]
    if values.size == 0:
        raise DataError("The brain mask is empty.", remedy="Check the scan and its foreground rule.")
    return values
