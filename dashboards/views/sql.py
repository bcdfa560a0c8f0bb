"""SQL: one read-only SELECT over the views, with their columns listed beside it."""

import pyarrow as pa
import streamlit as st

from dashboards.views.parts import heading, store
from medsam3_core.errors import UsageError
from storage.catalog.docs import VIEW_SUMMARIES, column_meaning
from storage.catalog.guard import run_sql, view_columns
from storage.catalog.views import TABLE_MACROS

_MAX_ROWS = 2_000
_EXAMPLES = {
    "Leaderboard": "SELECT cohort, structure, weights, prompt, dice_mean, dice_low, dice_high, scored, planned\n"
    "FROM leaderboard ORDER BY cohort, structure, dice_mean DESC",
    "Worst cases": "SELECT case_id, structure, weights, prompt, dice, hd95, distance_unit\nFROM scores "
    "WHERE status = 'scored' ORDER BY dice NULLS LAST LIMIT 50",
    "Seconds per case": "SELECT weights, cohort, prompt, median(seconds_segment) AS seconds\n"
    "FROM outcomes JOIN runs USING (run_id) GROUP BY ALL ORDER BY seconds DESC",
    "Volume error": "SELECT structure, weights, median(volume_error) AS bias, count(*) AS n\n"
    "FROM scores WHERE \"empty\" = 'none' GROUP BY ALL ORDER BY structure, weights",
}


def show() -> None:
    """The page."""
    heading("SQL", "One SELECT (DuckDB) over the views of this store, as in <code>medsam3 sql</code>.")
    editor, schema = st.columns([5, 2], gap="medium")
    with schema:
        _show_schema()
    with editor:
        name = st.pills("Examples", list(_EXAMPLES), default="Leaderboard", label_visibility="collapsed")
        query = st.text_area("Query", _EXAMPLES.get(name or "Leaderboard", ""), height=150, key=f"query_{name}")
        st.button("Run", type="primary", icon=":material/play_arrow:")
        _show_answer(query)


def _show_answer(query: str) -> None:
    try:
        answer = run_sql(store(), query)
    except UsageError as error:
        message, _, _ = str(error).partition("\nviews and their columns:")
        st.error(message, icon=":material/error:")
        return
    shown = answer.slice(0, _MAX_ROWS)
    more = f", first {_MAX_ROWS:,} shown" if answer.num_rows > _MAX_ROWS else ""
    st.caption(f"{answer.num_rows:,} rows{more}")
    st.dataframe(shown, hide_index=True, height=420)
    left, right = st.columns(2)
    frame = answer.to_pandas()
    left.download_button(
        "Download CSV", frame.to_csv(index=False), "answer.csv", "text/csv", icon=":material/download:"
    )
    right.download_button("Download Parquet", _parquet(answer), "answer.parquet", icon=":material/download:")


def _parquet(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _show_schema() -> None:
    st.markdown("**Views**")
    for view, columns in _columns().items():
        with st.expander(view):
            st.caption(VIEW_SUMMARIES[view])
            st.dataframe(columns, hide_index=True)
    st.caption("Table macro: " + ", ".join(f"`{macro}('BASE', 'NEW')`" for macro in TABLE_MACROS))


@st.cache_data(show_spinner=False)
def _columns() -> dict[str, list[dict[str, str]]]:
    """Columns of every view with type and meaning."""
    return {
        view: [{"column": name, "type": kind.lower(), "meaning": column_meaning(view, name)} for name, kind in columns]
        for view, columns in view_columns().items()
    }
