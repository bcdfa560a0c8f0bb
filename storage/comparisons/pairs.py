"""The pairs that a comparison of two weights is made of, as the catalog has them."""

from collections.abc import Sequence

import pandas as pd

from medsam3_core.errors import UsageError
from storage.catalog.catalog import connect
from storage.store.layout import StoreLayout
from storage.weights.registry import registered_weights


def comparable_weights(store: StoreLayout) -> pd.DataFrame:
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


def read_pairs(store: StoreLayout, base: str, new: str, cohorts: Sequence[str], split: str | None) -> pd.DataFrame:
    """Rows of the macro `compare` for two weights, with `settings`: a row per case, structure and rater.

    Raises:
        UsageError: If a name is no weights or the two have no run in common; lists what could be compared.
    """
    query = """
    SELECT p.*, r.settings FROM compare($base, $new) AS p JOIN runs AS r ON r.run_id = p.base_run_id
    WHERE (len($cohorts) = 0 OR list_contains($cohorts, p.cohort)) AND ($split IS NULL OR p.split = $split)
    ORDER BY p.cohort, p.prompt, r.settings, p.rater, p.structure, p.case_id"""
    parameters = {
        "base": _as_recorded(store, _checked(base)),
        "new": _as_recorded(store, _checked(new)),
        "cohorts": list(cohorts),
        "split": split,
    }
    with connect(store, query) as con:
        rows: pd.DataFrame = con.execute(query, parameters).df()
    if rows.empty:
        raise UsageError(_nothing_in_common(store, base, new, cohorts, split))
    return rows


def _checked(weights: str) -> str:
    _, mark, version = weights.partition("@")
    if mark and not version.isdigit():
        msg = f"weights {weights!r}: write NAME or NAME@N with a whole number N"
        raise UsageError(msg)
    return weights


def _as_recorded(store: StoreLayout, text: str) -> str:
    """Weights as the rows of their run have them: the same tensors registered again are not run again."""
    name, _, version = text.partition("@")
    versions = {item.version: item.sha256 for item in registered_weights(store) if item.name == name}
    wanted = int(version) if version else max(versions, default=0)
    with connect(store, "runs") as con:
        rows = con.execute(
            "SELECT DISTINCT weights, weights_version FROM runs WHERE weights_sha256 = ? ORDER BY ALL",
            [versions.get(wanted, "")],
        ).fetchall()
    if not rows or (name, wanted) in rows:
        return text
    known = next((row for row in rows if row[0] == name), rows[0])
    return f"{known[0]}@{known[1]}"


def _nothing_in_common(store: StoreLayout, base: str, new: str, cohorts: Sequence[str], split: str | None) -> str:
    where = f" on {', '.join(cohorts)}" if cohorts else ""
    where += f" in split {split!r}" if split else ""
    pairs = comparable_weights(store)
    known = [f"  {row.base} {row.new}  ({row.cohorts})" for row in pairs.itertuples()]
    listed = "\n".join(["could be compared:", *known]) if known else "no two weights share a cohort and prompts yet"
    return f"{base} and {new} have no scored run in common{where} (same cohort, prompts and settings); {listed}"
