"""The agent on the command line: segment one image by request, replay a run from its trace."""

from collections.abc import Sequence
from pathlib import Path

import click

from flows.cli.work.predict_request import PredictOptions
from flows.messages.console import say
from flows.settings.agent import endpoint_settings, with_site_model
from medsam3_core.agent.replay import model_of, requests_of
from medsam3_core.agent.requests import clean_request
from medsam3_core.agent.strategy import AgentInterrupted
from medsam3_core.agent.trace import TraceEvent
from medsam3_core.errors import UsageError
from medsam3_core.inference.protocol import Segmenter
from medsam3_core.prompts.policies import PromptKind, PromptPolicy
from medsam3_core.settings.inference import InferenceSettings
from storage.exports.registry import format_of_file
from storage.runs.traces import read_trace_file
from storage.sources.formats.single import read_input_image
from storage.store.layout import StoreLayout, existing_store
from storage.weights.registry import default_device, find_weights, is_location, load_segmenter, load_unregistered
from tasks.agent.endpoint import require_allowed


def is_agent(prompt: str) -> bool:
    """True if a policy is the agent's, False if it is `text`.

    Raises:
        UsageError: If it is another policy, which needs a reference.
    """
    kind = PromptPolicy.parse(prompt).kind
    if kind not in (PromptKind.AGENT, PromptKind.TEXT):
        msg = f"predict supports the policies text and agent, not {prompt!r}: other policies need a reference"
        raise UsageError(msg)
    return kind is PromptKind.AGENT


def predict_by_request(store: StoreLayout, options: PredictOptions) -> None:
    """Segment the image by requests to the agent and write the file.

    Raises:
        click.UsageError: If options are given that the agent does not accept.
    """
    from tasks.predict.agent import AgentPredictRequest, predict_by_agent

    if options.boxes or options.points or options.masks or options.prompts or options.alone:
        msg = "the agent accepts requests by --text only; omit --box, --point, --mask, --prompts and --slice-only"
        raise click.UsageError(msg)
    policy = options.prompt if is_agent(options.prompt) else str(PromptKind.AGENT)
    events = None if options.replay is None else tuple(read_trace_file(options.replay))
    requests = _requests(options, events)
    settings = InferenceSettings.parse(_settings(store, options, policy, events))
    endpoint = endpoint_settings(store.root)
    if events is None:
        require_allowed(settings.agent, endpoint)
    image = read_input_image(options.image)
    volume = format_of_file(options.out).holds_volumes and image.depth > 1 and options.slice is None
    z = None if volume else image.require_slice(options.slice)
    caption = f"{options.weights}   {'; '.join(requests)}   {settings.canonical()}"
    request = AgentPredictRequest(requests, z, PromptPolicy.parse(policy), settings, options.out, caption, events)
    try:
        record = predict_by_agent(image, request, _load(store, options.weights), endpoint)
    except AgentInterrupted as error:
        raise error.cause from error
    say(f"{len(record.found)} objects in {record.seconds:.1f} s on {record.device}")
    for note in record.notes:
        say(note)


def _requests(options: PredictOptions, events: Sequence[TraceEvent] | None) -> tuple[str, ...]:
    """Distinct requests, given by --text or recorded in the trace.

    Raises:
        UsageError: If there is none, one is empty or too long, or they differ from the trace.
    """
    recorded = () if events is None else tuple(requests_of(events).values())
    asked = tuple(dict.fromkeys(clean_request(text) for text in options.texts or recorded))
    if not asked:
        msg = "no request for the agent; give at least one --text"
        raise UsageError(msg)
    if recorded and asked != recorded:
        msg = f"the trace was recorded for {', '.join(map(repr, recorded))}; omit --text, or run without --replay"
        raise UsageError(msg)
    return asked


def _settings(
    store: StoreLayout, options: PredictOptions, policy: str, events: Sequence[TraceEvent] | None
) -> tuple[str, ...]:
    """The settings with the language model of the trace, or without a trace that of the site."""
    given = options.settings if options.threshold is None else (*options.settings, f"threshold={options.threshold}")
    if events is None:
        return with_site_model(store.root, [policy], given)
    named = [one for one in given if one.startswith("agent_model=")]
    recorded = f"agent_model={model_of(events)}"
    if named not in ([], [recorded]):
        msg = f"the trace was recorded with {recorded}, not {named[0]}; omit the setting"
        raise UsageError(msg)
    return (*given, *(() if named else (recorded,)))


def run_replay(root: Path, run_id: str, cases: tuple[str, ...]) -> int:
    """Replay a run from its trace; exit code 0, or 1 if a mask differs."""
    from tasks.agent.replay import recorded_run, replay_cases

    store = existing_store(root)
    run = recorded_run(store, run_id)
    replayed = list(replay_cases(run, _load(store, run.weights), cases))
    for case in replayed:
        said = "same masks" if case.same else case.problem or f"{case.differing} voxels differ"
        print(f"{case.case_id}  {said}")  # noqa: T201 - the answer
    differing = sum(not case.same for case in replayed)
    say(f"{len(replayed)} cases replayed offline, {differing} differ")
    return 1 if differing else 0


def _load(store: StoreLayout, name: str) -> Segmenter:
    if is_location(store, name):
        return load_unregistered(store, name, default_device())
    found = find_weights(store, name)
    if not found.capabilities.text:
        msg = f"{name} does not accept text prompts, which the agent needs; choose weights with a text encoder"
        raise UsageError(msg)
    return load_segmenter(found, default_device())
