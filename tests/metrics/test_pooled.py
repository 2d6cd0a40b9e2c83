"""Intervals of pooled average precision: against scikit-learn and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student
from sklearn.metrics import average_precision_score

from medae.errors import DataError
from medae.metrics.pooled import (
    Tally,
    auroc_interval,
    mean_difference,
    mean_interval,
    pooled_average_precision,
    pooled_difference,
    pooled_interval,
    share_interval,
)
from medae.metrics.voxelscores import VoxelScores

SIZE = 400


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
def test_the_figure_of_the_groups_is_that_of_the_bins(kind: str, share: float):
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


def test_two_scans_of_a_person_are_left_out_together():
    rng = np.random.default_rng(2)
    scans = [tally(*scan(rng, quality)) for quality in np.linspace(0, 4, 8)]
    alone = pooled_interval(scans, [str(place) for place in range(8)])
    twice = pooled_interval([*scans, *scans], [str(place) for place in range(8)] * 2)
    apart = pooled_interval([*scans, *scans], [str(place) for place in range(16)])
    assert twice == pytest.approx(alone)
    assert apart[1] - apart[0] < 0.85 * (alone[1] - alone[0]), "as if sixteen people had been there"


def test_the_interval_of_a_difference_by_hand():
    """A finds all lesion voxels of each subject first, b of the second subject none: without it the two do not differ."""
    good, missed = (
        Tally(np.array([0, 5]), np.array([9, 0]), np.array([0, 1]), 0),
        Tally(np.array([0]), np.array([9]), np.array([0]), 1),
    )
    a, b = [good] * 5, [good, missed, good, good, good]
    found = pooled_difference(a, b, list("abcde"))
    assert found.difference == pytest.approx(1 / 5)
    # Left out in turn: 0 without the second, else 1/4 of four. Variance of 0 and four times 1/4: 1/80.
    reach = student.ppf(0.975, 4) * np.sqrt(16 / 80 / 5)
    assert (found.low, found.high) == pytest.approx((0.2 - reach, 0.2 + reach))


def test_over_kinds_of_lesions_a_subject_is_left_out_of_all_at_once():
    """B misses the second subject's lesions of both kinds: the mean has the interval of one kind. Where another subject is
    missed in each kind, what two of five do to a half each spreads less."""
    good, missed = (
        Tally(np.array([0, 5]), np.array([9, 0]), np.array([0, 1]), 0),
        Tally(np.array([0]), np.array([9]), np.array([0]), 1),
    )
    a, second, third = [good] * 5, [good, missed, good, good, good], [good, good, missed, good, good]
    same = mean_difference([(a, second), (a, second)], list("abcde"))
    assert same == pooled_difference(a, second, list("abcde"))
    found = mean_difference([(a, second), (a, third)], list("abcde"))
    assert found.difference == pytest.approx(1 / 5)
    # Left out in turn: 1/8 without either, else 1/4 of four. Variance of two times 1/8 and three times 1/4: 3/640.
    reach = student.ppf(0.975, 4) * np.sqrt(16 * 3 / 640 / 5)
    assert (found.low, found.high) == pytest.approx((0.2 - reach, 0.2 + reach))


def test_the_interval_of_a_mean_of_maps_leaves_a_person_out_of_all_of_them():
    rng = np.random.default_rng(7)
    scans, names = [tally(*scan(rng, quality)) for quality in np.linspace(0, 3, 8)], [str(place) for place in range(8)]
    assert mean_interval([scans], names) == mean_interval([scans, scans], names) == pooled_interval(scans, names)
    assert mean_interval([], names) is None and mean_interval([scans[:4]], names[:4]) is None
    turned = mean_interval([scans, scans[::-1]], names)
    alone = pooled_interval(scans, names)
    assert turned[1] - turned[0] < 0.5 * (alone[1] - alone[0]), "who is hard for the one is easy for the other"


def test_a_kind_of_lesion_that_few_subjects_have_leaves_the_mean_without_an_interval():
    rng = np.random.default_rng(6)
    scans = [tally(*scan(rng, 1.0)) for _ in range(8)]
    few = [*scans[:4], *(tally(*scan(rng, 0.0, share=0.0)) for _ in range(4))]
    assert mean_difference([(scans, scans)], list("abcdefgh")).low == 0
    assert mean_difference([(scans, scans), (few, few)], list("abcdefgh")).low is None


LEVELS = np.arange(24)


def cohort(rng: np.random.Generator, people: int, spread: float) -> list[tuple[Tally, Tally]]:
    """People with a lesion by two maps of 24 levels, of which the first finds more; volumes are lognormal. spread: their
    standard deviation as a share of their mean."""
    sigma = np.sqrt(np.log(1 + spread**2))
    found = []
    for size, quality, noise in zip(
        rng.lognormal(6 - sigma**2 / 2, sigma, people), rng.normal(1, 0.8, people), rng.normal(0, 0.25, people), strict=True
    ):
        both = []
        for own in (quality, 0.7 * quality + rng.normal(0.2, 0.5)):
            lesion, normal = np.exp(own * LEVELS / 8 - (LEVELS / 12 - 1) ** 2), np.exp(LEVELS * (noise / 6 - 0.4))
            counts = (rng.multinomial(n, p / p.sum()) for n, p in ((20_000, normal), (max(int(size), 2), lesion)))
            both.append(Tally(LEVELS, *counts, 0))
        found.append((both[0], both[1]))
    return found


@pytest.mark.parametrize("people", [6, 10, 20])
@pytest.mark.parametrize("truth", [0.7, 0.9])
def test_intervals_of_shares_hold_them_at_least_as_often_as_they_say(people: int, truth: float):
    """Shares of the lesions found, of some lesions in each of so many people."""
    rng = np.random.default_rng(8)
    held = []
    for _ in range(400):
        lesions = rng.poisson(1.2, people) + 1
        found = rng.binomial(lesions, truth)
        without = (found.sum() - found) / (lesions.sum() - lesions)
        interval = share_interval(found.sum() / lesions.sum(), without, people)
        if interval is not None:
            held.append(interval[0] <= truth <= interval[1])
    assert np.mean(held) >= 0.94


@pytest.mark.parametrize(("people", "spread"), [(5, 0.8), (8, 1.5), (16, 1.5)])
def test_the_intervals_hold_the_figures_of_all_people_about_as_often_as_they_say(people: int, spread: float):
    """Those of a percentile bootstrap hold them in 85 to 89 of 100 trials."""
    rng = np.random.default_rng(3)
    a, b = zip(*cohort(rng, 8000, spread), strict=True)
    everybody = VoxelScores()
    everybody.merge(*(tally.scores() for tally in a))
    truth = [pooled_average_precision(a), pooled_average_precision(a) - pooled_average_precision(b), everybody.auroc()]
    names, held = [str(place) for place in range(people)], []
    for _ in range(200):
        a, b = zip(*cohort(rng, people, spread), strict=True)
        difference = pooled_difference(a, b, names)
        ends = pooled_interval(a, names), (difference.low, difference.high), auroc_interval(a, names)
        held.append([low <= true <= high for true, (low, high) in zip(truth, ends, strict=True)])
    assert (np.mean(held, axis=0) >= (0.89, 0.89, 0.84)).all(), "that of the AUROC is a little narrow"


def test_what_is_the_same_in_everybody_has_no_interval():
    """That six people do not differ says nothing of the seventh."""
    perfect = [Tally(np.array([0, 5]), np.array([9, 0]), np.array([0, 1]), 0)] * 6
    nothing = [Tally(np.array([0]), np.array([9]), np.array([0]), 1)] * 6
    for scans in (perfect, nothing):
        assert pooled_interval(scans, list("abcdef")) is auroc_interval(scans, list("abcdef")) is None
    assert pooled_interval([*perfect[:5], nothing[0]], list("abcdef")) is not None


def test_no_scan_at_all_is_a_difference_of_nothing():
    assert pooled_difference([], [], []).low is None


def test_few_subjects_with_a_lesion_have_no_interval():
    rng = np.random.default_rng(5)
    scans = [tally(*scan(rng, 1.0)) for _ in range(4)] + [tally(*scan(rng, 0.0, share=0.0)) for _ in range(9)]
    assert pooled_interval(scans, [str(place) for place in range(13)]) is None


def test_scans_that_do_not_pair_are_refused():
    one = tally(np.ones(3, np.float32), np.array([True, False, False]))
    with pytest.raises(DataError, match="cannot be paired"):
        pooled_difference([one, one], [one], ["a", "b"])
    with pytest.raises(DataError, match="no kind"):
        mean_difference([], [])
