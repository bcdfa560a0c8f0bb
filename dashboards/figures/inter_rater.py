"""How far two people agree: the second rater scored against the first, as if it were a prediction."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from dashboards.figures.pictures import open_case_picture
from medsam3_core.errors import CaseDataError, StoreError
from medsam3_core.metrics.scoring import score_structure
from storage.cohorts.cohorts import read_cohort
from storage.store.layout import StoreLayout

MOST_CASES = 100
"""Cases that are read for it, the first by name: a page must not wait for a cohort of thousands."""


def inter_rater_scores(store: StoreLayout, cases: pd.DataFrame) -> pd.DataFrame:
    """One row per structure that two raters drew: its metric columns as means, and `cases`.

    Args:
        store: The store.
        cases: Rows of `pages.accepted_cases` of one cohort; those with fewer than two raters are left out.

    Raises:
        UsageError: If the cohort does not exist.
    """
    several = cases[cases["raters"].map(len) > 1].head(MOST_CASES)
    rows = [row for case in several.to_dict("records") for row in _case_rows(store, case)]
    if not rows:
        return pd.DataFrame(columns=["structure", "cases", "dice"])
    frame = pd.DataFrame(rows)
    means = frame.groupby("structure", sort=False).mean(numeric_only=True)
    return means.assign(cases=frame.groupby("structure", sort=False).size()).reset_index()


def _case_rows(store: StoreLayout, case: Mapping[Any, Any]) -> list[dict[str, object]]:
    """Structures that at least one of the first two raters drew; a damaged case has none."""
    recipe = read_cohort(store, case["cohort"]).recipe
    try:
        picture = open_case_picture(store, case["cohort"], case["case_id"], int(case["ndim"]))
        first, second = (picture.reference(rater) for rater in picture.volume.raters[:2])
    except (StoreError, CaseDataError, ValueError):
        return []
    if first is None or second is None:
        return []
    scores = (
        (item.name, score_structure(first.mask(item.name), second.mask(item.name), picture.geometry, structure=item))
        for item in recipe.structures
    )
    return [
        {"structure": name, **score.as_columns()} for name, score in scores if score.empty in ("none", "prediction")
    ]
