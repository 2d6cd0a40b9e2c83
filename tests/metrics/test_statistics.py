"""The paired comparison against hand-computed values and theory."""

import numpy as np
import pytest

from medae.errors import DataError
from medae.metrics.statistics import paired_difference


def test_mean_and_wins_by_hand():
    found = paired_difference([0.9, 0.5, 0.7], [0.8, 0.6, 0.7])
    assert found.mean == pytest.approx(0.0)
    assert (found.wins, found.n) == (1, 3)
    twice = paired_difference([0.9, 0.5, 0.7] * 2, [0.8, 0.6, 0.7] * 2)
    assert "no difference could be shown" in twice.describe("a", "b")


def test_the_interval_agrees_with_the_normal_theory():
    differences = np.random.default_rng(0).normal(0.1, 0.5, 400)
    found = paired_difference(differences.tolist(), np.zeros(400).tolist())
    half = 1.96 * differences.std(ddof=1) / 20
    assert found.low == pytest.approx(differences.mean() - half, abs=0.01)
    assert found.high == pytest.approx(differences.mean() + half, abs=0.01)


def test_a_constant_difference_has_an_interval_of_no_width():
    found = paired_difference([1.5, 2.5, 3.5, 4.5, 5.5], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.low == found.high == pytest.approx(0.5)
    assert "a was better" in found.describe("a", "b")
    assert "b was better" in paired_difference([0.0] * 5, [1.0] * 5).describe("a", "b")


@pytest.mark.parametrize("n", [1, 4])
def test_a_few_cases_have_no_interval(n):
    found = paired_difference([1.0] * n, [0.5] * n)
    assert found.low is None
    assert "too few" in found.describe("a", "b")


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0])])
def test_what_cannot_be_paired_is_refused(a, b):
    with pytest.raises(DataError, match="paired"):
        paired_difference(a, b)


def test_cases_of_one_subject_are_not_independent():
    rng = np.random.default_rng(0)
    effects = rng.normal(0, 1, 20)
    values = np.repeat(effects, 9) + rng.normal(0, 0.01, 180)
    zero = np.zeros(180).tolist()
    alone = paired_difference(values.tolist(), zero)
    together = paired_difference(values.tolist(), zero, [str(subject) for subject in np.repeat(np.arange(20), 9)])
    assert (together.n, together.n_subjects) == (180, 20)
    assert together.mean == pytest.approx(alone.mean)
    assert (together.high - together.low) / (alone.high - alone.low) == pytest.approx(3.0, rel=0.15)
