"""Segment: read a case, prompt it, segment it for all runs that want it, score it, write it down."""

import logging
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from medsam3_core.agent.session import AgentSession
from medsam3_core.cases import CaseStatus
from medsam3_core.errors import CaseDataError, DamagedFileError, StoreError
from medsam3_core.intensity import IntensityPolicy, as_rgb, to_uint8
from medsam3_core.measurements import measure_structure
from medsam3_core.prediction_volume import VolumePrediction
from medsam3_core.prompt_generation import generate_prompts
from medsam3_core.prompt_policies import PromptedSlices, PromptKind
from medsam3_core.prompt_rows import PromptRow, slice_prompts
from medsam3_core.recipes import Recipe
from medsam3_core.scoring import mean_confidence, score_structure
from medsam3_core.segmenters.protocol import Segmenter
from medsam3_core.volume_segmentation import VolumeRequest, segment_volumes, slices_per_pass
from storage.agent_endpoint import EndpointSettings
from storage.agent_traces import write_traces
from storage.case_volumes import StoredVolume, open_case_volume
from storage.cohorts import CaseRef
from storage.prediction_volumes import PredictionWriter, open_prediction
from storage.prompt_tables import read_prompts, write_prompts
from storage.run_ledger import Run, outcome_row, score_row, unscored_rows, write_measurements, write_outcomes
from storage.run_planning import PlannedCase
from storage.store_layout import StoreLayout
from storage.writer_lock import committing
from tasks.agent_cases import CaseAgent
from tasks.batch_stream import BatchReport
from tasks.breadcrumbs import BETWEEN_CASES, Breadcrumb, BreadcrumbFolder
from tasks.case_groups import run_groups

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
        token: With which workers commit, see `storage.writer_lock`; empty where nobody else can write.
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
        ledger = _BatchLedger(self.store, batch_id, self.token)
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
            known = [planned for planned in cases if prompt_id in planned.prompt_files]
            if known:
                files = [planned.prompt_files[prompt_id] for planned in known]
                names = [planned.case_id for planned in known]
                stored[prompt_id] = read_prompts(self.store, run.cohort, prompt_id, files, names)
        return stored


@dataclass
class _BatchLedger:
    """Rows of one batch, committed together at its end."""

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
        self.scores.setdefault(run_id, []).extend(scores)
        if outcome is not None:
            self.outcomes.setdefault(run_id, []).append(outcome)
            self.statuses[outcome["status"]] = self.statuses.get(outcome["status"], 0) + 1

    def unscored(self, runs: Sequence[Run], case: CaseRef, status: CaseStatus, reason: str) -> None:
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


