"""Effect of the protocol: Dice by our protocol and, step by step, by that of the published Medical-SAM3 toolkit."""

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from dashboards.figures.style import GRID, axis_title, colour_of, styled

STEPS = {
    "ours": "ours",
    "settings": "published settings",
    "formulas": "published denominators",
    "published": "as published",
}
"""Columns of `pages.protocol_steps` and their titles."""

EXPLAINED = (
    "Published settings keep only the instance with the highest score above 0.1; published denominators exclude cases "
    "without the structure and boxes without a mask. See docs/metrics.md for the formulas."
)
NO_PRESET_RUN = "No run has the published settings; add `--preset medical-sam3-v1` to a benchmark."
_SYMBOLS = ("circle", "triangle-up", "square", "diamond-open")
_SMALL = 0.0005


def steps_of_split(steps: pd.DataFrame, split: object) -> pd.DataFrame:
    """Rows of one split; None or NaN selects the rows without a split."""
    found = steps[steps["split"] == split] if isinstance(split, str) else steps[steps["split"].isna()]
    return found.reset_index(drop=True)


def mean_steps(steps: pd.DataFrame) -> pd.DataFrame:
    """Means per weights and kind of prompt, over structures scored by our and by the published protocol."""
    whole = steps.dropna(subset=["ours", "published"])
    means = whole.groupby(["label", "kind"], sort=False)[list(STEPS)].mean()
    return means.assign(structures=whole.groupby(["label", "kind"], sort=False).size()).reset_index()


def protocol_sentences(steps: pd.DataFrame, cohort: str) -> list[str]:
    """One sentence per weights and kind of prompt scored by both protocols, the largest effect first."""
    means = mean_steps(steps)
    sentences = []
    for row in sorted(means.to_dict("records"), key=lambda row: -abs(row["published"] - row["ours"])):
        effect = row["published"] - row["ours"]
        mean = f"Mean Dice of {row['label']} with {row['kind']} prompts on {cohort}: {row['ours']:.3f}"
        if abs(effect) < _SMALL:
            sentences.append(f"{mean} by our and by the published protocol.")
            continue
        parts = [
            f"{STEPS[step]} {row[step] - row['ours']:+.3f}" for step in ("settings", "formulas") if pd.notna(row[step])
        ]
        alone = f" ({', '.join(parts)} alone)" if parts else ""
        sentences.append(
            f"{mean} by our protocol, {row['published']:.3f} by the published one. Effect of the protocol: "
            f"{effect:+.3f}{alone}."
        )
    return sentences


def protocol_figure(steps: pd.DataFrame, colours: Mapping[str, str]) -> go.Figure:
    """One line per weights, kind of prompt and structure, from our Dice to the published one through both steps.

    Args:
        steps: Rows of one cohort and split.
        colours: From `weights_colours`.
    """
    figure = go.Figure()
    rows = steps.to_dict("records")[::-1]
    names = [f"{row['structure']}: {row['label']}, {row['kind']}" for row in rows]
    for row, name in zip(rows, names, strict=True):
        values = [row[step] for step in STEPS if pd.notna(row[step])]
        figure.add_scatter(
            x=[min(values), max(values)], y=[name, name], mode="lines", showlegend=False, hoverinfo="skip",
            line={"color": GRID, "width": 5},
        )  # fmt: skip
    shades = [colour_of(row["label"], colours) for row in rows]
    for (step, title), symbol in zip(STEPS.items(), _SYMBOLS, strict=True):
        figure.add_scatter(
            x=[row[step] for row in rows], y=names, mode="markers", name=title,
            marker={"symbol": symbol, "size": 10, "color": shades, "line": {"width": 1.5, "color": shades}},
            hovertemplate="%{y}<br>" + title + ": %{x:.3f}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title=axis_title("dice"), range=[-0.02, 1.02])
    return styled(figure, height=min(130 + 24 * len(rows), 900))
