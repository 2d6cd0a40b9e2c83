"""Rules without learning that a segmenter has to beat."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medae.data.case import Manifest
from medae.metrics.segmentation import LabelScore, case_metrics
from pipelines.segmenting import reference

RADII_MM = tuple(float(radius) for radius in np.arange(1.0, 20.5, 0.5))


def central_ball(shape: tuple[int, ...], spacing: tuple[float, ...], radius: float) -> np.ndarray:
    """A ball of ``radius`` mm around the centre of the image, bool; a voxel is in it when its centre is."""
    axes = [(np.arange(size) - (size - 1) / 2) * step for size, step in zip(shape, spacing, strict=True)]
    squares = sum(np.square(axis) for axis in np.meshgrid(*axes, indexing="ij", sparse=True))
    return np.asarray(squares <= radius**2)


def best_radius(manifest: Manifest, target: str) -> float:
    """The radius (mm, a step of 0.5) whose ball has the best mean Dice on the labelled training cases."""
    totals = np.zeros(len(RADII_MM))
    for case in manifest.cases:
        truth, spacing = reference(manifest, case, target)
        for place, radius in enumerate(RADII_MM):
            ball, lesion = central_ball(truth.shape, spacing, radius), truth > 0
            both = np.count_nonzero(ball) + np.count_nonzero(lesion)
            totals[place] += 2 * np.count_nonzero(ball & lesion) / both if both else 0
    return RADII_MM[int(np.argmax(totals))]


def ball_scores(
    training: Manifest, test: Manifest, target: str, labels: Mapping[int, str], tolerance: float
) -> tuple[float, dict[str, dict[str, LabelScore]]]:
    """The radius, and the scores by case of a central ball that is given label 1 in every test image."""
    radius = best_radius(training, target)
    scores = {}
    for case in test.cases:
        truth, spacing = reference(test, case, target)
        ball = central_ball(truth.shape, spacing, radius).astype(np.int16)
        scores[case.id] = case_metrics(ball, truth, spacing, labels, tolerance)
    return radius, scores
