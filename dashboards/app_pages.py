"""The pages of the app and how one leads to another."""

from functools import partial

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from dashboards import (
    page_cases,
    page_compare,
    page_failures,
    page_leaderboard,
    page_runs,
    page_sql,
    page_try,
)
from dashboards.page_parts import show_broken_runs, show_css, show_errors


def navigate() -> None:
    """Show the page that the address names."""
    show_css()
    cases = _page(page_cases.show, "Cases", "cases", "imagesmode")
    to_case = partial(_open_case, cases)
    board = _page(page_leaderboard.show, "Leaderboard", "start", "leaderboard", default=True)
    chosen = st.navigation(
        [
            board,
            _page(partial(page_compare.show, to_case), "Compare", "compare", "compare_arrows"),
            cases,
            _page(page_runs.show, "Runs", "runs", "history"),
            _page(partial(page_failures.show, to_case), "Failures", "failures", "report"),
            _page(page_try.show, "Try", "try", "draw"),
            _page(page_sql.show, "SQL", "sql", "database"),
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