class _CaseWork:
    """One case in hand."""

    def __init__(self, store: StoreLayout, recipe: Recipe, case: CaseRef, ledger: _BatchLedger) -> None:
        self._store, self._recipe, self._case, self._ledger = store, recipe, case, ledger
        self._seconds = dict.fromkeys(("read", "prompt", "segment", "score", "write"), 0.0)
        self._runs: Sequence[Run] = ()
        self._agents: list[CaseAgent] = []
        self._rows: Mapping[str, tuple[Sequence[PromptRow], tuple[str, ...]]] = {}
        self._answers: Mapping[str, VolumePrediction] = {}
        self.request: VolumeRequest | None = None
        with self._timed("read"):
            self._volume = open_case_volume(store.volume(case.cohort, case.case_id, zipped=case.ndim == 2))
            if self._volume.case_digest not in ("", case.case_digest):
                msg = (
                    f"the volume of case {case.case_id!r} in the store is not the one of the case table (an ingest of "
                    "its changed source was interrupted or runs now); finish the ingest and run again"
                )
                raise CaseDataError(msg)
            self._references = {rater: self._volume.reference(rater) for rater in case.raters}

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._seconds[stage] += time.perf_counter() - started

    def ask(self, runs: Sequence[Run], stored: Mapping[str, Mapping[str, list[PromptRow]]]) -> None:
        """Make the prompts of all runs; what is asked of the segmenter stands in `request` then.

        Runs of the agent have requests instead, which wait for `ask_agents`.
        """
        with self._timed("prompt"):
            self._rows = {run.run_id: self._prompts(run, stored.get(run.prompt_id, {})) for run in runs}
        by_agent = [run for run in runs if run.policy.kind is PromptKind.AGENT]
        self._agents = [CaseAgent(self._store, run, self._case, self._ledger.attempt) for run in by_agent]
        self._runs = runs = [run for run in runs if run not in by_agent]
        if not runs:
            return
        geometry = self._volume.geometry
        with self._timed("prompt"):
            prompts = {
                run.run_id: slice_prompts(
                    (row for row in self._rows[run.run_id][0] if row.structure in run.structures),
                    geometry.shape_zyx[1:],
                )
                for run in runs
            }
        self.request = VolumeRequest(
            SliceReader(self._volume, self._recipe.window),
            geometry,
            prompts,
            {run.run_id: run.settings for run in runs},
            [structure.name for structure in self._recipe.structures],
            followed=[run.run_id for run in runs if run.policy.slices is PromptedSlices.KEY],
            windows=self._recipe.own_windows,
        )

    def ask_agents(self, segmenter: Segmenter, endpoint: EndpointSettings) -> None:
        """Let the agent answer the requests of its runs; an endpoint that does not answer costs that run the case."""
        for agent in self._agents:
            run = agent.run
            rows, _ = self._rows[run.run_id]
            session = AgentSession(
                segmenter,
                SliceReader(self._volume, self._recipe.window),
                self._volume.geometry,
                run.settings,
                self._volume.slice,
                self._recipe.own_windows,
            )
            with self._timed("segment"):
                agent.answer(
                    session,
                    {row.structure: row.text or "" for row in rows if row.structure in run.structures},
                    endpoint,
                )

    def answered(self, answers: Mapping[str, VolumePrediction], seconds: float) -> None:
        """Take the predictions of all runs, and the time that they took."""
        self._answers = answers
        self._seconds["segment"] += seconds

    def finish(self, segmenter: Segmenter) -> None:
        """Score and write run by run."""
        for run in self._runs:
            answer = self._answers[run.run_id]
            self._finish(run, segmenter, (*answer.fallbacks, *self._rows[run.run_id][1]), answer)
        for agent in self._agents:
            self._ledger.traces.setdefault(agent.run.run_id, []).extend(agent.unwritten)
            if agent.failure is not None:
                self._ledger.unscored([agent.run], self._case, CaseStatus.FAILED, agent.failure)
            else:
                self._finish(agent.run, segmenter, agent.notes, agent)

    def _finish(
        self, run: Run, segmenter: Segmenter, notes: Sequence[str], drawn: "VolumePrediction | CaseAgent"
    ) -> None:
        """Score and write what was drawn for one run."""
        writer = PredictionWriter(self._volume.geometry, run.structures, self._provenance(run))
        scores = []
        for structure in run.structures:
            labels, confidences = drawn.labels(structure), drawn.confidence(structure)
            if run.measures:
                self._measure(run, structure, labels, confidences)
            else:
                scores += self._score(run, self._ledger.attempt, structure, labels, confidences)
            with self._timed("write"):
                writer.add(structure, labels, confidences)
        with self._timed("write"), committing(self._store, run.run_id, self._ledger.token):
            writer.write(self._store.prediction(run.run_id, self._case.case_id))
        self._ledger.add(run.run_id, scores, self._outcome(run, segmenter, notes))

    def rescore(self, runs: Sequence[Run]) -> None:
        """Score stored predictions again, without inference; the attempt stays the one that made them."""
        for run in runs:
            stored = open_prediction(self._store.prediction(run.run_id, self._case.case_id))
            scores = [
                row
                for structure in run.structures
                for row in self._score(
                    run,
                    stored.provenance["attempt"],
                    structure,
                    stored.labels(structure),
                    np.asarray(stored.scores(structure), dtype=np.float32),
                )
            ]
            self._ledger.add(run.run_id, scores, None)
            self._ledger.statuses["rescored"] = self._ledger.statuses.get("rescored", 0) + 1

    def _prompts(self, run: Run, stored: Mapping[str, list[PromptRow]]) -> tuple[Sequence[PromptRow], tuple[str, ...]]:
        """Stored prompts, else new ones, which the batch will store; and what was capped."""
        fresh = self._ledger.prompts.setdefault(run.prompt_id, {})
        if self._case in fresh:
            return fresh[self._case], ()
        if self._case.case_id in stored:
            return stored[self._case.case_id], ()
        primary = self._references[self._case.raters[0]] if self._case.raters else None
        made = generate_prompts(
            run.policy,
            run.prompt_id,
            self._case.case_id,
            primary,
            self._volume.geometry,
            self._recipe.structures,
        )
        fresh[self._case] = made.rows
        return made.rows, tuple(str(item) for item in made.capped)

    def _measure(self, run: Run, structure: str, labels: NDArray[np.uint16], confidences: NDArray[np.float32]) -> None:
        with self._timed("score"):
            measured = measure_structure(labels, confidences, self._volume.geometry, self._intensities)
            key = {"run_id": run.run_id, "attempt": self._ledger.attempt, "case_id": self._case.case_id}
            row = key | {"structure": structure} | measured.as_columns()
            self._ledger.measurements.setdefault(run.run_id, []).append(row)

    @cached_property
    def _intensities(self) -> NDArray[Any]:
        """The image as stored, shape (z, y, x): of colour the mean of its channels."""
        voxels = self._volume.voxels()
        return voxels if voxels.ndim == 3 else voxels.mean(axis=0, dtype=np.float32)

    def _score(
        self, run: Run, attempt: str, structure: str, labels: NDArray[np.uint16], confidences: NDArray[np.float32]
    ) -> list[dict[str, Any]]:
        if not self._references:
            msg = f"case {self._case.case_id!r} has no reference to score against; use medsam3 segment instead"
            raise CaseDataError(msg)
        with self._timed("score"):
            definition = self._recipe.structure(structure)
            rows = []
            for rater, reference in self._references.items():
                score = score_structure(
                    reference.mask(structure),
                    labels > 0,
                    self._volume.geometry,
                    structure=definition,
                    reference_instances=reference.instances(structure) if definition.instances else None,
                    prediction_instances=labels if definition.instances else None,
                )
                rows.append(
                    score_row(run, self._case, attempt, rater, structure)
                    | score.as_columns()
                    | {"status": str(CaseStatus.SCORED), "confidence": mean_confidence(labels, confidences)}
                )
            return rows

    def _provenance(self, run: Run) -> dict[str, Any]:
        return {
            "run_id": run.run_id,
            "attempt": self._ledger.attempt,
            "case_id": self._case.case_id,
            "case_digest": self._case.case_digest,
            "weights": run.weights.name,
            "weights_sha256": run.weights.sha256,
            "prompt": run.policy.canonical(),
            "settings": run.settings.canonical(),
        }

    def _outcome(self, run: Run, segmenter: Segmenter, notes: Sequence[str]) -> dict[str, Any]:
        status = CaseStatus.SEGMENTED if run.measures else CaseStatus.SCORED
        return outcome_row(run, self._case, self._ledger.attempt, status) | {
            **{f"seconds_{stage}": seconds for stage, seconds in self._seconds.items()},
            "device": segmenter.device,
            "dtype": segmenter.precision(run.settings),
            "fallbacks": "; ".join(dict.fromkeys(notes)),
        }


