"""The pages of the app and how one leads to another."""

from functools import partial

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from dashboards.views import cases, compare, failures, leaderboard, runs, sql, trial
from dashboards.views.parts import show_broken_runs, show_css, show_errors


def navigate() -> None:
    """Show the page that the address names."""
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
            # Streamlit serves the first page at the root alone; people type its name like that of any other.
            st.Page(partial(st.switch_page, board), title="Leaderboard", url_path="leaderboard", visibility="hidden"),
        ],
        position="top",
    )
    with show_errors():
        show_broken_runs()
        chosen.run()


def _page(function: object, title: str, path: str, icon: str, *, default: bool = False) -> StreamlitPage:
    return st.Page(function, title=title, url_path=path, icon=f":material/{icon}:", default=default)  # type: ignore[arg-type]


def _open_case(page: StreamlitPage, cohort: str, case_id: str, structure: str | None = None) -> None:
    """Go to a case in the viewer."""
    st.session_state["case_to_open"] = (cohort, case_id, structure)
    st.switch_page(page)
