"""Finished work of a run, for up to a million cases: cases with equal work share their objects."""

from collections.abc import Callable, Collection, Iterable
from itertools import groupby
from operator import itemgetter

import pyarrow as pa
import pyarrow.compute as pc

from medsam3_core.cases.cases import CaseStatus
from storage.catalog.catalog import Connection
from storage.catalog.queries.runs import PlanRow, fresh_rows, planned_rows
from storage.runs.ledger import Run
from storage.store.layout import StoreLayout
from storage.store.schemas import OUTCOMES, SCORES
from storage.store.tables import read_table

Pairs = frozenset[tuple[str | None, str]]
"""Rater and structure of planned, scored or predicted rows."""
NOTHING: Pairs = frozenset()


def planned_pairs(connection: Connection, run: Run) -> dict[str, Pairs]:
    """Planned pairs of each case."""
    return _pairs_by_case(planned_rows(connection, run.run_id))


def fresh_pairs(connection: Connection, run: Run, *, retry: bool) -> dict[str, Pairs]:
    """Pairs of each case with a fresh row; with `retry` only those with a score."""
    return _pairs_by_case(fresh_rows(connection, run.run_id, scored_only=retry))


def predicted_pairs(store: StoreLayout, run: Run, fresh: Collection[str]) -> dict[tuple[str, str], Pairs]:
    """Pairs that the newest batch scored under any protocol, by (case_id, case_digest); without fresh cases."""
    outcomes = read_table(store.outcomes(run.run_id), OUTCOMES, columns=["case_id", "attempt", "finished_at"])
    outcomes = _of_cases(outcomes, lambda case_id: case_id not in fresh)
    if not outcomes.num_rows:
        return {}
    newest = outcomes.sort_by([("finished_at", "ascending"), ("attempt", "ascending")])
    batches = dict(zip(newest["case_id"].to_pylist(), newest["attempt"].to_pylist(), strict=True))
    columns = ["case_id", "case_digest", "attempt", "rater", "structure", "status"]
    scores = read_table(store.scores(run.run_id), SCORES, columns=columns)
    scores = scores.filter(pc.equal(scores["status"], str(CaseStatus.SCORED)))
    found: dict[tuple[str, str], set[tuple[str | None, str]]] = {}
    for row in _of_cases(scores, batches.__contains__).to_pylist():
        if batches[row["case_id"]] == row["attempt"]:
            found.setdefault((row["case_id"], row["case_digest"]), set()).add((row["rater"], row["structure"]))
    return {key: frozenset(pairs) for key, pairs in found.items()}


def _of_cases(table: pa.Table, wanted: Callable[[str], bool]) -> pa.Table:
    names = [name for name in pc.unique(table["case_id"]).to_pylist() if wanted(name)]
    return table.filter(pc.is_in(table["case_id"], value_set=pa.array(names, pa.string())))


def _pairs_by_case(rows: Iterable[PlanRow]) -> dict[str, Pairs]:
    """Pairs by case, from rows in order of case; cases with equal pairs share one object."""
    shared: dict[Pairs, Pairs] = {}
    found: dict[str, Pairs] = {}
    for case_id, group in groupby(rows, key=itemgetter(0)):
        pairs = frozenset((rater, structure) for _, rater, structure in group)
        found[case_id] = shared.setdefault(pairs, pairs)
    return found
