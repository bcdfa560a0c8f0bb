"""Try: segment one slice from a box, points or a text with two sets of weights."""

from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from dashboards.figures.style import colour_of
from dashboards.figures.viewer import add_box, add_outline, add_points, make_selectable, slice_figure
from dashboards.views.case_viewer import case_picture
from dashboards.views.parts import colours, heading, kept, nothing_yet, pick, show_errors, store
from dashboards.views.try_slice import TrialAnswer, TrialPrompt, TrialSegmenter, load_trial_segmenter, weights_names
from dashboards.views.uploads import READABLE, read_upload
from medsam3_core.errors import Medsam3Error
from medsam3_core.settings.inference import InferenceSettings
from storage.catalog.queries import pages
from storage.sources.formats.single import InputImage

_CASE, _UPLOAD = "Case in the store", "Uploaded image"
_BOX, _INSIDE, _OUTSIDE = "Box", "Point inside", "Point outside"
_CHART = {"displaylogo": False, "modeBarButtonsToRemove": ["lasso2d", "autoScale2d", "zoom2d", "select2d"]}


def show() -> None:
    """The page."""
    heading("Try", "Draw a box, click points or enter a text; compare two sets of weights. Uploads are not kept.")
    drawing, answers = st.columns([5, 6], gap="large")
    with drawing:
        chosen = _choose_slice()
        if chosen is None:
            return
        rgb, spacing_yx, identity = chosen
        prompt = _draw_prompt(rgb, spacing_yx, identity)
    with answers:
        _answer(rgb, spacing_yx, prompt, identity)


def _choose_slice() -> tuple[NDArray[np.uint8], tuple[float, float], str] | None:
    """Pixels (y, x, 3), spacing y and x, and an identifier of the slice; None if there is no image."""
    source = st.segmented_control("Image", [_CASE, _UPLOAD], default=_CASE, label_visibility="collapsed")
    return _choose_upload() if source == _UPLOAD else _choose_case()


def _choose_case() -> tuple[NDArray[np.uint8], tuple[float, float], str] | None:
    cases = kept(pages.accepted_cases)
    if cases.empty:
        nothing_yet("No cases yet.", "Run `medsam3 ingest`, or upload an image.")
        return None
    left, right = st.columns(2)
    cohort = pick("Cohort", list(dict.fromkeys(cases["cohort"])), "cohort", left)
    rows = cases[cases["cohort"] == cohort]
    case_id = right.selectbox("Case", list(rows["case_id"]), key=f"try_case_{cohort}")
    case = rows.set_index("case_id").loc[case_id]
    picture = case_picture(str(store().root), cohort, case_id, int(case["ndim"]))
    geometry = picture.volume.geometry
    z = _choose_depth(geometry.shape_zyx[0], f"{cohort}_{case_id}")
    return picture.rgb(z), geometry.spacing_zyx[1:], f"{cohort}/{case_id}/{z}"


def _choose_upload() -> tuple[NDArray[np.uint8], tuple[float, float], str] | None:
    file = st.file_uploader(READABLE)
    if file is None:
        return None
    with show_errors():
        image = _uploaded(file.name, file.getvalue())
        z = _choose_depth(image.depth, file.file_id)
        return image.rgb(z), image.geometry.spacing_zyx[1:], f"upload/{file.file_id}/{z}"
    return None


