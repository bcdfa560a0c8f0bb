"""Turn many events in a short time into one benchmark: a run waits until no event follows and cancels waiting runs.

A hundred changes in a minute create a hundred runs of the deployment: one works, the others wait. The working run uses
the weights as they are after the last event, so the waiting ones have nothing left to do.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Cancelled

from flows.messages.console import tell

_WAITING = [StateType.SCHEDULED, StateType.PENDING]
_PAGE = 200
_MAX_WAIT_SECONDS = 600.0


def supersede_waiting_runs(same: Mapping[str, Any], *, quiet_seconds: float) -> int:
    """Wait, 10 minutes at most, until no new run of this deployment is created for a while; cancel waiting ones.

    Args:
        same: Parameters that a superseded run shares with this one.
        quiet_seconds: Required time without a new run.

    Returns:
        Number of superseded runs; 0 outside a deployment.
    """
    if runtime.deployment.id is None or runtime.flow_run.id is None:
        return 0
    deployment, own, began, superseded = UUID(runtime.deployment.id), UUID(runtime.flow_run.id), time.monotonic(), 0
    with get_client(sync_client=True) as client:
        newest = client.read_flow_run(own).created or datetime.now(UTC)
        while True:
            waiting = _waiting(client, deployment, own, same)
            for run in waiting:
                message = f"superseded by {runtime.flow_run.name}, which benchmarks the newest version"
                client.set_flow_run_state(run.id, Cancelled(message=message), force=True)
            superseded += len(waiting)
            newest = max([newest, *(run.created for run in waiting if run.created)])
            still = quiet_seconds - (datetime.now(UTC) - newest).total_seconds()
            if still <= 0 or time.monotonic() - began > _MAX_WAIT_SECONDS:
                break
            time.sleep(min(still, quiet_seconds))
    if superseded:
        tell(f"supersedes {superseded} waiting runs for the same weights")
    return superseded


def _waiting(client: SyncPrefectClient, deployment: UUID, own: UUID, same: Mapping[str, Any]) -> list[FlowRun]:
    found = client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate(
            {"deployment_id": {"any_": [deployment]}, "state": {"type": {"any_": _WAITING}}}
        ),
        limit=_PAGE,
    )
    return [
        run for run in found if run.id != own and all(run.parameters.get(name) == value for name, value in same.items())
    ]
