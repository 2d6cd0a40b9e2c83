"""What a detection's report says in words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medae.anomaly.calibration import calibrate
from medae.anomaly.detector import DETECTOR, Scoring
from medae.anomaly.maps.registry import BASELINES, PARTS
from medae.anomaly.postprocessing import PostprocessingConfig, threshold_map
from medae.config import validate
from medae.metrics.anomaly import AnomalyEvaluation
from medae.report.html import Report
from pipelines.detect_report import describe_scores, describe_thresholds, promise_in_words, scoring_in_words, verdict
from tests.anomaly.conftest import CALIBRATION as ONE_SCAN
from tests.anomaly.conftest import PLAN

CALIBRATION = ONE_SCAN.model_copy(
    update={"threshold": 1.0, "left_out": (0.009, 0.01, 0.011, 0.012), "n_scans": 4, "n_subjects": 4}
)


def evaluation(*subjects: tuple[str, int, bool]) -> AnomalyEvaluation:
    """Scans of 1000 voxels: subject, voxels flagged, whether there is a lesion."""
    found = AnomalyEvaluation()
    for number, (subject, flagged, diseased) in enumerate(subjects):
        mask, flags, lesion = (
            np.ones((10, 10, 10), dtype=bool),
            np.zeros((10, 10, 10), dtype=bool),
            np.zeros((10, 10, 10), bool),
        )
        flags.ravel()[:flagged] = True
        lesion.ravel()[-50:] = diseased
        values = flags.astype(np.float32)
        found.add(f"c{number}", values, flags, mask, lesion, voxel_ml=1.0, scan_score=0.0, subject=subject, error=None)
    return found


def finds(*voxels: int) -> AnomalyEvaluation:
    """Of a lesion of 50 voxels a subject, so many are found before any normal voxel."""
    found = AnomalyEvaluation()
    for number, own in enumerate(voxels):
        values, lesion = np.zeros((10, 10, 10), dtype=np.float32), np.zeros((10, 10, 10), dtype=bool)
        values.ravel()[:own], lesion.ravel()[:50] = 1, True
        found.add(f"c{number}", values, values > 0, np.ones_like(lesion), lesion, voxel_ml=1.0, scan_score=0.0)
    return found


OWN = (20, 25, 22, 27, 21, 24, 23, 26)


@pytest.mark.parametrize(
    ("ahead", "said"),
    [
        ((-9, -10, -11, -10, -9, -10, -11, -10), "found more than the best baseline"),
        ((10, 0, 10, 0, 10, 0, 0, 10), "did not beat the best baseline"),
        ((9, 10, 11, 10, 9, 10, 11, 10), "found less than a baseline"),
    ],
)
def test_less_than_the_best_of_four_takes_more_than_one_interval_below_zero(ahead: tuple[int, ...], said: str):
    """In the middle case the 95 % interval is below 0 (t is 2.6, its bound 2.4), that for four comparisons is not (3.3)."""
    other = finds(*(own + more for own, more in zip(OWN, ahead, strict=True)))
    weak = dict.fromkeys(BASELINES, finds(*(1 for _ in OWN)))
    words = verdict({DETECTOR: finds(*OWN), **weak, "intensity": other})
    assert said in words
    low, high = (float(end) for end in re.search(r"\[([-+.\d]+), ([-+.\d]+)\]", words).groups())
    assert high < 0 if sum(ahead) > 0 else low > 0
    alone = verdict({DETECTOR: finds(*OWN), "intensity": other})
    assert ("less than a baseline" in alone) == (sum(ahead) > 0), "where there is one to compare with, one interval will do"


@pytest.mark.parametrize(("other", "said"), [(10, "higher than"), (30, "lower than"), (20, "as high as")])
def test_of_too_few_subjects_is_said_which_scored_higher_not_which_found_more(other: int, said: str):
    words = verdict({DETECTOR: finds(20, 20), "intensity": finds(other, other)})
    assert words.startswith(f"The detector scored {said} the best baseline: pooled AUPRC ")
    assert words.endswith("Too few subjects to say how sure that is.")


def test_a_promise_is_kept_or_not_by_the_normal_subjects_alone():
    kept = promise_in_words(CALIBRATION, evaluation(("a", 9, False), ("b", 12, False), ("c", 500, True)))
    assert "In 2 test subjects without a lesion it was reached in 1.05% of the mask, as their mean" in kept
    assert "a single subject" in kept and "harmless" not in kept
    assert kept.endswith(": kept.")
    broken = promise_in_words(CALIBRATION, evaluation(("a", 90, False), ("b", 12, False)))
    assert "it was reached in 5.10%" in broken
    assert "not kept" in broken and "harmless" not in broken


def test_fewer_false_positives_than_promised_are_harmless_and_a_wide_promise_is_easily_kept():
    fewer = promise_in_words(CALIBRATION, evaluation(("a", 1, False), ("b", 2, False)))
    assert "fewer false positives than promised, which is harmless" in fewer and "kept" not in fewer
    alone = promise_in_words(CALIBRATION, evaluation(("a", 10, False)))
    assert "In one test subject" in alone and "promised of a single subject were" in alone
    wide = CALIBRATION.model_copy(update={"left_out": (0.001, 0.01, 0.1)})
    assert promise_in_words(wide, evaluation(("a", 10, False))).endswith(": kept, but so wide a promise is easily kept.")


@pytest.mark.parametrize("subjects", [(("c", 5, True),), (("c", 5, True), ("c", 5, False))])
def test_without_normal_subjects_nothing_is_said(subjects):
    assert promise_in_words(CALIBRATION, evaluation(*subjects)) == ""


def test_a_promise_is_kept_by_an_identical_cohort_though_small_findings_are_dropped():
    rng = np.random.default_rng(0)
    maps = [np.abs(rng.normal(size=(12, 12, 12))).astype(np.float32) for _ in range(6)]
    mask, nowhere = np.ones((12, 12, 12), dtype=bool), np.zeros((12, 12, 12), dtype=bool)
    found = calibrate(maps, [mask] * 6, 0.02, cohort="six scans", normals="lesion_free_scans")
    dropping = PostprocessingConfig(median=(1, 1, 1), min_component_ml=3.0)
    tested = AnomalyEvaluation()
    for number, values in enumerate(maps):
        flags = threshold_map(values, mask, found.threshold, dropping, voxel_ml=1.0)
        tested.add(f"c{number}", values, flags, mask, nowhere, voxel_ml=1.0, scan_score=0.0)
    low, _ = found.promise(6)
    assert tested.summary()["false_positive_rate_mean"] < low, "by what is flagged in the end it would be broken"
    assert promise_in_words(found, tested).endswith(": kept.")
    assert np.mean(list(tested.reached(found.threshold).values())) == pytest.approx(found.achieved_mean)


def test_the_thresholds_of_folds_are_a_line_each_and_the_cohorts_limits_are_said_once(tmp_path: Path):
    kept, broken = evaluation(("a", 9, False), ("b", 12, False)), evaluation(("a", 90, False), ("b", 12, False))
    slices = CALIBRATION.model_copy(update={"normals": "lesion_free_slices"})
    other = slices.model_copy(update={"threshold": 0.5})
    page = Report("by hand")
    describe_thresholds(
        page, ["detector"], [{"detector": slices}, {"detector": other}], [{"detector": kept}, {"detector": broken}]
    )
    text = page.write(tmp_path / "report.html").read_text(encoding="utf-8")
    first, second = (
        text.index(f"fold {number}: The threshold {value} is reached") for number, value in ((1, "1"), (2, "0.5"))
    )
    assert text.index(": kept.") in range(first, second) and text.index(": not kept.") > second
    assert text.count("not healthy people") == 1


def test_a_calibration_on_few_promises_nothing():
    few = CALIBRATION.model_copy(update={"left_out": (0.01, 0.02)})
    assert promise_in_words(few, evaluation(("a", 9, False))) == ""


@pytest.mark.parametrize("kind", sorted(part.model_fields["kind"].default for part in PARTS))
def test_every_map_has_words(kind: str):
    alone = scoring_in_words(validate(Scoring, {"map": {"kind": kind}}), PLAN)
    assert alone.startswith("Scored is ") and ("the bright side of" in alone) == (kind != "lesion_head")
    both = validate(Scoring, {"map": {"kind": "sum", "of": [{"kind": kind}, {"kind": "residual"}]}})
    assert "plus the residual" in scoring_in_words(both, PLAN)


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({}, "after a median filter of 3 slices by 5 x 5 voxels; a scan"),
        ({"gaussian": [1, 2, 2]}, "5 x 5 voxels and a Gaussian of 1 slices by 2 x 2 voxels (standard deviations); a scan"),
        ({"median": [1, 1, 1], "gaussian": [0, 1.5, 1.5]}, "after a Gaussian of 0 slices by 1.5 x 1.5 voxels"),
        ({"median": [1, 1, 1]}, ", unfiltered; a scan"),
        ({"erode": 1}, "by 5 x 5 voxels, the mask eroded by 1 voxel in plane; a scan"),
        (
            {"median": [1, 1, 1], "erode": 2, "min_component_ml": 1},
            ", unfiltered, the mask eroded by 2 voxels in plane; find",
        ),
        ({"min_component_ml": 0.5}, "by 5 x 5 voxels; findings under 0.5 ml are dropped; a scan"),
    ],
)
def test_filters_have_words(filters: dict[str, Any], words: str):
    assert words in scoring_in_words(validate(Scoring, {"postprocessing": filters}), PLAN)


def test_both_errors_and_the_lesion_inside_the_mask_stand_in_the_table(tmp_path: Path):
    """Of two scans whose normal voxels have an error of 1 and 2, and whose lesions one of 3 and 2: ratios of 3 and 1.

    A tenth of the lesions lies outside the mask.
    """
    found = AnomalyEvaluation()
    lesion = np.zeros((10, 10, 10), dtype=bool)
    lesion[:2] = True
    for number, (normal, sick) in enumerate(((1.0, 3.0), (2.0, 2.0))):
        error, values = np.where(lesion, sick, normal), np.arange(1000, dtype=np.float32).reshape(lesion.shape)
        flags, mask = np.zeros_like(lesion), np.ones_like(lesion)
        mask[0, 0], mask[0, 1] = False, False
        found.add(f"c{number}", values, flags, mask, lesion, voxel_ml=1.0, scan_score=0.0, error=error)
    page = Report("by hand")
    rows = {"detector": found, "intensity": found}
    describe_scores(page, lambda name: tmp_path / f"{name}.png", rows, rows)
    text = re.sub(r"<[^>]+>|\s+", " ", page.write(tmp_path / "report.html").read_text(encoding="utf-8"))
    lines = {
        "of normal voxels (L1)": "1.5",
        "of lesions (L1)": "2.5",
        "normal L1, mean of scans": "2",
        "inside the mask": "0.9",
    }
    for title, value in lines.items():
        assert re.search(rf"{re.escape(title)} +{re.escape(value)}0*\.?0* ", text), title
