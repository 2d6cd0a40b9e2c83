"""Confidence against right labels, by hand and against scikit-learn's curve."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from medae.errors import GeometryError
from medae.metrics.reliability import Reliability


def test_by_hand():
    found = Reliability()
    labels = np.array([1, 1, 1, 0, 0, 2])
    reference = np.array([1, 0, 1, 1, 0, 2])
    found.add(np.array([0.95, 0.95, 0.65, 0.65, 0.99, 1.0]), labels, reference)
    # the fourth and the fifth voxel are given no label
    assert found.rows() == [
        (pytest.approx(0.65), 1.0, 1),
        (pytest.approx(2.9 / 3), pytest.approx(2 / 3), 3),
    ]
    assert found.error() == pytest.approx((1 * 0.35 + 3 * 0.3) / 4)


def test_nothing_to_count_and_other_shapes():
    found = Reliability()
    found.add(np.ones(3), np.zeros(3, int), np.zeros(3, int))
    assert found.rows() == [] and found.error() is None
    with pytest.raises(GeometryError):
        found.add(np.ones(3), np.zeros(4, int), np.zeros(3, int))


def test_scans_add_up_to_scikit_learns_curve():
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.001, 0.999, (4, 500))
    reference = np.ones((4, 500), int)
    labels = np.where(rng.uniform(size=sure.shape) < sure**1.5, 1, 2)
    found = Reliability()
    for scan in range(4):
        found.add(sure[scan], labels[scan], reference[scan])
    right, mean = calibration_curve((labels == reference).ravel(), sure.ravel(), n_bins=10)
    assert [row[0] for row in found.rows()] == pytest.approx(list(mean))
    assert [row[1] for row in found.rows()] == pytest.approx(list(right))
