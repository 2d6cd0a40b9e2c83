"""Anomaly metrics against values computed by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit, logit
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score, roc_auc_score

from medae.errors import DataError, GeometryError
from medae.metrics.anomaly import AnomalyEvaluation, auroc, average_precision, dice, lesion_error


def volume(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32).reshape(1, 1, -1)


def test_scan_auroc_by_hand_and_with_one_class() -> None:
    assert auroc([1, 2, 3, 4], [False, True, False, True]) == 0.75
    assert auroc([1, 1], [False, True]) == 0.5
    assert auroc([1, 2], [True, True]) is None
    assert auroc([1, 2], [False, False]) is None
    assert auroc([], []) is None


@given(scores=st.lists(st.integers(0, 5), min_size=2, max_size=30), seed=st.integers(0, 100))
def test_scan_auroc_agrees_with_scikit_learn(scores: list[int], seed: int) -> None:
    diseased = np.random.default_rng(seed).random(len(scores)) < 0.5
    diseased[0], diseased[-1] = True, False
    assert auroc(scores, diseased.tolist()) == pytest.approx(roc_auc_score(diseased, scores))
    assert average_precision(scores, diseased.tolist()) == pytest.approx(average_precision_score(diseased, scores))


def test_scan_average_precision_by_hand_and_with_one_class() -> None:
    assert average_precision([1, 2, 3, 4], [False, True, False, True]) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision([1, 1, 0], [False, True, False]) == 0.5, "of those with one score none comes first"
    assert average_precision([1, 2], [True, True]) is None
    assert average_precision([1, 2], [False, False]) is None
    assert average_precision([], []) is None


@given(seed=st.integers(0, 1000))
def test_voxels_of_a_scan_agree_with_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lesion, flagged = (rng.random((1, 6, 7)) < share for share in (0.3, 0.4))
    lesion[0, 0, 0] = flagged[0, 0, 0] = True
    scores = np.where(flagged, rng.integers(3, 6, flagged.shape), rng.integers(0, 3, flagged.shape)).astype(np.float32)
    evaluation = AnomalyEvaluation()
    scan = evaluation.add("a", scores, flagged, np.ones_like(flagged), lesion, voxel_ml=1.0, scan_score=0.0)
    truth, said = lesion.ravel(), flagged.ravel()
    assert scan.dice == dice(flagged, lesion) == pytest.approx(f1_score(truth, said))
    assert (scan.recall, scan.precision) == pytest.approx((recall_score(truth, said), precision_score(truth, said)))
    assert scan.average_precision == pytest.approx(average_precision_score(truth, scores.ravel()))
    if not truth.all():
        assert scan.auroc == pytest.approx(roc_auc_score(truth, scores.ravel()))


def mixed(healthy: int = 8) -> AnomalyEvaluation:
    """Six patients, of whom the first is found whole and the others by half, the last with the score of the healthy ones.

    healthy: so many of these, of whom one has two false findings.
    """
    evaluation = AnomalyEvaluation()
    for place in range(6 + healthy):
        sick, lesion = place < 6, volume(1, 1, 0, 0, 0, 0) * (place < 6)
        flagged = volume(1, place == 0, 0, 0, 0, 0) if sick else volume(0, 0, place == 6, 0, place == 6, 0)
        score, error = float(place < 5), volume(*[1.0 + place] * 6)
        evaluation.add(str(place), flagged, flagged, volume(*[1] * 6), lesion, voxel_ml=1.0, scan_score=score, error=error)
    return evaluation


def test_intervals_by_hand() -> None:
    evaluation = mixed()
    found, intervals = evaluation.summary(), evaluation.intervals()
    assert found["dice_mean"] == pytest.approx((1 + 5 * 2 / 3) / 6)
    # Left out in turn; the healthy have no Dice, so that without them the mean is the same. Six carry it.
    without = np.array([2 / 3, *[(1 + 4 * 2 / 3) / 5] * 5, *[found["dice_mean"]] * 8])
    half = stats.t.ppf(0.975, 5) * np.sqrt(13**2 * logit(without).var(ddof=1) / 14)
    assert intervals["dice_mean"] == pytest.approx(expit(logit(found["dice_mean"]) + half * np.array([-1, 1])))
    # Eight carry the false findings of normals: 2 of one of them. They may be above 1, and none is below 0.
    assert found["false_findings_normal"] == pytest.approx(2 / 8)
    assert found["false_positive_rate_normal"] == pytest.approx(2 / 6 / 8)
    without = np.array([*[2 / 8] * 6, 0, *[2 / 7] * 7])
    half = stats.t.ppf(0.975, 7) * np.sqrt(13**2 * without.var(ddof=1) / 14)
    assert intervals["false_findings_normal"] == pytest.approx((0.0, 2 / 8 + half))
    # All fourteen carry the error of normal voxels.
    values = np.arange(1.0, 15.0)
    half = stats.t.ppf(0.975, 13) * values.std(ddof=1) / np.sqrt(14)
    assert intervals["normal_l1"] == pytest.approx((values.mean() - half, values.mean() + half))
    assert {name for name, (low, high) in intervals.items() if not low <= found[name] <= high} == set()


def test_what_is_the_same_whoever_is_left_out_has_no_interval() -> None:
    """All of every lesion lies in the mask, and there is one finding in each patient."""
    intervals = mixed().intervals()
    assert not {"mask_recall_pooled", "lesion_recall"} & set(intervals)
    assert {"auroc_scan", "average_precision_scan", "recall_pooled"} <= set(intervals)


def test_an_interval_asks_for_five_of_those_that_a_figure_is_of() -> None:
    intervals = mixed(healthy=4).intervals()
    assert "dice_mean" in intervals and "normal_l1" in intervals
    assert not [name for name in intervals if name.endswith(("_normal", "_scan"))]


def test_few_subjects_have_no_interval(evaluation: AnomalyEvaluation) -> None:
    assert evaluation.intervals() == AnomalyEvaluation().intervals() == {}


def test_dice_by_hand() -> None:
    assert dice(volume(1, 1, 0, 0), volume(1, 0, 1, 0)) == 0.5
    assert dice(volume(0, 0), volume(1, 0)) == 0.0
    assert dice(volume(1, 0), volume(0, 0)) is None
    with pytest.raises(GeometryError):
        dice(volume(1), volume(1, 0))


def test_lesion_error_counts_inside_the_mask_only() -> None:
    error = lesion_error(volume(1, 3, 8, 100, 100), mask=volume(1, 1, 1, 0, 0), lesion=volume(0, 0, 1, 1, 0))
    assert (error.normal, error.lesion, error.ratio) == (2.0, 8.0, 4.0)
    assert lesion_error(volume(1, 2), volume(1, 1), volume(0, 0)).ratio is None
    assert lesion_error(volume(0, 2), volume(1, 1), volume(0, 1)).ratio is None


@pytest.fixture
def evaluation() -> AnomalyEvaluation:
    """Scan a: a lesion of three voxels, one outside the mask. Scan b: no lesion. Scan c: b's subject, a lesion."""
    result = AnomalyEvaluation()
    result.add(
        "a",
        scores=volume(9, 1, 4, 2, 0, 9, 9),
        prediction=volume(1, 0, 1, 0, 0, 0, 0),
        mask=volume(1, 1, 1, 1, 1, 0, 0),
        lesion=volume(1, 1, 0, 0, 0, 0, 1),
        voxel_ml=0.05,
        scan_score=5.0,
        error=volume(4, 4, 1, 1, 2, 0, 0),
    )
    result.add(
        "b",
        scores=volume(3, 0, 0, 0),
        prediction=volume(1, 0, 0, 0),
        mask=volume(1, 1, 1, 1),
        lesion=volume(0, 0, 0, 0),
        voxel_ml=0.05,
        scan_score=1.0,
        subject="s",
    )
    result.add(
        "c",
        scores=volume(8, 7, 0, 0),
        prediction=volume(1, 1, 0, 0),
        mask=volume(1, 1, 1, 1),
        lesion=volume(1, 1, 0, 0),
        voxel_ml=1.0,
        scan_score=3.0,
        subject="s",
    )
    return result


