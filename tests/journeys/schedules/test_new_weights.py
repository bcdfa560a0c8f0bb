"""New weights start their benchmarks: a real server, a process worker and real small weights, on loopback."""

import shutil
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.torch import load_file, save_file

from storage.catalog.guard import run_sql
from storage.runs.requests import BenchmarkRequest
from storage.store.layout import StoreLayout
from storage.weights.checkpoints import write_untrained
from storage.weights.registry import add_weights
from tests.journeys.schedules.conftest import Site, wait_for
from tests.stores.small import benchmark_here, ingest_here

pytestmark = pytest.mark.timeout(1800)
TENSORS = "model.safetensors"
QUIET_SECONDS = 10


@pytest.fixture(scope="module")
def weights(starting_site: Site) -> Path:
    """A folder of weights that draw something, registered as `mine`, and a cohort with a baseline's benchmark."""
    folder, store = starting_site.folder / "mine", starting_site.store
    write_untrained(folder)
    ingest_here(store, "phantom:fundus,cases=8,size=64x64", "eyes")
    benchmark_here(store, BenchmarkRequest(("eyes",), ("baseline:box",), ("box",), split="all"))
    add_weights(store, "mine", folder)
    return folder


def make_worse(folder: Path) -> None:
    """Weights that find nothing present: they load, and draw nothing."""
    tensors = load_file(folder / TENSORS)
    tensors["detr_decoder.presence_head.layer3.bias"] -= 30
    save_file(tensors, folder / TENSORS, metadata={"format": "pt"})


def attempts(store: StoreLayout) -> dict[tuple[str, int], int]:
    """How many cases were ever computed, by weights and version."""
    query = """
    SELECT weights, weights_version, count(*) AS n FROM outcomes JOIN runs USING (run_id) GROUP BY ALL"""
    return {(row["weights"], row["weights_version"]): row["n"] for row in run_sql(store, query).to_pylist()}


def triggered(site: Site, number: int) -> dict[str, str]:
    """The end of the n-th run that new weights started."""
    runs = wait_for(lambda: (found := site.runs("benchmark-on-new-weights")) and len(found) >= number and found)
    return site.ended(runs[number - 1]["id"])


def test_worse_weights_fail_their_benchmark_and_better_ones_complete_it(weights: Path, site: Site) -> None:
    asked = {"cohorts": ["eyes"], "weights": ["mine"], "prompts": ["text", "box"], "split": "all"}
    state = site.ended(site.start("benchmark/benchmark", request=asked, cluster="threads:1"))
    assert state["type"] == "COMPLETED", state
    assert attempts(site.store) == {("baseline:box", 1): 8, ("mine", 1): 16}

    good = shutil.copyfile(weights / TENSORS, site.folder / TENSORS)
    make_worse(weights)
    assert "announced mine@2" in site.medsam3("watch", "--once")
    state = triggered(site, 1)
    assert state["type"] == "FAILED", state
    assert state["message"].startswith("REGRESSION: mine@2 is worse than mine on ")
    assert "vessel (eyes, text: dice -0.1" in state["message"]
    assert attempts(site.store) == {("baseline:box", 1): 8, ("mine", 1): 16, ("mine", 2): 16}
    (told,) = site.told()
    assert (told["kind"], told["weights"], told["base"]) == ("regression", "mine@2", "mine@1")
    assert told["text"] == state["message"]
    assert "<html" in Path(told["report"]).read_text()

    shutil.copyfile(good, weights / TENSORS)
    assert "announced mine@3" in site.medsam3("watch", "--once")
    state = triggered(site, 2)
    assert (state["type"], state["message"]) == ("COMPLETED", "No regression of mine@3 against mine@2 is shown.")
    assert attempts(site.store)["mine", 2] == 16
    assert sum(attempts(site.store).values()) == 40  # the tensors of version 1 are back: nothing to compute
    assert [item["kind"] for item in site.told()] == ["regression", "no regression"]

    artifacts = site.post("/artifacts/filter", {"artifacts": {"key": {"any_": ["benchmark-mine"]}}})
    assert any("| eyes | text | vessel | dice | 8 |" in item["data"] for item in artifacts)
    assert all("file:///" in item["data"] for item in artifacts)


def test_weights_that_cannot_be_loaded_raise_an_alert_and_start_nothing(weights: Path, site: Site) -> None:
    known, told = len(site.runs("benchmark-on-new-weights")), len(site.told())
    content = (weights / TENSORS).read_bytes()
    (weights / TENSORS).write_bytes(content[:-5000])
    said = site.medsam3("watch", "--once", code=1)
    assert "not a readable safetensors file" in said
    assert "missing or not loadable: mine" in said
    (weights / TENSORS).write_bytes(content)
    assert len(site.runs("benchmark-on-new-weights")) == known
    assert [(item["kind"], item["weights"]) for item in site.told()[told:]] == [("alert", "mine")]
    alerts = {"filter": {"event": {"name": ["medsam3.weights.alert"]}}}
    assert wait_for(lambda: site.post("/events/filter", alerts)["events"])[0]["payload"]["weights"] == "mine"


def test_parameters_that_are_wrong_or_unknown_are_named_in_the_flow_run(site: Site) -> None:
    state = site.ended(site.start("benchmark/benchmark", request={"limit": "many", "cohort": ["eyes"]}))
    assert state["type"] == "FAILED"
    assert "request.limit: Input should be a valid integer" in state["message"]
    assert "request.cohort: Unexpected keyword argument" in state["message"]


def test_a_hundred_changes_in_a_minute_give_one_benchmark_of_the_last(weights: Path, site: Site) -> None:
    add_weights(site.store, "idle", site.folder / "mine")
    before = len(site.runs("benchmark-on-new-weights"))
    now = datetime.now(UTC)
    storm = [
        {
            "event": "medsam3.weights.changed",
            "resource": {"prefect.resource.id": "medsam3.weights.idle", "medsam3.store": str(site.store.root)},
            "payload": {
                "store": str(site.store.root), "name": "idle", "old_sha256": "", "new_sha256": f"{number:064}",
            },
            "occurred": (now - timedelta(seconds=60 - 0.6 * number)).isoformat(),
            "id": str(uuid.uuid4()),
        }
        for number in range(100)
    ]  # fmt: skip
    site.post("/events", storm)

    def settled() -> list[dict[str, Any]]:
        runs = site.runs("benchmark-on-new-weights")[before:]
        ended = all(run["state_type"] in ("COMPLETED", "CANCELLED", "FAILED") for run in runs)
        return runs if len(runs) > 1 and ended and _age(runs[-1]) > QUIET_SECONDS else []

    runs = wait_for(settled)
    assert [run["state_type"] for run in runs if run["state_type"] != "CANCELLED"] == ["COMPLETED"]
    assert len(runs) <= 13
    (worked,) = [run for run in runs if run["state_type"] == "COMPLETED"]
    state = httpx.get(f"{site.url}/flow_runs/{worked['id']}", timeout=60).json()["state"]
    assert state["message"] == "idle was never benchmarked: nothing to update"


def test_deployments_with_a_schedule_get_their_runs_ahead_of_time(site: Site) -> None:
    def scheduled() -> set[str]:
        names = ["benchmark", "maintenance", "segment-archive"]
        asked = {"deployments": {"name": {"any_": names}}, "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
        runs = site.post("/flow_runs/filter", asked)
        return {run["deployment_id"] for run in runs if run["auto_scheduled"]}

    assert wait_for(lambda: found if len(found := scheduled()) == 3 else None)


def _age(run: dict[str, Any]) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(run["created"])).total_seconds()
