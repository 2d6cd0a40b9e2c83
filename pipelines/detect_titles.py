"""What the rows of a detection are called in tables and figures."""

from __future__ import annotations

from medae.anomaly.detector import DETECTOR

TITLES = {
    DETECTOR: "detector",
    "intensity": "intensity",
    "equalised": "equalised intensity",
    "voxelwise": "voxel-wise mean and deviation",
    "blurred": "blurred copy",
}


def title_of(row: str) -> str:
    """What a row is called in tables and figures."""
    return TITLES.get(row, row)
