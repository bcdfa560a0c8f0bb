"""Leaderboard: means with intervals and denominators, cost, effect of the protocol."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from dashboards.figures.figures import UNTRAINED_NOTE, cost_figure, leaderboard_figure
from dashboards.figures.protocol_effect import EXPLAINED, NO_PRESET_RUN, STEPS, protocol_sentences, steps_of_split
from dashboards.views.parts import chart, colours, heading, kept, nothing_yet, pick
from medsam3_core.metrics.table import METRICS
from medsam3_core.prompts.policies import short_prompt
from storage.catalog.queries import pages
from storage.catalog.queries.leaderboard import read_inter_rater

_ALL = "all cases"


def show() -> None:
    """The page."""
    heading("Leaderboard", "Means over cases with the structure; 95 % intervals over patients.")
    board = kept(pages.leaderboard)
    if board.empty:
        nothing_yet("No scores yet.", "Run `medsam3 benchmark` and reload.")
        return
    rows, metric = _filters(board)
    if rows.empty:
        nothing_yet("No results match the filters.", "Clear some of the filters above.")
        return
    shown = colours()
    scored, planned = int(rows["scored"].sum()), int(rows["planned"].sum())
    left, middle, right, last = st.columns(4)
    left.metric("scored of planned", f"{scored:,} / {planned:,}")
    middle.metric("failed", f"{int(rows['failed'].sum()):,}")
    right.metric("excluded, in training", f"{int(rows['in_training'].sum()):,}")
    absent, left_empty = int(rows["absent"].sum()), int(rows["absent_correct"].sum())
    last.metric("absent structures left empty", f"{left_empty:,} / {absent:,}")
    if METRICS[metric].is_distance:
        st.caption("Distances are undefined for empty predictions: read them together with the number of cases.")
    raters = _second_rater(rows, metric)
    chart(leaderboard_figure(rows, metric, shown, raters), key="board")
    st.markdown("**Numbers and denominators**")
    _table(rows, metric)
    cost, protocol = st.columns([2, 3], gap="medium")
    with cost:
        st.markdown("**Quality against cost**")
        if rows[[f"{metric}_mean", "seconds_per_case"]].dropna().empty:
            nothing_yet("No scored case yet.", "The cost appears once a run has scored cases.")
        else:
            chart(cost_figure(rows, metric, shown), key="cost")
            st.caption("Colours and symbols as above.")
    with protocol:
        _show_protocol(str(rows["cohort"].iloc[0]), rows["split"].iloc[0])
    notes = ["Prompts marked with \\* are derived from the reference (privileged)."] if rows["privileged"].any() else []
    if any("untrained" in label for label in rows["label"]):
        notes.append(UNTRAINED_NOTE)
    st.caption(" ".join(notes))


def _filters(board: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    cohort_box, split_box, metric_box, weights_box, prompt_box = st.columns([2, 2, 2, 3, 3])
    cohort = pick("Cohort", list(dict.fromkeys(board["cohort"])), "cohort", cohort_box)
    rows = board[board["cohort"] == cohort]
    splits = [split if isinstance(split, str) else _ALL for split in rows["split"]]
    split = pick("Split", list(dict.fromkeys(splits)), "split", split_box)
    rows = rows[[name == split for name in splits]]
    metrics = [name for name in METRICS if rows[f"{name}_mean"].notna().any()] or ["dice"]
    metric = pick("Metric", metrics, "metric", metric_box, format_func=lambda name: METRICS[name].label)
    weights = weights_box.multiselect("Weights", list(dict.fromkeys(rows["label"])), placeholder="all")
    prompts = prompt_box.multiselect(
        "Prompts", list(dict.fromkeys(rows["prompt"])), placeholder="all", format_func=short_prompt
    )
    rows = rows[rows["label"].isin(weights)] if weights else rows
    return rows[rows["prompt"].isin(prompts)] if prompts else rows, metric


def _table(rows: pd.DataFrame, metric: str) -> None:
    name = METRICS[metric].label
    unit = f" ({' or '.join(rows['distance_unit'].dropna().unique())})" if METRICS[metric].is_distance else ""
    as_zero = f"{metric}_mean_failures_as_zero"
    stars = rows["privileged"].map({True: "*", False: ""})
    table = pd.DataFrame(
        {
            "structure": rows["structure"],
            **({"rater": rows["rater"]} if len(set(rows["rater"])) > 1 else {}),
            "weights": rows["label"],
            "prompt": rows["prompt"].map(short_prompt) + stars,
            **({"settings": rows["settings"]} if (rows["settings"] != "default").any() else {}),
            f"{name}{unit}": rows[f"{metric}_mean"],
            "95 %": [_interval(row, metric) for row in rows.to_dict("records")],
            **({"failures as 0": rows[as_zero]} if as_zero in rows else {}),
            "present": rows["present"],
            "scored": [f"{row.scored} / {row.planned}" for row in rows.itertuples()],
            "failed": rows["failed"],
            "s / case": rows["seconds_per_case"],
        }
    )
    form = "%.1f" if unit else "%.3f"
    numbers = {f"{name}{unit}": st.column_config.NumberColumn(format=form)}
    numbers |= {"failures as 0": st.column_config.NumberColumn(format="%.3f")}
    numbers |= {"s / case": st.column_config.NumberColumn(format="%.2f")}
    height = min(38 + 35 * len(table), 420)
    st.dataframe(table, hide_index=True, column_config=numbers, height=height)


def _show_protocol(cohort: str, split: str | None) -> None:
    """Show the effect of the protocol on Dice."""
    st.markdown("**Effect of the protocol**: Dice by our protocol and as published")
    steps = steps_of_split(kept(pages.protocol_steps, cohort), split)
    if steps.empty:
        nothing_yet("No run has scores by the published protocol.", "Add `--preset medical-sam3-v1` to a benchmark.")
        return
    for sentence in protocol_sentences(steps, cohort)[:2]:
        st.markdown(sentence)
    columns = {"kind": "prompt", **STEPS, "n": "rows"}
    numbers = {text: st.column_config.NumberColumn(format="%.3f") for text in STEPS.values()}
    table = steps.drop(columns="split").rename(columns={"label": "weights", **columns})
    st.dataframe(table, hide_index=True, column_config=numbers, height=min(38 + 35 * len(table), 300))
    st.caption(EXPLAINED if steps["published"].notna().any() else f"{EXPLAINED} {NO_PRESET_RUN}")


def _second_rater(rows: pd.DataFrame, metric: str) -> dict[str, float]:
    """Means of another rater against the first rater of the rows, by structure, from `inter_rater`."""
    split, first = rows["split"].iloc[0], rows["rater"].iloc[0]
    shown = (rows["cohort"].iloc[0], split if isinstance(split, str) else None, first)
    pairs = [row for row in kept(read_inter_rater).to_pylist() if row.get(f"{metric}_mean") is not None]
    return {
        row["structure"]: row[f"{metric}_mean"]
        for row in reversed(pairs)  # the first of several other raters is kept
        if (row["cohort"], row["split"], row["rater"]) == shown
    }


def _interval(row: Mapping[Any, Any], metric: str) -> str:
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    digits = 1 if METRICS[metric].is_distance else 3
    if pd.isna(row[f"{metric}_mean"]):
        return "no value"
    return "one patient" if pd.isna(low) else f"{low:.{digits}f} to {high:.{digits}f}"
