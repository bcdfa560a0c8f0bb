"""One case in hand: read, prompted, answered for all runs that want it, scored and written."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.agent.session import AgentSession
from medsam3_core.cases.cases import CaseStatus
from medsam3_core.cases.recipes import Recipe
from medsam3_core.errors import CaseDataError
from medsam3_core.inference.predictions import VolumePrediction
from medsam3_core.inference.protocol import Segmenter
from medsam3_core.inference.volumes import VolumeRequest
from medsam3_core.metrics.measurements import measure_structure
from medsam3_core.metrics.scoring import mean_confidence, score_structure
from medsam3_core.prompts.generation import generate_prompts
from medsam3_core.prompts.policies import PromptedSlices, PromptKind
from medsam3_core.prompts.rows import PromptRow, slice_prompts
from storage.cohorts.cohorts import CaseRef
from storage.cohorts.volumes import open_case_volume
from storage.runs.ledger import Run, outcome_row, score_row
from storage.runs.predictions import PredictionWriter, open_prediction
from storage.store.layout import StoreLayout
from storage.store.writers import committing
from tasks.agent.case import CaseAgent
from tasks.agent.endpoint import EndpointSettings
from tasks.agent.slices import SliceReader
from tasks.ledger import BatchLedger


class CaseWork:
    """One case in hand."""

    def __init__(self, store: StoreLayout, recipe: Recipe, case: CaseRef, ledger: BatchLedger) -> None:
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
