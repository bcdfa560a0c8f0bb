"""One slice as a plot: image, outlines of reference and prediction, prompts; axes in pixels of the stored slice."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from PIL import Image

from dashboards.figures.pictures import contour_line
from dashboards.figures.style import FONT, INK, PROMPT_COLOUR, REFERENCE_COLOUR
from dashboards.figures.thumbnails import data_uri

_LARGE = 512 * 512
_BOX_GRID, _CLICK_GRID = 12, 48  # points along the longer side: a box must hold some, a click must fall near one


def slice_figure(rgb: NDArray[np.uint8], spacing_yx: tuple[float, float], *, height: int = 520) -> go.Figure:
    """Plot a slice without overlays; pixels have their physical aspect ratio.

    Args:
        rgb: Shape (y, x, 3).
        spacing_yx: Distance between rows and between columns.
        height: Height of the plot in pixels.
    """
    rows, columns = rgb.shape[:2]
    image = Image.fromarray(rgb)
    source = data_uri(image, "JPEG" if rows * columns > _LARGE else "PNG")
    figure = go.Figure(go.Image(source=source, hoverinfo="skip"))
    figure.update_layout(
        height=height,
        margin={"l": 4, "r": 4, "t": 8, "b": 4},
        font={"family": FONT, "size": 12, "color": INK},
        plot_bgcolor="black",
        paper_bgcolor="white",
        showlegend=False,
        dragmode="zoom",
        uirevision="slice",
    )
    bare = {"showgrid": False, "zeroline": False, "automargin": True, "constrain": "domain"}
    figure.update_xaxes(title={"text": "column x (px)", "font": {"size": 12}}, range=[-0.5, columns - 0.5], **bare)
    figure.update_yaxes(
        title={"text": "row y (px)", "font": {"size": 12}}, range=[rows - 0.5, -0.5], scaleanchor="x",
        scaleratio=spacing_yx[0] / spacing_yx[1], **bare,
    )  # fmt: skip
    return figure


def add_outline(figure: go.Figure, mask: NDArray[np.bool_], colour: str, name: str, *, dashed: bool = False) -> None:
    """Outline a mask of shape (y, x)."""
    xs, ys = contour_line(mask)
    if xs:
        figure.add_scatter(
            x=xs, y=ys, mode="lines", name=name,
            line={"color": colour, "width": 2, "dash": "dot" if dashed else "solid"},
            hoveron="points", hovertemplate=f"{name}<extra></extra>",
        )  # fmt: skip


def add_reference(figure: go.Figure, mask: NDArray[np.bool_], structure: str) -> None:
    """Outline the reference, in a colour that no weights have."""
    add_outline(figure, mask, REFERENCE_COLOUR, f"reference, {structure}", dashed=True)


def add_prompts(figure: go.Figure, prompts: pd.DataFrame) -> None:
    """Draw boxes as frames, positive points as circles and negative ones as crosses; texts are not drawn."""
    boxes = prompts.loc[prompts["kind"] == "box", ["x0", "y0", "x1", "y1"]]
    for x0, y0, x1, y1 in boxes.to_numpy("float64"):
        add_box(figure, (x0, y0, x1, y1))
    points = prompts[prompts["kind"] == "points"]
    add_points(figure, zip(points["x"], points["y"], points["label"] != 0, strict=True))


def add_box(figure: go.Figure, box: tuple[float, float, float, float]) -> None:
    """Draw a half-open pixel box along the outer edges of its pixels."""
    x0, y0, x1, y1 = box
    figure.add_shape(
        type="rect", x0=x0 - 0.5, y0=y0 - 0.5, x1=x1 - 0.5, y1=y1 - 0.5,
        line={"color": PROMPT_COLOUR, "width": 1.5, "dash": "dash"},
    )  # fmt: skip


def add_points(figure: go.Figure, points: Iterable[tuple[float, float, bool]]) -> None:
    """Draw points, given as x, y and True if positive."""
    for x, y, positive in points:
        figure.add_scatter(
            x=[x], y=[y], mode="markers", hovertemplate=f"{'inside' if positive else 'outside'}<extra>prompt</extra>",
            marker={"color": PROMPT_COLOUR, "size": 12, "symbol": "circle-open-dot" if positive else "x",
                    "line": {"width": 2}},
        )  # fmt: skip


def make_selectable(figure: go.Figure, shape_yx: tuple[int, int], *, boxes: bool) -> None:
    """Add an invisible grid of points, so that dragging a box or clicking causes selection events."""
    step = max(1, max(shape_yx) // (_BOX_GRID if boxes else _CLICK_GRID))
    ys, xs = np.mgrid[step // 2 : shape_yx[0] : step, step // 2 : shape_yx[1] : step]
    figure.add_scatter(
        x=xs.ravel(), y=ys.ravel(), mode="markers", name="grid", marker={"color": "rgba(0,0,0,0)", "size": 7},
        hovertemplate="x %{x}, y %{y}<extra></extra>",
        selected={"marker": {"color": "rgba(0,0,0,0)"}}, unselected={"marker": {"color": "rgba(0,0,0,0)"}},
    )  # fmt: skip
    figure.update_layout(dragmode="select" if boxes else "pan", clickmode="event+select", hoverdistance=20)
