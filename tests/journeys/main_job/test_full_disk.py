"""A disk that is full, really: a small file system of its own, which only root can mount."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from medsam3_core.errors import StoreError
from storage.cohorts.cohorts import latest_cases
from storage.cohorts.volumes import open_case_volume
from storage.store.layout import StoreLayout, open_store
from tests.journeys.main_job.conftest import Medsam3, rows
from tests.stores.small import ingest_here

Grow = Callable[[str], None]
BENCHMARK = ("benchmark", "--cohort", "mr", "--weights", "baseline:box", "--prompt", "box", "--split", "all")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, Grow]]:
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(disk)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    try:
        mounted = mount("size=300k")
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield disk, lambda size: mount("remount", f"size={size}").check_returncode()
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_stops_everything_at_once_and_costs_nothing_once_it_is_freed(
    small_disk: tuple[Path, Grow], medsam3: Medsam3
) -> None:
    disk, grow = small_disk
    store = open_store(disk / "store")
    source = "phantom:mr,cases=12,size=6x64x64"
    with pytest.raises(StoreError, match="No space left on device; free the disk or choose another --store"):
        ingest_here(store, source, "mr")
    assert _nothing_half_written(store) < 12
    grow("60m")
    ingest_here(store, source, "mr")
    assert set(latest_cases(store, "mr")["status"]) == {"accepted"}
    assert _nothing_half_written(store) == 12

    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        while shutil.disk_usage(disk).free:
            file.write(bytes(4096))
    refused = medsam3(*BENCHMARK, "--cluster", "threads", store=store.root, code=2)
    assert "No space left on device" in refused.stderr
    assert refused.stderr.splitlines()[-1].startswith("medsam3: cannot write ")
    filler.unlink()
    medsam3(*BENCHMARK, "--cluster", "threads", store=store.root)
    assert rows(store.root, "SELECT count(*) AS n, count(DISTINCT case_id) AS cases FROM outcomes") == [
        {"n": 12, "cases": 12}
    ]


def _nothing_half_written(store: StoreLayout) -> int:
    """Every volume under its final name opens; how many there are."""
    volumes = list(store.root.glob("cohorts/*/volumes/*/[!.]*.ome.zarr"))
    for path in volumes:
        assert open_case_volume(path).voxels().shape == (6, 64, 64)
    return len(volumes)
