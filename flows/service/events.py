"""Events about weights, which trigger automations of the Prefect server."""

from collections.abc import Mapping
from typing import Any

import httpx
from prefect.client.orchestration import get_client
from prefect.events import Event, Resource
from prefect.settings import PREFECT_API_URL

from medsam3_core.errors import Medsam3Error

CHANGED = "medsam3.weights.changed"
ALERT = "medsam3.weights.alert"


class NoServerError(Medsam3Error):
    """The configured Prefect server does not respond."""


def send_event(event: str, weights: str, payload: Mapping[str, Any]) -> None:
    """Send an event about some weights; returns when the server has accepted it.

    Prefect's own `emit_event` sends it from a thread without confirmation; a lost event would mean a missing benchmark.

    Args:
        event: `CHANGED` or `ALERT`.
        weights: Name of the weights; the event's resource is `medsam3.weights.NAME`.
        payload: Data for automations.

    Raises:
        NoServerError: If the server does not accept it.
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
        raise NoServerError(_no_server(error)) from error


def require_server() -> None:
    """Check that the configured server responds.

    Raises:
        NoServerError: If it does not.
    """
    with get_client(sync_client=True) as client:
        error = client.api_healthcheck()
    if error is not None:
        raise NoServerError(_no_server(error))


def _no_server(error: Exception) -> str:
    return (
        f"no Prefect server answers at {PREFECT_API_URL.value()} ({error or type(error).__name__}); start it with "
        "`make server` (or its service), or set PREFECT_API_URL to a running one"
    )
