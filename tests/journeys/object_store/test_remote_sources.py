"""Archives in a bucket: ingested, segmented and released without a copy of the archive on this machine."""

import io
import signal
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from storage.catalog.guard import run_sql
from storage.cohorts.cohorts import latest_cases
from storage.exports.segment_plan import SegmentRequest
from storage.sources.listing.files import SourceFile, listed_once, read_range, walk_files
from storage.sources.registry import find_reader
from storage.store.layout import StoreLayout, existing_store
from storage.store.locations import location
from storage.store.schemas import OUTCOMES
from storage.store.tables import read_table
from tests.journeys.archives.segmented_here import segment_here
from tests.journeys.archives.written_dicom import ct_slices, enhanced_ct, save
from tests.journeys.main_job.conftest import HANG_LIMIT_SECONDS, Started, prefect_server, started, wait_until
from tests.journeys.object_store.conftest import new_bucket, upload_tree
from tests.listed_cases import cases_of_source

__all__ = ["prefect_server", "started"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Three series: one file per slice, several frames in one file, and one with a slice missing."""
    folder = tmp_path_factory.mktemp("archive")
    names = {"PatientName": "Doe^Jane", "PatientID": "4711"}
    save(folder / "ct", ct_slices(5, **names), name=lambda z: f"{(z * 3) % 5}")
    enhanced_ct(4).save_as(folder / "enhanced", enforce_file_format=True)
    save(folder / "gap", [one for z, one in enumerate(ct_slices(6, seed=1)) if z != 2])
    return folder, upload_tree(folder, f"{new_bucket()}/archive")


def test_a_bucket_is_walked_like_a_folder(bucket: str) -> None:
    for name in ("a/1.dcm", "a/.hidden/2.dcm", ".DS_Store", "b.dcm"):
        location(f"{bucket}/in/{name}").write_bytes(b"0123456789")
    location(f"{bucket}/in/empty").write_bytes(b"")
    source = location(f"{bucket}/in")
    with listed_once():
        assert {(file.name, file.size) for file in walk_files(source)} == {("a/1.dcm", 10), ("b.dcm", 10), ("empty", 0)}
        location(f"{bucket}/in/late.dcm").write_bytes(b"1")
        assert len(list(walk_files(source))) == 3
    assert len(list(walk_files(source))) == 4
    assert all(isinstance(file, SourceFile) for file in walk_files(source))
    assert read_range(source / "b.dcm", 3, 4) == (b"3456", 10)
    assert read_range(source / "b.dcm", 8, 100) == (b"89", 10)
    assert read_range(source / "empty", 0, 100) == (b"", 0)
    with pytest.raises(FileNotFoundError):
        read_range(source / "nothing", 0, 1)


def boxes(source: str, path: Path) -> Path:
    """One structure in every case of a source that is whole."""
    _, recipe = find_reader(source, "archive")
    lines = ["case_id,slice,structure,instance,kind,x0,y0,x1,y1"]
    listed = cases_of_source(source, recipe).values()
    lines += [f"{case.case_id},1,liver,0,box,2,3,6,9" for case in listed if not case.reject_reason]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_series_of_a_bucket_are_segmented_as_those_of_a_folder(
    archive: tuple[Path, str], store: StoreLayout, remote_store: StoreLayout, tmp_path: Path
) -> None:
    folder, source = archive
    tables = []
    for where, layout, out in (
        (str(folder), store, tmp_path / "out"),
        (source, remote_store, remote_store.root / "out"),
    ):
        request = SegmentRequest(where, "baseline:box", prompts=boxes(where, tmp_path / "boxes.csv"))
        _, counts, computed = segment_here(layout, request, out, "dicom-seg")
        assert (counts, computed) == ({"segmented": 2}, 2)
        assert segment_here(layout, request, out, "dicom-seg")[2] == 0
        tables.append(latest_cases(layout, request.cohort))
        written = {path.name: path.read_bytes() for path in out.iterdir() if path.suffix == ".dcm"}
        assert len(written) == 2
        for content in written.values():
            segmentation = pydicom.dcmread(io.BytesIO(content))
            assert int(segmentation.pixel_array.sum()) == 4 * 6
            assert len(segmentation.ReferencedSeriesSequence) == 1
    here, there = tables
    accepted = here["status"] == "accepted"  # the digest of a rejection tells of its files, too
    assert list(here["case_digest"][accepted]) == list(there["case_digest"][accepted])
    assert list(here["case_id"]) == list(there["case_id"])
    assert set(there["source_root"]) == {source}
    assert [reason.partition(":")[0] for reason in there["reason"][~accepted]] == ["missing-slice"]


def test_a_killed_segment_of_a_bucket_is_finished_by_the_next(
    s3_server: dict[str, str], started: Started, tmp_path: Path
) -> None:
    bucket, rng = new_bucket(), np.random.default_rng(0)
    for index in range(8):
        voxels = rng.integers(0, 900, (48, 48, 10)).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 2.0, 1.0])), tmp_path / f"mr{index}.nii.gz")
    upload_tree(tmp_path, f"{bucket}/archive")
    words = (
        "segment",
        f"{bucket}/archive",
        "--weights",
        "tiny-untrained",
        "--text",
        "liver",
        "--out",
        f"{bucket}/masks",
    )
    store = location(f"{bucket}/store")
    first = started(*words, store=store, **s3_server)
    wait_until(lambda: first.poll() is not None or bool(list(store.glob("runs/*/outcomes/*"))), "the first outcomes")
    assert first.poll() is None, first.communicate()
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = started(*words, store=store, **s3_server)
    answer, errors = second.communicate(timeout=HANG_LIMIT_SECONDS)
    assert second.returncode == 0, errors
    assert answer.strip() == f"{bucket}/masks"
    layout = existing_store(store)
    (run,) = layout.runs().iterdir()
    outcomes = read_table(layout.outcomes(run.name), OUTCOMES).to_pylist()
    assert sorted(row["case_id"] for row in outcomes) == [f"mr{index}" for index in range(8)]
    assert run_sql(layout, "SELECT DISTINCT status FROM outcomes").to_pylist() == [{"status": "segmented"}]
    assert sorted(path.name for path in location(f"{bucket}/masks").glob("*.nii.gz")) == [
        f"mr{index}.nii.gz" for index in range(8)
    ]
    assert not list(store.glob(".locks/*.lock"))
