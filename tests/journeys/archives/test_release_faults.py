"""One case that cannot be released ends in its own row, without the patient's name, and stops no other."""

import csv
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from medsam3_core.errors import StoreError
from storage.exports.segment_plan import SegmentRequest, run_of
from storage.runs.ledger import Run
from storage.store.layout import StoreLayout
from storage.store.schemas import EXPORTS
from storage.store.tables import read_table
from tests.journeys.archives.segmented_here import segment_here
from tests.journeys.archives.test_privacy import found_in, planted_slices
from tests.journeys.archives.test_release import asking
from tests.journeys.archives.written_dicom import ct_slices, save


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two series, `one` and `two`."""
    save(tmp_path / "archive" / "one", ct_slices(6, PatientID="1"))
    save(tmp_path / "archive" / "two", ct_slices(6, seed=1, PatientID="2"))
    return tmp_path / "archive"


def reasons(out: Path) -> dict[str, str]:
    """Folder of each case that was not released, and why not."""
    with (out / "manifest.csv").open() as handle:
        return {row["source"].split("/")[0]: row["reason"] for row in csv.DictReader(handle) if not row["file"]}


def case_in(store: StoreLayout, run: Run, folder: str) -> str:
    from storage.cohorts.cohorts import latest_cases

    (found,) = [row for row in latest_cases(store, run.cohort).to_dict("records") if row["source"].startswith(folder)]
    return str(found["case_id"])


def truncated(store: StoreLayout, run: Run) -> None:
    file = store.prediction(run.run_id, case_in(store, run, "one"))
    file.write_bytes(file.read_bytes()[:-200])


def flipped(store: StoreLayout, run: Run) -> None:
    """One bit of the stored labels, in the middle of the largest entry of the zip."""
    import zipfile

    file = store.prediction(run.run_id, case_in(store, run, "one"))
    with zipfile.ZipFile(file) as archive:
        largest = max((item for item in archive.infolist() if "/c/" in item.filename), key=lambda item: item.file_size)
    content = bytearray(file.read_bytes())
    content[largest.header_offset + 30 + len(largest.filename) + largest.file_size // 2] ^= 1
    file.write_bytes(content)


def gone(store: StoreLayout, run: Run) -> None:
    store.prediction(run.run_id, case_in(store, run, "one")).unlink()


@pytest.mark.parametrize("spoil", [truncated, flipped, gone])
@pytest.mark.parametrize("form", ["nifti", "dicom-seg", "zarr"])
def test_a_damaged_prediction_stops_no_other_and_retry_brings_it_back(
    source: Path, store: StoreLayout, tmp_path: Path, spoil, form: str
) -> None:
    asked, out = asking(source, ("liver", 1)), tmp_path / "out"
    run = run_of(store, asked).run
    counts = segment_here(store, asked, out, form, before_release=lambda: spoil(store, run))[1]
    assert counts == {"segmented": 1, "unreleased": 1}
    (reason,) = reasons(out).values()
    assert "in the store is damaged" in reason
    assert reason.endswith("run medsam3 segment again with --retry, which segments the case again")
    assert segment_here(store, asked, out, form)[1:] == ({"segmented": 1, "unreleased": 1}, 0)
    assert segment_here(store, replace(asked, retry=True), out, form)[1:] == ({"segmented": 2}, 1)
    assert segment_here(store, replace(asked, retry=True), out, form)[2] == 0


def test_a_damaged_image_stops_no_other_and_reading_it_again_brings_it_back(
    source: Path, store: StoreLayout, tmp_path: Path
) -> None:
    asked, out = asking(source, ("liver", 1)), tmp_path / "out"
    run = run_of(store, asked).run

    def spoil() -> None:
        (store.volume(run.cohort, case_in(store, run, "one"), zipped=False) / "zarr.json").write_text("{")

    assert segment_here(store, asked, out, before_release=spoil)[1] == {"segmented": 1, "unreleased": 1}
    assert "touch its source files, so that they are read again" in reasons(out)["one"]
    for file in (source / "one").iterdir():
        os.utime(file)
    assert segment_here(store, asked, out)[1] == {"segmented": 2}


def test_a_store_that_is_gone_is_the_trouble_of_no_case(source: Path, store: StoreLayout, tmp_path: Path) -> None:
    asked = asking(source, ("liver", 1))
    with pytest.raises(StoreError, match="in the store is damaged"):
        segment_here(store, asked, tmp_path / "out", before_release=lambda: shutil.rmtree(store.root))


def test_a_private_kind_of_object_stops_no_other(store: StoreLayout, tmp_path: Path) -> None:
    save(tmp_path / "archive" / "one", private := ct_slices(6))
    for data in private:
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.3.4.5.6"
    save(tmp_path / "archive" / "one", private)
    save(tmp_path / "archive" / "two", ct_slices(6, seed=1))
    out, asked = tmp_path / "out", asking(tmp_path / "archive", ("liver", 1))
    assert segment_here(store, asked, out, "dicom-seg")[1] == {"segmented": 1, "unreleased": 1}
    assert reasons(out)["one"].startswith("the SOP class of the source (1.2.3.4.5.6) is private or unknown")


def test_what_a_library_quotes_of_a_header_is_not_written_down(store: StoreLayout, tmp_path: Path) -> None:
    save(tmp_path / "archive" / "one", ct_slices(6, PatientSex="MALE ZAPHOD"))
    save(tmp_path / "archive" / "two", ct_slices(6, seed=1))
    out, asked = tmp_path / "out", asking(tmp_path / "archive", ("liver", 1))
    run, counts, _ = segment_here(store, asked, out, "dicom-seg")
    assert counts == {"segmented": 1, "unreleased": 1}
    assert reasons(out)["one"].startswith("ValueError in ")
    assert not any("ZAPHOD" in str(row["reason"]) for row in read_table(store.exports(run.run_id), EXPORTS).to_pylist())


@pytest.mark.parametrize("trouble", ["vanished", "not readable"])
def test_a_source_that_vanishes_during_release_is_named_without_the_patient(
    store: StoreLayout, tmp_path: Path, trouble: str
) -> None:
    folder = tmp_path / "archive" / "Beeblebrox_Zaphod"
    files = save(folder, planted_slices(), name=lambda z: f"ZAPHOD {z}.dcm")
    save(tmp_path / "archive" / "two", ct_slices(6, seed=1))
    out = tmp_path / "out"

    def spoil() -> None:
        files[3].unlink()
        if trouble == "not readable":
            files[3].mkdir()

    asked: SegmentRequest = asking(tmp_path / "archive", ("liver", 1))
    counts = segment_here(store, asked, out, "dicom-seg", anonymous=True, before_release=spoil)[1]
    assert counts == {"segmented": 1, "unreleased": 1}
    (reason,) = reasons(out).values()
    assert "x-" in reason
    assert found_in(store.root) == set()
    assert found_in(out) == set()
