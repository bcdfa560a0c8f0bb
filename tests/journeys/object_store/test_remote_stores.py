"""A store in a bucket: the same cases, scores, locks and refusals as in a folder."""

import json
import socket
import threading
from pathlib import Path

import duckdb
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medsam3_core.errors import DamagedFileError, StoreError, UsageError
from storage.catalog.catalog import connect, lock_to_tables, publish_catalog
from storage.catalog.compaction import compact_scores
from storage.catalog.guard import run_sql
from storage.cohorts.cohorts import latest_cases
from storage.cohorts.volumes import open_case_volume
from storage.exports.runs import export_run
from storage.runs.requests import BenchmarkRequest
from storage.store import leases, writers
from storage.store.atomic import read_json, replacing, write_json
from storage.store.layout import StoreLayout, existing_store, open_store
from storage.store.locations import file_system, location, object_key
from storage.store.locks import holding
from storage.store.writers import SupersededError, committing, writing
from storage.upkeep.status import read_status
from storage.upkeep.upkeep import prune_store
from tests.journeys.object_store.conftest import new_bucket, upload_tree
from tests.stores.small import benchmark_here, ingest_here, plan_here

REQUEST = BenchmarkRequest(("both",), ("baseline:box",), ("box",), split="all")
SCORES = "SELECT weights, case_id, structure, dice, hd95, status FROM scores ORDER BY ALL"


def filled(store: StoreLayout) -> StoreLayout:
    """Two volumes, which are folders of chunks, benchmarked."""
    ingest_here(store, "phantom:ct,cases=2,size=6x40x48", "both")
    benchmark_here(store, REQUEST)
    return store


@pytest.fixture(scope="module")
def benchmarked() -> StoreLayout:
    return filled(open_store(f"{new_bucket()}/store"))


def test_a_store_in_a_bucket_answers_as_one_in_a_folder(benchmarked: StoreLayout, store: StoreLayout) -> None:
    expected = run_sql(filled(store), SCORES).to_pylist()
    assert len(expected) == 2 * len({row["structure"] for row in expected})
    assert run_sql(benchmarked, SCORES).to_pylist() == expected
    assert plan_here(benchmarked, REQUEST).pending == 0
    case = latest_cases(store, "both")["case_id"][0]
    here, there = (open_case_volume(one.volume("both", case, zipped=False)) for one in (store, benchmarked))
    assert np.array_equal(here.voxels(), there.voxels())
    assert np.array_equal(here.slice(2), there.slice(2))


def test_compaction_export_status_upkeep_and_catalog_work_on_a_bucket(benchmarked: StoreLayout, tmp_path: Path) -> None:
    before = run_sql(benchmarked, SCORES).to_pylist()
    (run,) = sorted(path.name for path in benchmarked.runs().iterdir())
    with writing(benchmarked, [run]):
        assert compact_scores(benchmarked, run) == benchmarked.scores(run)
    assert benchmarked.scores(run).name == "gen-0001"
    assert run_sql(benchmarked, SCORES).to_pylist() == before
    status = read_status(benchmarked)
    assert [(item.planned, item.scored, item.pending) for item in status.runs] == [(2, 2, 0)]
    assert prune_store(benchmarked, encodings_size=None, leftover_seconds=-60).leftovers == 2  # notes of batches
    catalog = publish_catalog(benchmarked)
    assert catalog.is_relative_to(benchmarked.own_folder)
    assert not str(benchmarked.own_folder).startswith("s3:")
    written = export_run(benchmarked, run, "nifti", [], tmp_path / "out")
    assert [nib.load(path).shape for path, _ in written] == [(48, 40, 6)] * 2


