"""Settings of the agent: its language model, and the permission to send data there."""

import os
from collections.abc import Sequence
from pathlib import Path

from flows.settings.settings import read_settings
from medsam3_core.prompts.policies import PromptKind, PromptPolicy
from medsam3_core.settings.inference import InferenceSettings
from storage.runs.ledger import Run
from storage.runs.requests import BenchmarkRuns
from tasks.agent.endpoint import MODEL_VARIABLE, URL_VARIABLE, EndpointSettings, require_allowed, require_client

_KEY = "agent_model"
_OF_DICOM = frozenset({"archive"})
"""Layouts whose structure names may come from DICOM files."""


def endpoint_settings(store_root: Path | str) -> EndpointSettings:
    """Endpoint of the language model: the environment first, then the settings file."""
    site = read_settings(store_root).agent
    return EndpointSettings(
        os.environ.get(URL_VARIABLE, site.url),
        site.key_variable,
        site.timeout_seconds,
        site.tries,
        site.backoff_seconds,
        dict(site.prices),
    )


def with_site_model(store_root: Path | str, prompts: Sequence[str], settings: Sequence[str]) -> tuple[str, ...]:
    """The settings, with the site's model added if an agent prompt names none.

    Raises:
        UsageError: If a setting is wrong, or the client of the model is not installed.
    """
    if not any(PromptPolicy.parse(text).kind is PromptKind.AGENT for text in prompts):
        return tuple(settings)
    if not any(one.partition("=")[0] == _KEY for one in settings):
        model = os.environ.get(MODEL_VARIABLE, read_settings(store_root).agent.model)
        settings = (*settings, f"{_KEY}={model}") if model else settings
    require_client(InferenceSettings.parse(settings).agent)
    return tuple(settings)


def require_run_allowed(store_root: Path | str, run: Run) -> None:
    """Check that the data of a run with typed texts may be sent to the language model.

    Raises:
        UsageError: See `tasks.agent.endpoint.require_allowed`.
    """
    if run.policy.kind is PromptKind.AGENT:
        require_allowed(run.settings.agent, endpoint_settings(store_root))


def require_runs_allowed(store_root: Path | str, runs: BenchmarkRuns) -> None:
    """Check that the data of all runs may be sent to the language model.

    Raises:
        UsageError: See `tasks.agent.endpoint.require_allowed`.
    """
    endpoint = endpoint_settings(store_root)
    for group in runs.groups:
        of_dicom = group.cohort.recipe.layout in _OF_DICOM
        for run in group.runs:
            if run.policy.kind is PromptKind.AGENT:
                require_allowed(run.settings.agent, endpoint, texts_of_dicom=of_dicom)
