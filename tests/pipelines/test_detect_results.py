"""What a detection keeps of its rows: in JSON, on the card and in the report."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medae.metrics.anomaly import AnomalyEvaluation
from medae.modelcard import figures_of
from pipelines.detect_results import figure_words, row_metrics, with_intervals


@pytest.fixture(scope="module")
def evaluation() -> AnomalyEvaluation:
    """Twelve subjects, half of them with a lesion of 2 x 2 voxels of 1 ml."""
    found = AnomalyEvaluation()
    for place in range(12):
        rng = np.random.default_rng(place)
        lesion = np.zeros((1, 8, 8), dtype=bool)
        lesion[0, 2:4, 2:4] = place < 6
        scores = (rng.uniform(size=lesion.shape) + 0.6 * lesion).astype(np.float32)
        flagged, mask = scores > 0.9, np.ones_like(lesion)
        error = scores.astype(np.float64)
        score = float(scores.max())
        found.add(f"c{place}", scores, flagged, mask, lesion, voxel_ml=1.0, scan_score=score, error=error)
    return found


def test_a_row_is_plain_json_with_intervals_and_sizes(evaluation: AnomalyEvaluation) -> None:
    row = row_metrics(evaluation, evaluation)
    kept = json.loads(json.dumps(row, allow_nan=False))
    assert kept == row
    assert kept["intervals"]["dice_mean"] == list(evaluation.intervals()["dice_mean"])
    assert kept["lesion_sizes"]["1-10 ml"]["lesions"] == kept["summary"]["n_lesions"] == 6
    assert kept["average_precision_unfiltered"] == kept["average_precision_pooled"]


def test_the_card_has_the_headline_first_and_the_ends_beside_it(evaluation: AnomalyEvaluation) -> None:
    figures = with_intervals(evaluation)
    low, high = evaluation.intervals()["dice_mean"]
    assert (figures["dice_mean_low"], figures["dice_mean_high"]) == (low, high)
    assert next(iter(figures)) == "average_precision_pooled"
    shown = figures_of(figures)
    assert shown["dice_mean"] == f"{figures['dice_mean']:.4g} [{low:.4g}, {high:.4g}]"
    assert not [name for name in shown if name.endswith(("_low", "_high"))]
    assert shown["n_test"] == 12


def test_a_figure_is_said_with_its_ends_where_it_has_some() -> None:
    assert figure_words({"a": 0.5}, {"a": (0.25, 0.75)}, "a") == "0.500 [0.250, 0.750]"
    assert figure_words({"a": 0.5}, {}, "a") == "0.500"
    assert figure_words({"a": None}, {}, "a") is None


@pytest.mark.parametrize(
    ("found", "words"),
    [((22.0,), "22"), ((14.5, 9.0, 20.25), "14.5 [9, 20.2]"), ((1234.5, 2.0, 3000.0), "1,234 [2, 3,000]")],
)
def test_counts_have_no_decimals_that_are_nought(found: tuple[float, ...], words: str) -> None:
    name, (value, *ends) = "false_findings_normal", found
    assert figure_words({name: value}, {name: (ends[0], ends[1])} if ends else {}, name) == words
