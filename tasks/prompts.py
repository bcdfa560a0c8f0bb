"""Prompts of a batch: read from the store, or generated and stored when the batch commits."""

from collections.abc import Mapping, Sequence

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.cases.structures import LabelMap, Structure
from medsam3_core.prompts.generation import generate_prompts
from medsam3_core.prompts.rows import PromptRow
from storage.cohorts.cohorts import CaseRef
from storage.prompts.tables import read_prompts, write_prompts
from storage.runs.ledger import Run
from storage.runs.plan import PlannedCase
from storage.store.layout import StoreLayout


class BatchPrompts:
    """Prompts of the cases of a batch, shared by all runs with the same prompt policy and texts."""

    def __init__(self, store: StoreLayout, runs: Mapping[str, Run], cases: Sequence[PlannedCase]) -> None:
        self._store = store
        self._policies = {run.prompt_id: run.policy for run in runs.values()}
        self._new: dict[str, dict[CaseRef, Sequence[PromptRow]]] = {prompt_id: {} for prompt_id in self._policies}
        self._stored: dict[str, dict[str, list[PromptRow]]] = {}
        for prompt_id, cohort in {run.prompt_id: run.cohort for run in runs.values()}.items():
            files = {
                (planned.case_id, planned.case.case_digest): planned.prompt_files[prompt_id]
                for planned in cases
                if prompt_id in planned.prompt_files
            }
            self._stored[prompt_id] = read_prompts(store, cohort, prompt_id, files) if files else {}

    def of(
        self,
        run: Run,
        case: CaseRef,
        reference: LabelMap | None,
        geometry: VolumeGeometry,
        structures: Sequence[Structure],
    ) -> tuple[Sequence[PromptRow], tuple[str, ...]]:
        """Rows of all structures of a case, and notes on capped instances if they were generated now."""
        new = self._new[run.prompt_id]
        if case in new:
            return new[case], ()
        if case.case_id in self._stored[run.prompt_id]:
            return self._stored[run.prompt_id][case.case_id], ()
        made = generate_prompts(run.policy, run.prompt_id, case.case_id, reference, geometry, structures)
        new[case] = made.rows
        return made.rows, tuple(str(item) for item in made.capped)

    def write(self, batch_id: str) -> None:
        """Store new prompts under the id of the batch."""
        for prompt_id, rows in self._new.items():
            write_prompts(self._store, prompt_id, self._policies[prompt_id], rows, batch_id)