def test_one_scan_by_hand(evaluation: AnomalyEvaluation) -> None:
    scan = evaluation.scans[0]
    assert scan.lesion_ml == pytest.approx(0.15)
    assert scan.mask_recall == pytest.approx(2 / 3)
    assert scan.dice == pytest.approx(2 * 1 / (2 + 3))
    assert scan.recall == pytest.approx(1 / 3)
    assert scan.precision == 0.5
    # Falling 9 lesion, 4, 2 normal, 1 lesion: (1/1 + 2/4) / 3 with the third never found.
    assert scan.average_precision == pytest.approx(0.5)
    # Lesion 9 above three normals, lesion 1 above one, the missed one above none: 4 of 9.
    assert scan.auroc == pytest.approx(4 / 9)
    assert scan.false_positive_rate == pytest.approx(1 / 3)
    # One component of two voxels, one hit; a single voxel outside the mask.
    assert scan.lesions.found == (True, False)
    assert scan.error is not None
    assert scan.error.ratio == pytest.approx(4 / (4 / 3))


def test_a_scan_without_lesion_has_no_dice_but_a_false_positive_rate(evaluation: AnomalyEvaluation) -> None:
    scan = evaluation.scans[1]
    assert not scan.has_lesion
    assert scan.dice is scan.average_precision is scan.auroc is scan.recall is scan.mask_recall is None
    assert scan.false_positive_rate == 0.25


