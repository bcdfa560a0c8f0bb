"""Style of all figures: one colour per weights, axis titles, plot template."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from medsam3_core.metrics.table import METRICS

REFERENCE_COLOUR = "#FFD400"
PROMPT_COLOUR = "#00D5F5"
INK, MUTED, GRID, ACCENT = "#1B2733", "#667788", "#E3E8ED", "#1F5F8B"
FONT = "Source Sans Pro, Source Sans, Segoe UI, Helvetica, Arial, sans-serif"

_PALETTE = (
    "#0072B2", "#D55E00", "#009E73", "#C2508F", "#7A4FBF", "#B07D00", "#3D9BD4", "#8C4A32", "#5A7D00", "#4D5966",
)  # fmt: skip


def weights_colours(labels: Sequence[str]) -> dict[str, str]:
    """One colour per weights, by order; the same on every page and in the report."""
    return {label: _PALETTE[place % len(_PALETTE)] for place, label in enumerate(labels)}


def colour_of(label: str, colours: Mapping[str, str]) -> str:
    """Colour of weights; grey if they have no run yet."""
    return colours.get(label, MUTED)


def axis_title(metric: str, distance_unit: str | None = None) -> str:
    """Axis title of a metric: name, unit and direction."""
    facts = METRICS[metric]
    unit = distance_unit or "unit of the cohort" if facts.is_distance else facts.unit
    return f"{facts.label} ({unit}, {'higher' if facts.higher_is_better else 'lower'} is better)"


def styled(figure: go.Figure, *, height: int, title: str = "") -> go.Figure:
    """Apply the common style to a figure."""
    figure.update_layout(
        template="simple_white",
        height=height,
        title={"text": title, "x": 0, "xref": "paper", "font": {"size": 15}} if title else None,
        font={"family": FONT, "size": 13, "color": INK},
        margin={"l": 10, "r": 16, "t": 44 if title else 16, "b": 10},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 1.0, "xanchor": "right", "title": None},
        hoverlabel={"font": {"family": FONT}, "align": "left"},
        paper_bgcolor="white",
        plot_bgcolor="white",
    )
    axes = {"automargin": True, "gridcolor": GRID, "linecolor": GRID, "tickcolor": GRID, "zeroline": False,
            "title_font": {"size": 13}}  # fmt: skip
    figure.update_xaxes(showgrid=True, **axes)
    figure.update_yaxes(showgrid=False, **axes)
    return figure
