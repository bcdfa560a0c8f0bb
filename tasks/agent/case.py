"""The agent on one case of a run: model, budget and trace."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.agent.session import AgentSession
from medsam3_core.agent.strategy import AgentCase, AgentInterrupted, AgentRun, answer_requests
from medsam3_core.agent.trace import TraceEvent
from storage.cohorts.cohorts import CaseRef
from storage.runs.ledger import Run
from storage.runs.traces import SpentLedger, trace_rows, write_traces
from storage.store.layout import StoreLayout
from tasks.agent.endpoint import EndpointSettings, open_access


class CaseAgent:
    """Answers the requests of one case, once, and keeps the answers.

    With a language model the trace is written after every answer, since answers cost money and must not be lost with a
    worker; traces of the rules are written with their batch (`unwritten`).
    """

    def __init__(self, store: StoreLayout, run: Run, case: CaseRef, batch_id: str) -> None:
        self._store, self._case, self._batch_id = store, case, batch_id
        self._answered: AgentCase | None = None
        self.run = run
        self.failure: str | None = None
        self.notes: tuple[str, ...] = ()
        self.unwritten: list[dict[str, Any]] = []

    def answer(self, session: AgentSession, requests: Mapping[str, str], endpoint: EndpointSettings) -> None:
        """Answer the requests; an endpoint that does not answer ends as `failure`."""
        if self._answered is not None or self.failure is not None:
            return
        settings = self.run.settings.agent
        ledger = SpentLedger(self._store, self.run.run_id, f"{self._batch_id}-{self._case.case_id}")
        run = AgentRun(
            self.run.policy.synonyms,
            open_access(settings, endpoint),
            ledger.others,
            on_pay=ledger.note if settings.uses_model else None,
            on_answer=self._keep if settings.uses_model else None,
        )
        try:
            self._answered = answer_requests(session, requests, run)
            events, spent = self._answered.events, self._answered.spent
            self.notes = (*session.notes, *self._answered.notes)
        except AgentInterrupted as error:
            events, spent = error.events, error.spent
            self.failure = f"{type(error.cause).__name__}: {error.cause}"[:500]
        self._keep(events)
        if settings.uses_model:
            ledger.note(spent)

    def labels(self, structure: str) -> NDArray[np.uint16]:
        """Objects 1..n of the answer, shape (z, y, x)."""
        assert self._answered is not None
        return self._answered.answers[structure].labels

    def confidence(self, structure: str) -> NDArray[np.float32]:
        """Score of object 1..n."""
        assert self._answered is not None
        return self._answered.answers[structure].scores

    def _keep(self, events: Iterable[TraceEvent]) -> None:
        rows = trace_rows(self.run.run_id, self._case.case_id, self._batch_id, events)
        if self.run.settings.agent.uses_model:
            write_traces(self._store, self.run.run_id, f"{self._batch_id}-{self._case.case_id}", rows)
        else:
            self.unwritten = rows
