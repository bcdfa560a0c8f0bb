"""Entry of the Streamlit app: navigation between the pages. Streamlit reruns this file on every interaction."""

from functools import partial

import streamlit as st
from PIL import Image
from streamlit.navigation.page import StreamlitPage

from dashboards.figures.style import ACCENT
from dashboards.views import cases, compare, failures, leaderboard, runs, sql, trial
from dashboards.views.parts import show_broken_runs, show_css, show_errors


def _page(function: object, title: str, path: str, icon: str, *, default: bool = False) -> StreamlitPage:
    return st.Page(function, title=title, url_path=path, icon=f":material/{icon}:", default=default)  # type: ignore[arg-type]


def _open_case(page: StreamlitPage, cohort: str, case_id: str, structure: str | None = None) -> None:
    """Go to a case in the viewer."""
    st.session_state["case_to_open"] = (cohort, case_id, structure)
    st.switch_page(page)


# An image of our own, because Streamlit fetches named icons for the browser tab from a server on the internet.
st.set_page_config(page_title="medsam3", page_icon=Image.new("RGB", (32, 32), ACCENT), layout="wide")
show_css()
gallery = _page(cases.show, "Cases", "cases", "imagesmode")
to_case = partial(_open_case, gallery)
board = _page(leaderboard.show, "Leaderboard", "start", "leaderboard", default=True)
chosen = st.navigation(
    [
        board,
        _page(partial(compare.show, to_case), "Compare", "compare", "compare_arrows"),
        gallery,
        _page(runs.show, "Runs", "runs", "history"),
        _page(partial(failures.show, to_case), "Failures", "failures", "report"),
        _page(trial.show, "Try", "try", "draw"),
        _page(sql.show, "SQL", "sql", "database"),
        # Streamlit serves the first page only at the root; this one answers at its name, like all others.
        st.Page(partial(st.switch_page, board), title="Leaderboard", url_path="leaderboard", visibility="hidden"),
    ],
    position="top",
)
with show_errors():
    show_broken_runs()
    chosen.run()
