"""Runs: weights, settings and code of each run, and mean Dice over versions of the weights."""

import json
from typing import Any

import pandas as pd
import streamlit as st

from dashboards.figures.figures import history_figure
from dashboards.views.parts import chart, colours, heading, kept, nothing_yet, pick
from medsam3_core.prompts.policies import short_prompt
from storage.catalog.queries import pages


def show() -> None:
    """The page."""
    heading("Runs", "One run is one set of weights, prompts, settings and code on one cohort.")
    runs, history = kept(pages.runs), kept(pages.history)
    if runs.empty:
        nothing_yet("No runs yet.", "Start one with `medsam3 benchmark`.")
        return
    cohort = pick("Cohort", sorted(runs["cohort"].unique()), "cohort", st.columns([1, 2])[0])
    st.markdown("**Mean Dice over all structures, in order of completion**")
    if len(history):
        chart(history_figure(history[history["cohort"] == cohort], colours()), key="history")
    chosen = runs[runs["cohort"] == cohort].reset_index(drop=True)
    st.markdown("**Runs** (select one for its digests)")
    table = chosen[["label", "prompt", "settings", "planned", "scored", "failed", "seconds_per_case", "device",
                    "created_at", "last_finished", "run_id"]].copy()  # fmt: skip
    table["prompt"] = table["prompt"].map(short_prompt)
    event: Any = st.dataframe(
        table, hide_index=True, on_select="rerun", selection_mode="single-row", key=f"runs_{cohort}",
        column_config={
            "label": "weights", "planned": "planned cases", "scored": "scored cases", "failed": "failed cases",
            "seconds_per_case": st.column_config.NumberColumn("s / case", format="%.2f"),
            "created_at": st.column_config.DatetimeColumn("started (UTC)", format="YYYY-MM-DD HH:mm"),
            "last_finished": st.column_config.DatetimeColumn("finished (UTC)", format="YYYY-MM-DD HH:mm"),
            "run_id": "run",
        },
    )  # fmt: skip
    rows = event.selection.rows
    _show_run(chosen.iloc[rows[0] if rows else 0])


def _show_run(run: pd.Series) -> None:
    st.markdown(f"**Run `{run['run_id']}`**: {run['label']}, {run['prompt']}, settings {run['settings']}")
    facts = {
        "SHA-256 of weights": run["weights_sha256"], "prompt_id": run["prompt_id"], "settings_id": run["settings_id"],
        "inference code": run["inference_code"], "commit": run["git_commit"] or "-", "machine": run["machine"],
    }  # fmt: skip
    versions = json.loads(run["versions"] or "{}")
    left, right = st.columns([3, 2])
    left.dataframe(
        pd.DataFrame({"property": facts.keys(), "value": [str(value) for value in facts.values()]}), hide_index=True
    )
    right.dataframe(
        pd.DataFrame({"package": versions.keys(), "version": [str(value or "-") for value in versions.values()]}),
        hide_index=True, height=248,
    )  # fmt: skip
