"""Viewer of one case: predictions of two runs side by side, slice, window, structures, prompts."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from numpy.typing import NDArray

from dashboards.figures.figures import series_name
from dashboards.figures.pictures import (
    CasePicture,
    fullest_slice,
    open_case_picture,
    open_case_prediction,
    predicted_mask,
)
from dashboards.figures.style import PROMPT_COLOUR, REFERENCE_COLOUR, colour_of
from dashboards.figures.viewer import add_outline, add_prompts, add_reference, slice_figure
from dashboards.views.parts import chart, colour_chips, colours, kept, show_errors, store
from storage.catalog.queries import pages

_NO_RUN = "none"


@st.fragment
def show_viewer(case: pd.Series, case_id: str, structure: str | None) -> None:
    """Show one case; moving a slider redraws only this part of the page.

    Args:
        case: Row of `pages.accepted_cases`.
        case_id: Case.
        structure: Structure selected first, or None for all.
    """
    with show_errors():  # errors of a fragment never reach the page around it
        _show_case(case, case_id, structure)


def _show_case(case: pd.Series, case_id: str, structure: str | None) -> None:
    picture = case_picture(str(store().root), case["cohort"], case_id, int(case["ndim"]))
    geometry = picture.volume.geometry
    depth, height, width = geometry.shape_zyx
    spacing = " x ".join(f"{value:.3g}" for value in geometry.spacing_zyx) + f" {geometry.unit}"
    st.markdown(f"**{case_id}**, {case['modality']}, {depth} x {height} x {width} voxels (z, y, x), spacing {spacing}")
    key = f"{case['cohort']}_{case_id}_{structure}"
    chosen, rater = _structures(picture, case, structure, key)
    masks = {name: reference_mask(picture, case["cohort"], case_id, rater, name) for name in chosen}
    z = _slice(depth, masks, key)
    window = _window(picture, key)
    with_prompts = st.session_state.get(f"prompts_{key}", True)
    runs = kept(pages.runs_of_case, case["cohort"], case_id)
    sides = st.columns(2, gap="medium")
    for place, column in enumerate(sides):
        with column:
            _show_side(place, runs, picture, case, case_id, masks, z, window, with_prompts)
    labels = {"reference (dotted)": REFERENCE_COLOUR, "prompt": PROMPT_COLOUR}
    colour_chips([*labels, *dict.fromkeys(runs["label"])], colours() | labels)


def _structures(picture: CasePicture, case: pd.Series, structure: str | None, key: str) -> tuple[list[str], str]:
    left, middle, right = st.columns([6, 2, 2], vertical_alignment="bottom")
    names = list(picture.texts)
    first = [structure] if structure in names else names
    chosen = left.multiselect("Structures", names, default=first, key=f"structures_{key}")
    rater = middle.selectbox("Reference by", list(picture.volume.raters) or ["none"], key=f"rater_{key}")
    right.toggle("Prompts", value=True, key=f"prompts_{key}")
    return chosen, rater


def _slice(depth: int, masks: dict[str, NDArray[np.bool_] | None], key: str) -> int:
    if depth == 1:
        return 0
    first = fullest_slice(list(masks.values()))
    return int(st.slider("Slice z (index)", 0, depth - 1, depth // 2 if first is None else first, key=f"z_{key}"))


def _window(picture: CasePicture, key: str) -> tuple[float, float] | None:
    """Black and white point in stored intensities; None for a colour or constant image."""
    if picture.colour:
        return None
    low, high = picture.extremes
    if not low < high:
        return None
    black, white = (float(np.clip(value, low, high)) for value in picture.value_range)
    step = max((high - low) / 500, 1e-6)
    unit = "HU" if picture.window.startswith("ct:") else "stored intensity"
    label = f"Window: black and white at ({unit})"
    chosen: Any = st.slider(label, low, high, (black, white), step=step, key=f"window_{key}")
    return chosen if chosen[0] < chosen[1] else None


def _show_side(
    place: int, runs: pd.DataFrame, picture: CasePicture, case: pd.Series, case_id: str,
    masks: dict[str, NDArray[np.bool_] | None], z: int, window: tuple[float, float] | None, with_prompts: bool,
) -> None:  # fmt: skip
    """One half of the viewer: image, reference, and the prediction of one run."""
    names = [_NO_RUN]
    names += [series_name(run["label"], run["prompt"], run["settings"]) for run in runs.to_dict("records")]
    chosen = _prediction(place, names, case["cohort"])
    figure = slice_figure(picture.rgb(z, window), picture.volume.geometry.spacing_zyx[1:])
    for name, mask in masks.items():
        if mask is not None:
            add_reference(figure, mask[z], name)
    if chosen != _NO_RUN:
        run = runs.iloc[names.index(chosen) - 1]
        texts = _add_run(figure, run, case, case_id, list(masks), z, with_prompts)
        chart(figure, f"view_{place}", scroll_zoom=True)
        _numbers(run, case, case_id, list(masks), texts)
    else:
        chart(figure, f"view_{place}", scroll_zoom=True)


def _prediction(place: int, names: list[str], cohort: str) -> str:
    """Run to show on a side; the left side follows the row selected in the table."""
    wanted = st.session_state.get("case_series")
    key = f"run_{place}_{cohort}_{len(names)}_{wanted}"
    others = [name for name in names[1:] if name != wanted] or names
    first = wanted if place == 0 and wanted in names else others[min(place, len(others) - 1)]
    label = "Left: prediction of" if place == 0 else "Right: prediction of"
    return str(st.selectbox(label, names, index=names.index(first), key=key))


def _add_run(
    figure: go.Figure, run: pd.Series, case: pd.Series, case_id: str, structures: list[str], z: int, with_prompts: bool
) -> list[str]:
    """Add outlines and prompts of one run; return the text prompts of this slice."""
    colour = colour_of(run["label"], colours())
    for name in structures:
        mask = prediction_mask(str(store().root), run["run_id"], case_id, name)
        if mask is not None:
            add_outline(figure, mask[z], colour, f"{run['label']}, {name}")
    if not with_prompts:
        return []
    prompts = kept(pages.prompts_of_case, case["cohort"], case_id, run["prompt_id"])
    here = prompts[(prompts["slice"] == z) & prompts["structure"].isin(structures)]
    add_prompts(figure, here)
    return list(dict.fromkeys(here["text"].dropna()))


def _numbers(run: pd.Series, case: pd.Series, case_id: str, structures: list[str], texts: list[str]) -> None:
    scores = kept(pages.case_scores, case["cohort"])
    mine = scores[
        (scores["run_id"] == run["run_id"]) & (scores["case_id"] == case_id) & scores["structure"].isin(structures)
    ]
    unit = next(iter(mine["distance_unit"].dropna()), "")
    lines = []
    for row in mine.itertuples():
        if row.status != "scored":
            lines.append(f"{row.structure}: {row.status} ({row.reason})")
        elif pd.isna(row.dice):
            lines.append(f"{row.structure}: absent, empty prediction")
        else:
            distance = "" if pd.isna(row.hd95) else f", HD95 {row.hd95:.1f} {unit}"
            lines.append(f"{row.structure}: Dice {row.dice:.3f}, NSD {row.nsd:.3f}{distance}")
    prompted = [f"text prompts: {', '.join(texts)}"] if texts else []
    st.caption("  \n".join([*lines, *prompted]))


@st.cache_resource(max_entries=8, show_spinner=False)
def case_picture(root: str, cohort: str, case_id: str, ndim: int) -> CasePicture:
    """Open a case; the last eight are cached."""
    return open_case_picture(store(), cohort, case_id, ndim)


@st.cache_data(max_entries=64, show_spinner=False)
def reference_mask(
    _picture: CasePicture, cohort: str, case_id: str, rater: str, structure: str
) -> NDArray[np.bool_] | None:
    """Reference of one structure, shape (z, y, x)."""
    reference = _picture.reference(rater)
    return None if reference is None else reference.mask(structure)


@st.cache_data(max_entries=64, ttl=60, show_spinner=False)
def prediction_mask(root: str, run_id: str, case_id: str, structure: str) -> NDArray[np.bool_] | None:
    """Prediction of one structure, shape (z, y, x)."""
    return predicted_mask(open_case_prediction(store(), run_id, case_id), structure)