@dataclass(frozen=True, slots=True)
class _Stages:
    """How the cases of a batch are opened, segmented and finished, see `tasks.case_groups`."""

    batch: SegmentBatch
    segmenter: Segmenter
    ledger: _BatchLedger
    stored: Mapping[str, Mapping[str, list[PromptRow]]]
    together: int

    def open(self, planned: PlannedCase) -> _CaseWork:
        work = _CaseWork(self.batch.store, self.batch.recipe, planned.case, self.ledger)
        work.ask([self.batch.runs[run_id] for run_id in planned.run_ids], self.stored)
        return work

    def segment(self, works: Sequence[_CaseWork]) -> None:
        asked = [(work, work.request) for work in works if work.request is not None]
        started = time.perf_counter()
        answers = segment_volumes(self.segmenter, [request for _, request in asked], per_pass=self.together)
        share = (time.perf_counter() - started) / max(1, len(asked))
        for (work, _), answer in zip(asked, answers, strict=True):
            work.answered(answer, share)
        for work in works:
            work.ask_agents(self.segmenter, self.batch.endpoint)

    def finish(self, planned: PlannedCase, work: _CaseWork | None, error: Exception | None) -> None:
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
        except (StoreError, ImportError, ConnectionError):
            raise
        except Exception as reason:  # noqa: BLE001 - whatever else one case does, its neighbours must not suffer
            logger.warning("case %s failed:\n%s", planned.case_id, traceback.format_exc())
            text = f"{type(reason).__name__}: {reason}"[:500]
            self.ledger.unscored(runs, planned.case, CaseStatus.FAILED, text)


class SliceReader:
    """Gives slices as a segmenter sees them: stored intensities through a window to uint8 RGB."""

    def __init__(self, volume: StoredVolume, recipe_window: str) -> None:
        self._volume, self._recipe_window = volume, recipe_window
        self._ranges: dict[str, tuple[float, float]] = {}

    def __call__(self, z: int, window: str) -> NDArray[np.uint8]:
        """Slice z, uint8 of shape (y, x, 3); `recipe` is the recipe's own window."""
        name = self._recipe_window if window == "recipe" else window
        if name not in self._ranges:
            policy = IntensityPolicy.parse(name).resolved(self._volume.modality, self._volume.dtype)
            needs_voxels = policy.kind in ("percentile", "minmax")
            self._ranges[name] = policy.value_range(self._volume.voxels() if needs_voxels else np.zeros(1))
        return as_rgb(to_uint8(self._volume.slice(z), self._ranges[name]))
