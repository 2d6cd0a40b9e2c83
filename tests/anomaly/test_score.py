"""The scan score by hand."""

from __future__ import annotations

import numpy as np
import pytest

from medae.anomaly.calibration import Calibration, calibrate
from medae.anomaly.detector import ScanMaps, Scoring
from medae.anomaly.score import LEVEL_SHARES, SPREAD, levels, unlikeness
from medae.config import validate
from medae.errors import ConfigError, DataError, GeometryError

ONES = np.ones((10, 10, 10), dtype=bool)


def calibration(**content) -> Calibration:
    known = {"threshold": 1.0, "false_positive_rate": 0.01, "achieved_mean": 0.01, "achieved_sd": None, "achieved_max": 0.01}
    known |= {"threshold_low": 1.0, "threshold_high": 1.0, "n_scans": 1, "n_subjects": 1, "normals": "lesion_free_scans"}
    return validate(Calibration, {**known, "cohort": "by hand", **content})


def score(heat: np.ndarray, mask: np.ndarray, own: Calibration | None = None, **config) -> float:
    scoring = validate(Scoring, {"scan_score": config})
    return ScanMaps(heat, heat, mask, mask, 2, 0.5).score(scoring, own or calibration())


def test_mean_of_the_top_share_inside_the_mask() -> None:
    scores = np.arange(202, dtype=np.float32).reshape(2, 101, 1)
    mask = np.ones(scores.shape, dtype=bool)
    mask[1, 99:] = False  # 200 and 201 do not count: 200 voxels, of which two are the top 1 %
    assert score(scores, mask) == (199 + 198) / 2
    assert score(scores, mask, share=0.02) == (199 + 198 + 197 + 196) / 4
    assert score(scores, mask, kind="mean") == pytest.approx(np.arange(200).mean())


def test_at_least_one_voxel_counts() -> None:
    assert score(np.array([[[1.0, 5.0]]]), np.ones((1, 1, 2), dtype=bool)) == 5.0


def test_a_larger_lesion_scores_higher() -> None:
    small, large = np.zeros(ONES.shape), np.zeros(ONES.shape)
    small[:1, :5, 0], large[:1, :10, 0] = 3.0, 3.0
    assert 0 < score(small, ONES) < score(large, ONES) == 3.0


def test_the_largest_piece_at_the_threshold_in_millilitres() -> None:
    heat = np.zeros(ONES.shape)
    heat[0, :3, 0], heat[5:7, 5:7, 5], heat[9, 9, 9] = 1.0, 2.0, 9.0
    assert score(heat, ONES, kind="largest") == 4 * 0.5
    assert score(heat, ONES, calibration(threshold=3.0), kind="largest") == 0.5
    assert score(heat, ONES, calibration(threshold=10.0), kind="largest") == 0.0


def test_levels_are_what_shares_of_the_voxels_reach() -> None:
    values = np.random.default_rng(0).permutation(np.arange(1, 1001)).astype(np.float32)
    assert levels(values) == (501.0, 901.0, 991.0, 1000.0)
    for level, share in zip(levels(values), LEVEL_SHARES, strict=True):
        assert np.mean(values >= level) == pytest.approx(share)
    assert levels(np.array([2.0])) == (2.0,) * 4


def test_how_unlike_normal_scans_by_hand() -> None:
    normal = [(1.0, 2.0, 3.0, 4.0), (3.0, 4.0, 5.0, 6.0)]  # means 2, 3, 4, 5; deviations of sqrt(2)
    assert unlikeness((2.0, 3.0, 4.0, 5.0), normal) == 0
    assert unlikeness((0.0, 0.0, 0.0, 0.0), normal) == 0, "below is not abnormal"
    assert unlikeness((2 + np.sqrt(2), 3.0, 4.0, 0.0), normal) == pytest.approx(np.sqrt(1 / 4), rel=1e-5)
    same = [(1.0, 1.0, 1.0, 1.0)] * 5
    assert unlikeness((2.0,) * 4, same) == pytest.approx(1 / SPREAD, rel=1e-3), "scans that agree by chance prove little"


def test_a_learned_score_is_of_normals_alone_and_finds_what_is_brighter() -> None:
    rng = np.random.default_rng(1)
    normals = [rng.exponential(size=ONES.shape).astype(np.float32) for _ in range(8)]
    own = calibrate(normals, [ONES] * 8, 0.01, cohort="drawn", normals="lesion_free_scans")
    assert len(own.normal_levels) == 8
    for found, array in zip(own.normal_levels, normals, strict=True):
        assert found == pytest.approx(levels(array.ravel()), rel=1 / 1024), "to a bin"
    other = rng.exponential(size=ONES.shape).astype(np.float32)
    sick = other.copy()
    sick[:2, :5, :5] += 5
    assert score(other, ONES, own, kind="learned") < 2.5 < score(sick, ONES, own, kind="learned")


def test_percentile_among_normals() -> None:
    own = calibration(normal_scores=(1.0, 2.0, 3.0, 4.0))
    assert [own.percentile(value) for value in (0.5, 2.0, 9.0)] == [0.0, 0.5, 1.0]
    assert calibration().percentile(1.0) is None


def test_a_subject_does_not_vouch_for_itself() -> None:
    own = calibration(normal_levels=((1.0,) * 4, (2.0,) * 4, (3.0,) * 4))
    assert own.without(1).normal_levels == ((1.0,) * 4, (3.0,) * 4)


def test_a_detector_of_before_is_read() -> None:
    assert validate(Scoring, {"top_share": 0.05}).scan_score.share == 0.05


def test_refusals() -> None:
    with pytest.raises(DataError, match="empty"):
        score(np.ones(ONES.shape), ~ONES)
    with pytest.raises(ConfigError, match="share"):
        score(np.ones(ONES.shape), ONES, share=0.0)
    with pytest.raises(GeometryError, match="shape"):
        score(np.ones((3, 3, 3)), ONES)
    with pytest.raises(DataError, match="do not say how much normal scans differ"):
        score(np.ones(ONES.shape), ONES, kind="learned")
