"""Intervals of pooled average precision: against scikit-learn and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from medae.errors import DataError
from medae.metrics.pooled import Tally, pooled_average_precision, pooled_difference, pooled_interval
from medae.metrics.voxelscores import VoxelScores

SIZE = 400
FLAT = np.full(10, 0.1)


def scan(rng: np.random.Generator, quality: float, share: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Scores and truth of a scan's voxels; lesion voxels score higher by ``quality``."""
    truth = rng.uniform(size=SIZE) < share
    return (rng.normal(size=SIZE) + quality * truth).astype(np.float32) + 5, truth


def tally(scores: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> Tally:
    counts = VoxelScores()
    counts.add(scores, np.ones_like(truth) if mask is None else mask, truth)
    return Tally.of(counts)


def test_the_difference_is_that_of_the_pooled_figures():
    rng = np.random.default_rng(0)
    scans = [scan(rng, 2.0) for _ in range(6)]
    worse = [(scores + rng.normal(size=SIZE).astype(np.float32), truth) for scores, truth in scans]
    expected = [
        average_precision_score(np.concatenate([truth for _, truth in each]), np.concatenate([s for s, _ in each]))
        for each in (scans, worse)
    ]
    found = pooled_difference([tally(*each) for each in scans], [tally(*each) for each in worse], list("abcdef"))
    assert found.difference == pytest.approx(expected[0] - expected[1], abs=1e-3)
    assert found.low is not None
    assert found.low < found.difference < found.high
    assert found.n_subjects == 6


@pytest.mark.parametrize("kind", ["wide", "ranks", "few values"])
@pytest.mark.parametrize("share", [0.001, 0.05])
def test_the_figure_of_the_bootstrap_is_that_of_the_bins(kind: str, share: float):
    """Ranks end at a half, as those of an equalised image do: the highest thousandth of them lies within 1/500."""
    rng = np.random.default_rng(0)
    counts, tallies = VoxelScores(), []
    for _ in range(3):
        truth = rng.uniform(size=60_000) < share
        scores = rng.normal(size=truth.size) + 5.0 * truth
        if kind == "ranks":
            scores = (np.argsort(np.argsort(scores)) + 0.5) / truth.size - 0.5
        if kind == "few values":
            scores = np.floor(scores)
        one = VoxelScores()
        one.add(scores.clip(0).astype(np.float32), np.ones_like(truth), truth)
        counts.merge(one)
        tallies.append(Tally.of(one))
    assert pooled_average_precision(tallies) == pytest.approx(counts.average_precision(), abs=1e-3)


def test_lesion_outside_the_mask_counts_as_missed():
    scores, truth = np.array([3.0, 2.0, 1.0, 1.0], np.float32), np.array([True, False, True, False])
    inside = tally(scores, truth, np.array([True, True, False, True]))
    nothing = tally(np.zeros(4, np.float32), np.array([True, False, True, False]), np.array([True, True, False, True]))
    found = pooled_difference([inside], [nothing], ["a"])
    assert found.difference == pytest.approx(1 / 2 - (1 / 3) / 2)
    assert found.low is None, "one subject has no interval"


def test_a_map_against_itself_differs_by_nothing_at_all():
    rng = np.random.default_rng(1)
    same = [tally(*scan(rng, 1.0)) for _ in range(8)]
    found = pooled_difference(same, same, [str(place) for place in range(8)])
    assert (found.difference, found.low, found.high) == (0.0, 0.0, 0.0)


def test_two_scans_of_a_person_are_drawn_together():
    rng = np.random.default_rng(2)
    scans = [tally(*scan(rng, quality)) for quality in np.linspace(0, 4, 8)]
    alone = pooled_interval(scans, [str(place) for place in range(8)])
    twice = pooled_interval([*scans, *scans], [str(place) for place in range(8)] * 2)
    apart = pooled_interval([*scans, *scans], [str(place) for place in range(16)])
    assert twice == pytest.approx(alone)
    assert apart[1] - apart[0] < 0.85 * (alone[1] - alone[0]), "as if sixteen people had been there"


def test_the_interval_holds_the_figure_of_all_people_about_as_often_as_it_says():
    rng = np.random.default_rng(3)

    def person(quality: float) -> Tally:
        """Ten levels of score, so that a tally is quickly made."""
        normal, lesion = (rng.multinomial(count, levels) for count, levels in ((360, FLAT), (40, rising(quality))))
        return Tally(np.arange(10), normal, lesion, 0)

    def rising(quality: float) -> np.ndarray:
        weights = np.exp(quality * np.arange(10) / 3)
        return weights / weights.sum()

    def cohort(people: int) -> list[Tally]:
        return [person(quality) for quality in rng.normal(2, 0.7, people)]

    nobody = [Tally(np.arange(0), np.arange(0), np.arange(0), 0)] * 2000
    truth = pooled_difference(cohort(2000), nobody, [str(place) for place in range(2000)], draws=2).difference
    found = [pooled_interval(cohort(25), [str(place) for place in range(25)], draws=300) for _ in range(200)]
    held = np.mean([low <= truth <= high for low, high in found])
    assert 0.86 <= held <= 0.99


def test_the_same_seed_gives_the_same_interval():
    rng = np.random.default_rng(4)
    scans, names = [tally(*scan(rng, 1.0)) for _ in range(7)], list("abcdefg")
    assert pooled_interval(scans, names) == pooled_interval(scans, names)
    assert pooled_interval(scans, names, seed=1) != pooled_interval(scans, names)


def test_few_subjects_with_a_lesion_have_no_interval():
    rng = np.random.default_rng(5)
    scans = [tally(*scan(rng, 1.0)) for _ in range(4)] + [tally(*scan(rng, 0.0, share=0.0)) for _ in range(9)]
    assert pooled_interval(scans, [str(place) for place in range(13)]) is None


def test_scans_that_do_not_pair_are_refused():
    one = tally(np.ones(3, np.float32), np.array([True, False, False]))
    with pytest.raises(DataError, match="cannot be paired"):
        pooled_difference([one, one], [one], ["a", "b"])
