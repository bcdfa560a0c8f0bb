"""A case that fails while it is read or written is rejected with its reason, and the others are ingested."""

import copy
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medsam3_core.errors import StoreError, UnreadableFileError
from storage.cohorts.cohorts import latest_cases
from storage.ingest.plan import IngestRequest, plan_ingest
from storage.sources.formats.arrays import read_array
from storage.store.layout import StoreLayout
from tasks.ingest import IngestBatch, PendingCase
from tasks.stream.breadcrumbs import BreadcrumbFolder
from tasks.stream.work import run_batch
from tests.journeys.archives.written_dicom import COLUMNS, ROWS, ct_slices, enhanced_ct, save
from tests.stores.small import ingest_here


def reasons(store: StoreLayout) -> dict[str, str | None]:
    """First folder of a case to its reason; None where it was accepted."""
    rows = latest_cases(store, "all").to_dict("records")
    return {row["source"].split("/")[0]: None if row["status"] == "accepted" else row["reason"] for row in rows}


def test_more_items_than_frames_reject_their_file_alone(store: StoreLayout, tmp_path: Path) -> None:
    odd = enhanced_ct(5)
    last = copy.deepcopy(odd.PerFrameFunctionalGroupsSequence[4])
    last.PlanePositionSequence[0].ImagePositionPatient[2] += 2.5
    odd.PerFrameFunctionalGroupsSequence.append(last)
    save(tmp_path / "a" / "odd", [odd])
    save(tmp_path / "a" / "good", ct_slices(4))
    ingest_here(store, str(tmp_path / "a"), "all")
    found = reasons(store)
    assert found["good"] is None
    assert "odd/IM0000" in str(found["odd"])


@pytest.mark.parametrize("first", ["grey"])
def test_grey_and_colour_in_one_series_reject_it_alone(store: StoreLayout, tmp_path: Path, first: str) -> None:
    slices = ct_slices(4)
    for data in slices[:1] if first == "colour" else slices[1:]:
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
        data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
        data.PixelData = bytes(ROWS * COLUMNS * 3)
    save(tmp_path / "a" / "odd", slices)
    save(tmp_path / "a" / "good", ct_slices(4))
    ingest_here(store, str(tmp_path / "a"), "all")
    found = reasons(store)
    assert found["good"] is None
    assert "odd/IM000" in str(found["odd"])


def test_an_error_that_nobody_foresaw_is_the_reason_of_its_case(store: StoreLayout, tmp_path: Path) -> None:
    for name in ("Doe_Jane", "good"):
        save(tmp_path / "a" / name, ct_slices(4, PatientName="Doe^Jane" if name == "Doe_Jane" else ""))
    plan = plan_ingest(store, IngestRequest(str(tmp_path / "a"), "all"))
    work = IngestBatch(store, "all", plan.cohort.recipe, plan.source_root)
    cases = [PendingCase(case, fingerprint) for case, fingerprint in plan.pending]
    odd = next(case for case in cases if "Doe_Jane" in case.source.image[0])
    extra = {name: value for name, value in odd.source.extra.items() if name != "kind"}  # no reader knows what it is
    odd = replace(odd, source=replace(odd.source, extra=extra))
    cases = [odd, *(case for case in cases if case.case_id != odd.case_id)]
    report = run_batch(work, "batch", BreadcrumbFolder(store.breadcrumbs() / "here"), cases)
    assert report.statuses == {"rejected": 1, "accepted": 1}
    rows = latest_cases(store, "all").set_index("case_id")
    reason = str(rows.loc[odd.case_id, "reason"])
    assert "cannot be read (KeyError: 'kind'); it is damaged or of an unknown format" in reason
    assert "Doe" not in reason


def test_a_store_that_cannot_be_written_is_no_fault_of_a_case(store: StoreLayout, tmp_path: Path) -> None:
    save(tmp_path / "a", ct_slices(4))
    plan = plan_ingest(store, IngestRequest(str(tmp_path / "a"), "all"))
    work = IngestBatch(store, "all", plan.cohort.recipe, plan.source_root)
    volumes = store.cohort("all") / "volumes"
    volumes.write_text("a file where a folder must be")
    cases = [PendingCase(case, fingerprint) for case, fingerprint in plan.pending]
    with pytest.raises(StoreError, match="cannot write"):
        run_batch(work, "batch", BreadcrumbFolder(store.breadcrumbs() / "here"), cases)


def test_an_array_file_with_a_password_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, image=np.zeros((2, 3, 4)))
    with zipfile.ZipFile(path) as archive:
        start = archive.start_dir
    content = bytearray(path.read_bytes())
    content[6] |= 1  # flags of the local header and of the directory: encrypted
    content[start + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(UnreadableFileError, match=r"a\.npz cannot be read \(File 'image\.npy' is encrypted"):
        read_array(path, "image")
