"""The way of one case: read -> prompt -> segment -> score -> write -> row, for all runs that need it."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medsam3_core.agent.session import AgentSession
from medsam3_core.cases.cases import CaseStatus
from medsam3_core.cases.recipes import Recipe
from medsam3_core.errors import CaseDataError
from medsam3_core.inference.predictions import VolumePrediction
from medsam3_core.inference.protocol import Segmenter
from medsam3_core.inference.volumes import VolumeRequest, segment_volumes
from medsam3_core.metrics.measurements import measure_structure
from medsam3_core.metrics.scoring import mean_confidence, score_structure
from medsam3_core.prompts.policies import PromptedSlices, PromptKind
from medsam3_core.prompts.rows import PromptRow, slice_prompts
from storage.cohorts.cohorts import CaseRef
from storage.cohorts.volumes import open_case_volume
from storage.runs.ledger import Run, outcome_row, provenance, score_row
from storage.runs.predictions import PredictionWriter, open_prediction
from storage.store.writers import committing
from tasks.agent.case import CaseAgent
from tasks.agent.endpoint import EndpointSettings
from tasks.agent.slices import SliceReader
from tasks.faults import ending
from tasks.ledger import BatchLedger


class Case:
    """One case of a batch: begun (read and prompted), segmented with others, finished (scored, written, rows added).

    Attributes:
        request: Request to the segmenter once the case is prompted; None if no run has one.
        error: First error. The steps after it are left out, and `finish` handles it.
    """

    def __init__(
        self, case: CaseRef, recipe: Recipe, ledger: BatchLedger, runs: Sequence[Run], rescored: Sequence[Run] = ()
    ) -> None:
        self._case, self._recipe, self._ledger, self._store = case, recipe, ledger, ledger.store
        self._runs, self._rescored = runs, rescored
        by_agent = [run for run in runs if run.policy.kind is PromptKind.AGENT]
        self._agents = [CaseAgent(self._store, run, case, ledger.batch_id) for run in by_agent]
        self._by_prompts = [run for run in runs if run not in by_agent]
        self._rows: dict[str, tuple[Sequence[PromptRow], tuple[str, ...]]] = {}
        self._predictions: Mapping[str, VolumePrediction] = {}
        self._seconds = dict.fromkeys(("read", "prompt", "segment", "score", "write"), 0.0)
        self.request: VolumeRequest | None = None
        self.error: Exception | None = None

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._seconds[step] += time.perf_counter() - started

    def begin(self) -> Self:
        """Read and prompt."""
        try:
            self._read()
            self._prompt()
        except Exception as error:  # noqa: BLE001 - handled in `finish`
            self.error = error
        return self

    def _read(self) -> None:
        case = self._case
        with self._timed("read"):
            self._volume = open_case_volume(self._store.volume(case.cohort, case.case_id, zipped=case.ndim == 2))
            if self._volume.case_digest not in ("", case.case_digest):
                msg = (
                    f"the volume of case {case.case_id!r} in the store differs from the case table (an ingest of its "
                    "changed source was interrupted or is running); finish the ingest and run again"
                )
                raise CaseDataError(msg)
            self._references = {rater: self._volume.reference(rater) for rater in case.raters}

    def _prompt(self) -> None:
        primary = self._references[self._case.raters[0]] if self._case.raters else None
        prompts, structures, geometry = self._ledger.prompts, self._recipe.structures, self._volume.geometry
        with self._timed("prompt"):
            for run in self._runs:
                self._rows[run.run_id] = prompts.of(run, self._case, primary, geometry, structures)
            shape_yx = geometry.shape_zyx[1:]
            asked = {run.run_id: slice_prompts(self._rows_to_ask(run), shape_yx) for run in self._by_prompts}
        if self._by_prompts:
            self.request = VolumeRequest(
                self._slices(),
                geometry,
                asked,
                {run.run_id: run.settings for run in self._by_prompts},
                [structure.name for structure in structures],
                followed=[run.run_id for run in self._by_prompts if run.policy.slices is PromptedSlices.KEY],
                windows=self._recipe.own_windows,
            )

    def _rows_to_ask(self, run: Run) -> list[PromptRow]:
        rows, _ = self._rows[run.run_id]
        return [row for row in rows if row.structure in run.structures]

    def _slices(self) -> SliceReader:
        return SliceReader(self._volume, self._recipe.window)

    def take_predictions(self, predictions: Mapping[str, VolumePrediction], seconds: float) -> None:
        """Take the predictions by run, and the share of this case in their computing time."""
        self._predictions = predictions
        self._seconds["segment"] += seconds

    def ask_agents(self, segmenter: Segmenter, endpoint: EndpointSettings) -> None:
        """Let the agent answer the requests of its runs; without an answer the case fails in that run."""
        for agent in self._agents:
            session = AgentSession(
                segmenter,
                self._slices(),
                self._volume.geometry,
                agent.run.settings,
                self._volume.slice,
                self._recipe.own_windows,
            )
            with self._timed("segment"):
                texts = {row.structure: row.text or "" for row in self._rows_to_ask(agent.run)}
                agent.answer(session, texts, endpoint)

    def finish(self, segmenter: Segmenter) -> None:
        """Score, write and add rows, run by run; faults of the case end in its rows.

        Raises:
            Exception: Faults that are not of the case, see `tasks.faults`.
        """
        try:
            if self.error is not None:
                raise self.error
            self._finish(segmenter)
        except Exception as error:  # noqa: BLE001 - a fault of one case must not affect others
            status, reason = ending(error, self._store, self._case)
            self._ledger.unscored([*self._runs, *self._rescored], self._case, status, reason)
        finally:
            self.error = None  # its traceback would keep the voxels of this case in memory

    def _finish(self, segmenter: Segmenter) -> None:
        for run in self._by_prompts:
            prediction = self._predictions[run.run_id]
            self._finish_run(run, segmenter, prediction, (*prediction.fallbacks, *self._rows[run.run_id][1]))
        for agent in self._agents:
            self._ledger.traces.setdefault(agent.run.run_id, []).extend(agent.unwritten)
            if agent.failure is not None:
                self._ledger.unscored([agent.run], self._case, CaseStatus.FAILED, agent.failure)
            else:
                self._finish_run(agent.run, segmenter, agent, agent.notes)
        for run in self._rescored:
            self._rescore(run)

    def _finish_run(
        self, run: Run, segmenter: Segmenter, drawn: VolumePrediction | CaseAgent, notes: Sequence[str]
    ) -> None:
        """Score and write the prediction of a run, structure by structure: one label volume is dense at a time."""
        writer = PredictionWriter(
            self._volume.geometry, run.structures, provenance(run, self._case, self._ledger.batch_id)
        )
        scores = []
        for structure in run.structures:
            labels, confidences = drawn.labels(structure), drawn.confidence(structure)
            if run.measures:
                self._measure(run, structure, labels, confidences)
            else:
                scores += self._score(run, self._ledger.batch_id, structure, labels, confidences)
            with self._timed("write"):
                writer.add(structure, labels, confidences)
        with self._timed("write"), committing(self._store, run.run_id, self._ledger.token):
            writer.write(self._store.prediction(run.run_id, self._case.case_id))
        self._ledger.add(run.run_id, scores, self._row(run, segmenter, notes))

    def _rescore(self, run: Run) -> None:
        """Score a stored prediction again, without inference; its rows keep the id of the batch that made it."""
        stored = open_prediction(self._store.prediction(run.run_id, self._case.case_id))
        scores = []
        for structure in run.structures:
            confidences = np.asarray(stored.scores(structure), dtype=np.float32)
            scores += self._score(run, stored.batch_id, structure, stored.labels(structure), confidences)
        self._ledger.add_rescored(run.run_id, scores)

    def _score(
        self, run: Run, batch_id: str, structure: str, labels: NDArray[np.uint16], confidences: NDArray[np.float32]
    ) -> list[dict[str, Any]]:
        """One row per rater."""
        if not self._references:
            msg = f"case {self._case.case_id!r} has no reference to score against; use medsam3 segment instead"
            raise CaseDataError(msg)
        definition = self._recipe.structure(structure)
        rows = []
        with self._timed("score"):
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
                    score_row(run, self._case, batch_id, rater, structure)
                    | score.as_columns()
                    | {"status": str(CaseStatus.SCORED), "confidence": mean_confidence(labels, confidences)}
                )
        return rows

    def _measure(self, run: Run, structure: str, labels: NDArray[np.uint16], confidences: NDArray[np.float32]) -> None:
        with self._timed("score"):
            measured = measure_structure(labels, confidences, self._volume.geometry, self._intensities)
            self._ledger.measured(run.run_id, self._case, structure, measured)

    @cached_property
    def _intensities(self) -> NDArray[Any]:
        """The image as stored, shape (z, y, x); the mean of the channels if it has colours."""
        voxels = self._volume.voxels()
        return voxels if voxels.ndim == 3 else voxels.mean(axis=0, dtype=np.float32)

    def _row(self, run: Run, segmenter: Segmenter, notes: Sequence[str]) -> dict[str, Any]:
        status = CaseStatus.SEGMENTED if run.measures else CaseStatus.SCORED
        return outcome_row(run, self._case, self._ledger.batch_id, status) | {
            **{f"seconds_{step}": seconds for step, seconds in self._seconds.items()},
            "device": segmenter.device,
            "dtype": segmenter.precision(run.settings),
            "fallbacks": "; ".join(dict.fromkeys(notes)),
        }


def segment_together(cases: Sequence[Case], segmenter: Segmenter, per_pass: int, endpoint: EndpointSettings) -> None:
    """Segment the cases of a group in shared passes; if the group fails as a whole, case by case."""
    usable = [case for case in cases if case.error is None]
    try:
        _segment(usable, segmenter, per_pass, endpoint)
    except Exception as error:  # noqa: BLE001 - handled in `finish`
        if len(usable) == 1:
            usable[0].error = error
            return
        for case in usable:
            segment_together([case], segmenter, per_pass, endpoint)


def _segment(cases: Sequence[Case], segmenter: Segmenter, per_pass: int, endpoint: EndpointSettings) -> None:
    asked = [(case, case.request) for case in cases if case.request is not None]
    started = time.perf_counter()
    predictions = segment_volumes(segmenter, [request for _, request in asked], per_pass=per_pass)
    share = (time.perf_counter() - started) / max(1, len(asked))
    for (case, _), by_run in zip(asked, predictions, strict=True):
        case.take_predictions(by_run, share)
    for case in cases:
        case.ask_agents(segmenter, endpoint)
