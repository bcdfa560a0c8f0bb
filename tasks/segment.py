"""Segment: batches of cases, each read, prompted, segmented for all runs that want it, scored and written down."""

import logging
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import psutil

from medsam3_core.cases.cases import CaseStatus
from medsam3_core.cases.recipes import Recipe
from medsam3_core.errors import CaseDataError, DamagedFileError, StoreError, WeightsError
from medsam3_core.inference.protocol import Segmenter
from medsam3_core.inference.volumes import segment_volumes, slices_per_pass
from medsam3_core.prompts.rows import PromptRow
from storage.prompts.tables import read_prompts
from storage.runs.ledger import Run
from storage.runs.plan import PlannedCase
from storage.store.layout import StoreLayout
from tasks.agent.endpoint import EndpointSettings
from tasks.case import CaseWork
from tasks.groups import run_groups
from tasks.ledger import BatchLedger
from tasks.plugin import end_worker, is_of_the_accelerator
from tasks.stream.breadcrumbs import BETWEEN_CASES, Breadcrumb, BreadcrumbFolder
from tasks.stream.stream import BatchReport

logger = logging.getLogger(__name__)

SegmenterSource = Callable[[], Segmenter]
_NO_ENDPOINT = EndpointSettings()


@dataclass(frozen=True, slots=True)
class SegmentBatch:
    """The work of a benchmark: one pass over a case serves all runs of the same weights.

    Attributes:
        store: The store.
        recipe: Recipe of the cohort.
        runs: Runs by id, all with the same weights.
        segmenter: Gives the loaded segmenter of this worker.
        per_pass: Slices that are encoded together; None for 8 on CUDA, else 1.
        endpoint: Where the agent may ask a language model.
        token: With which workers commit, see `storage.store.writers`; empty where nobody else can write.
    """

    store: StoreLayout
    recipe: Recipe
    runs: Mapping[str, Run]
    segmenter: SegmenterSource
    per_pass: int | None = None
    endpoint: EndpointSettings = _NO_ENDPOINT
    token: str = ""

    def __call__(self, batch_id: str, crumbs: BreadcrumbFolder, cases: Sequence[PlannedCase]) -> BatchReport:
        """Do a batch; every case ends as rows of scores and one outcome per run, whatever happens to it."""
        started = time.perf_counter()
        segmenter = self.segmenter()
        ledger = BatchLedger(self.store, batch_id, self.token)
        together = self.per_pass or slices_per_pass(segmenter)
        with Breadcrumb(crumbs, batch_id) as crumb:
            stages = _Stages(self, segmenter, ledger, self._stored_prompts(cases), together)
            run_groups(cases, together, stages, crumb)
            crumb.at(BETWEEN_CASES)
            ledger.commit(self.runs)
        return BatchReport(
            ledger.statuses, time.perf_counter() - started, peak_rss_bytes=psutil.Process().memory_info().rss
        )

    def _stored_prompts(self, cases: Sequence[PlannedCase]) -> dict[str, dict[str, list[PromptRow]]]:
        """Per prompt id, the prompts of the cases of this batch that have some in the store."""
        stored: dict[str, dict[str, list[PromptRow]]] = {}
        for prompt_id, run in {run.prompt_id: run for run in self.runs.values()}.items():
            files = {
                (planned.case_id, planned.case.case_digest): planned.prompt_files[prompt_id]
                for planned in cases
                if prompt_id in planned.prompt_files
            }
            if files:
                stored[prompt_id] = read_prompts(self.store, run.cohort, prompt_id, files)
        return stored


@dataclass(frozen=True, slots=True)
class _Stages:
    """How the cases of a batch are opened, segmented and finished, see `tasks.groups`."""

    batch: SegmentBatch
    segmenter: Segmenter
    ledger: BatchLedger
    stored: Mapping[str, Mapping[str, list[PromptRow]]]
    together: int

    def open(self, planned: PlannedCase) -> CaseWork:
        work = CaseWork(self.batch.store, self.batch.recipe, planned.case, self.ledger)
        work.ask([self.batch.runs[run_id] for run_id in planned.run_ids], self.stored)
        return work

    def segment(self, works: Sequence[CaseWork]) -> None:
        asked = [(work, work.request) for work in works if work.request is not None]
        started = time.perf_counter()
        answers = segment_volumes(self.segmenter, [request for _, request in asked], per_pass=self.together)
        share = (time.perf_counter() - started) / max(1, len(asked))
        for (work, _), answer in zip(asked, answers, strict=True):
            work.answered(answer, share)
        for work in works:
            work.ask_agents(self.segmenter, self.batch.endpoint)

    def finish(self, planned: PlannedCase, work: CaseWork | None, error: Exception | None) -> None:
        """What is wrong with the case ends in its rows, what is wrong with the store is raised."""
        runs = [self.batch.runs[run_id] for run_id in (*planned.run_ids, *planned.rescore_ids)]
        try:
            if error is not None:
                raise error
            assert work is not None
            work.finish(self.segmenter)
            work.rescore([self.batch.runs[run_id] for run_id in planned.rescore_ids])
        except CaseDataError as reason:
            self.ledger.unscored(runs, planned.case, CaseStatus.REJECTED, str(reason))
        except DamagedFileError as reason:
            if not self.batch.store.cohort_json(planned.case.cohort).exists():
                raise  # not one file is gone but the store
            self.ledger.unscored(runs, planned.case, CaseStatus.FAILED, str(reason))
        except (StoreError, WeightsError, ImportError, ConnectionError):
            raise
        except Exception as reason:  # noqa: BLE001 - whatever else one case does, its neighbours must not suffer
            if is_of_the_accelerator(reason):
                logger.critical("the accelerator is broken; this worker ends:\n%s", traceback.format_exc())
                end_worker()
            logger.warning("case %s failed:\n%s", planned.case_id, traceback.format_exc())
            text = f"{type(reason).__name__}: {reason}"[:500]
            self.ledger.unscored(runs, planned.case, CaseStatus.FAILED, text)
