"""Comparison of BASE and NEW on pairs of scores: one verdict per cohort, prompts, settings and structure.

Rules for a pair:
- both scored and the structure present: the difference of the metric;
- one failed: it counts as 0 if 0 is the worst value (overlap), and is left out of distances;
- both failed, or either trained on the case: left out, and counted;
- cases in mm and others in px: distances and NSD are undefined for the whole structure;
- structure absent: left out of the means; a non-empty prediction is counted as a false alarm.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import pandas as pd

from medsam3_core.errors import UsageError
from medsam3_core.metrics.statistics import PairedComparison, compare_pairs, holm, is_improvement, is_regression
from medsam3_core.metrics.table import METRICS
from storage.comparisons.pairs import read_pairs
from storage.store.layout import StoreLayout

WORST_CASES = 10
GROUP_KEYS = ("cohort", "prompt", "settings", "rater")
_PRESENT = ("none", "prediction")
_ABSENT = ("both", "reference")
ALPHA = 0.05


class Verdict(StrEnum):
    """Conclusion about NEW."""

    WORSE = "worse"
    WITHIN_MARGIN = "worse, within margin"
    BETTER = "better"
    NOT_SHOWN = "unclear"
    IDENTICAL = "identical"
    TOO_FEW = "too few patients"
    NO_PAIRS = "nothing to compare"


@dataclass(frozen=True, slots=True)
class ComparisonRequest:
    """Weights, cases and metrics to compare.

    Attributes:
        base: `NAME` or `NAME@N`.
        new: `NAME` or `NAME@N`.
        cohorts: These cohorts; empty for all.
        split: This split; None for all cases.
        metrics: Columns of `scores`; the first one ranks the worst cases.
        margins: Per metric, the loss of the mean that is tolerated before it counts as a regression.
    """

    base: str
    new: str
    cohorts: tuple[str, ...] = ()
    split: str | None = None
    metrics: tuple[str, ...] = ("dice",)
    margins: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for metric in (*self.metrics, *self.margins):
            if metric not in METRICS:
                msg = f"unknown metric {metric!r}; choose among: {', '.join(METRICS)}"
                raise UsageError(msg)
        if unused := sorted(set(self.margins) - set(self.metrics)):
            msg = f"margin for {', '.join(unused)}, which is not compared; add --metric {unused[0]}"
            raise UsageError(msg)
        for metric, margin in self.margins.items():
            if not 0 <= margin < float("inf"):
                msg = f"margin {metric}={margin} is not a number from 0 upwards"
                raise UsageError(msg)


@dataclass(frozen=True, slots=True)
class StructureComparison:
    """One metric of one structure under one protocol.

    Attributes:
        cohort: Cohort.
        prompt: Canonical policy, shared by both.
        settings: Inference settings, shared by both.
        rater: Rater of the reference.
        structure: Structure.
        metric: Column of `scores`.
        unit: Unit of the metric; empty for shares.
        numbers: Means, interval, test, wins and losses.
        adjusted_p: Holm over the structures of the group; None without a test.
        verdict: Conclusion.
        base_failed: Pairs without a score of BASE.
        new_failed: Pairs without a score of NEW.
        absent: Pairs whose case lacks the structure.
        base_false_alarms: Of these, pairs in which BASE predicted it.
        new_false_alarms: Of these, pairs in which NEW predicted it.
        in_training: Pairs left out because one of the weights was trained on the case.
        two_units: True if counted pairs are in mm and in px, so that a metric that needs one unit is undefined.
    """

    cohort: str
    prompt: str
    settings: str
    rater: str
    structure: str
    metric: str
    unit: str
    numbers: PairedComparison
    adjusted_p: float | None
    verdict: Verdict
    base_failed: int
    new_failed: int
    absent: int
    base_false_alarms: int
    new_false_alarms: int
    in_training: int
    two_units: bool

    @property
    def group(self) -> tuple[str, str, str, str]:
        """Keys that both runs share besides the structure: cohort, prompt, settings, rater."""
        return (self.cohort, self.prompt, self.settings, self.rater)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Result of a comparison.

    Attributes:
        request: The request.
        structures: One entry per metric, group and structure.
        worst: The cases that lost most on the first metric, worst first; at most ten rows of `pairs`.
        pairs: Every counted pair, with `metric`, `base`, `new`, `difference` and `loss` (positive where NEW is
            worse) beside the columns of the macro.
    """

    request: ComparisonRequest
    structures: tuple[StructureComparison, ...]
    worst: pd.DataFrame
    pairs: pd.DataFrame

    @property
    def regressions(self) -> tuple[StructureComparison, ...]:
        """Structures on which NEW is significantly worse by more than the margin."""
        return tuple(item for item in self.structures if item.verdict is Verdict.WORSE)


