"""Predict by the agent: requests in words for one image; the answer and its trace are written."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medsam3_core.agent.answers import as_prediction, on_slice
from medsam3_core.agent.chat import ModelAccess
from medsam3_core.agent.replay import ReplayEndpoint
from medsam3_core.agent.session import AgentSession
from medsam3_core.agent.strategy import AgentInterrupted, AgentRun, answer_requests
from medsam3_core.agent.trace import TraceEvent
from medsam3_core.inference.protocol import Segmenter
from medsam3_core.prompts.policies import PromptPolicy
from medsam3_core.prompts.prompts import SlicePrompt
from medsam3_core.settings.inference import InferenceSettings
from storage.exports.instance_overlays import DrawnSlice, PromptedInstances
from storage.exports.registry import format_of_file
from storage.exports.releases import write_slice, write_volume
from storage.runs.traces import trace_rows, write_trace_file
from storage.sources.formats.single import InputImage
from tasks.agent.endpoint import EndpointSettings, open_access
from tasks.predict.image import PredictRecord

TRACE_ENDING = ".trace.parquet"
_RUN, _CASE, _BATCH = "predict", "image", "once"


@dataclass(frozen=True, slots=True)
class AgentPredictRequest:
    """Requests for one image.

    Attributes:
        requests: Requests in words.
        z: Slice of a picture; None for the whole volume.
        out: File to write; the trace gets its name and `.trace.parquet`.
        caption: Caption of a picture.
        replay: Events of a trace to replay instead of using the endpoint; the trace stays unchanged.
    """

    requests: tuple[str, ...]
    z: int | None
    policy: PromptPolicy
    settings: InferenceSettings
    out: Path
    caption: str
    replay: tuple[TraceEvent, ...] | None = None


def predict_by_agent(
    image: InputImage, request: AgentPredictRequest, segmenter: Segmenter, endpoint: EndpointSettings
) -> PredictRecord:
    """Answer the requests and write the answer with its trace.

    Raises:
        UsageError: If a request is empty or must not be sent.
        AgentInterrupted: If the endpoint does not answer; the trace is written nevertheless.
        StoreError: If a file cannot be read or written.
    """
    started = time.perf_counter()
    session = AgentSession(segmenter, image.rgb, image.geometry, request.settings, lambda z: image.voxels[..., z, :, :])
    if request.replay is None:
        access = open_access(request.settings.agent, endpoint)
    else:
        access = ModelAccess(ReplayEndpoint(request.replay))
    trace = request.out.with_name(request.out.name + TRACE_ENDING)

    def keep(events: Sequence[TraceEvent]) -> None:
        if request.replay is None:
            write_trace_file(trace, trace_rows(_RUN, _CASE, _BATCH, events))

    run = AgentRun(request.policy.synonyms, access, on_answer=keep)
    try:
        answered = answer_requests(session, {words: words for words in request.requests}, run)
    except AgentInterrupted as error:
        keep(error.events)
        raise
    keep(answered.events)
    seconds = time.perf_counter() - started
    if request.z is None and format_of_file(request.out).holds_volumes:
        prediction = as_prediction(answered.answers, image.geometry.shape_zyx)
        slices = write_volume(image, prediction, request.out)
        found: Sequence[tuple[str, float]] = [
            (name, float(score)) for name in prediction.structures for score in prediction.confidence(name)
        ]
    else:
        z = request.z or 0
        drawn = [
            PromptedInstances(SlicePrompt(name, text=name), on_slice(answer, z))
            for name, answer in answered.answers.items()
        ]
        write_slice(DrawnSlice(image, z, drawn, request.caption, request.settings.window), request.out)
        found = [(item.prompt.structure, float(score)) for item in drawn for score in item.instances.scores]
        slices = int(bool(found))
    reasons = [f"{name}: {'absent, ' if one.absent else ''}{one.reason}" for name, one in answered.answers.items()]
    where = f"trace: {trace}" if request.replay is None else "replayed from the trace, offline"
    notes = (*reasons, *answered.notes, *session.notes, where)
    return PredictRecord(tuple(found), slices, seconds, segmenter.device, notes)
