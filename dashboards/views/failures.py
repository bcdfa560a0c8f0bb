"""Failures: cases without a score, grouped by reason, with links to the viewer."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboards.figures.failure_kinds import no_failure_sentence, with_kinds
from dashboards.figures.style import colour_of, styled
from dashboards.views.parts import chart, colours, heading, kept
from medsam3_core.prompts.policies import short_prompt
from storage.catalog.queries import pages

_MAX_LABEL, _MAX_BARS = 60, 12


def show(open_case: Callable[[str, str], None]) -> None:
    """The page; `open_case` opens a case in the viewer."""
    heading("Failures", "Planned cases without a score, with the reason. Means exclude them.")
    failures = kept(pages.failures)
    if failures.empty:
        sentence = no_failure_sentence(pending := kept(pages.pending))
        if pending:
            st.info(sentence, icon=":material/hourglass_empty:")
        else:
            st.success(sentence, icon=":material/check:")
        return
    failures = with_kinds(failures)
    groups = (
        failures.groupby(["status", "kind"])
        .agg(times=("case_id", "size"), cases=("case_id", "nunique"), cohorts=("cohort", _joined),
             weights=("label", _joined))
        .reset_index()
        .sort_values("times", ascending=False, ignore_index=True)
    )  # fmt: skip
    chart(_reasons_figure(failures, list(dict.fromkeys(groups["kind"]))[:_MAX_BARS]), key="reasons")
    st.markdown("**Reasons** (select one to filter the cases below; … replaces names and numbers)")
    picked: Any = st.dataframe(
        groups, hide_index=True, on_select="rerun", selection_mode="single-row", key="reason",
        column_config={"kind": st.column_config.TextColumn("reason", width="large")},
        height=min(38 + 35 * len(groups), 300),
    )  # fmt: skip
    if picked.selection.rows:
        chosen_kind = groups.iloc[picked.selection.rows[0]]
        failures = failures[(failures["kind"] == chosen_kind["kind"]) & (failures["status"] == chosen_kind["status"])]
        failures = failures.reset_index(drop=True)
    st.markdown(f"**Cases** ({len(failures):,}; select one to view it)")
    table = failures[["cohort", "case_id", "label", "prompt", "status", "reason", "source", "finished_at"]].copy()
    table["prompt"] = table["prompt"].map(short_prompt, na_action="ignore")
    table[["prompt", "source"]] = table[["prompt", "source"]].fillna("")
    chosen: Any = st.dataframe(
        table, hide_index=True, on_select="rerun", selection_mode="single-row", key="failed_case",
        column_config={"case_id": "case", "label": "weights",
                       "finished_at": st.column_config.DatetimeColumn("when (UTC)", format="YYYY-MM-DD HH:mm")},
    )  # fmt: skip
    if chosen.selection.rows:
        row = failures.iloc[chosen.selection.rows[0]]
        known = kept(pages.accepted_cases)
        if ((known["cohort"] == row["cohort"]) & (known["case_id"] == row["case_id"])).any():
            open_case(row["cohort"], row["case_id"])
        st.warning(f"{row['case_id']} was rejected at ingest, so no volume is stored. Source: {row['source']}")


def _reasons_figure(failures: pd.DataFrame, kinds: list[str]) -> go.Figure:
    """Bar chart of the given kinds of reasons, coloured by weights."""
    figure = go.Figure()
    shown = colours()
    failures = failures[failures["kind"].isin(kinds)]
    for label, part in failures.groupby("label", sort=False):
        counts = part["kind"].value_counts()
        figure.add_bar(
            y=[_short(kind) for kind in counts.index], x=counts.to_numpy(), orientation="h", name=str(label),
            marker={"color": colour_of(str(label), shown)}, hovertemplate="%{x} times<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    order = list(dict.fromkeys(_short(kind) for kind in kinds))[::-1]
    longest = int(failures["kind"].value_counts().max())
    figure.update_layout(barmode="stack", bargap=0.35)
    figure.update_yaxes(categoryorder="array", categoryarray=order)
    figure.update_xaxes(title="results (count)", rangemode="tozero", dtick=1 if longest <= _MAX_BARS else None)
    return styled(figure, height=min(140 + 34 * len(order), 600))


def _short(kind: str) -> str:
    return kind if len(kind) <= _MAX_LABEL else kind[: _MAX_LABEL - 1] + "…"


def _joined(values: pd.Series) -> str:
    return ", ".join(dict.fromkeys(values))
