"""Pooled voxel scores: against hand-computed values and scikit-learn."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from medae.errors import DataError, GeometryError
from medae.metrics.voxelscores import VoxelScores, at_least, best_dice, bin_floor, rounded_down, score_bins

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def tally(scores: list[float], mask: list[int], lesion: list[int]) -> VoxelScores:
    result = VoxelScores()
    result.add(np.array(scores, dtype=np.float32), np.array(mask), np.array(lesion))
    return result


@given(first=finite, second=finite)
def test_bins_keep_the_order_of_scores(first: float, second: float) -> None:
    low, high = sorted([first, second])
    assert score_bins(np.array([low]))[0] <= score_bins(np.array([high]))[0]


@given(value=finite)
def test_rounded_down_is_the_floor_of_the_bin(value: float) -> None:
    assert rounded_down(np.array([value]))[0] == np.float32(bin_floor(int(score_bins(np.array([value]))[0])))


@given(value=finite)
def test_bin_floor_is_the_smallest_score_of_its_bin(value: float) -> None:
    place = int(score_bins(np.array([value]))[0])
    floor = np.float32(bin_floor(place))
    assert floor <= np.float32(value)
    assert score_bins(np.array([floor]))[0] == place
    below = np.nextafter(floor, np.float32(-np.inf))
    if np.isfinite(below):
        assert score_bins(np.array([below]))[0] == place - 1


@given(value=st.floats(min_value=2.0**-100, max_value=2.0**100, width=32))
def test_a_bin_is_at_most_a_2048th_of_its_value_wide(value: float) -> None:
    place = int(score_bins(np.array([value]))[0])
    assert bin_floor(place + 1) - bin_floor(place) <= bin_floor(place) / 2048


def test_negative_zero_is_zero() -> None:
    bins = score_bins(np.array([-0.0, 0.0], dtype=np.float32))
    assert bins[0] == bins[1]
    assert bin_floor(int(bins[0])) == 0.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(DataError, match="not finite"):
        score_bins(np.array([0.0, value]))


def test_shapes_that_differ_are_named() -> None:
    with pytest.raises(GeometryError, match=r"lesion \(3,\)"):
        VoxelScores().add(np.zeros(4), np.ones(4), np.ones(3))


def test_average_precision_by_hand() -> None:
    # Falling: lesion (P 1/1), normal, lesion (P 2/3), normal: (1 + 2/3) / 2.
    found = tally([8, 4, 2, 1], [1, 1, 1, 1], [1, 0, 1, 0])
    assert found.average_precision() == pytest.approx(5 / 6)


def test_lesion_outside_the_mask_is_missed_and_normal_outside_is_not_counted() -> None:
    # As above, with a lesion voxel of the highest score and a normal one outside the mask: 2 of 3 can be found.
    found = tally([8, 4, 2, 1, 99, 98], [1, 1, 1, 1, 0, 0], [1, 0, 1, 0, 1, 0])
    assert found.missed == 1
    assert (found.n_lesion, found.n_normal) == (3, 2)
    assert found.average_precision() == pytest.approx((1 + 2 / 3) / 3)
    assert found.auroc() == pytest.approx((2 + 1 + 0) / (3 * 2))
    # Thresholds 8, 4, 2, 1: 2*1/(1+3), 2*1/(2+3), 2*2/(3+3), 2*2/(4+3).
    assert best_dice([found]) == (pytest.approx(4 / 6), 2.0)


def test_ties_count_half_in_auroc_and_as_one_threshold_in_average_precision() -> None:
    found = tally([0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0])
    assert found.auroc() == 0.5
    assert found.average_precision() == 0.25


def test_one_class_only_has_no_figure() -> None:
    assert tally([1, 2], [1, 1], [0, 0]).average_precision() is None
    assert tally([1, 2], [1, 1], [0, 0]).auroc() is None
    assert tally([1, 2], [1, 1], [0, 0]).curve() is None
    assert tally([1, 2], [1, 1], [1, 1]).auroc() is None
    assert tally([1, 2], [1, 1], [1, 1]).average_precision() == 1.0


def test_lesions_that_all_lie_outside_the_mask_score_nothing() -> None:
    found = tally([1, 2], [1, 0], [0, 1])
    assert found.average_precision() == 0.0
    assert found.auroc() == 0.0
    curve = tally([1, 2], [0, 0], [0, 1]).curve()
    assert curve is not None
    assert curve.recall.size == 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["normal", "half_zero", "signed_small"])
def test_agrees_with_scikit_learn(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    lesion = rng.random(20_000) < 0.03
    scores = rng.normal(size=20_000) + 1.2 * lesion
    if kind == "half_zero":
        scores = np.maximum(scores, 0)
    elif kind == "signed_small":
        scores = 1e-6 * scores
    scores = scores.astype(np.float32)
    found = VoxelScores()
    for part in np.array_split(np.arange(20_000), 3):
        found.add(scores[part], np.ones(part.size), lesion[part])
    assert found.average_precision() == pytest.approx(average_precision_score(lesion, scores), rel=1e-3)
    assert found.auroc() == pytest.approx(roc_auc_score(lesion, scores), abs=1e-4)


@given(
    values=st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 3.0]), min_size=2, max_size=40),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None)
def test_is_exact_on_scores_that_the_bins_hold_exactly(values: list[float], seed: int) -> None:
    lesion = np.random.default_rng(seed).random(len(values)) < 0.5
    lesion[0], lesion[-1] = True, False
    found = tally(values, [1] * len(values), lesion.astype(int).tolist())
    assert found.average_precision() == pytest.approx(average_precision_score(lesion, values), rel=1e-12)
    assert found.auroc() == pytest.approx(roc_auc_score(lesion, values), rel=1e-12)


def test_merging_equals_adding() -> None:
    rng = np.random.default_rng(3)
    scores, mask, lesion = rng.random((2, 500)), rng.random((2, 500)) < 0.8, rng.random((2, 500)) < 0.1
    together, parts = VoxelScores(), VoxelScores()
    together.add(scores, mask, lesion)
    for row in range(2):
        part = VoxelScores()
        part.add(scores[row], mask[row], lesion[row])
        parts.merge(part)
    assert np.array_equal(parts.lesion, together.lesion)
    assert np.array_equal(parts.normal, together.normal)
    assert parts.missed == together.missed


def test_the_best_dice_of_several_is_at_one_threshold_and_at_the_highest_that_reaches_it() -> None:
    # At 2 or more: 2*1/(1+1), 2*1/(2+2): mean 0.75. At 1 or more: 2*1/(2+1), 2*2/(3+2): mean 0.733. At 4: 0, 2*1/(1+2).
    one, other = tally([1, 2], [1, 1], [0, 1]), tally([1, 2, 4], [1, 1, 1], [1, 0, 1])
    assert best_dice([one, other]) == (pytest.approx(0.75), 2.0)
    dice, threshold = best_dice([tally([1, 2], [1, 0], [0, 1])])
    assert dice == 0.0, "no threshold finds what lies outside the mask"
    assert 1 < threshold < 1.001, "the one that flags nothing"
    assert best_dice([tally([1, 2], [0, 0], [0, 1])]) == (0.0, pytest.approx(0, abs=1e-30)), "an empty mask"


def test_the_dice_is_that_at_each_bin_floor() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(300).astype(np.float32)
    mask, lesion = rng.random(300) < 0.9, rng.random(300) < 0.2
    found = VoxelScores()
    found.add(scores, mask, lesion)
    places = score_bins(np.array([-2.0, 0.0, 0.1, 0.5, 0.83, 7.0]))
    for place, dice in zip(places, found.dice_at(places), strict=True):
        flagged = mask & (scores >= bin_floor(int(place)))
        assert dice == pytest.approx(2 * (flagged & lesion).sum() / (flagged.sum() + lesion.sum()))


def test_curve_keeps_the_ends_and_the_area() -> None:
    rng = np.random.default_rng(1)
    lesion = rng.random(50_000) < 0.05
    found = VoxelScores()
    found.add((rng.normal(size=50_000) + 2 * lesion).astype(np.float32), np.ones(50_000), lesion)
    curve = found.curve(points=400)
    assert curve is not None
    assert 300 < curve.recall.size <= 400
    assert np.all(np.diff(curve.threshold) < 0)
    assert curve.recall[-1] == 1.0
    assert curve.precision[-1] == pytest.approx(lesion.mean(), rel=0.05)
    assert (curve.prevalence, curve.reach, curve.random) == pytest.approx((lesion.mean(), 1.0, lesion.mean()))
    area = np.sum(np.diff(curve.recall, prepend=0) * curve.precision)
    assert area == pytest.approx(curve.average_precision, abs=0.01)


def test_a_random_map_finds_nothing_outside_the_mask() -> None:
    rng = np.random.default_rng(2)
    lesion, mask = rng.random(200_000) < 0.1, rng.random(200_000) < 0.7
    found = VoxelScores()
    found.add(rng.random(200_000, dtype=np.float32), mask, lesion)
    curve = found.curve()
    assert curve is not None and curve.random == pytest.approx(found.average_precision(), rel=0.05)
    assert curve.random == pytest.approx(0.1 * 0.7, rel=0.05)


def test_at_least_counts_from_above() -> None:
    assert at_least(np.array([1, 0, 2])).tolist() == [3, 2, 2]


def test_a_large_scan_takes_under_a_second_or_so_and_bounded_memory() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((256, 256, 20), dtype=np.float32)
    mask, lesion = scores > 0.4, scores > 0.97
    found = VoxelScores()
    tracemalloc.start()
    started = time.perf_counter()
    found.add(scores, mask, lesion)
    after_one = tracemalloc.get_traced_memory()[0]
    found.add(scores, mask, lesion)
    seconds = time.perf_counter() - started
    after_two = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert seconds < 5
    assert abs(after_two - after_one) < 2**20
    assert found.average_precision() == pytest.approx(1.0, abs=1e-3)
