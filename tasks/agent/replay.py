"""Replay of an agent run from its trace, offline; the masks must be the same."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from medsam3_core.agent.chat import ModelAccess
from medsam3_core.agent.replay import ReplayEndpoint, requests_of
from medsam3_core.agent.session import AgentSession
from medsam3_core.agent.strategy import AgentInterrupted, AgentRun, answer_requests
from medsam3_core.errors import UsageError
from medsam3_core.inference.protocol import Segmenter
from medsam3_core.prompts.policies import PromptKind, PromptPolicy
from medsam3_core.settings.inference import InferenceSettings
from storage.cohorts.cohorts import Cohort, case_refs, latest_cases, read_cohort
from storage.cohorts.volumes import open_case_volume
from storage.runs.predictions import open_prediction
from storage.runs.traces import read_traces
from storage.store.atomic import read_json
from storage.store.layout import StoreLayout
from tasks.agent.slices import SliceReader


@dataclass(frozen=True, slots=True)
class ReplayedCase:
    """Result of the replay of a case.

    Attributes:
        differing: Voxels that differ from the stored prediction, over all structures.
        problem: Reason why the replay failed, else empty.
    """

    case_id: str
    differing: int
    problem: str = ""

    @property
    def same(self) -> bool:
        """True if every mask is the same."""
        return not self.problem and self.differing == 0


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """An agent run, read from its folder."""

    store: StoreLayout
    run_id: str
    cohort: Cohort
    weights: str
    policy: PromptPolicy
    settings: InferenceSettings


def recorded_run(store: StoreLayout, run_id: str) -> RecordedRun:
    """Read a run.

    Raises:
        UsageError: If there is no such run, or its policy is not `agent`.
    """
    if not store.run_json(run_id).is_file():
        msg = f'no run {run_id!r} in {store.root}; see: medsam3 sql "SELECT run_id, prompt FROM runs"'
        raise UsageError(msg)
    known = read_json(store.run_json(run_id))
    policy = PromptPolicy.parse(known["prompt"])
    if policy.kind is not PromptKind.AGENT:
        msg = f"run {run_id} has the prompt policy {known['prompt']}; only runs of the policy agent have a trace"
        raise UsageError(msg)
    weights = f"{known['weights']}@{known['weights_version']}"
    settings = InferenceSettings.from_json(known["settings_all"])
    return RecordedRun(store, run_id, read_cohort(store, known["cohort"]), weights, policy, settings)


def replay_cases(run: RecordedRun, segmenter: Segmenter, only: Sequence[str] = ()) -> Iterator[ReplayedCase]:
    """Replay all cases of a run that have a prediction, or those that are named.

    Raises:
        UsageError: If a named case has no prediction in this run.
    """
    cases = {case.case_id: case for case in case_refs(latest_cases(run.store, run.cohort.name))}
    done = [case_id for case_id in cases if run.store.prediction(run.run_id, case_id).exists()]
    if strays := [case_id for case_id in only if case_id not in done]:
        msg = f"run {run.run_id} has no prediction of case {strays[0]!r}"
        raise UsageError(msg)
    traces = read_traces(run.store, run.run_id)
    for case_id in only or done:
        case = cases[case_id]
        stored = open_prediction(run.store.prediction(run.run_id, case_id))
        events = traces.get((case_id, stored.batch_id), [])
        volume = open_case_volume(run.store.volume(case.cohort, case_id, zipped=case.ndim == 2))
        session = AgentSession(
            segmenter,
            SliceReader(volume, run.cohort.recipe.window),
            volume.geometry,
            run.settings,
            volume.slice,
            run.cohort.recipe.own_windows,
        )
        replay = AgentRun(run.policy.synonyms, ModelAccess(ReplayEndpoint(events)))
        try:
            answers = answer_requests(session, requests_of(events), replay).answers
        except AgentInterrupted as error:
            yield ReplayedCase(case_id, 0, str(error.cause))
            continue
        differing = sum(
            int(np.count_nonzero(answer.labels != stored.labels(structure))) for structure, answer in answers.items()
        )
        yield ReplayedCase(case_id, differing, "" if answers else "the trace contains no request")
