"""Queries of runs: planned and fresh rows, newest attempts, measurements, seconds per case, weights that ran."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from medsam3_core.cases.cases import CaseStatus
from storage.catalog.catalog import Connection, connect
from storage.store.layout import StoreLayout

PlanRow = tuple[str, str | None, str]
"""Case, rater and structure; the rater is None in a run that only measures."""
_ROWS_AT_ONCE = 50_000


class CurrentAttempt(NamedTuple):
    """The newest attempt of a case, made from the current case."""

    case_id: str
    status: str
    reason: str | None
    attempt: str


Experience = tuple[str, str | None, str | None]
"""Weights, cohort and prompt policy; None for all cohorts, all policies."""


class Pace(NamedTuple):
    """Seconds per case in the past.

    Attributes:
        cases: Number of past cases.
        seconds: Mean of all steps; runs that were served by one pass over the slices share its time.
        seconds_again: Mean for scoring a stored prediction again.
    """

    cases: int
    seconds: float
    seconds_again: float


_PACES_SQL = """
WITH passes AS (
    SELECT attempt, case_id, count(*) AS runs,
        max(seconds_read + seconds_prompt + seconds_segment + seconds_score + seconds_write) AS seconds,
        max(seconds_read + seconds_score) AS seconds_again
    FROM outcomes WHERE status IN ('scored', 'segmented') GROUP BY attempt, case_id
),
shares AS (
    SELECT r.weights, r.cohort, r.prompt, p.seconds / p.runs AS seconds, p.seconds_again / p.runs AS seconds_again
    FROM passes AS p JOIN outcomes AS o ON o.attempt = p.attempt AND o.case_id = p.case_id
    JOIN runs AS r ON r.run_id = o.run_id
)
SELECT weights, cohort, prompt, count(*), avg(seconds), avg(seconds_again) FROM shares
GROUP BY GROUPING SETS ((weights, cohort, prompt), (weights, cohort), (weights))"""


def planned_rows(con: Connection, run_id: str) -> Iterator[PlanRow]:
    """The plan of a run, in order of case."""
    query = "SELECT case_id, rater, structure FROM plan WHERE run_id = ? ORDER BY case_id"
    return _rows(con, query, run_id)


def fresh_rows(con: Connection, run_id: str, *, scored_only: bool) -> Iterator[PlanRow]:
    """Rows of `scores` of a run, in order of case; with `scored_only` only those with a score."""
    query = f"""
    SELECT case_id, rater, structure FROM scores
    WHERE run_id = ? AND (status = '{CaseStatus.SCORED}' OR NOT ?) ORDER BY case_id"""
    return _rows(con, query, run_id, scored_only)


def planned_structures(con: Connection, run_id: str) -> set[str]:
    """Structures in the plan of a run."""
    rows = con.execute("SELECT DISTINCT structure FROM plan WHERE run_id = ?", [run_id]).fetchall()
    return {row[0] for row in rows}


def current_attempts(store: StoreLayout, run_id: str) -> list[CurrentAttempt]:
    """Newest attempts of a run on cases that have not changed since, in order of case."""
    query = "SELECT case_id, status, reason, attempt FROM internal.current_attempts WHERE run_id = ? ORDER BY case_id"
    with connect(store, query) as con:
        return [CurrentAttempt(*row) for row in con.execute(query, [run_id]).fetchall()]


def current_measurements(store: StoreLayout, run_id: str) -> pa.Table:
    """The view `measurements` of one run, by case and structure."""
    query = "SELECT * FROM measurements WHERE run_id = ? ORDER BY case_id, structure"
    with connect(store, query) as con:
        return con.sql(query, params=[run_id]).to_arrow_table()


def past_paces(store: StoreLayout) -> dict[Experience, Pace]:
    """Seconds per case by weights, cohort and policy, by weights and cohort, and by weights."""
    with connect(store, _PACES_SQL) as con:
        rows = con.execute(_PACES_SQL).fetchall()
    return {(weights, cohort, prompt): Pace(*numbers) for weights, cohort, prompt, *numbers in rows}


def weights_with_runs(store: StoreLayout) -> set[str]:
    """SHA-256 of all weights that have a run."""
    query = "SELECT DISTINCT weights_sha256 FROM runs"
    with connect(store, query) as con:
        return {row[0] for row in con.execute(query).fetchall()}


def recorded_versions(store: StoreLayout, weights_sha256: str) -> list[tuple[str, int]]:
    """Names and versions under which these weights were recorded in runs, sorted."""
    query = "SELECT DISTINCT weights, weights_version FROM runs WHERE weights_sha256 = ? ORDER BY ALL"
    with connect(store, query) as con:
        return [(name, version) for name, version in con.execute(query, [weights_sha256]).fetchall()]


def _rows(con: Connection, query: str, *parameters: Any) -> Iterator[PlanRow]:
    for batch in con.sql(query, params=list(parameters)).to_arrow_reader(_ROWS_AT_ONCE):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
