"""Whether a segmenter's confidence can be believed: how often its label is right where it is so sure of it.

Source: Guo et al. 2017, "On calibration of modern neural networks": reliability diagram, expected calibration error.
"""

from __future__ import annotations

import numpy as np

from medae.metrics.voxelscores import check_same_grid

BINS = 10
"""Of equal width, from 0 to 1."""


class Reliability:
    """Voxels by how sure the segmenter was of its label. Those count that it gave a label above 0: the background would hide
    all else, and a choice by the reference would make every network look too sure."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, dtype=np.int64)
        self.confidence = np.zeros(BINS)
        self.correct = np.zeros(BINS, dtype=np.int64)

    def add(self, confidence: np.ndarray, labels: np.ndarray, reference: np.ndarray) -> None:
        """Count a scan's voxels. confidence: probability of the label, 0 to 1. Raises GeometryError for other shapes."""
        check_same_grid(confidence=confidence, labels=labels, reference=reference)
        counted = labels > 0
        sure, right = confidence[counted].astype(np.float64), (labels == reference)[counted]
        bins = np.clip((sure * BINS).astype(int), 0, BINS - 1)
        self.counts += np.bincount(bins, minlength=BINS)
        self.confidence += np.bincount(bins, weights=sure, minlength=BINS)
        self.correct += np.bincount(bins, weights=right, minlength=BINS).astype(np.int64)

    def rows(self) -> list[tuple[float, float, int]]:
        """Mean confidence, share of right labels and voxels of each bin that has some."""
        there = np.flatnonzero(self.counts)
        return [
            (
                float(self.confidence[place] / self.counts[place]),
                float(self.correct[place] / self.counts[place]),
                int(self.counts[place]),
            )
            for place in there
        ]

    def error(self) -> float | None:
        """The expected calibration error: mean difference of confidence and share of right labels, by voxels; None without
        any."""
        total = int(self.counts.sum())
        return sum(count * abs(sure - right) for sure, right, count in self.rows()) / total if total else None
