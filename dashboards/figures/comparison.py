"""Plots of a comparison: paired scatter, distribution of differences, forest plot."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboards.figures.style import INK, MUTED, axis_title, colour_of, styled
from medsam3_core.metrics.table import METRICS
from storage.comparisons.comparison import StructureComparison, Verdict

_MAX_POINTS = 2000  # drawn as SVG: a browser has 16 WebGL contexts, and a report may have more plots
_DECIDED = (Verdict.WORSE, Verdict.BETTER, Verdict.WITHIN_MARGIN)


def paired_scatter(pairs: pd.DataFrame, base: str, new: str, metric: str, colours: Mapping[str, str]) -> go.Figure:
    """Scatter plot of all pairs, NEW against BASE; each point has the colour of the weights that scored better.

    Args:
        pairs: Rows of `Comparison.pairs` of one metric; a fixed sample is drawn if there are more than 2,000.
        base: Label of BASE.
        new: Label of NEW.
        metric: Name of the metric.
        colours: From `weights_colours`.
    """
    complete = pairs.dropna(subset=["base", "new"])
    shown = complete.sample(min(len(complete), _MAX_POINTS), random_state=0)
    signs = np.sign(complete["loss"])
    figure = go.Figure()
    low, high = 0.0, METRICS[metric].upper or (float(shown[["base", "new"]].max().max()) if len(shown) else 1.0)
    figure.add_scatter(
        x=[low, high], y=[low, high], mode="lines", line={"color": MUTED, "dash": "dot", "width": 1},
        hoverinfo="skip", showlegend=False,
    )  # fmt: skip
    for name, sign, colour in (
        (f"{new} better", -1, colour_of(new, colours)),
        (f"{base} better", 1, colour_of(base, colours)),
        ("equal", 0, MUTED),
    ):
        part, count = shown[np.sign(shown["loss"]) == sign], int((signs == sign).sum())
        if count:
            figure.add_scatter(
                x=part["base"].to_numpy("float32"), y=part["new"].to_numpy("float32"), mode="markers",
                name=f"{name} ({count:,})", marker={"color": colour, "size": 7, "opacity": 0.65},
                text=part["structure"] + " of " + part["case_id"],
                hovertemplate=f"<b>%{{text}}</b><br>{base} %{{x:.3f}}<br>{new} %{{y:.3f}}<extra></extra>",
            )  # fmt: skip
    unit = _unit(pairs)
    pad = 0.03 * (high - low)
    figure.update_xaxes(title=f"{base}:<br>{axis_title(metric, unit)}", range=[low - pad, high + pad])
    figure.update_yaxes(title=f"{new}:<br>{axis_title(metric, unit)}", range=[low - pad, high + pad], showgrid=True)
    return styled(figure, height=440)


def difference_figure(pairs: pd.DataFrame, base: str, new: str, metric: str, colours: Mapping[str, str]) -> go.Figure:
    """Box plots of NEW minus BASE per structure and rater, with all points for up to 600 pairs, else outliers."""
    figure = go.Figure()
    several_raters = len(set(pairs["rater"])) > 1
    groups = list(pairs.groupby(["structure", "rater"], sort=True, dropna=False))[::-1]
    for (structure, rater), part in groups:
        name = _row_name(str(structure), str(rater), several_raters=several_raters)
        figure.add_box(
            x=part["difference"].to_numpy("float32"), name=name, orientation="h",
            boxpoints="all" if len(pairs) <= 600 else "outliers", jitter=0.5, pointpos=0,
            marker={"color": colour_of(new, colours), "size": 4, "opacity": 0.5},
            line={"color": INK, "width": 1.2}, fillcolor="rgba(120,140,160,0.12)",
            text=part["case_id"], hovertemplate="%{text}: %{x:+.3f}<extra>" + name + "</extra>",
        )  # fmt: skip
    figure.add_vline(x=0, line={"color": MUTED, "dash": "dot", "width": 1})
    figure.update_xaxes(title=_difference_title(base, new, metric, _unit(pairs)))
    height = 130 + 46 * len(groups)
    return styled(figure, height=max(height, 240)).update_layout(showlegend=False)


def forest_figure(
    items: Sequence[StructureComparison], base: str, new: str, metric: str, colours: Mapping[str, str]
) -> go.Figure:
    """Mean difference with its interval per structure: filled if the test is conclusive, coloured by the better."""
    figure = go.Figure()
    shown = [item for item in items if item.numbers.difference is not None][::-1]
    several_raters = len({item.rater for item in items}) > 1
    for item in shown:
        found, name = item.numbers, _row_name(item.structure, item.rater, several_raters=several_raters)
        better = new if found.wins > found.losses else base if found.losses > found.wins else ""
        colour = colour_of(better, colours)
        figure.add_scatter(
            x=[found.difference], y=[name], mode="markers",
            error_x=_error_bars(item, colour),
            marker={"color": colour if item.verdict in _DECIDED else "white", "size": 11,
                    "line": {"color": colour, "width": 2}},
            hovertemplate=f"<b>{name}</b> {found.difference:+.3f}<br>{_interval(item)}<br>{found.patients} "
            f"patients: {found.wins} better, {found.ties} equal, {found.losses} worse<br>{item.verdict}<extra></extra>",
        )  # fmt: skip
    figure.add_vline(x=0, line={"color": MUTED, "dash": "dot", "width": 1})
    unit = next((item.unit for item in shown if item.unit), None)
    figure.update_xaxes(title=_difference_title(base, new, metric, unit))
    return styled(figure, height=max(120 + 34 * len(shown), 200)).update_layout(showlegend=False)


def _row_name(structure: str, rater: str, *, several_raters: bool) -> str:
    return f"{structure}, rater {rater}" if several_raters else structure


def _error_bars(item: StructureComparison, colour: str) -> dict[str, Any] | None:
    found = item.numbers
    if found.difference is None or found.low is None or found.high is None:
        return None
    above, below = found.high - found.difference, found.difference - found.low
    return {"type": "data", "symmetric": False, "array": [above], "arrayminus": [below], "color": colour, "width": 5}


def _interval(item: StructureComparison) -> str:
    found = item.numbers
    if found.low is None:
        return "one patient, no interval"
    test = f"p = {item.adjusted_p:.3g} (Holm)" if item.adjusted_p is not None else f"no test: {found.reason}"
    return f"95 % [{found.low:+.3f} {found.high:+.3f}], {test}"


def _difference_title(base: str, new: str, metric: str, unit: str | None) -> str:
    name = axis_title(metric, unit)
    good = "right" if METRICS[metric].higher_is_better else "left"
    shown = unit if unit and METRICS[metric].is_distance else METRICS[metric].unit.partition(",")[0]
    return f"{name.partition(' (')[0]} of {new} minus {base} ({shown})<br>{good} of 0: {new} is better"


def _unit(pairs: pd.DataFrame) -> str | None:
    units = pairs["distance_unit"].dropna().unique()
    return str(units[0]) if len(units) == 1 else "mm or px" if len(units) else None