def test_one_slice_is_one_object_and_a_volume_shows_its_metadata_last(
    remote_store: StoreLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = remote_store.volume("both", "torn", zipped=False)
    client, seen = file_system(target), []
    put = client.put

    def note(local: list[str], remote: list[str]) -> None:
        seen.append(sorted(name.removeprefix(f"{object_key(target)}/") for name in remote))
        if remote[0].endswith("torn.ome.zarr/zarr.json"):
            raise ConnectionError
        put(local, remote)

    monkeypatch.setattr(client, "put", note)

    def write() -> None:
        with replacing(target) as scratch:
            (scratch / "0").mkdir(parents=True)
            for name in ("zarr.json", "0/zarr.json", "0/c"):
                (scratch / name).write_text("{}")

    with pytest.raises(ConnectionError):
        write()
    assert seen == [["0/c", "0/zarr.json"], ["zarr.json"]]
    with pytest.raises(DamagedFileError, match=r"torn\.ome\.zarr"):
        open_case_volume(target)


def test_what_fails_halfway_leaves_no_object(remote_store: StoreLayout) -> None:
    target = remote_store.root / "weights" / "registry.json"
    write_json(target, {"version": 1})

    def fail() -> None:
        with replacing(target) as scratch:
            scratch.write_text("{half")
            raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        fail()
    assert read_json(target) == {"version": 1}


def test_the_engine_reads_the_tables_of_a_bucket_and_nothing_else(benchmarked: StoreLayout) -> None:
    secret = benchmarked.root / "secret.json"
    secret.write_text("{}")
    with connect(benchmarked, "cases") as con:
        lock_to_tables(con, benchmarked)
        assert con.sql("SELECT count(*) FROM cases").fetchall() == [(2,)]
        with pytest.raises(duckdb.PermissionException, match="secret"):
            con.sql(f"SELECT * FROM read_text('{secret}')").fetchall()


def test_one_process_at_a_time_writes_a_run_of_a_bucket(remote_store: StoreLayout) -> None:
    with (
        writing(remote_store, ["run1"]),
        pytest.raises(StoreError, match=f"run run1 is being written by process .* on {socket.gethostname()}"),
        writing(remote_store, ["run1"]),
    ):
        pass
    with writing(remote_store, ["run1"]) as token:  # given back
        with committing(remote_store, "run1", token):
            pass
        with pytest.raises(SupersededError, match="taken over run run1"), committing(remote_store, "run1", "older"):
            pass


def test_who_waits_for_the_registry_gets_it_when_it_is_free(remote_store: StoreLayout) -> None:
    lock, order = remote_store.registry_lock(), []

    def second() -> None:
        with holding(lock, "the registry is being written", wait=True):
            order.append("second")

    with holding(lock, "the registry is being written"):
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(timeout=0.5)
        order.append("first")
    waiting.join(timeout=60)
    assert order == ["first", "second"]


@pytest.mark.parametrize("holder", ["ended", "silent"])
def test_a_dead_holder_is_replaced(remote_store: StoreLayout, monkeypatch: pytest.MonkeyPatch, holder: str) -> None:
    monkeypatch.setattr(writers, "_COMMITS_END_SECONDS", 0.0)
    lock = remote_store.writer_lock("run1")
    ours = leases._this_process()
    if holder == "ended":  # a process of this machine that is no more: at once
        lock.write_text(json.dumps(ours | {"pid": 2**22 - 1, "since": 1.0}))
    else:  # another machine: only once it has been silent for long enough
        lock.write_text(json.dumps(ours | {"space": "elsewhere", "machine": "far-away"}))
        with pytest.raises(StoreError, match="on far-away, last active"), writing(remote_store, ["run1"]):
            pass
        monkeypatch.setattr(leases, "LEASE_SECONDS", -1.0)
    with writing(remote_store, ["run1"]) as token:
        assert remote_store.writer_token("run1").read_text() == token
    assert not lock.exists()


def test_locations_that_are_no_store_are_refused_by_name(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gs://bucket/x is neither a folder nor s3://"):
        open_store("gs://bucket/x")
    with pytest.raises(StoreError, match=r"s3://no-such-bucket-1/store is not writable .*AWS_ENDPOINT_URL"):
        open_store("s3://no-such-bucket-1/store")
    with pytest.raises(StoreError, match=f"no store at {bucket}/nothing; create one with"):
        existing_store(f"{bucket}/nothing")
    with pytest.raises(UsageError, match="training writes checkpoints into a folder"):
        StoreLayout(location(f"{bucket}/store")).training("t")
    assert str(location(Path(f"{bucket}/store"))) == f"{bucket}/store"  # what pathlib makes of it is mended


def test_images_of_a_bucket_are_ingested_once_and_again_when_they_change(
    remote_store: StoreLayout, bucket: str, tmp_path: Path
) -> None:
    square = np.zeros((24, 24), np.uint8)
    square[4:12, 6:18] = 255
    for index in range(3):
        for folder in ("images", "masks"):
            path = tmp_path / "eyes" / folder / f"eye{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(square // (index + 1) if folder == "images" else square).save(path)
    source = upload_tree(tmp_path / "eyes", f"{bucket}/eyes")
    assert ingest_here(remote_store, source, "eyes").unchanged == 0
    frame = latest_cases(remote_store, "eyes")
    assert set(frame["status"]) == {"accepted"}
    assert set(frame["source_root"]) == {source}
    assert ingest_here(remote_store, source, "eyes").unchanged == 3
    changed = next(path for path in location(f"{source}/images").iterdir())
    changed.write_bytes(changed.read_bytes()[:-40])
    assert len(ingest_here(remote_store, source, "eyes").pending) == 1
    rows = run_sql(remote_store, "SELECT case_id, reason FROM cases WHERE status = 'rejected'").to_pylist()
    assert [row["case_id"] for row in rows] == [changed.name.partition(".")[0]]
    assert f"{source}/images/{changed.name} cannot be read" in rows[0]["reason"]
