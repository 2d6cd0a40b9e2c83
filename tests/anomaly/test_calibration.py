"""Thresholds on normal scans: rate, spread and record."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medae.anomaly.calibration import Calibration, calibrate
from medae.errors import DataError, GeometryError


def scan(values: range, repeat: int = 1) -> np.ndarray:
    return np.repeat(np.array(values, dtype=np.float32), repeat).reshape(1, 1, -1)


def run(maps: list[np.ndarray], rate: float, masks: list[np.ndarray] | None = None, **more: Any) -> Calibration:
    masks = [np.ones(scores.shape, dtype=bool) for scores in maps] if masks is None else masks
    return calibrate(iter(maps), iter(masks), rate, cohort="ten synthetic scans", normals="lesion_free_scans", **more)


def test_one_subject_by_hand() -> None:
    found = run([scan(range(1, 101))], rate=0.05)
    # 96 to 100 are flagged, so the threshold lies just above 95.
    assert 95 < found.threshold <= 95 * (1 + 1 / 1024)
    assert found.achieved_mean == pytest.approx(0.05)
    assert found.achieved_sd is None
    assert found.threshold_low == found.threshold_high == found.threshold


def test_subjects_count_alike_whatever_their_size() -> None:
    # Subject 1: 100 voxels of 1..100; subject 2: 1000 voxels, all 0. Mean share flagged at 1: (1 + 0) / 2.
    found = run([scan(range(1, 101)), scan(range(1), repeat=1000)], rate=0.05)
    assert 90 < found.threshold <= 90 * (1 + 1 / 1024)
    assert found.achieved_mean == pytest.approx(0.05)
    assert found.achieved_max == pytest.approx(0.10)
    assert found.achieved_sd == pytest.approx(np.std([0.1, 0.0], ddof=1))
    # Without subject 2 the threshold is above 95; without subject 1 just above 0.
    assert 0 <= found.threshold_low < 1e-30
    assert 95 < found.threshold_high < 95.1
    assert (found.n_scans, found.n_subjects) == (2, 2)
    # Subject 1 just above 0 is flagged whole, subject 2 above 95 not at all.
    assert found.left_out == (1.0, 0.0)
    assert found.promise(1) is None, "two subjects promise nothing"


def test_scans_of_one_subject_are_pooled() -> None:
    maps = [scan(range(1, 51)), scan(range(51, 101)), scan(range(1), repeat=1000)]
    found = run(maps, rate=0.05, subjects=["s1", "s1", "s2"])
    assert (found.n_scans, found.n_subjects) == (3, 2)
    assert 90 < found.threshold <= 90 * (1 + 1 / 1024)
    with pytest.raises(ValueError, match="longer than"):
        run(maps, rate=0.05, subjects=["s1", "s1"])


def test_only_the_mask_counts() -> None:
    scores = scan(range(1, 201))
    mask = scores <= 100
    assert run([scores], 0.05, [mask]).threshold == run([scan(range(1, 101))], 0.05).threshold


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.05, 0.2])
def test_the_rate_holds_on_continuous_maps(rate: float) -> None:
    rng = np.random.default_rng(0)
    maps = [np.maximum(rng.normal(scale=scale, size=(20, 20, 20)), 0).astype(np.float32) for scale in (1, 1.3, 0.8)]
    found = run(maps, rate)
    shares = [float((scores >= found.threshold).mean()) for scores in maps]
    assert found.achieved_mean == pytest.approx(np.mean(shares))
    assert found.achieved_max == pytest.approx(max(shares))
    assert 0.9 * rate <= np.mean(shares) <= rate


def test_ties_never_exceed_the_rate() -> None:
    found = run([np.array([[[0, 0, 0, 1, 1, 1, 1, 1, 1, 1]]], dtype=np.float32)], rate=0.5)
    assert found.threshold > 1
    assert found.achieved_mean == 0


def test_the_record_says_what_the_normals_were() -> None:
    healthy = run([scan(range(1, 101))], 0.05)
    assert "ten synthetic scans" in healthy.rests_on()
    assert "1 scan of 1 subject" in healthy.rests_on()
    assert "lesion-free slices" not in healthy.limits()
    assert "recalibrate" in healthy.limits()
    slices = healthy.model_copy(update={"normals": "lesion_free_slices"})
    assert "not healthy people" in slices.limits()
    assert Calibration.model_validate_json(slices.model_dump_json()) == slices


def test_what_cannot_be_calibrated_is_refused() -> None:
    with pytest.raises(DataError, match="No normal scan"):
        run([], 0.05)
    with pytest.raises(DataError, match="empty"):
        run([scan(range(3))], 0.05, [np.zeros((1, 1, 3))])
    with pytest.raises(DataError, match="outside"):
        run([scan(range(3))], 1.0)
    with pytest.raises(DataError, match="not finite"):
        run([np.array([[[np.nan]]])], 0.05)
    with pytest.raises(GeometryError, match="shape"):
        run([scan(range(3))], 0.05, [np.ones((1, 1, 4))])


def test_a_promise_by_hand() -> None:
    found = run([scan(range(1, 101))], 0.05).model_copy(update={"left_out": (0.01, 0.0225, 0.04)})
    # Roots 0.10, 0.15, 0.20: mean 0.15, deviation 0.05; t(0.975, 2) = 4.3027; for 3 more: sqrt(1/3 + 1/3) = 0.8165.
    # The mean of three squares is the squared mean of the three, and two thirds of their variance.
    reach, moved = 4.30265 * 0.05 * 0.81650, 0.0025 * 2 / 3
    assert found.promise(3) == pytest.approx((moved, (0.15 + reach) ** 2 + moved), rel=1e-4)
    # For one more: sqrt(1/3 + 1) = 1.1547, and nothing is moved.
    assert found.promise(1) == pytest.approx((0.0, (0.15 + 4.30265 * 0.05 * 1.15470) ** 2), rel=1e-4)
    assert "A single further normal subject of this cohort should reach it in 0.00% to 15.87%" in found.rests_on()
    assert "too wide" not in found.rests_on(), "of 5 % asked for"
    strict = found.model_copy(update={"false_positive_rate": 0.01, "n_subjects": 3})
    assert "too wide to be of use: it rests on 3 subjects; calibrate on more" in strict.rests_on()
    tight = found.model_copy(update={"left_out": (0.0100, 0.0102, 0.0104, 0.0101)})
    low, high = tight.promise(2)
    assert 0.009 < low < 0.0101 < high < 0.0115


def test_a_promise_for_many_subjects_is_of_the_mean_of_skewed_shares() -> None:
    """Lognormal shares whose standard deviation is as large as their mean; 20 subjects calibrate, 100 more are met.

    With the squared mean of the roots alone 81 of 100 promises are kept, and 19 of 100 cohorts lie above.
    """
    rng = np.random.default_rng(0)
    shares = 0.01 * rng.lognormal(-np.log(2) / 2, np.sqrt(np.log(2)), size=(1500, 120))
    record = run([scan(range(1, 101))], 0.05)
    kept, above = [], []
    for own in shares:
        low, high = record.model_copy(update={"left_out": tuple(own[:20])}).promise(100)
        kept.append(low <= own[20:].mean() <= high)
        above.append(own[20:].mean() > high)
    assert 0.84 <= np.mean(kept) <= 0.97
    assert np.mean(above) < 0.14


def test_promises_are_kept_in_about_as_many_cohorts_as_they_say() -> None:
    """Cohorts whose subjects differ in how noisy their maps are; six calibrate, eight more are met."""
    rng = np.random.default_rng(0)
    kept = []
    for _ in range(60):
        noise = np.exp(rng.normal(0, 0.15, size=14))
        maps = [np.abs(rng.normal(scale=scale, size=(1, 1, 1500))).astype(np.float32) for scale in noise]
        found = run(maps[:6], 0.05)
        low, high = found.promise(8)
        kept.append(low <= np.mean([(each >= found.threshold).mean() for each in maps[6:]]) <= high)
    assert 0.88 <= np.mean(kept) <= 1.0
