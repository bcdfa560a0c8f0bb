"""Paired statistics that compare scores of NEW with those of BASE, with the patient as the independent unit.

Slices, structures and both eyes of a patient are correlated, so rows are never treated as a random sample: intervals
resample patients, tests rank one number per patient.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

BOOTSTRAP_RESAMPLES = 10_000
MIN_NONZERO_PATIENTS = 6
"""With five, the smallest two-sided p value of the signed-rank test is 2 / 2**5 = 0.0625: it cannot be significant."""

_CONFIDENCE = 0.95
_ROUNDED_TO = 1e-6  # differences of decimals are equal only after rounding; unrounded they lose their ties
_DRAWS_PER_CHUNK = 1 << 20  # patients drawn at once by the bootstrap: 8 MB of indices for any number of patients


@dataclass(frozen=True, slots=True)
class SignedRankTest:
    """Two-sided Wilcoxon signed-rank test on one difference per patient.

    Attributes:
        p: P value, not adjusted; None if the test was not made.
        nonzero: Patients whose difference is not zero; zeros have no sign and are left out (Wilcoxon's rule).
        reason: Reason for a missing p value, else None.
    """

    p: float | None
    nonzero: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """NEW against BASE on one metric of one structure.

    Attributes:
        pairs: Rows compared.
        undefined: Pairs left out since the metric is undefined in one or both.
        patients: Patients among the rows compared.
        base_mean: Mean of BASE over the rows compared; None if there are none.
        new_mean: Mean of NEW over the rows compared; None if there are none.
        difference: `new_mean - base_mean`.
        low: Lower end of the 95 % bootstrap interval of the difference; None below two patients.
        high: Upper end.
        p: Wilcoxon p value, not adjusted; None if there is a `reason`.
        reason: Reason for a missing p value.
        rank_biserial: See the function of that name.
        cohens_dz: See the function of that name.
        wins: Patients for whom NEW is better.
        ties: Patients with equal means, to 1e-6.
        losses: Patients for whom NEW is worse.
        unequal: Rows whose two values differ by at least 1e-6, also if the means of the patient are equal.
    """

    pairs: int
    undefined: int
    patients: int
    base_mean: float | None
    new_mean: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    reason: str | None
    rank_biserial: float | None
    cohens_dz: float | None
    wins: int
    ties: int
    losses: int
    unequal: int


def compare_pairs(
    base: NDArray[np.float64],
    new: NDArray[np.float64],
    patients: NDArray[Any],
    *,
    higher_is_better: bool = True,
    seed: int = 0,
    resamples: int = BOOTSTRAP_RESAMPLES,
) -> PairedComparison:
    """Compare one metric of one structure over paired rows.

    Args:
        base: Values of BASE, shape (rows,); NaN where undefined.
        new: Values of NEW for the same rows, shape (rows,).
        patients: Patient of each row, shape (rows,), any sortable type.
        higher_is_better: False for distances; gives the direction of wins.
        seed: Seed of the bootstrap; equal input and seed give equal intervals.
        resamples: Bootstrap resamples.

    Returns:
        The comparison; without a usable row its numbers are None and `reason` is given.

    Raises:
        ValueError: If the three arrays are not one-dimensional of one length.
    """
    if base.ndim != 1 or not base.shape == new.shape == patients.shape:
        msg = f"pairs need equal lengths, got base {base.shape}, new {new.shape}, patients {patients.shape}"
        raise ValueError(msg)
    usable = np.isfinite(base) & np.isfinite(new)
    base, new, patients = base[usable], new[usable], patients[usable]
    differences = patient_means(new - base, patients)
    test = signed_rank_test(differences)
    interval = cluster_bootstrap(new - base, patients, seed=seed, resamples=resamples)
    signs = np.sign(_micro(differences)) * (1 if higher_is_better else -1)
    return PairedComparison(
        pairs=base.size,
        undefined=int(np.count_nonzero(~usable)),
        patients=differences.size,
        base_mean=_mean(base),
        new_mean=_mean(new),
        difference=_mean(new - base),
        low=interval[0] if interval else None,
        high=interval[1] if interval else None,
        p=test.p,
        reason=test.reason,
        rank_biserial=rank_biserial(differences),
        cohens_dz=cohens_dz(differences),
        wins=int(np.count_nonzero(signs > 0)),
        ties=int(np.count_nonzero(signs == 0)),
        losses=int(np.count_nonzero(signs < 0)),
        unequal=_nonzero_micro(new - base).size,
    )


def is_regression(
    comparison: PairedComparison, adjusted_p: float | None, *, higher_is_better: bool = True, alpha: float = 0.05
) -> bool:
    """True if NEW is significantly worse, at the level `alpha` after adjustment; False if no test was possible."""
    return _shown_direction(comparison, adjusted_p, alpha) == (-1 if higher_is_better else 1)


def is_improvement(
    comparison: PairedComparison, adjusted_p: float | None, *, higher_is_better: bool = True, alpha: float = 0.05
) -> bool:
    """True if NEW is significantly better, at the level `alpha` after adjustment; False if no test was possible."""
    return _shown_direction(comparison, adjusted_p, alpha) == (1 if higher_is_better else -1)


def _shown_direction(comparison: PairedComparison, adjusted_p: float | None, alpha: float) -> int:
    """1 if NEW is significantly larger, -1 if smaller, 0 if neither is shown.

    The test ranks patients, the difference is the mean of rows: a few outliers, or patients with many rows, can turn
    the mean against the ranks. Then neither direction is shown, for any p.
    """
    difference, ranks = comparison.difference, comparison.rank_biserial
    if adjusted_p is None or adjusted_p > alpha or difference is None or ranks is None:
        return 0
    return int(np.sign(difference)) if np.sign(difference) == np.sign(ranks) else 0


def patient_means(values: NDArray[np.float64], patients: NDArray[Any]) -> NDArray[np.float64]:
    """Mean of the rows of each patient, shape (patients,), in sorted order of the patients."""
    sums, rows = _patient_sums(values, patients)
    return sums / rows


def cluster_bootstrap(
    values: NDArray[np.float64], patients: NDArray[Any], *, seed: int, resamples: int = BOOTSTRAP_RESAMPLES
) -> tuple[float, float] | None:
    """95 % percentile interval of the mean of rows if patients, with all their rows, are drawn with replacement.

    A resample is a multinomial weight per patient, so it costs one product with the sums per patient and no row is
    copied (cluster bootstrap; Davison and Hinkley 1997, section 3.8).

    Args:
        values: Shape (rows,), finite; paired differences, or scores.
        patients: Patient of each row, shape (rows,).
        seed: Seed of the draws.
        resamples: Number of resamples.
        confidence: Coverage that the interval aims at.

    Returns:
        The interval, or None below two patients: one patient says nothing about the spread between patients.
    """
    sums, rows = _patient_sums(values, patients)
    if sums.size < 2:
        return None
    random = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_PER_CHUNK // sums.size)
    means = np.concatenate(
        [
            _resampled_means(random, sums, rows, resamples=min(at_once, resamples - start))
            for start in range(0, resamples, at_once)
        ]
    )
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def signed_rank_test(differences: NDArray[np.float64]) -> SignedRankTest:
    """Wilcoxon signed-rank test of the hypothesis that one difference per patient is symmetric about zero.

    Differences are rounded to 1e-6 first, since float noise breaks ties and zeros. Exact up to 50 patients without ties
    and up to 13 with ties; normal approximation with tie correction beyond (scipy's `auto`).

    Args:
        differences: Shape (patients,), finite.
    """
    nonzero = _nonzero_micro(differences)
    if nonzero.size < MIN_NONZERO_PATIENTS:
        reason = f"{nonzero.size} of {differences.size} patients differ; the test needs {MIN_NONZERO_PATIENTS}"
        return SignedRankTest(None, nonzero.size, reason)
    return SignedRankTest(float(stats.wilcoxon(nonzero).pvalue), nonzero.size, None)


def rank_biserial(differences: NDArray[np.float64]) -> float | None:
    """Matched-pairs rank-biserial correlation of one difference per patient (Kerby 2014), in [-1, 1].

    Share of the rank sum of positive differences minus that of negative ones; None if every difference is zero.
    """
    nonzero = _nonzero_micro(differences)
    ranks = stats.rankdata(np.abs(nonzero))
    return float((np.sign(nonzero) * ranks).sum() / ranks.sum()) if nonzero.size else None


def cohens_dz(differences: NDArray[np.float64]) -> float | None:
    """Mean difference over the standard deviation; None if that is zero or there are fewer than two patients."""
    spread = float(differences.std(ddof=1)) if differences.size > 1 else 0.0
    return float(differences.mean()) / spread if spread > _ROUNDED_TO else None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p values so that the chance of any false positive in the family stays below the level (Holm 1979).

    The i-th smallest of m is multiplied by m - i + 1, never falls below an earlier one and never exceeds 1.

    Args:
        p_values: One per test; None where no test was made: it stays None and does not count as a test.
    """
    tested = sorted((p, position) for position, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, position) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(tested) - rank)))
        adjusted[position] = largest
    return adjusted


def _patient_sums(values: NDArray[np.float64], patients: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Sum and number of the rows of each patient, both of shape (patients,)."""
    _, patient_of_row = np.unique(patients, return_inverse=True)
    sums = np.bincount(patient_of_row, weights=values).astype(np.float64)  # without rows numpy counts
    return sums, np.bincount(patient_of_row)


def _resampled_means(
    random: np.random.Generator, sums: NDArray[np.float64], rows: NDArray[np.intp], *, resamples: int
) -> NDArray[np.float64]:
    drawn = random.integers(sums.size, size=(resamples, sums.size))
    drawn += np.arange(resamples)[:, np.newaxis] * sums.size
    weights = np.bincount(drawn.reshape(-1), minlength=drawn.size).reshape(drawn.shape)
    return np.asarray((weights @ sums) / (weights @ rows), dtype=np.float64)


def _micro(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Differences as whole millionths, so that equal ones are equal."""
    return np.asarray(np.rint(differences / _ROUNDED_TO), dtype=np.float64)


def _nonzero_micro(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    rounded = _micro(differences)
    return rounded[np.flatnonzero(rounded)]


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if values.size else None
