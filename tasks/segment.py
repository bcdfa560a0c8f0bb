"""Segment: batches of cases, each read, prompted, segmented for all its runs, scored and written."""

import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from medsam3_core.cases.cases import CaseStatus
from medsam3_core.cases.recipes import Recipe
from medsam3_core.inference.protocol import Segmenter
from medsam3_core.inference.volumes import slices_per_pass
from storage.runs.ledger import Run, committed_outcomes, unscored_rows, write_outcomes
from storage.runs.plan import PlannedCase
from storage.store.layout import StoreLayout
from tasks.agent.endpoint import EndpointSettings
from tasks.case import Case, segment_together
from tasks.ledger import BatchLedger
from tasks.passes import in_passes, one_behind
from tasks.prompts import BatchPrompts
from tasks.stream.breadcrumbs import BETWEEN_CASES, Breadcrumb

SegmenterSource = Callable[[], Segmenter]
_NO_ENDPOINT = EndpointSettings()


@dataclass(frozen=True, slots=True)
class SegmentBatch:
    """The work of a benchmark: one pass over a case serves all runs of the same weights.

    Attributes:
        runs: Runs by id, all with the same weights.
        segmenter: Gives the loaded segmenter of this worker.
        per_pass: Slices that are encoded together; None for 8 on CUDA, else 1.
        endpoint: Endpoint of language models for the agent.
        token: Token of the commits, see `storage.store.writers`; empty if there is no other writer.
    """

    store: StoreLayout
    recipe: Recipe
    runs: Mapping[str, Run]
    segmenter: SegmenterSource
    per_pass: int | None = None
    endpoint: EndpointSettings = _NO_ENDPOINT
    token: str = ""

    def __call__(self, batch_id: str, cases: Sequence[PlannedCase], crumb: Breadcrumb) -> Mapping[str, int]:
        """Process a batch; every case ends as rows of scores and one outcome per run, also after an error."""
        segmenter = self.segmenter()
        together = self.per_pass or slices_per_pass(segmenter)
        ledger = BatchLedger(self.store, batch_id, self.token, BatchPrompts(self.store, self.runs, cases))

        def begin(planned: PlannedCase) -> Case:
            runs, rescored = ([self.runs[run_id] for run_id in ids] for ids in (planned.run_ids, planned.rescore_ids))
            return Case(planned.case, self.recipe, ledger, runs, rescored).begin()

        def finish(group: Sequence[Case]) -> None:
            for case in group:
                case.finish(segmenter)

        with one_behind(finish, threaded=together > 1) as finish_later:
            for group in in_passes(cases, together, begin, crumb):
                segment_together(group, segmenter, together, self.endpoint)
                finish_later(group)
        crumb.at(BETWEEN_CASES)
        ledger.commit()
        return ledger.statuses

    def unfinished(self, batch_id: str, cases: Sequence[PlannedCase]) -> tuple[list[PlannedCase], dict[str, int]]:
        """Cases with the runs that still need them, and the statuses of committed outcomes."""
        run_ids = {run_id for case in cases for run_id in case.run_ids}
        committed = {run_id: committed_outcomes(self.store, run_id, batch_id) for run_id in run_ids}
        statuses = Counter(status for outcomes in committed.values() for status in outcomes.values())
        left = [
            replace(case, run_ids=tuple(run_id for run_id in case.run_ids if case.case_id not in committed[run_id]))
            for case in cases
        ]
        return [case for case in left if case.run_ids or case.rescore_ids], dict(statuses)

    def record_crash(self, planned: PlannedCase, reason: str) -> None:
        """Record a case as crashed in every run that needed it, segmented or only scored again."""
        batch_id = f"crash-{uuid.uuid4().hex[:12]}"
        for run_id in (*planned.run_ids, *planned.rescore_ids):
            run = self.runs[run_id]
            scores, outcome = unscored_rows(run, planned.case, batch_id, CaseStatus.CRASHED, reason)
            write_outcomes(self.store, run_id, batch_id, scores, [outcome])
