"""Many events in short time make one benchmark: a run waits until it is quiet and answers for all that wait behind it.

A hundred changes in a minute make a hundred runs of the deployment, of which one is in work and the others wait. The
one in work looks at the weights as they are when the events have ended, so that the waiting ones have nothing left to
do: it cancels them. What changes later starts anew.
"""

import time
from collections.abc import Callable, Mapping
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


def answer_for_waiting_runs(
    same: Mapping[str, Any],
    *,
    quiet_seconds: float,
    longest_seconds: float = 600.0,
    pause: Callable[[float], None] = time.sleep,
) -> int:
    """Wait until no run of this deployment with these parameters was made for a while; cancel those that wait.

    Args:
        same: Parameters that a run must share to be answered for by this one.
        quiet_seconds: How long nothing must have come.
        longest_seconds: When to go on whatever still comes.
        pause: Waits that long.

    Returns:
        How many runs were answered for; 0 outside a deployment.
    """
    if runtime.deployment.id is None or runtime.flow_run.id is None:
        return 0
    deployment, own, began, answered = UUID(runtime.deployment.id), UUID(runtime.flow_run.id), time.monotonic(), 0
    with get_client(sync_client=True) as client:
        newest = client.read_flow_run(own).created or datetime.now(UTC)
        while True:
            waiting = _waiting(client, deployment, own, same)
            for run in waiting:
                message = f"answered for by {runtime.flow_run.name}, which benchmarks the newest version"
                client.set_flow_run_state(run.id, Cancelled(message=message), force=True)
            answered += len(waiting)
            newest = max([newest, *(run.created for run in waiting if run.created)])
            still = quiet_seconds - (datetime.now(UTC) - newest).total_seconds()
            if still <= 0 or time.monotonic() - began > longest_seconds:
                break
            pause(min(still, quiet_seconds))
    if answered:
        tell(f"answers for {answered} later events about the same weights")
    return answered


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
