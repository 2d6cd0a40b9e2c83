"""The paired comparison against hand-computed values and theory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import t as student
from scipy.stats import ttest_1samp, ttest_rel

from medae.errors import DataError
from medae.metrics.statistics import beyond_pool, by_subject, crossed_difference, crossed_mean, holm, paired_difference


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


@pytest.mark.parametrize("subjects", [5, 8, 20])
def test_the_interval_covers_even_with_few_subjects(subjects):
    rng, trials = np.random.default_rng(0), 600
    found = [paired_difference(rng.normal(0, 1, subjects).tolist(), [0.0] * subjects) for _ in range(trials)]
    covered = sum(one.low <= 0 <= one.high for one in found) / trials
    assert 0.92 < covered < 0.98  # a percentile bootstrap of 5 covers 0.85


def test_the_interval_over_subjects_by_hand():
    # cases 0, 2 of one subject, 1, 3, 3 of four others; mean 1.8, residuals -1.6, -0.8, 1.2, 1.2 and 0 of a case of 1.8
    found = paired_difference([0.0, 2.0, 1.0, 3.0, 3.0, 1.8], [0.0] * 6, ["a", "a", "b", "c", "d", "e"])
    error = np.sqrt(5 / 4 * (1.6**2 + 0.8**2 + 2 * 1.2**2)) / 6
    half = student.ppf(0.975, 4) * error
    assert (found.low, found.high) == pytest.approx((1.8 - half, 1.8 + half))


def test_intervals_and_tests_are_those_of_scipy_where_it_has_them():
    a, b = np.random.default_rng(3).normal(0.8, 0.1, (2, 12))
    found, low_high = paired_difference(a.tolist(), b.tolist()), ttest_1samp(a - b, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(low_high))
    # all cases alike: what is left is a paired t-test over draws; all draws alike: one over cases
    draws = crossed_difference(np.tile(a[:, None], 9).tolist(), np.tile(b[:, None], 9).tolist())
    cases = crossed_difference([a.tolist()] * 3, [b.tolist()] * 3)
    assert draws.p() == pytest.approx(ttest_rel(a, b).pvalue)
    assert cases.p() == pytest.approx(ttest_rel(a, b).pvalue)


def test_a_constant_difference_has_an_interval_of_no_width():
    found = paired_difference([1.5, 2.5, 3.5, 4.5, 5.5], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.low == found.high == pytest.approx(0.5)
    assert "a was better" in found.describe("a", "b")
    assert "b was better" in paired_difference([0.0] * 5, [1.0] * 5).describe("a", "b")


@pytest.mark.parametrize("n", [1, 4])
def test_a_few_cases_have_no_interval(n):
    found = paired_difference([1.0] * n, [0.5] * n)
    assert found.low is None
    assert "subjects: too few" in found.describe("a", "b")


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


def test_the_crossed_interval_by_hand():
    # grand mean 2; draw means 1 and 3, case means 1, 2 and 3: MS_draws = 3 * 2, MS_cases = 2 * 1
    found = crossed_difference([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]], [[0.0] * 3, [0.0] * 3])
    degrees = (6 + 2) ** 2 / (6**2 / 1 + 2**2 / 2)
    half = student.ppf(0.975, degrees) * np.sqrt((6 + 2) / 6)
    assert found.mean == pytest.approx(2.0)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half))
    assert found.deviation == pytest.approx(np.sqrt(2))
    assert (found.n_draws, found.n_subjects) == (2, 3)


def test_an_interval_ends_where_the_score_does():
    found = crossed_mean([[0.1, 0.9], [0.9, 0.8]], ["a", "b"])
    assert found.low is not None and found.low < 0 and found.high is not None and found.high > 1
    cut = found.within(0.0, 1.0)
    assert (cut.low, cut.high) == (0.0, 1.0) and cut.mean == found.mean
    assert found.within(-99.0, 99.0) == found
    alone = crossed_mean([[0.5, 0.9]], ["a", "b"])
    assert alone.within(0.0, 1.0) == alone


def test_the_p_value_is_the_larger_of_two_and_the_half_goes_with_it():
    zero = np.zeros((3, 4)).tolist()
    # draws 1, 2, 3 of equal cases: t = 2 / (1 / sqrt(3)) with 2 degrees of freedom in both
    alike = crossed_difference(np.repeat([[1.0], [2.0], [3.0]], 4, axis=1).tolist(), zero)
    assert alike.p() == pytest.approx(2 * student.sf(2 * np.sqrt(3), 2))
    # equal draws of cases 1, 2, 3, 4: MS_cases = 3 * 5 / 3 alone, 3 degrees of freedom, t = 2.5 / sqrt(5 / 12)
    others = crossed_difference([[1.0, 2.0, 3.0, 4.0]] * 3, zero)
    assert others.p() == pytest.approx(2 * student.sf(2.5 / np.sqrt(5 / 12), 3))
    rng = np.random.default_rng(1)
    for _ in range(20):
        found = crossed_difference(
            (rng.normal(0, 0.01, (4, 1)) + rng.normal(0, 0.02, (4, 30))).tolist(), np.zeros((4, 30)).tolist()
        )
        edge = found.model_copy(update={"mean": found.half()})
        assert edge.p() == pytest.approx(0.05)
        assert found.high - found.mean <= found.half() + 1e-12, "what p shows, the interval shows too"
        seven = found.model_copy(update={"mean": found.half(7)})
        assert holm([seven.p(), *[1.0] * 6])[0] == pytest.approx(0.05), "the smallest of seven is significant from there on"


@pytest.mark.parametrize(("draws", "draw_deviation"), [(3, 0.012), (3, 0.0), (8, 0.004)])
def test_no_difference_is_hardly_ever_shown_among_sixteen_comparisons(draws, draw_deviation):
    rng, shown, trials, zero = np.random.default_rng(0), 0, 1500, np.zeros((draws, 20)).tolist()
    for _ in range(trials):
        table = rng.normal(0, draw_deviation, (draws, 1)) + rng.normal(0, 0.01, (1, 20)) + rng.normal(0, 0.02, (draws, 20))
        shown += crossed_difference(table.tolist(), zero).p() < 0.05 / 16
    assert shown <= 10  # 4.7 are expected at the most; the interval's t alone gives 30 with three draws that differ


def test_two_cases_of_one_subject_count_as_one_person_and_twice_in_the_mean():
    # cases 1, 1, 4 of subjects x, x, y: mean 2; deviations x -2, y +2, times 2 subjects / 3 cases: 2 - 4/3 and 2 + 4/3
    table = np.array([[1.0, 1.0, 4.0], [2.0, 2.0, 5.0]])
    assert by_subject(table, ["x", "x", "y"]) == pytest.approx(np.array([[2 / 3, 10 / 3], [5 / 3, 13 / 3]]))
    found = crossed_mean(table, ["x", "x", "y"])
    assert found.mean == pytest.approx(table.mean())
    assert crossed_mean(by_subject(table, ["x", "x", "y"])) == found
    assert by_subject(table, None) is table


def test_nine_volumes_of_a_person_are_no_nine_people():
    rng = np.random.default_rng(0)
    people = np.repeat(rng.normal(0, 1, 20), 9)
    table = people + rng.normal(0, 0.01, (3, 180))
    names = [str(person) for person in np.repeat(np.arange(20), 9)]
    alone, together = crossed_mean(table), crossed_mean(table, names)
    assert together.mean == pytest.approx(alone.mean)
    assert together.error / alone.error == pytest.approx(3.0, rel=0.15)


def test_holm_by_hand_and_as_it_was_planned():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.01, 0.04, 0.03], planned=5) == pytest.approx([0.05, 0.12, 0.12])
    assert holm([0.01, 0.04, 0.03], planned=5) == pytest.approx(holm([0.01, 0.04, 0.03, 1.0, 1.0])[:3])
    assert holm([]) == []


@pytest.mark.parametrize(("mean", "p"), [(0.25, 0.0), (0.0, 1.0)])
def test_differences_that_are_all_equal_have_a_p_value(mean, p):
    assert crossed_difference(np.full((3, 4), mean).tolist(), np.zeros((3, 4)).tolist()).p() == p


@pytest.mark.parametrize(("draws", "cases"), [(1, 1), (1, 5), (3, 1)])
def test_one_draw_or_one_case_has_no_crossed_interval(draws, cases):
    found = crossed_difference(np.ones((draws, cases)).tolist(), np.zeros((draws, cases)).tolist())
    assert found.mean == 1.0
    assert found.low is None and found.high is None
    assert found.p() is None and found.half() is None


def test_equal_differences_have_a_crossed_interval_of_no_width():
    found = crossed_difference(np.full((3, 4), 0.75).tolist(), np.full((3, 4), 0.5).tolist())
    assert found.low == found.high == 0.25


@pytest.mark.parametrize(("draw_deviation", "case_deviation"), [(0.012, 0.01), (0.012, 0.0), (0.0, 0.01)])
def test_the_crossed_interval_covers_draws_and_cases_even_of_three_draws(draw_deviation, case_deviation):
    rng, covered, trials = np.random.default_rng(0), 0, 500
    zero = np.zeros((3, 60)).tolist()
    for _ in range(trials):
        draws, cases = rng.normal(0, draw_deviation, (3, 1)), rng.normal(0, case_deviation, (1, 60))
        found = crossed_difference((draws + cases + rng.normal(0, 0.02, (3, 60))).tolist(), zero)
        covered += found.low <= 0 <= found.high
    assert covered / trials > 0.9  # a bootstrap over draws and cases covers 0.79 to 0.85 where draws differ


@pytest.mark.parametrize(("labelled", "pool", "draws"), [(8, 32, 8), (16, 32, 3)])
def test_the_crossed_interval_is_of_the_pool_that_all_draws_are_from(labelled, pool, draws):
    rng, trials, cases = np.random.default_rng(0), 800, np.zeros((draws, 5)).tolist()
    means, errors, of_pool = [], [], 0
    for _ in range(trials):
        people = rng.normal(0, 1, pool)
        scores = np.array([rng.permutation(people)[:labelled].mean() for _ in range(draws)])
        found = crossed_difference(np.repeat(scores[:, None], 5, axis=1).tolist(), cases)
        of_pool += found.low <= people.mean() <= found.high
        means.append(found.mean)
        errors.append(found.error)
    assert of_pool / trials == pytest.approx(0.95, abs=0.025)
    too_small = np.std(means) / np.sqrt(np.mean(np.square(errors)))
    assert too_small == pytest.approx(beyond_pool(labelled, pool, draws), rel=0.08), "for another pool"


def test_how_much_more_uncertain_another_pool_is_by_hand():
    assert beyond_pool(8, 32, 8) == pytest.approx(np.sqrt((1 + 7 / 4) / (3 / 4)))
    assert beyond_pool(1, 10**9, 8) == pytest.approx(1)
    assert beyond_pool(32, 32, 3) == np.inf


@given(
    arrays(np.float64, (3, 5), elements=st.floats(-1, 1)),
    st.permutations(range(3)),
    st.permutations(range(5)),
)
def test_the_order_of_draws_and_cases_does_not_matter(table, draws, cases):
    zero = np.zeros((3, 5)).tolist()
    one = crossed_difference(table.tolist(), zero)
    other = crossed_difference(table[draws][:, cases].tolist(), zero)
    assert (other.mean, other.low, other.high) == pytest.approx((one.mean, one.low, one.high))


@pytest.mark.parametrize(("a", "b"), [([], []), ([[1.0]], [[1.0, 2.0]]), ([1.0], [1.0])])
def test_tables_that_cannot_be_paired_are_refused(a, b):
    with pytest.raises(DataError, match="paired"):
        crossed_difference(a, b)


def test_differences_that_nearly_vanish_have_an_interval_too():
    tiny = np.full((3, 5), 4e-137)
    tiny[0, 0] = 0
    found = crossed_difference(tiny.tolist(), np.zeros((3, 5)).tolist())
    assert found.low is not None and found.low < found.mean < found.high