def compare_weights(store: StoreLayout, request: ComparisonRequest) -> Comparison:
    """Compare two weights on all runs that they have in common.

    Raises:
        UsageError: If there are none; lists comparable weights.
    """
    rows = read_pairs(store, request.base, request.new, request.cohorts, request.split)
    parts, pairs = [], []
    for metric in request.metrics:
        found, counted = _compare_metric(rows, metric, request.margins.get(metric, 0.0))
        parts += found
        pairs.append(counted)
    first = pairs[0]
    worst = first[first["loss"] > 0].sort_values(["loss", "case_id"], ascending=[False, True]).head(WORST_CASES)
    return Comparison(request, tuple(parts), worst.reset_index(drop=True), pd.concat(pairs, ignore_index=True))


def _compare_metric(rows: pd.DataFrame, metric: str, margin: float) -> tuple[list[StructureComparison], pd.DataFrame]:
    """All groups and structures on one metric, Holm over the structures of a group."""
    counted = _pairs_that_count(rows, metric)
    keys = [*GROUP_KEYS, "structure"]
    groups = dict(list(counted.groupby(keys, sort=False, dropna=False)))
    families: dict[tuple[Hashable, ...], list[tuple[pd.DataFrame, PairedComparison]]] = {}
    for key, all_rows in rows.groupby(keys, sort=False, dropna=False):
        part = groups.get(key, counted.iloc[:0])
        numbers = compare_pairs(
            part["base"].to_numpy(np.float64),
            part["new"].to_numpy(np.float64),
            part["patient_id"].to_numpy(str),
            higher_is_better=METRICS[metric].higher_is_better,
        )
        families.setdefault(key[:-1], []).append((all_rows, numbers))
    compared = [
        _structure_comparison(part, metric, numbers, p, margin)
        for family in families.values()
        for (part, numbers), p in zip(family, holm([numbers.p for _, numbers in family]), strict=True)
    ]
    return compared, counted


def _pairs_that_count(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Counted rows with their values, see the module's docstring."""
    counted = _that_count(rows).copy()
    mixed = counted.groupby([*GROUP_KEYS, "structure"], dropna=False)["distance_unit"].transform("nunique") > 1
    for side in ("base", "new"):
        values = counted[f"{side}_{metric}"].to_numpy(np.float64, na_value=np.nan)
        if METRICS[metric].higher_is_better:
            values = np.where(counted[f"{side}_status"].to_numpy() == "scored", values, 0.0)
        counted[side] = values
        if METRICS[metric].needs_one_unit:
            counted.loc[mixed, side] = np.nan
    counted["metric"] = metric
    counted["difference"] = counted["new"] - counted["base"]
    counted["loss"] = -counted["difference"] if METRICS[metric].higher_is_better else counted["difference"]
    return counted


def _that_count(rows: pd.DataFrame) -> pd.DataFrame:
    present = rows["base_empty"].isin(_PRESENT) | rows["new_empty"].isin(_PRESENT)
    return rows[present & ~rows["in_training"]]


def _structure_comparison(
    rows: pd.DataFrame, metric: str, numbers: PairedComparison, adjusted_p: float | None, margin: float
) -> StructureComparison:
    first = rows.iloc[0]
    absent = rows["base_empty"].isin(_ABSENT) | rows["new_empty"].isin(_ABSENT)
    units = _that_count(rows)["distance_unit"].dropna().unique()  # rows without a score have none
    return StructureComparison(
        cohort=first["cohort"],
        prompt=first["prompt"],
        settings=first["settings"],
        rater=first["rater"],
        structure=first["structure"],
        metric=metric,
        unit=str(units[0]) if METRICS[metric].is_distance and len(units) == 1 else "",
        numbers=numbers,
        adjusted_p=adjusted_p,
        verdict=_verdict(numbers, adjusted_p, metric, margin),
        base_failed=int((rows["base_status"] != "scored").sum()),
        new_failed=int((rows["new_status"] != "scored").sum()),
        absent=int(absent.sum()),
        base_false_alarms=int((rows["base_empty"] == "reference").sum()),
        new_false_alarms=int((rows["new_empty"] == "reference").sum()),
        in_training=int(rows["in_training"].sum()),
        two_units=METRICS[metric].needs_one_unit and len(units) > 1,
    )


def _verdict(numbers: PairedComparison, adjusted_p: float | None, metric: str, margin: float) -> Verdict:
    if numbers.difference is None:
        return Verdict.NO_PAIRS
    if not numbers.unequal:
        return Verdict.IDENTICAL
    if adjusted_p is None:
        return Verdict.TOO_FEW
    upwards = METRICS[metric].higher_is_better
    if is_regression(numbers, adjusted_p, higher_is_better=upwards, alpha=ALPHA):
        return Verdict.WORSE if abs(numbers.difference) > margin else Verdict.WITHIN_MARGIN
    if is_improvement(numbers, adjusted_p, higher_is_better=upwards, alpha=ALPHA):
        return Verdict.BETTER
    return Verdict.NOT_SHOWN
