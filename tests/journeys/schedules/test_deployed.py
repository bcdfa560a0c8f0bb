"""What a flow finds out about its deployment, and what prefect.yaml promises."""

import importlib
from pathlib import Path

import pytest
import yaml

from flows.service import server
from flows.service.automations import FLOWS, zombie_automation
from flows.service.deployed import store_of
from flows.service.server import POOL, ServerPlace
from medsam3_core.errors import UsageError
from tests.journeys.schedules.conftest import ROOT

DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


@pytest.fixture
def deployment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A flow run of a deployment that another version made."""
    monkeypatch.delenv("MEDSAM3_STORE", raising=False)
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "11111111-2222-4333-8444-555555555555")
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__VERSION", "0.0.1")
    return monkeypatch


def test_a_deployed_flow_takes_the_store_of_its_worker(deployment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deployment.setenv("MEDSAM3_STORE", str(tmp_path / "store"))
    assert store_of("").root == tmp_path / "store"
    assert store_of(str(tmp_path / "other")).root == tmp_path / "other"


def test_a_deployed_flow_without_an_absolute_store_says_what_to_do(deployment: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no store given; set the parameter `store`, or start the worker with MEDSAM3"):
        store_of("")
    with pytest.raises(UsageError, match="store 'medsam3-store' is relative to the folder of the worker"):
        store_of("medsam3-store")


def test_a_deployment_of_an_older_version_is_named(
    deployment: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store_of(str(tmp_path))
    assert "this deployment was created by medsam3 0.0.1" in capsys.readouterr().err
    deployment.delenv("PREFECT__RUNTIME__DEPLOYMENT__ID")
    store_of(str(tmp_path))
    assert "deployment" not in capsys.readouterr().err


@pytest.mark.parametrize("item", DEPLOYMENTS, ids=lambda item: item["name"])
def test_every_deployment_names_a_flow_whose_parameters_are_explained(item: dict[str, str]) -> None:
    module, _, name = item["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    nested = [fields for one in flow.parameters.definitions.values() for fields in one["properties"].items()]
    for parameter, schema in [*flow.parameters.properties.items(), *nested]:
        assert len(schema.get("description", "")) > 10, f"{item['name']}: {parameter} is not explained"
    assert "store" not in flow.parameters.required
    assert item["work_pool"]["name"] == POOL  # type: ignore[index]


def test_what_the_worker_is_told_cannot_be_undone_by_the_shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED", "false")
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere:4200/api")
    environment = ServerPlace(tmp_path, tmp_path, 4321, ROOT).environment()
    assert environment["PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED"] == "true"
    assert environment["PREFECT_API_URL"] == "http://127.0.0.1:4321/api"


def test_the_automation_waits_for_five_heartbeats_of_our_own_flows() -> None:
    assert zombie_automation().trigger.within.total_seconds() == 5 * server.HEARTBEAT_SECONDS  # type: ignore[union-attr]
    for item in DEPLOYMENTS:
        module, _, name = item["entrypoint"].rpartition(".")
        assert getattr(importlib.import_module(module), name).name in FLOWS


def test_a_server_in_the_wrong_place_or_on_a_taken_port_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import socket

    monkeypatch.chdir(tmp_path)
    assert server.main(["--port", "4399"]) == 2
    assert f"no prefect.yaml in {tmp_path}" in capsys.readouterr().err
    monkeypatch.chdir(ROOT)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert server.main(["--port", str(taken.getsockname()[1]), "--home", str(tmp_path / "home")]) == 2
    assert "is taken; if no server is running there" in capsys.readouterr().err
    assert not (tmp_path / "home").exists()