def test_all_lesion_outside_the_mask_is_a_result_too() -> None:
    evaluation = AnomalyEvaluation()
    image, mask, lesion = np.arange(4.0).reshape(4, 1, 1), np.ones((4, 1, 1)), np.zeros((4, 1, 1))
    mask[0], lesion[0] = 0, 1
    evaluation.add("a", image.astype(np.float32), mask * 0, mask, lesion, voxel_ml=1.0, scan_score=0.0)
    found = json.loads(json.dumps(evaluation.summary(), allow_nan=False))
    assert (found["average_precision_pooled"], found["average_precision_random"], found["dice_oracle"]) == (0, 0, 0)
    assert found["dice_oracle_threshold"] > 3 and found["mask_recall_pooled"] == 0


def test_summary_by_hand(evaluation: AnomalyEvaluation) -> None:
    found = evaluation.summary()
    assert (found["n_scans"], found["n_lesion_scans"]) == (3, 2)
    assert found["dice_mean"] == pytest.approx((0.4 + 1) / 2)
    assert found["dice_pooled"] == pytest.approx(2 * 3 / (5 + 5))
    assert found["recall_pooled"] == pytest.approx(3 / 5)
    assert found["precision_pooled"] == pytest.approx(3 / 5)
    assert found["mask_recall_pooled"] == pytest.approx(4 / 5)
    assert found["average_precision_mean"] == pytest.approx((0.5 + 1) / 2)
    # Pooled, falling: 9 L, 8 L, 7 L, 4, 3, 2 normal, 1 L; one of five is never found.
    assert found["average_precision_pooled"] == pytest.approx((1 + 1 + 1 + 4 / 7) / 5)
    assert found["prevalence"] == pytest.approx(5 / (5 + 9))
    assert found["average_precision_random"] == pytest.approx(4 / (4 + 9) * 4 / 5)
    assert found["auroc_scan"] == found["average_precision_scan"] == 1.0
    # Lesion 9, 8, 7 above all nine normal voxels, 1 above the six of 0, the missed one above none.
    assert found["auroc_pooled"] == pytest.approx((3 * 9 + 6) / 45)
    assert found["auroc_mean"] == pytest.approx((4 / 9 + 1) / 2)
    # At 7: scan a 2*1/(1+3), scan c 1. At 1: a 2*2/(4+3), c 2*2/(2+2). Mean at 1 is the better one.
    assert found["dice_oracle"] == pytest.approx((4 / 7 + 1) / 2)
    assert found["dice_oracle_threshold"] == pytest.approx(1.0)
    # Pooled: at 7, 2*3/(3+5); at 1, 2*4/(7+5).
    assert found["dice_pooled_oracle"] == pytest.approx(6 / 8)
    # Subjects: a 1/3; s: scans b and c pooled, 1 of 6.
    assert evaluation.false_positive_rates() == pytest.approx({"a": 1 / 3, "s": 1 / 6})
    assert found["false_positive_rate_mean"] == pytest.approx(0.25)
    assert found["false_positive_rate_max"] == pytest.approx(1 / 3)
    assert found["false_positive_rate_sd"] == pytest.approx(np.std([1 / 3, 1 / 6], ddof=1))
    assert found["n_lesions"] == 3
    assert found["lesion_recall"] == pytest.approx(2 / 3)
    # Findings: a has two (one true), b one, c one (true).
    assert found["lesion_precision"] == pytest.approx(2 / 4)
    assert found["lesion_f1"] == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert found["false_positive_rate_normal"] is found["false_findings_normal"] is None, "b is of a patient, too"
    assert found["normal_l1"] == pytest.approx(4 / 3)
    assert found["l1_ratio"] == pytest.approx(3.0)


