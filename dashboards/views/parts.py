"""What all pages share: the store, cached answers, charts, colours, errors in words."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any, TypeVar

import plotly.graph_objects as go
import streamlit as st

from dashboards.figures.style import GRID, MUTED, weights_colours
from medsam3_core.errors import Medsam3Error
from storage.catalog.queries import pages
from storage.catalog.relations import tables_state
from storage.store.layout import DEFAULT_STORE, STORE_VARIABLE, StoreLayout, existing_store
from storage.store.locations import location
from storage.store.runs import broken_runs

Answer = TypeVar("Answer")

KEPT_SECONDS = 600
"""How long an answer is kept at most; it is asked anew as soon as a table of the store has changed."""

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
    """The few rules that Streamlit has no option for."""
    st.html(_CSS)


@contextmanager
def show_errors() -> Iterator[None]:
    """Errors of ours as one sentence on the page, not as a traceback."""
    try:
        yield
    except Medsam3Error as error:
        st.error(str(error), icon=":material/error:")


def show_broken_runs() -> None:
    """What no page shows, above all of them."""
    for sentence in broken_runs(store()):
        st.warning(sentence, icon=":material/folder_off:")


def heading(title: str, lead: str) -> None:
    """Title of a page and one sentence on what it answers."""
    st.subheader(title, anchor=False)
    st.html(f"<div class='lead'>{lead}</div>")


def chart(figure: go.Figure, key: str) -> None:
    """A figure in the look of the product."""
    st.plotly_chart(figure, key=key, width="stretch", theme=None, config=_CHART)


def colour_chips(labels: Sequence[str], colours: Mapping[str, str]) -> None:
    """Which colour is which weights."""
    chips = (
        f"<span class='chip'><i style='background:{colours.get(name, MUTED)}'></i>{name}</span>" for name in labels
    )
    st.html("".join(chips))


def pick(label: str, options: Sequence[Any], key: str, **options_of_widget: Any) -> Any:
    """A select box that keeps its choice over pages, as far as it still exists."""
    kept = f"kept_{key}"
    index = options.index(st.session_state[kept]) if st.session_state.get(kept) in options else 0
    chosen = st.selectbox(label, options, index=index, key=f"{key}_{len(options)}", **options_of_widget)
    st.session_state[kept] = chosen
    return chosen


def nothing_yet(what: str, remedy: str) -> None:
    """An empty page says what would fill it."""
    st.info(f"{what} {remedy}", icon=":material/info:")


def colours() -> dict[str, str]:
    """One colour per weights."""
    return weights_colours(kept(pages.weights_labels))


def kept(query: Callable[..., Answer], *arguments: Any) -> Answer:
    """`query(store, *arguments)`, kept between clicks until a table of the store changes."""
    answer: Answer = _kept(*store_key(), query, arguments)
    return answer


def store_key() -> tuple[str, int]:
    """The store, and a number that changes with its tables: by these two, answers are kept between clicks."""
    return str(store().root), tables_state(store())


def _name_of(query: FunctionType) -> str:
    return f"{query.__module__}.{query.__qualname__}"


@st.cache_data(ttl=KEPT_SECONDS, show_spinner=False, hash_funcs={FunctionType: _name_of})
def _kept(root: str, state: int, query: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return query(StoreLayout(location(root)), *arguments)
