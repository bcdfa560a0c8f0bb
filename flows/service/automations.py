"""Automation for crashed flow runs; `prefect deploy` creates it through a build step of prefect.yaml."""

import importlib.metadata
from datetime import timedelta

from prefect.client.orchestration import get_client
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.states import StateType

ZOMBIES = "medsam3: flow runs without a heartbeat have crashed"
SILENCE_SECONDS = 150
"""Five heartbeats of 30 seconds, the shortest interval that Prefect allows (its default is 180)."""
FLOWS = (
    *("ingest", "benchmark", "benchmark-on-new-weights", "segment", "segment-archive", "train"),
    *("maintenance", "watch-weights"),
)
"""Watched flows; others on the same server may have a longer heartbeat."""

_HEARTBEAT = "prefect.flow-run.heartbeat"
_ENDED = ("Completed", "Failed", "Cancelled", "Crashed")


def prepare_deployment() -> dict[str, str]:
    """Build step: create or update the automation; returns the package version for the deployment."""
    ensure_zombie_automation()
    return {"version": importlib.metadata.version("medsam3")}


def ensure_zombie_automation() -> None:
    """Create or update the automation that marks flow runs without a heartbeat as Crashed."""
    wanted = zombie_automation()
    with get_client(sync_client=True) as client:
        known = client.read_automations_by_name(ZOMBIES)
        for more in known[1:]:
            client.delete_automation(more.id)
        if known:
            client.update_automation(known[0].id, wanted)
        else:
            client.create_automation(wanted)


def zombie_automation() -> AutomationCore:
    """Automation: a flow run whose heartbeat stops without a final state has crashed."""
    return AutomationCore(
        name=ZOMBIES,
        description="The flow run of a killed process would stay Running for ever.",
        trigger=EventTrigger(
            after={_HEARTBEAT},
            expect={_HEARTBEAT, *(f"prefect.flow-run.{state}" for state in _ENDED)},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification(
                {"prefect.resource.role": ["flow"], "prefect.resource.name": list(FLOWS)}
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENCE_SECONDS),
        ),
        actions=[
            ChangeFlowRunState(
                name="Crashed",
                state=StateType.CRASHED,
                message=f"no heartbeat for {SILENCE_SECONDS} s",
                force=False,
            )
        ],
    )
