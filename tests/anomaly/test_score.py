"""The scan score by hand."""

from __future__ import annotations

import numpy as np
import pytest

from medae.anomaly.score import scan_score
from medae.errors import DataError, GeometryError


def test_mean_of_the_top_share_inside_the_mask() -> None:
    scores = np.arange(202, dtype=np.float32).reshape(2, 101)
    mask = np.ones(scores.shape, dtype=bool)
    mask[1, 99:] = False  # 200 and 201 do not count: 200 voxels, of which two are the top 1 %
    assert scan_score(scores, mask) == (199 + 198) / 2
    assert scan_score(scores, mask, top_share=1.0) == pytest.approx(np.arange(200).mean())


def test_at_least_one_voxel_counts() -> None:
    assert scan_score(np.array([1.0, 5.0]), np.array([1, 1])) == 5.0


def test_a_larger_lesion_scores_higher() -> None:
    mask = np.ones((10, 10, 10), dtype=bool)
    small, large = np.zeros(mask.shape), np.zeros(mask.shape)
    small[:1, :5, 0], large[:1, :10, 0] = 3.0, 3.0
    assert 0 < scan_score(small, mask) < scan_score(large, mask) == 3.0


def test_refusals() -> None:
    with pytest.raises(DataError, match="empty"):
        scan_score(np.ones(3), np.zeros(3))
    with pytest.raises(DataError, match="share"):
        scan_score(np.ones(3), np.ones(3), top_share=0.0)
    with pytest.raises(GeometryError, match="shape"):
        scan_score(np.ones(3), np.ones(4))
