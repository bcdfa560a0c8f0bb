import numpy as np
import pytest
from scipy import stats

from medsam3_core.metrics import statistics
from medsam3_core.metrics.statistics import (
    cluster_bootstrap,
    cohens_dz,
    compare_pairs,
    holm,
    is_improvement,
    is_regression,
    patient_means,
    rank_biserial,
    signed_rank_test,
)


def two_runs(random, *, n_patients=20, rows_each=2, shift=0.0, noise=0.03):
    """Dice of two runs on the same patients, whose rows resemble each other; NEW is `shift` better on average."""
    patients = np.repeat(np.arange(n_patients), rows_each)
    difficulty = random.normal(0.8, 0.08, n_patients)[patients]
    preference = random.normal(shift, noise, n_patients)[patients]  # what a patient's rows have in common
    base = difficulty + random.normal(0, noise, patients.size)
    new = difficulty + preference + random.normal(0, noise, patients.size)
    return base, new, patients


def test_patients_count_once_however_many_rows_they_have():
    values, patients = np.array([1.0, 3.0, 5.0, 7.0]), np.array(["b", "a", "b", "b"])
    np.testing.assert_allclose(patient_means(values, patients), [3.0, 13 / 3])


def test_the_comparison_of_a_few_rows_by_hand():
    base = np.array([0.5, 0.7, 0.9, 0.6, np.nan])
    new = np.array([0.6, 0.8, 0.9, 0.5, 0.4])
    found = compare_pairs(base, new, np.array(["p1", "p1", "p2", "p3", "p3"]), seed=1)
    assert (found.pairs, found.undefined, found.patients) == (4, 1, 3)
    assert (found.base_mean, found.new_mean) == (pytest.approx(0.675), pytest.approx(0.7))
    assert found.difference == pytest.approx(0.025)
    assert (found.wins, found.ties, found.losses) == (1, 1, 1)
    assert found.p is None
    assert found.reason == "2 of 3 patients differ; the test needs 6"
    assert found.rank_biserial == 0.0
    assert found.low < found.difference < found.high


def test_a_win_in_a_distance_is_a_smaller_one():
    found = compare_pairs(np.array([3.0, 4.0]), np.array([2.0, 4.0]), np.arange(2), higher_is_better=False)
    assert (found.wins, found.ties, found.losses) == (1, 1, 0)
    assert found.difference == -0.5


def test_no_usable_pair_gives_a_reason_and_no_numbers():
    found = compare_pairs(np.array([np.nan]), np.array([0.5]), np.array(["p"]))
    assert (found.pairs, found.undefined, found.patients) == (0, 1, 0)
    assert found.base_mean is found.difference is found.low is found.p is found.rank_biserial is found.cohens_dz is None
    assert found.reason == "0 of 0 patients differ; the test needs 6"


def test_arrays_that_are_not_pairs_are_refused():
    with pytest.raises(ValueError, match=r"pairs need equal lengths, got base \(3,\), new \(2,\), patients \(3,\)"):
        compare_pairs(np.zeros(3), np.zeros(2), np.zeros(3))


@pytest.mark.parametrize("n_patients", [8, 30, 200])
def test_the_signed_rank_test_equals_that_of_scipy(n_patients):
    differences = np.random.default_rng(n_patients).normal(0.01, 0.05, n_patients)
    found = signed_rank_test(differences)
    assert found.p == pytest.approx(stats.wilcoxon(differences.round(6)).pvalue, rel=1e-12)
    assert (found.nonzero, found.reason) == (n_patients, None)


def test_differences_that_are_equal_but_for_float_noise_are_tied():
    base = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    new = base + np.array([0.1, 0.1, 0.1, -0.1, 0.1, 0.1, 0.2, 0.3])
    assert len(set(np.abs(new - base))) > 3  # noise breaks the ties
    exact = np.array([1, 1, 1, -1, 1, 1, 2, 3])
    assert signed_rank_test(new - base).p == stats.wilcoxon(exact).pvalue
    assert rank_biserial(new - base) == pytest.approx((36 - 3.5 * 2) / 36)


def test_equal_runs_have_no_p_value_but_a_reason():
    found = signed_rank_test(np.full(40, 1e-9))
    assert (found.p, found.nonzero) == (None, 0)
    assert found.reason == "0 of 40 patients differ; the test needs 6"


def test_six_patients_are_the_fewest_that_can_be_significant():
    assert signed_rank_test(np.arange(1.0, 6)).p is None
    assert signed_rank_test(np.arange(1.0, 7)).p == pytest.approx(2 / 2**6)


def test_the_rank_biserial_correlation_is_the_share_of_ranks_in_favour_minus_against():
    assert rank_biserial(np.array([0.1, 0.2, -0.3, 0.4])) == pytest.approx((1 + 2 + 4 - 3) / 10)
    assert rank_biserial(np.array([0.1, 0.2])) == 1.0
    assert rank_biserial(np.zeros(5)) is None


def test_cohens_dz_is_the_mean_in_standard_deviations():
    assert cohens_dz(np.array([0.1, 0.2, 0.3])) == pytest.approx(0.2 / 0.1)
    assert cohens_dz(np.full(5, 0.2)) is None
    assert cohens_dz(np.array([0.2])) is None