def _choose_depth(depth: int, key: str) -> int:
    return int(st.slider("Slice z (index)", 0, depth - 1, depth // 2, key=f"try_z_{key}")) if depth > 1 else 0


def _uploaded(name: str, content: bytes) -> InputImage:
    """Read the upload of this session once."""
    key = (name, len(content), hash(content))
    if st.session_state.get("uploaded", (None,))[0] != key:
        st.session_state["uploaded"] = (key, read_upload(name, content))
    image: InputImage = st.session_state["uploaded"][1]
    return image


def _draw_prompt(rgb: NDArray[np.uint8], spacing_yx: tuple[float, float], identity: str) -> TrialPrompt:
    """Show the slice to draw on; box and points are kept until the slice changes or they are cleared."""
    if st.session_state.get("drawn_on") != identity:
        st.session_state.update({"drawn_on": identity, "drawn_box": None, "drawn_points": (), "drawing": 0})
    tool, clear = st.columns([3, 1], vertical_alignment="center")
    kind = tool.segmented_control(
        "Tool", [_BOX, _INSIDE, _OUTSIDE], default=_BOX, label_visibility="collapsed", key="tool"
    )
    if clear.button("Clear", icon=":material/clear:", width="stretch"):
        st.session_state.update({"drawn_box": None, "drawn_points": (), "drawing": st.session_state["drawing"] + 1})
    kind = kind or _BOX
    key = f"draw_{identity}_{kind}_{st.session_state['drawing']}"
    _take_selection(st.session_state.get(key), kind, rgb.shape[:2])
    figure = slice_figure(rgb, spacing_yx, height=470)
    if box := st.session_state["drawn_box"]:
        add_box(figure, box)
    add_points(figure, st.session_state["drawn_points"])
    make_selectable(figure, (rgb.shape[0], rgb.shape[1]), boxes=kind == _BOX)
    st.plotly_chart(
        figure, key=key, width="stretch", theme=None, config=_CHART,
        on_select="rerun", selection_mode="box" if kind == _BOX else "points",
    )  # fmt: skip
    text = st.text_input("Text", placeholder="e.g. liver", key="try_text")
    return TrialPrompt(text, st.session_state["drawn_box"], st.session_state["drawn_points"])


def _take_selection(event: Any, kind: str, shape_yx: tuple[int, ...]) -> None:
    """Store a selection event of the plot as a box or a point, once."""
    selection = event["selection"] if event else {}
    if kind == _BOX and selection.get("box"):
        xs, ys = selection["box"][0]["x"], selection["box"][0]["y"]
        st.session_state["drawn_box"] = _pixel_box(xs, ys, shape_yx)
    elif kind != _BOX and selection.get("points"):
        point = selection["points"][0]
        added = (float(point["x"]), float(point["y"]), kind == _INSIDE)
        if added not in st.session_state["drawn_points"]:
            st.session_state["drawn_points"] = (*st.session_state["drawn_points"], added)


def _pixel_box(xs: list[float], ys: list[float], shape_yx: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Half-open pixel box of a rectangle in plot coordinates, in which a pixel extends from -0.5 to +0.5."""
    height, width = shape_yx
    x0, x1 = (float(np.clip(round(value + 0.5), 0, width)) for value in (min(xs), max(xs)))
    y0, y1 = (float(np.clip(round(value + 0.5), 0, height)) for value in (min(ys), max(ys)))
    x0, y0 = min(x0, width - 1.0), min(y0, height - 1.0)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def _answer(rgb: NDArray[np.uint8], spacing_yx: tuple[float, float], prompt: TrialPrompt, identity: str) -> None:
    names = weights_names(store())
    left, right = st.columns(2)
    first = pick("Left weights", names, "try_left", left)
    second = pick("Right weights", [*names[1:], names[0]], "try_right", right)
    default = InferenceSettings().threshold
    threshold = st.slider("Threshold (score)", 0.0, 0.95, default, 0.05, help="Drops instances below this score.")
    clicked = st.button("Segment", type="primary", disabled=prompt.empty, icon=":material/play_arrow:", width="stretch")
    st.caption(_describe(prompt))
    if clicked:
        found = [(name, _segment(name, rgb, prompt, threshold)) for name in (first, second)]
        st.session_state["answers"] = (identity, prompt, found)
    known, prompt, answers = st.session_state.get("answers", (None, prompt, []))
    if known != identity:
        return
    for (name, answer), column in zip(answers, st.columns(2), strict=True):
        with column:
            _show_answer(name, answer, rgb, spacing_yx, prompt)


def _segment(name: str, rgb: NDArray[np.uint8], prompt: TrialPrompt, threshold: float) -> TrialAnswer | str:
    """The answer, or the message of its error."""
    with st.spinner(f"{name} ..."):
        try:
            return _segmenter(str(store().root), name).answer(rgb, prompt, threshold)
        except Medsam3Error as error:
            return str(error)


def _show_answer(
    name: str, answer: TrialAnswer | str, rgb: NDArray[np.uint8], spacing_yx: tuple[float, float], prompt: TrialPrompt
) -> None:
    if isinstance(answer, str):
        st.warning(f"**{name}**: {answer}", icon=":material/block:")
        return
    figure = slice_figure(rgb, spacing_yx, height=330)
    add_outline(figure, answer.mask, colour_of(name, colours()), name)
    if prompt.box:
        add_box(figure, prompt.box)
    add_points(figure, prompt.points)
    st.markdown(f"**{name}**")
    st.plotly_chart(figure, width="stretch", theme=None, config={"displaylogo": False}, key=f"answer_{name}")
    if answer.score is None:
        st.caption(f"No instance above the threshold, {answer.seconds:.2f} s on {answer.device}.")
        return
    area = int(answer.mask.sum())
    st.caption(
        f"{answer.instances} instance{'s' if answer.instances != 1 else ''}, best score {answer.score:.2f}, "
        f"{area:,} px, {answer.seconds:.2f} s on {answer.device}."
    )


def _describe(prompt: TrialPrompt) -> str:
    if prompt.empty:
        return "Drag a box on the slice, or choose a point tool and click, or enter a text."
    parts = [f"text “{prompt.text.strip()}”"] if prompt.text.strip() else []
    if prompt.box:
        x0, y0, x1, y1 = (int(value) for value in prompt.box)
        parts.append(f"box x {x0} to {x1}, y {y0} to {y1} px")
    inside = sum(positive for _, _, positive in prompt.points)
    if prompt.points:
        parts.append(f"points: {inside} inside, {len(prompt.points) - inside} outside")
    return "Prompt: " + "; ".join(parts)


@st.cache_resource(max_entries=3, show_spinner=False)
def _segmenter(root: str, name: str) -> TrialSegmenter:
    return load_trial_segmenter(store(), name)
