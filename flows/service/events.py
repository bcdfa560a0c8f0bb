"""Events about weights: what the server's automations react to."""

from collections.abc import Mapping
from typing import Any

import httpx
from prefect.client.orchestration import get_client
from prefect.events import Event, Resource

from medsam3_core.errors import Medsam3Error

CHANGED = "medsam3.weights.changed"
ALERT = "medsam3.weights.alert"


class NoServerError(Medsam3Error):
    """The Prefect server that is configured does not answer."""


def send_event(event: str, weights: str, payload: Mapping[str, Any]) -> None:
    """Send an event about some weights, and return when the server has it.

    Prefect's own `emit_event` hands it to a thread and forgets it; a lost event would be a benchmark that never runs.

    Args:
        event: `CHANGED` or `ALERT`.
        weights: Name of the weights; the event's resource is `medsam3.weights.NAME`.
        payload: What automations read.

    Raises:
        NoServerError: If the server does not take it.
    """
    resource = Resource(
        {
            "prefect.resource.id": f"medsam3.weights.{weights}",
            "prefect.resource.name": weights,
            "medsam3.store": str(payload.get("store", "")),
        }
    )
    message = Event(event=event, resource=resource, payload=dict(payload)).model_dump(mode="json")
    try:
        with get_client(sync_client=True) as client:
            client.request("POST", "/events", json=[message]).raise_for_status()
    except httpx.HTTPError as error:
        raise NoServerError(no_server_words(error)) from error


def require_server() -> None:
    """Fail early and clearly where the configured server does not answer.

    Raises:
        NoServerError: If it does not.
    """
    with get_client(sync_client=True) as client:
        error = client.api_healthcheck()
    if error is not None:
        raise NoServerError(no_server_words(error))


def no_server_words(error: Exception) -> str:
    """What to do when the server is not there."""
    from prefect.settings import PREFECT_API_URL

    return (
        f"no Prefect server answers at {PREFECT_API_URL.value()} ({error or type(error).__name__}); start it with "
        "`make server` (or its service), or set PREFECT_API_URL to the one that runs"
    )