def test_where_a_threshold_is_reached_counts_normal_voxels_in_the_mask_by_subject(evaluation: AnomalyEvaluation) -> None:
    # a: of 4, 2 and 0 one is at least 3; s: of 3, 0, 0, 0 one, and of c's 0 and 0 none.
    assert evaluation.reached(3.0) == pytest.approx({"a": 1 / 3, "s": 1 / 6})
    assert evaluation.reached(0.0) == {"a": 1.0, "s": 1.0}
    assert evaluation.reached(9.0) == {"a": 0.0, "s": 0.0}


def test_strata_hold_all_lesions(evaluation: AnomalyEvaluation) -> None:
    counts = {stratum.label: (stratum.found, stratum.lesions) for stratum in evaluation.strata()}
    # Scan a: 0.1 ml found and 0.05 ml not; scan c: 2 ml found.
    assert counts == {"< 0.1 ml": (0, 1), "0.1-1 ml": (1, 1), "1-10 ml": (1, 1), "≥ 10 ml": (0, 0)}


def test_no_lesion_anywhere_gives_none_not_zero() -> None:
    evaluation = AnomalyEvaluation()
    empty = volume(0, 0)
    evaluation.add("a", volume(1, 2), empty, volume(1, 1), empty, voxel_ml=1.0, scan_score=1.0)
    found = evaluation.summary()
    for name in ("dice_mean", "dice_oracle", "dice_pooled", "average_precision_pooled", "auroc_scan", "lesion_recall"):
        assert found[name] is None
    assert found["false_positive_rate_mean"] == 0.0
    assert evaluation.curve() is None


def test_an_empty_evaluation_has_a_summary() -> None:
    found = AnomalyEvaluation().summary()
    assert found["n_scans"] == 0
    assert found["false_positive_rate_max"] is None


def test_a_prediction_outside_the_mask_is_refused() -> None:
    with pytest.raises(DataError, match="outside the brain mask"):
        AnomalyEvaluation().add("a", volume(1, 1), volume(0, 1), volume(1, 0), volume(0, 0), voxel_ml=1.0, scan_score=0.0)


@pytest.mark.parametrize("seed", range(2))
def test_no_threshold_beats_the_oracle(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lesions = rng.random((3, 6, 6, 6)) < 0.1
    maps = (rng.random(lesions.shape) + 0.4 * lesions).astype(np.float32)
    mask = np.ones((6, 6, 6), dtype=bool)
    values = np.unique(maps)[::60]
    means = {}
    for threshold in values:
        evaluation = AnomalyEvaluation()
        for place, (scores, lesion) in enumerate(zip(maps, lesions, strict=True)):
            evaluation.add(str(place), scores, scores >= threshold, mask, lesion, voxel_ml=1.0, scan_score=0.0)
        means[threshold] = evaluation.summary()
    best = max(found["dice_mean"] or 0 for found in means.values())
    for found in means.values():
        assert found["dice_oracle"] is not None
        assert found["dice_oracle"] >= best - 0.01  # a candidate may fall between two bins
        oracle = found["dice_oracle_threshold"]
    reached = np.mean([dice(scores >= oracle, lesion) for scores, lesion in zip(maps, lesions, strict=True)])
    assert reached == pytest.approx(next(iter(means.values()))["dice_oracle"])
