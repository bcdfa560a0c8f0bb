"""Shared by all pages: store, cached queries, charts, colours, error messages."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any, TypeVar

import plotly.graph_objects as go
import streamlit as st

from dashboards.figures.style import GRID, MUTED, colour_of, weights_colours
from medsam3_core.errors import Medsam3Error
from storage.catalog.queries import pages
from storage.catalog.relations import tables_state
from storage.store.layout import DEFAULT_STORE, STORE_VARIABLE, StoreLayout, existing_store
from storage.store.locations import location
from storage.store.runs import broken_runs

Answer = TypeVar("Answer")

_MAX_AGE_SECONDS = 600
"""Maximum age of a cached answer; a change of any table of the store invalidates it at once."""

_CSS = f"""<style>
.block-container {{ padding-top: 4.2rem; max-width: 1320px; }}
[data-testid="stMetric"] {{ border: 1px solid {GRID}; border-radius: 8px; padding: 8px 14px; }}
.chip {{ display: inline-block; margin-right: 16px; font-size: 0.9rem; }}
.chip i {{ display: inline-block; width: 11px; height: 11px; border-radius: 6px; margin-right: 6px; }}
.lead {{ color: {MUTED}; margin: -0.6rem 0 0.8rem; }}
</style>"""
_CHART = {"displaylogo": False, "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"]}


def store() -> StoreLayout:
    """The store that the dashboard was started on."""
    return existing_store(os.environ.get(STORE_VARIABLE, DEFAULT_STORE))


def show_css() -> None:
    """Add the CSS rules that Streamlit has no option for."""
    st.html(_CSS)


@contextmanager
def show_errors() -> Iterator[None]:
    """Show errors of medsam3 as one sentence on the page, not as a traceback."""
    try:
        yield
    except Medsam3Error as error:
        st.error(str(error), icon=":material/error:")


def show_broken_runs() -> None:
    """Warn about runs that every page leaves out."""
    for sentence in broken_runs(store()):
        st.warning(sentence, icon=":material/folder_off:")


def heading(title: str, lead: str) -> None:
    """Show the title of a page and one sentence on its content."""
    st.subheader(title, anchor=False)
    st.html(f"<div class='lead'>{lead}</div>")


def chart(figure: go.Figure, key: str, *, scroll_zoom: bool = False) -> None:
    """Show a figure with its own theme."""
    st.plotly_chart(figure, key=key, width="stretch", theme=None, config={**_CHART, "scrollZoom": scroll_zoom})


def colour_chips(labels: Sequence[str], colours: Mapping[str, str]) -> None:
    """Show a legend of labels and their colours."""
    chip = "<span class='chip'><i style='background:{}'></i>{}</span>"
    st.html("".join(chip.format(colour_of(name, colours), name) for name in labels))


def pick(label: str, options: Sequence[Any], key: str, place: Any = st, **widget_options: Any) -> Any:
    """Show a select box in a column (or on the page) that keeps its choice across pages while the option exists."""
    kept = f"kept_{key}"
    index = options.index(st.session_state[kept]) if st.session_state.get(kept) in options else 0
    chosen = place.selectbox(label, options, index=index, key=f"{key}_{len(options)}", **widget_options)
    st.session_state[kept] = chosen
    return chosen


def nothing_yet(state: str, remedy: str) -> None:
    """Explain an empty page or part of a page, and how to fill it."""
    st.info(f"{state} {remedy}", icon=":material/info:")


def colours() -> dict[str, str]:
    """One colour per weights."""
    return weights_colours(kept(pages.weights_labels))


def kept(query: Callable[..., Answer], *arguments: Any) -> Answer:
    """Cached answer of `query(store, *arguments)`, until a table of the store changes."""
    answer: Answer = _kept(str(store().root), tables_state(store()), query, arguments)
    return answer


def _name_of(query: FunctionType) -> str:
    return f"{query.__module__}.{query.__qualname__}"


@st.cache_data(ttl=_MAX_AGE_SECONDS, show_spinner=False, hash_funcs={FunctionType: _name_of})
def _kept(root: str, state: int, query: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return query(StoreLayout(location(root)), *arguments)
