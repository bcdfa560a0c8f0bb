"""Queries that compare weights: comparable pairs, and the rows of two weights side by side."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from storage.catalog.catalog import connect
from storage.store.layout import StoreLayout

if TYPE_CHECKING:
    import pandas as pd


def comparable_weights(store: StoreLayout) -> "pd.DataFrame":
    """Pairs of weights that share a cohort, prompts and settings: columns `base`, `new`, `cohorts`."""
    query = """
    SELECT a.weights || '@' || a.weights_version AS base, b.weights || '@' || b.weights_version AS new,
        string_agg(DISTINCT a.cohort, ', ' ORDER BY a.cohort) AS cohorts
    FROM runs AS a JOIN runs AS b USING (cohort, prompt_id, settings_id)
    WHERE (a.weights, a.weights_version) < (b.weights, b.weights_version)
    GROUP BY ALL ORDER BY ALL"""
    with connect(store, query) as con:
        frame: pd.DataFrame = con.sql(query).df()
    return frame


def compared_rows(store: StoreLayout, base: str, new: str, cohorts: Sequence[str], split: str | None) -> "pd.DataFrame":
    """Rows of the macro `compare` for two weights, with `settings`: a row per case, structure and rater.

    Args:
        store: The store.
        base: `NAME` or `NAME@N`, as runs have recorded it.
        new: The other weights, likewise.
        cohorts: These cohorts; empty for all.
        split: This split; None for all cases.
    """
    query = """
    SELECT p.*, r.settings FROM compare($base, $new) AS p JOIN runs AS r ON r.run_id = p.base_run_id
    WHERE (len($cohorts) = 0 OR list_contains($cohorts, p.cohort)) AND ($split IS NULL OR p.split = $split)
    ORDER BY p.cohort, p.prompt, r.settings, p.rater, p.structure, p.case_id"""
    with connect(store, query) as con:
        parameters = {"base": base, "new": new, "cohorts": list(cohorts), "split": split}
        rows: pd.DataFrame = con.execute(query, parameters).df()
    return rows
