"""Cases: find a case by score or name, and view it with the predictions of two runs."""

from typing import Any

import pandas as pd
import streamlit as st

from dashboards.figures.figures import series_name
from dashboards.views.agent_story import show_story
from dashboards.views.case_viewer import show_viewer
from dashboards.views.parts import heading, kept, nothing_yet, pick
from medsam3_core.metrics.table import METRICS
from medsam3_core.prompts.policies import short_prompt
from storage.catalog.queries import pages

_ANY = "any"
_MAX_ROWS = 500


def show() -> None:
    """The page."""
    heading("Cases", "Sort by any metric, worst first. Select a row to view image, reference and prediction.")
    cases = kept(pages.accepted_cases)
    if cases.empty:
        nothing_yet("No cases yet.", "Run `medsam3 ingest` and reload.")
        return
    _take_over_target()
    filters = st.columns([2, 2, 3, 2, 3])
    cohort = pick("Cohort", list(dict.fromkeys(cases["cohort"])), "cohort", filters[0])
    cases = cases[cases["cohort"] == cohort]
    scores = kept(pages.case_scores, cohort)
    found = _found(scores, cases, filters)
    event: Any = st.dataframe(
        found.head(_MAX_ROWS), hide_index=True, height=230, on_select="rerun", selection_mode="single-row",
        key=f"cases_{cohort}", column_config=_columns(scores),
    )  # fmt: skip
    if len(found) > _MAX_ROWS:
        st.caption(f"First {_MAX_ROWS:,} of {len(found):,} rows; search or filter to see others.")
    case_id, structure = _chosen(found, event.selection.rows, cases)
    _show_failures(scores[(scores["case_id"] == case_id) & (scores["status"] != "scored")])
    show_viewer(cases.set_index("case_id").loc[case_id], case_id, structure)
    show_story(cohort, case_id)


def _show_failures(rows: pd.DataFrame) -> None:
    """Warn about runs without a score for the case, with their reasons."""
    for (status, reason), part in rows.groupby(["status", "reason"], sort=False, dropna=False):
        names = [series_name(row["label"], row["prompt"], row["settings"]) for row in part.to_dict("records")]
        case_id, under = part["case_id"].iloc[0], "; ".join(dict.fromkeys(names))
        st.warning(f"{case_id}: {status} under {under}: {reason}", icon=":material/report:")


def _take_over_target() -> None:
    """Select the cohort, case and structure of a link from another page, once."""
    if target := st.session_state.pop("case_to_open", None):
        st.session_state["kept_cohort"], st.session_state["case_id"], st.session_state["case_structure"] = target
        for key in [key for key in st.session_state if str(key).startswith(("cohort_", "cases_"))]:
            del st.session_state[key]


def _found(scores: pd.DataFrame, cases: pd.DataFrame, filters: list[Any]) -> pd.DataFrame:
    """Rows of the table: scores, or the cases if there are no scores."""
    structure = pick("Structure", [_ANY, *sorted(scores["structure"].unique())], "structure", filters[1])
    weights = pick("Weights", [_ANY, *dict.fromkeys(scores["label"])], "table_weights", filters[2])
    metrics = [name for name in METRICS if name in scores and scores[name].notna().any()] or ["dice"]
    metric = pick("Sort by", metrics, "sort_metric", filters[3], format_func=lambda name: METRICS[name].label)
    search = filters[4].text_input("Search case or patient", key="case_search", icon=":material/search:")
    if scores.empty:
        table = cases[["case_id", "patient_id", "split", "modality"]]
    else:
        table = scores.sort_values(metric, ascending=METRICS[metric].higher_is_better, na_position="last")
        table = table[table["structure"] == structure] if structure != _ANY else table
        table = table[table["label"] == weights] if weights != _ANY else table
        others = [name for name in ("dice", "nsd", "hd95", "precision", "recall", "volume_error") if name != metric]
        shown = ["case_id", "structure", "label", "prompt", metric, *others, "status", "empty", "patient_id", "split"]
        table = table[[*shown, "settings"]].assign(prompt=table["prompt"].map(short_prompt))
    if search:
        hit = table["case_id"].str.contains(search, case=False, regex=False)
        table = table[hit | table["patient_id"].fillna("").str.contains(search, case=False, regex=False)]
    return table.reset_index(drop=True)


def _chosen(found: pd.DataFrame, rows: list[int], cases: pd.DataFrame) -> tuple[str, str | None]:
    """Case and structure of the selected row, else of the previous selection, else of the first row."""
    known = set(cases["case_id"])
    selected = bool(rows) and rows[0] < len(found)
    if selected or st.session_state.get("case_id") not in known:
        row = found.iloc[rows[0]] if selected else found.iloc[0] if len(found) else cases.iloc[0]
        st.session_state["case_id"], st.session_state["case_structure"] = row["case_id"], row.get("structure")
        if "label" in row:
            st.session_state["case_series"] = series_name(row["label"], row["prompt"], row["settings"])
    return st.session_state["case_id"], st.session_state.get("case_structure")


def _columns(scores: pd.DataFrame) -> dict[str, Any]:
    unit = scores["distance_unit"].dropna()
    distance = f" ({unit.iloc[0]})" if len(unit) else ""
    numbers = {
        name: st.column_config.NumberColumn(
            metric.label + (distance if metric.is_distance else ""), format="%.1f" if metric.is_distance else "%.3f"
        )
        for name, metric in METRICS.items()
    }
    return {
        **numbers,
        "case_id": "case",
        "label": "weights",
        "patient_id": "patient",
        "empty": "empty mask",
        "settings": "settings" if (scores["settings"] != "default").any() else None,
        "volume_error": st.column_config.NumberColumn("volume error (share)", format="%.2f"),
    }
