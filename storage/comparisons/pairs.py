"""Pairs of scores for a comparison of two weights, from the catalog."""

from collections.abc import Sequence

import pandas as pd

from medsam3_core.errors import UsageError
from storage.catalog.queries.pairs import comparable_weights, compared_rows
from storage.catalog.queries.runs import recorded_versions
from storage.store.layout import StoreLayout
from storage.weights.registry import registered_weights


def read_pairs(store: StoreLayout, base: str, new: str, cohorts: Sequence[str], split: str | None) -> pd.DataFrame:
    """Rows of the macro `compare` for two weights, with `settings`: a row per case, structure and rater.

    Raises:
        UsageError: If a name is invalid or the two have no run in common; lists comparable weights.
    """
    first, second = (_as_recorded(store, _checked(weights)) for weights in (base, new))
    rows = compared_rows(store, first, second, cohorts, split)
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
    """Weights by the name in the rows of their run: tensors registered under another name are not run again."""
    name, _, version = text.partition("@")
    versions = {item.version: item.sha256 for item in registered_weights(store) if item.name == name}
    wanted = int(version) if version else max(versions, default=0)
    rows = recorded_versions(store, versions.get(wanted, ""))
    if not rows or (name, wanted) in rows:
        return text
    known = next((row for row in rows if row[0] == name), rows[0])
    return f"{known[0]}@{known[1]}"


def _nothing_in_common(store: StoreLayout, base: str, new: str, cohorts: Sequence[str], split: str | None) -> str:
    where = f" on {', '.join(cohorts)}" if cohorts else ""
    where += f" in split {split!r}" if split else ""
    pairs = comparable_weights(store)
    known = [f"  {row.base} {row.new}  ({row.cohorts})" for row in pairs.itertuples()]
    listed = "\n".join(["comparable weights:", *known]) if known else "no two weights share a cohort and prompts yet"
    return f"{base} and {new} have no scored run in common{where} (same cohort, prompts and settings); {listed}"
