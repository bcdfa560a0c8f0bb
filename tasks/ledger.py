"""Rows of a batch, committed together at its end; rows of cases without a batch."""

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medsam3_core.cases.cases import CaseStatus
from storage.cohorts.cohorts import CaseRef
from storage.runs.ledger import Run, unscored_rows, write_measurements, write_outcomes
from storage.runs.plan import WorkGroup
from storage.runs.traces import write_traces
from storage.store.layout import StoreLayout
from tasks.prompts import BatchPrompts

Rows = dict[str, list[dict[str, Any]]]
"""Rows of a table by run."""


@dataclass
class BatchLedger:
    """Rows of one batch.

    Attributes:
        batch_id: Id of the batch, which names its files and is the `attempt` of its rows.
        token: Token of the commits, see `storage.store.writers`.
        statuses: Cases by status.
        outcomes: Outcomes, one per case and run; none if a stored prediction was scored again.
        measurements: Measurements, of runs that measure.
    """

    store: StoreLayout
    batch_id: str
    token: str
    prompts: BatchPrompts
    statuses: Counter[str] = field(default_factory=Counter)
    scores: Rows = field(default_factory=dict)
    outcomes: Rows = field(default_factory=dict)
    traces: Rows = field(default_factory=dict)
    measurements: Rows = field(default_factory=dict)

    def add(self, run_id: str, scores: list[dict[str, Any]], outcome: dict[str, Any]) -> None:
        """Add the scores and the outcome of a case."""
        self.scores.setdefault(run_id, []).extend(scores)
        self.outcomes.setdefault(run_id, []).append(outcome)
        self.statuses[outcome["status"]] += 1

    def add_rescored(self, run_id: str, scores: list[dict[str, Any]]) -> None:
        """Add the new scores of a stored prediction, whose outcome exists already."""
        self.scores.setdefault(run_id, []).extend(scores)
        self.statuses["rescored"] += 1

    def measured(self, run_id: str, case: CaseRef, structure: str, columns: Mapping[str, Any]) -> None:
        """Add the measurements of a structure."""
        key = {"run_id": run_id, "attempt": self.batch_id, "case_id": case.case_id, "structure": structure}
        self.measurements.setdefault(run_id, []).append(key | dict(columns))

    def unscored(self, runs: Sequence[Run], case: CaseRef, status: CaseStatus, reason: str) -> None:
        """Record a case without scores, with the reason, for the runs that have no outcome of it yet."""
        for run in runs:
            finished = [row for row in self.outcomes.get(run.run_id, ()) if row["case_id"] == case.case_id]
            if not finished:
                self.add(run.run_id, *unscored_rows(run, case, self.batch_id, status, reason))

    def commit(self) -> None:
        """Write prompts, traces and measurements first; outcomes, which make scores count, last."""
        self.prompts.write(self.batch_id)
        for run_id, rows in self.traces.items():
            write_traces(self.store, run_id, self.batch_id, rows)
        for run_id, rows in self.measurements.items():
            write_measurements(self.store, run_id, self.batch_id, rows)
        for run_id, rows in self.scores.items():
            outcomes = self.outcomes.get(run_id, ())
            write_outcomes(self.store, run_id, self.batch_id, rows, outcomes, token=self.token)


def record_rejected(store: StoreLayout, group: WorkGroup) -> None:
    """Record cases that the ingest rejected as rejected in every run, with the reason of the ingest."""
    batch_id = f"planned-{uuid.uuid4().hex[:12]}"
    for run in group.runs.values():
        rows = [
            unscored_rows(run, item.case, batch_id, CaseStatus.REJECTED, item.case.reason or "rejected at ingest")
            for item in group.rejected
            if run.run_id in item.run_ids
        ]
        if rows:
            scores, outcomes = zip(*rows, strict=True)
            write_outcomes(store, run.run_id, batch_id, [row for one in scores for row in one], outcomes)
