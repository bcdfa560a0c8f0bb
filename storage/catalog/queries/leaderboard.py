"""Queries of the leaderboard that commands print, and of the agreement of raters."""

from collections.abc import Sequence

import pyarrow as pa

from storage.catalog.catalog import connect
from storage.store.layout import StoreLayout


def read_leaderboard(store: StoreLayout, run_ids: Sequence[str] | None = None) -> pa.Table:
    """The leaderboard, best Dice first within cohort, split, structure and rater.

    Args:
        store: The store.
        run_ids: These runs, even if a newer one has replaced them; None for the newest run of each key.
    """
    where = "NOT superseded" if run_ids is None else "run_id IN (SELECT unnest($runs))"
    order = "cohort, split NULLS LAST, structure, rater, dice_mean DESC NULLS LAST, weights, prompt, settings_id"
    query = f"SELECT * EXCLUDE (superseded) FROM leaderboard_of_runs WHERE {where} ORDER BY {order}"
    with connect(store, query) as con:
        return con.sql(query, params=None if run_ids is None else {"runs": list(run_ids)}).to_arrow_table()


def read_inter_rater(store: StoreLayout) -> pa.Table:
    """The view `inter_rater`, sorted."""
    query = "SELECT * FROM inter_rater ORDER BY cohort, split NULLS LAST, structure, rater, other_rater"
    with connect(store, query) as con:
        return con.sql(query).to_arrow_table()
