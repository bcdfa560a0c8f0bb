"""Rows of a batch, committed together at its end; rows that no batch can write; rows that a dead one wrote."""

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from medsam3_core.cases.cases import CaseStatus
from medsam3_core.prompts.rows import PromptRow
from storage.cohorts.cohorts import CaseRef
from storage.prompts.tables import write_prompts
from storage.runs.ledger import Run, committed_outcomes, unscored_rows, write_measurements, write_outcomes
from storage.runs.plan import PlannedCase, WorkGroup
from storage.runs.traces import write_traces
from storage.store.layout import StoreLayout


@dataclass
class BatchLedger:
    """Rows of one batch.

    Attributes:
        store: Where they go.
        attempt: Name of this batch in them.
        token: With which workers commit, see `storage.store.writers`.
        statuses: Cases by how they ended.
        scores: Rows by run, as all that follow.
        outcomes: One per case.
        prompts: New ones by prompt id and case.
        traces: Of the agent.
        measurements: Of runs that measure.
    """

    store: StoreLayout
    attempt: str
    token: str
    statuses: dict[str, int] = field(default_factory=dict)
    scores: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    outcomes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    prompts: dict[str, dict[CaseRef, Sequence[PromptRow]]] = field(default_factory=dict)
    traces: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    measurements: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, run_id: str, scores: list[dict[str, Any]], outcome: dict[str, Any] | None) -> None:
        """Take the scores and, unless stored predictions were scored again, the outcome of a case."""
        self.scores.setdefault(run_id, []).extend(scores)
        if outcome is not None:
            self.outcomes.setdefault(run_id, []).append(outcome)
            self.statuses[outcome["status"]] = self.statuses.get(outcome["status"], 0) + 1

    def unscored(self, runs: Sequence[Run], case: CaseRef, status: CaseStatus, reason: str) -> None:
        """Say of a case that it has no scores, and why, for the runs that have no outcome of it yet."""
        for run in runs:
            finished = [row for row in self.outcomes.get(run.run_id, ()) if row["case_id"] == case.case_id]
            if not finished:
                self.add(run.run_id, *unscored_rows(run, case, self.attempt, status, reason))

    def commit(self, runs: Mapping[str, Run]) -> None:
        """Prompts and traces first, then scores and outcomes: what counts is written last."""
        policies = {run.prompt_id: run.policy for run in runs.values()}
        for prompt_id, prompts in self.prompts.items():
            write_prompts(self.store, prompt_id, policies[prompt_id], prompts, self.attempt)
        for run_id, rows in self.traces.items():
            write_traces(self.store, run_id, self.attempt, rows)
        for run_id, rows in self.measurements.items():
            write_measurements(self.store, run_id, self.attempt, rows)
        for run_id, rows in self.scores.items():
            write_outcomes(self.store, run_id, self.attempt, rows, self.outcomes.get(run_id, ()), token=self.token)


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


def record_rejected(store: StoreLayout, group: WorkGroup) -> None:
    """Cases that ingest rejected end in every run as rejected, with the reason of the ingest."""
    attempt = f"planned-{uuid.uuid4().hex[:12]}"
    for run in group.runs.values():
        rows = [
            unscored_rows(run, item.case, attempt, CaseStatus.REJECTED, item.case.reason or "rejected at ingest")
            for item in group.rejected
            if run.run_id in item.run_ids
        ]
        if rows:
            write_outcomes(
                store, run.run_id, attempt, [row for scores, _ in rows for row in scores], [o for _, o in rows]
            )


def record_crash(store: StoreLayout, group: WorkGroup, planned: PlannedCase, reason: str) -> None:
    """A case that keeps killing its worker ends so in every run that wanted it, segmented or only scored again."""
    attempt = f"crash-{uuid.uuid4().hex[:12]}"
    for run_id in (*planned.run_ids, *planned.rescore_ids):
        scores, outcome = unscored_rows(group.runs[run_id], planned.case, attempt, CaseStatus.CRASHED, reason)
        write_outcomes(store, run_id, attempt, scores, [outcome])
