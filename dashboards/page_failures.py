"""Failures: why cases have no score, grouped by reason, one click from the case."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboards import queries
from dashboards.page_parts import accepted_cases, chart, colours, heading, store
from dashboards.style import colour_of, styled
from storage.comparison_words import short_prompt
from storage.store_layout import StoreLayout

_INGEST = "ingest"
_LONGEST = 60
_FEW = 12


def show(open_case: Callable[[str, str], None]) -> None:
    """The page; `open_case` leads to the viewer."""
    heading("Failures", "Every planned case ends as a score or here; none of these is in a mean.")
    failures = _failures(str(store().root))
    if failures.empty:
        st.success("Every planned case has a score.", icon=":material/check:")
        return
    failures["label"] = failures["label"].fillna(_INGEST)
    groups = (
        failures.groupby(["status", "reason"], dropna=False)
        .agg(
            times=("case_id", "size"),
            cases=("case_id", "nunique"),
            cohorts=("cohort", _joined),
            weights=("label", _joined),
        )
        .reset_index()
        .sort_values("times", ascending=False, ignore_index=True)
    )
    chart(_reasons_figure(failures, list(groups["reason"])), key="reasons")
    st.markdown("**Reasons** (select one to narrow the list below)")
    picked: Any = st.dataframe(groups, hide_index=True, on_select="rerun", selection_mode="single-row", key="reason")
    if picked.selection.rows:
        reason = groups.iloc[picked.selection.rows[0]]["reason"]
        failures = failures[failures["reason"] == reason].reset_index(drop=True)
    st.markdown("**Cases** (select one to see it)")
    table = failures[["cohort", "case_id", "label", "prompt", "status", "reason", "source", "finished_at"]].copy()
    table["prompt"] = table["prompt"].map(short_prompt, na_action="ignore")
    chosen: Any = st.dataframe(
        table, hide_index=True, on_select="rerun", selection_mode="single-row", key="failed_case",
        column_config={"case_id": "case", "label": "weights",
                       "finished_at": st.column_config.DatetimeColumn("when (UTC)", format="YYYY-MM-DD HH:mm")},
    )  # fmt: skip
    if chosen.selection.rows:
        row = failures.iloc[chosen.selection.rows[0]]
        known = accepted_cases()
        if ((known["cohort"] == row["cohort"]) & (known["case_id"] == row["case_id"])).any():
            open_case(row["cohort"], row["case_id"])
        st.warning(f"{row['case_id']} was rejected at ingest, so no volume is stored. Source: {row['source']}")


def _reasons_figure(failures: pd.DataFrame, reasons: list[str]) -> go.Figure:
    figure = go.Figure()
    shown = colours()
    for label, part in failures.groupby("label", sort=False):
        counts = part["reason"].value_counts()
        figure.add_bar(
            y=[_short(reason) for reason in counts.index], x=counts.to_numpy(), orientation="h", name=str(label),
            marker={"color": colour_of(str(label), shown)}, hovertemplate="%{x} times<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    order = list(dict.fromkeys(_short(reason) for reason in reasons))[::-1]
    figure.update_layout(barmode="stack", bargap=0.35)
    figure.update_yaxes(categoryorder="array", categoryarray=order)
    figure.update_xaxes(
        title="case-and-run pairs (count)", rangemode="tozero", dtick=1 if len(failures) <= _FEW else None
    )
    return styled(figure, height=min(140 + 34 * len(order), 600))


def _short(reason: str) -> str:
    text = str(reason)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _joined(values: pd.Series) -> str:
    return ", ".join(dict.fromkeys(values))


@st.cache_data(ttl=10, show_spinner=False)
def _failures(root: str) -> pd.DataFrame:
    return queries.failures(StoreLayout(Path(root)))
