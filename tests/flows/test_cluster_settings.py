"""Clusters by name: what a name means, what contradicts itself, what would be submitted."""

import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from distributed import Client
from distributed.cli.dask_scheduler import main as dask_scheduler
from distributed.cli.dask_worker import main as dask_worker

from flows.clusters.kinds import gpu_cluster, make_cluster, slurm_cluster
from flows.settings.clusters import ClusterKind, ClusterSettings, parse_cluster
from flows.settings.environment import ALLOCATION
from flows.settings.settings import named_cluster
from medsam3_core.errors import UsageError
from tests import ROOT
from tests.command_line import command_line

NIGHT = {
    "kind": "slurm",
    "workers": 8,
    "memory_limit": "32GB",
    "resources": {"GPU": 1},
    "slurm": {
        "queue": "gpu",
        "account": "radiology",
        "walltime": "08:00:00",
        "cores": 8,
        "directives": ["--gres=gpu:1"],
        "prologue": ["module load cuda"],
    },
}


@pytest.mark.parametrize(
    ("name", "kind", "workers"),
    [
        ("local", "local", 0),
        ("local:3", "local", 3),
        ("threads", "threads", 0),
        ("gpu", "gpu", 0),
        ("slurm", "slurm", 0),
    ],
)
def test_kinds_that_need_no_settings_are_names(name: str, kind: str, workers: int) -> None:
    found = parse_cluster(name)
    assert (found.kind, found.workers) == (ClusterKind(kind), workers)


@pytest.mark.parametrize("name", ["tcp://10.0.0.1:8786", "address:tcp://10.0.0.1:8786"])
def test_an_address_is_a_cluster(name: str) -> None:
    assert parse_cluster(name) == ClusterSettings(ClusterKind.ADDRESS, address="tcp://10.0.0.1:8786")


def test_the_settings_file_beside_the_store_names_clusters(tmp_path: Path) -> None:
    (tmp_path / "medsam3.toml").write_text(
        '[clusters.station]\nkind = "local"\nworkers = 4\nmemory_limit = "8GB"\n'
        '[clusters.local]\nkind = "threads"\n', encoding="utf-8"
    )  # fmt: skip
    station = named_cluster("station", tmp_path / "store")
    assert (station.name, station.workers, station.memory_limit) == ("station", 4, "8GB")
    assert named_cluster("local", tmp_path / "store").kind is ClusterKind.THREADS  # the file has the last word


@pytest.mark.parametrize("name", ["moon", "local:x", "kubernetes"])
def test_an_unknown_cluster_lists_what_exists(name: str) -> None:
    with pytest.raises(UsageError, match=r"unknown cluster .*choose local, .* medsam3.toml \(night\)"):
        parse_cluster(name, {"night": NIGHT})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "moon"}, r"clusters\.x\.kind: .*'local', 'threads'"),
        ({"kind": "local", "workforce": 3}, r"clusters\.x\.workforce: Unexpected"),
        ({"kind": "local", "memory_limit": "lots"}, r"clusters\.x\.memory_limit: "),
        ({"kind": "address"}, "kind address needs an address"),
        ({"kind": "address", "address": "host:8786"}, "has no protocol; use tcp://HOST:PORT"),
        ({"kind": "local", "slurm": {"queue": "gpu"}}, r"slurm = \{\.\.\.\} is for kind slurm only"),
        (
            {"kind": "kubernetes", "workers": 4},
            "kind kubernetes was removed; apply the manifest of docs.operations",
        ),
        ({"kind": "gpu", "adaptive": {"maximum": 3}}, "adaptive is for kinds local and slurm only"),
        ({"kind": "local", "workers": 2, "adaptive": {"maximum": 3}}, "workers and adaptive exclude each other"),
        ({"kind": "local", "adaptive": {"minimum": 3, "maximum": 2}}, "adaptive maximum 2 is below its minimum 3"),
        ({"kind": "slurm", "slurm": {"walltime": "long"}}, r"clusters\.x\.slurm\.walltime"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_cluster("x", {"x": change})


def test_slurm_submits_a_job_with_one_worker_that_asks_for_what_the_settings_say() -> None:
    with slurm_cluster(parse_cluster("night", {"night": NIGHT})) as cluster:
        script = cluster.job_script()
    lines = script.splitlines()
    for line in ("-J medsam3", "-p gpu", "-A radiology", "--cpus-per-task=8", "-t 08:00:00", "--gres=gpu:1"):
        assert f"#SBATCH {line}" in lines
    assert "#SBATCH --mem=30G" in lines  # 32 GB in Slurm's binary unit, rounded up
    assert lines.index("export MALLOC_TRIM_THRESHOLD_=1073741824") < lines.index("module load cuda")
    assert "--nthreads 1 --memory-limit 29.80GiB" in script
    assert "--resources GPU=1" in script
    assert "--no-dashboard" in script


def test_slurm_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "dask_jobqueue", None)
    with pytest.raises(UsageError, match="needs the package dask-jobqueue; install it here with: pip install"):
        slurm_cluster(parse_cluster("slurm"))


