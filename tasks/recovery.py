"""What a batch had committed before its worker died: read from the tables it wrote, on the driver."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from storage.runs.ledger import committed_outcomes
from storage.runs.plan import PlannedCase
from storage.store.layout import StoreLayout


def unfinished_runs(
    store: StoreLayout, batch_id: str, cases: Sequence[PlannedCase]
) -> tuple[list[PlannedCase], dict[str, int]]:
    """Cases with the runs that still want them, and how the committed case and run pairs ended."""
    run_ids = {run_id for case in cases for run_id in case.run_ids}
    committed = {run_id: committed_outcomes(store, run_id, batch_id) for run_id in run_ids}
    statuses = Counter(status for outcomes in committed.values() for status in outcomes.values())
    left = [
        replace(case, run_ids=tuple(run_id for run_id in case.run_ids if case.case_id not in committed[run_id]))
        for case in cases
    ]
    return [case for case in left if case.run_ids or case.rescore_ids], dict(statuses)
