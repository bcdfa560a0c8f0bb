"""Plots of leaderboard, cost and history, shared by pages and report."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from dashboards.figures.style import INK, MUTED, axis_title, colour_of, styled
from medsam3_core.metrics.table import METRICS
from medsam3_core.prompts.policies import short_prompt

_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star", "hexagon", "triangle-down", "x", "pentagon")
UNTRAINED_NOTE = "Untrained weights predict random masks: they only show that the pipeline works."

_ROW, _SPREAD = 26, 0.7
_MAX_NAMED = 4


def leaderboard_figure(
    rows: pd.DataFrame, metric: str, colours: Mapping[str, str], raters: Mapping[str, float] | None = None
) -> go.Figure:
    """Means with their intervals, one band per structure; colours distinguish weights, symbols prompts.

    Args:
        rows: Rows of `pages.leaderboard` of one cohort and split.
        metric: Name of the metric.
        colours: From `weights_colours`.
        raters: Means of a second rater against the first, by structure; drawn as lines.
    """
    structures = list(dict.fromkeys(rows["structure"]))[::-1]
    series = _groups(rows, "label", "prompt", "settings", "rater")
    symbols = _symbols(rows)
    several_raters = len(set(rows["rater"])) > 1
    figure = go.Figure()
    for place, ((label, prompt, settings, rater), part) in enumerate(series):
        offset = _SPREAD * ((place + 0.5) / len(series) - 0.5)
        mean = part[f"{metric}_mean"]
        figure.add_scatter(
            x=mean,
            y=[structures.index(name) - offset for name in part["structure"]],
            error_x={
                "type": "data", "symmetric": False, "thickness": 1.6, "width": 4,
                "array": part[f"{metric}_high"] - mean, "arrayminus": mean - part[f"{metric}_low"],
            },
            mode="markers",
            name=series_name(label, prompt, settings, rater if several_raters else None),
            marker={"color": colour_of(label, colours), "size": 9, "symbol": symbols[prompt, settings]},
            customdata=part[["structure", f"{metric}_low", f"{metric}_high", "present", "scored", "planned", "failed"]],
            hovertemplate="<b>%{customdata[0]}</b> %{x:.3f} [%{customdata[1]:.3f} %{customdata[2]:.3f}]<br>mean over "
            "%{customdata[3]} cases with the structure<br>%{customdata[4]} of %{customdata[5]} scored, "
            "%{customdata[6]} failed<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    for name, value in (raters or {}).items():
        if name in structures:
            _add_rater_line(figure, structures.index(name), value, first=name == next(iter(raters or {})))
    unit = rows["distance_unit"].dropna()
    figure.update_xaxes(title=axis_title(metric, unit.iloc[0] if len(unit) else None))
    if METRICS[metric].upper == 1.0:
        figure.update_xaxes(range=[-0.02, 1.02])
    figure.update_yaxes(
        tickvals=list(range(len(structures))), ticktext=structures, range=[-0.6, len(structures) - 0.4], title=None
    )
    for between in range(1, len(structures)):
        figure.add_hline(y=between - 0.5, line={"color": "#E3E8ED", "width": 1})
    height = 120 + max(_ROW, 15 * len(series)) * len(structures) + 22 * (1 + len(series) // 4)
    return styled(figure, height=min(height, 1200))


def _add_rater_line(figure: go.Figure, band: int, value: float, *, first: bool) -> None:
    figure.add_scatter(
        x=[value, value], y=[band - 0.45, band + 0.45], mode="lines", name="second rater", showlegend=first,
        line={"color": INK, "width": 2, "dash": "dash"}, legendgroup="raters",
        hovertemplate="second rater against the first: %{x:.3f}<extra></extra>",
    )  # fmt: skip


def cost_figure(rows: pd.DataFrame, metric: str, colours: Mapping[str, str]) -> go.Figure:
    """Quality against cost: mean over structures against seconds per case, one point per run."""
    figure = go.Figure()
    symbols, few = _symbols(rows), len(set(rows["run_id"])) <= _MAX_NAMED
    for (label, prompt, settings, _), part in _groups(rows, "label", "prompt", "settings", "run_id"):
        figure.add_scatter(
            x=[part["seconds_per_case"].iloc[0]], y=[part[f"{metric}_mean"].mean()],
            mode="markers+text" if few else "markers", text=[short_prompt(prompt)],
            textposition="bottom center", cliponaxis=False, textfont={"color": MUTED, "size": 11},
            name=series_name(label, prompt, settings),
            marker={"color": colour_of(label, colours), "size": 12, "symbol": symbols[prompt, settings]},
            hovertemplate="%{y:.3f} at %{x:.3g} s per case<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    unit = rows["distance_unit"].dropna()
    figure.update_xaxes(
        title="time per case (s, logarithmic)", type="log", tickformat="~g",
        dtick=_log_step(rows["seconds_per_case"]),
    )  # fmt: skip
    figure.update_yaxes(
        title=f"mean over structures,<br>{axis_title(metric, unit.iloc[0] if len(unit) else None)}", showgrid=True
    )
    return styled(figure, height=340).update_layout(showlegend=False)


def _log_step(seconds: pd.Series) -> str | int:
    """Tick step of a logarithmic axis: all digits within a decade, 1-2-5 over a few, else whole decades."""
    positive = seconds[seconds > 0]
    span = positive.max() / positive.min() if len(positive) else 1.0
    return "D1" if span < 6 else "D2" if span < 300 else 1


def history_figure(rows: pd.DataFrame, colours: Mapping[str, str]) -> go.Figure:
    """Mean Dice of one cohort by version of the weights, in order of completion; one line per split."""
    figure = go.Figure()
    symbols, several_splits = _symbols(rows, "settings_id"), len(rows["split"].drop_duplicates()) > 1
    for (weights, prompt, settings, split), part in _groups(rows, "weights", "prompt", "settings_id", "split"):
        where = "" if not several_splits else f", split {split}" if isinstance(split, str) else ", no split"
        ordered = part.sort_values("weights_version")
        labels = [name if version == 1 else f"{name}@{version}" for name, version in
                  zip(ordered["weights"], ordered["weights_version"], strict=True)]  # fmt: skip
        figure.add_scatter(
            x=ordered["last_finished"], y=ordered["dice_mean"], mode="lines+markers",
            name=f"{weights}, {short_prompt(prompt)}{where}", line={"color": MUTED, "width": 1},
            marker={"size": 11, "color": [colour_of(label, colours) for label in labels],
                    "symbol": symbols[prompt, settings]},
            customdata=ordered.assign(label=labels)[["label", "n", "failed", "dice_mean_failures_as_zero"]],
            hovertemplate="<b>%{customdata[0]}</b> %{y:.3f}<br>n = %{customdata[1]}, failed %{customdata[2]}"
            "<br>failures as 0: %{customdata[3]:.3f}"
            f"<extra>{short_prompt(prompt)}, settings {settings[:6]}{where}</extra>",
        )  # fmt: skip
    figure.update_xaxes(title="finished (UTC)")
    figure.update_yaxes(title=axis_title("dice"), range=[-0.02, 1.02], showgrid=True)
    return styled(figure, height=360)


def series_name(label: str, prompt: str, settings: str, rater: str | None = None) -> str:
    """Short label of a series: weights, prompt, and settings and rater unless they are the default."""
    parts = [f"{label}, {short_prompt(prompt)}"]
    parts += [settings] if settings != "default" else []
    parts += [f"rater {rater}"] if rater not in (None, "reference") and rater == rater else []
    return ", ".join(parts)


def _symbols(rows: pd.DataFrame, settings: str = "settings") -> dict[tuple[str, str], str]:
    """One symbol per pair of prompt and settings, in order of appearance."""
    pairs = dict.fromkeys(zip(rows["prompt"], rows[settings], strict=True))
    return {pair: _SYMBOLS[place % len(_SYMBOLS)] for place, pair in enumerate(pairs)}


def _groups(rows: pd.DataFrame, *keys: str) -> list[tuple[Any, pd.DataFrame]]:
    """Group rows by keys, in order of appearance."""
    return list(rows.groupby(list(keys), sort=False, dropna=False))