def test_holm_by_hand():
    # Sorted: 0.005 * 4, 0.01 * 3, 0.03 * 2, 0.04 * 1, where the last is lifted to the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_never_exceeds_one_and_does_not_count_tests_that_were_not_made():
    assert holm([0.9, None, 0.6]) == [1.0, None, 1.0]
    assert holm([0.04, None]) == [0.04, None]
    assert holm([]) == []


def test_holm_equals_its_definition_as_statsmodels_writes_it():
    p = np.random.default_rng(0).random(50) ** 3
    order = np.argsort(p)
    expected = np.empty(50)
    expected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(50, 0, -1)), 1)
    assert holm(p.tolist()) == pytest.approx(expected.tolist(), rel=1e-12)


def test_the_bootstrap_of_single_rows_equals_that_of_scipy():
    values = np.random.default_rng(0).gamma(2, size=40)
    ours = cluster_bootstrap(values, np.arange(40), seed=0)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=1).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), rel=0.02)


def test_copies_of_a_patients_rows_do_not_narrow_the_interval():
    values = np.random.default_rng(0).normal(size=30)
    once = cluster_bootstrap(values, np.arange(30), seed=3)
    tenfold = cluster_bootstrap(np.repeat(values, 10), np.repeat(np.arange(30), 10), seed=3)
    assert tenfold == pytest.approx(once)


def test_the_bootstrap_depends_on_the_seed_alone_not_on_chunks(monkeypatch):
    base, new, patients = two_runs(np.random.default_rng(0))
    whole = cluster_bootstrap(new - base, patients, seed=5, resamples=501)
    assert cluster_bootstrap(new - base, patients, seed=6, resamples=501) != whole
    monkeypatch.setattr(statistics, "_DRAWS_PER_CHUNK", 77)
    assert cluster_bootstrap(new - base, patients, seed=5, resamples=501) == whole


def test_one_patient_has_no_interval():
    assert cluster_bootstrap(np.array([0.1, 0.2]), np.array(["p", "p"]), seed=0) is None


def test_the_interval_covers_the_true_difference_about_as_often_as_it_says():
    random = np.random.default_rng(11)
    covered = 0
    for seed in range(200):
        base, new, patients = two_runs(random, n_patients=30, shift=0.02)
        low, high = cluster_bootstrap(new - base, patients, seed=seed, resamples=400)
        covered += low <= 0.02 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_between_two_equal_runs_at_most_one_in_twenty_is_significant():
    random = np.random.default_rng(2024)
    raw, adjusted = [], []
    for _ in range(300):
        p_values = [compare_pairs(*two_runs(random), resamples=1).p for _ in range(6)]
        raw += p_values
        adjusted += holm(p_values)
    assert np.mean(np.array(adjusted) <= 0.05) <= 0.05
    # Unadjusted it is one in twenty, give or take three standard errors of 1800 tests: neither dead nor too eager.
    assert 0.035 <= np.mean(np.array(raw) <= 0.05) <= 0.065


def test_a_regression_of_five_points_on_one_of_six_structures_is_found_and_no_other():
    random = np.random.default_rng(7)
    shifts = [0.0, 0.0, -0.05, 0.0, 0.0, 0.0]
    found = [compare_pairs(*two_runs(random, n_patients=30, shift=shift), seed=0) for shift in shifts]
    adjusted = holm([comparison.p for comparison in found])
    assert [is_regression(*pair) for pair in zip(found, adjusted, strict=True)] == [shift < 0 for shift in shifts]
    worse = found[2]
    assert worse.low < -0.05 < worse.high < 0
    assert worse.rank_biserial < -0.5
    assert worse.losses > worse.wins


def test_an_improvement_or_a_missing_test_is_no_regression():
    better = compare_pairs(*two_runs(np.random.default_rng(0), n_patients=30, shift=0.05))
    assert better.p < 0.01
    assert not is_regression(better, better.p)
    assert is_regression(better, better.p, higher_is_better=False)
    assert not is_regression(better, None)
    assert is_improvement(better, better.p)
    assert not is_improvement(better, better.p, higher_is_better=False)
    assert not is_improvement(better, None)


@pytest.mark.parametrize("sign", [1, -1])
def test_ranks_and_mean_that_disagree_show_neither_direction(sign):
    changes = sign * np.array([-0.01 - 0.001 * patient for patient in range(20)] + [0.5, 0.6])
    found = compare_pairs(np.full(22, 0.5), 0.5 + changes, np.arange(22))
    assert found.p < 0.01
    assert np.sign(found.difference) == sign == -np.sign(found.rank_biserial)
    assert not is_regression(found, found.p)
    assert not is_improvement(found, found.p)


def test_rows_differ_although_the_means_of_their_patients_are_equal():
    base, patients = np.full(4, 0.5), np.array(["p1", "p1", "p2", "p2"])
    found = compare_pairs(base, base + np.array([0.1, -0.1, 0.2, -0.2]), patients)
    assert (found.wins, found.ties, found.losses, found.unequal) == (0, 2, 0, 4)
    assert compare_pairs(base, base + 1e-9, patients).unequal == 0