def test_the_kubernetes_manifest_of_the_page_starts_scheduler_and_workers_that_its_settings_join() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8").partition("\n## Kubernetes\n")[2]
    blocks = dict(reversed(re.findall(r"^```(\w+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)))
    service, scheduler, workers = yaml.safe_load_all(blocks["yaml"])
    assert [item["kind"] for item in (service, scheduler, workers)] == ["Service", "Deployment", "Deployment"]
    for item in (scheduler, workers):
        assert item["spec"]["selector"]["matchLabels"] == item["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == scheduler["spec"]["selector"]["matchLabels"]
    cloud = parse_cluster("cloud", tomllib.loads(blocks["toml"])["clusters"])
    (container,) = workers["spec"]["template"]["spec"]["containers"]
    dask, command, address, *options = container["args"]
    assert (dask, command, address) == ("dask", "worker", cloud.address)
    assert address == f"tcp://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    asked = dask_worker.make_context("worker", [address, *options]).params
    assert (asked["nthreads"], asked["memory_limit"]) == (1, "16GiB")
    assert asked["resources"] == ",".join(f"{name}={amount:g}" for name, amount in cloud.resources.items())
    assert container["resources"]["limits"]["memory"] == asked["memory_limit"].removesuffix("B")
    assert {item["name"]: item["value"] for item in container["env"]} == ALLOCATION
    (container,) = scheduler["spec"]["template"]["spec"]["containers"]
    assert container["args"][:2] == ["dask", "scheduler"]
    assert dask_scheduler.make_context("scheduler", container["args"][2:]).params["port"] == "8786"


def test_gpu_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"needs an NVIDIA GPU and this machine has none \(nvidia-smi -L\)"):
        gpu_cluster(parse_cluster("gpu"))


def test_gpu_workers_are_processes_that_see_one_device_each() -> None:
    described = {"server": {"kind": "gpu", "devices": [0, 3], "memory_limit": "1GB"}}
    with (
        make_cluster(parse_cluster("server", described), []) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.wait_for_workers(2, timeout=60)
        seen = client.run(os.getenv, "CUDA_VISIBLE_DEVICES")
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        assert sorted(seen.values()) == ["0", "3"]
        assert [worker["resources"] for worker in workers] == [{"GPU": 1.0}, {"GPU": 1.0}]
        assert {worker["memory_limit"] for worker in workers} == {1_000_000_000}


def test_the_command_prints_what_would_be_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "medsam3.toml").write_text(
        '[clusters.night]\nkind = "slurm"\n[clusters.office]\nkind = "address"\naddress = "tcp://10.0.0.5:8786"\n',
        encoding="utf-8",
    )
    medsam3 = command_line(tmp_path / "store", monkeypatch, capsys)
    listed = medsam3("clusters").out
    assert "night" in listed
    assert "address, from" in listed
    assert medsam3("clusters", "night").out.startswith("#!")
    assert "tcp://10.0.0.5:8786" in medsam3("clusters", "office").out
    assert "unknown cluster 'moon'" in medsam3("clusters", "moon", code=2).err
