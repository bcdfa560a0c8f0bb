"""Content of `--out`: the files of one run, regardless of earlier writers and of interruptions."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from click.testing import CliRunner

from flows.cli.entry import cli
from flows.segment import SegmentSummary
from medsam3_core.errors import UsageError
from storage.exports.claims import claim_folder, require_claim, require_claimable
from storage.exports.runs import export_run
from storage.exports.segment_plan import SegmentRequest, run_of
from storage.runs.ledger import Run
from storage.store.layout import StoreLayout
from storage.store.schemas import EXPORTS
from storage.store.tables import read_table
from storage.store.writers import SupersededError
from tests.journeys.archives.segmented_here import ProcessDiedError, segment_here
from tests.journeys.archives.test_segment import listed_ids
from tests.journeys.archives.written_dicom import ct_slices, save


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two series."""
    save(tmp_path / "archive" / "one", ct_slices(6, PatientName="Doe^Jane", PatientID="MRN-4711"))
    save(tmp_path / "archive" / "two", ct_slices(6, seed=1, PatientName="Roe^Rick", PatientID="MRN-4712"))
    return tmp_path / "archive"


def asking(source: Path, *boxes: tuple[str, int]) -> SegmentRequest:
    """A request whose structures are boxes of 4 x 4 pixels on slice 2, each from its own first column on."""
    lines = ["case_id,slice,structure,instance,kind,x0,y0,x1,y1"]
    lines += [f"{case},2,{name},0,box,{x},3,{x + 4},7" for case in listed_ids(source) for name, x in boxes]
    file = source.parent / f"{'-'.join(name for name, _ in boxes)}.csv"
    file.write_text("\n".join(lines) + "\n")
    return SegmentRequest(str(source), "baseline:box", prompts=file)


def first_columns(out: Path) -> list[int]:
    """Of every label map the first column that is drawn."""
    return [int(np.nonzero(np.asarray(nib.load(file).dataobj))[0].min()) for file in sorted(out.glob("*.nii.gz"))]


def named_run(out: Path) -> str:
    return json.loads((out / "labels.json").read_text())["run_id"]


def manifest(out: Path) -> list[dict[str, str]]:
    with (out / "manifest.csv").open() as handle:
        return list(csv.DictReader(handle))


def test_a_run_that_comes_back_replaces_the_masks_of_the_run_between(
    source: Path, store: StoreLayout, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    liver, spleen = asking(source, ("liver", 1)), asking(source, ("spleen", 5))
    for asked, column in ((liver, 1), (spleen, 5), (liver, 1)):
        run, counts, _ = segment_here(store, asked, out)
        assert (counts, named_run(out)) == ({"segmented": 2}, run.run_id)
        assert first_columns(out) == [column, column]
        assert all(row["file"] for row in manifest(out))


def test_wherever_a_process_dies_the_files_are_of_the_run_that_the_labels_name(
    source: Path, store: StoreLayout, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    liver, spleen = asking(source, ("liver", 1)), asking(source, ("spleen", 5))
    first, _, _ = segment_here(store, liver, out)
    with pytest.raises(ProcessDiedError):
        segment_here(store, spleen, out, dies_after=1)
    assert named_run(out) != first.run_id
    assert (first_columns(out), (out / "manifest.csv").exists()) == ([5], False)
    with pytest.raises(ProcessDiedError):
        segment_here(store, liver, out, dies_after=0)
    assert (first_columns(out), named_run(out)) == ([], first.run_id)
    assert segment_here(store, spleen, out)[1] == {"segmented": 2}
    assert first_columns(out) == [5, 5]


def test_what_was_released_before_a_death_is_not_released_again(
    source: Path, store: StoreLayout, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    liver = asking(source, ("liver", 1))
    segment_here(store, liver, out)
    before = {file: file.stat().st_mtime_ns for file in out.glob("*.nii.gz")}
    with pytest.raises(ProcessDiedError):
        segment_here(store, liver, out, dies_after=0)
    segment_here(store, liver, out)
    assert {file: file.stat().st_mtime_ns for file in out.glob("*.nii.gz")} == before


def test_another_order_of_the_same_structures_gives_other_values(
    source: Path, store: StoreLayout, tmp_path: Path
) -> None:
    out, claims, runs = tmp_path / "out", set(), set()
    for names in (("liver", "spleen"), ("spleen", "liver")):
        text = SegmentRequest(str(source), "tiny-untrained", texts=names)
        run = run_of(store, text).run
        claims.add(claim_folder(store, run, out, anonymous=False))
        runs.add(run.run_id)
        labels = json.loads((out / "labels.json").read_text())["labels"]
        assert labels == {"background": 0, names[0]: 1, names[1]: 2}
    assert (len(runs), len(claims)) == (1, 2)


def test_a_file_without_names_replaces_the_one_with_names(source: Path, store: StoreLayout, tmp_path: Path) -> None:
    out, asked = tmp_path / "out", asking(source, ("liver", 1))
    segment_here(store, asked, out, "dicom-seg")
    assert any(b"Doe" in file.read_bytes() for file in out.glob("*.dcm"))
    assert segment_here(store, asked, out, "dicom-seg", anonymous=True)[1] == {"segmented": 2}
    assert not any(b"Doe" in file.read_bytes() for file in out.glob("*.dcm"))
    with pytest.raises(ProcessDiedError):
        segment_here(store, asked, out, "dicom-seg", dies_after=2)
    with pytest.raises(ProcessDiedError):
        segment_here(store, asked, out, "nifti", anonymous=True, dies_after=0)
    assert not list(out.glob("*.dcm"))


def test_a_folder_of_another_source_store_or_export_is_refused(
    source: Path, store: StoreLayout, tmp_path: Path
) -> None:
    out, asked = tmp_path / "out", asking(source, ("liver", 1))
    run, _, _ = segment_here(store, asked, out)
    save(tmp_path / "elsewhere", ct_slices(6, seed=2))
    with pytest.raises(UsageError, match=rf"out holds segmentations of another source \(run {run.run_id}\)"):
        segment_here(store, asking(tmp_path / "elsewhere", ("liver", 1)), out)
    other_store = StoreLayout(tmp_path / "other-store")
    with pytest.raises(UsageError, match=rf"labels\.json belongs to another export \({run.run_id}\); choose another"):
        segment_here(other_store, asking(source, ("spleen", 5)), out)
    exported = tmp_path / "exported"
    export_run(store, run.run_id, "nifti", (), exported)
    with pytest.raises(UsageError, match=r"exported/labels\.json belongs to another export"):
        segment_here(store, asking(source, ("spleen", 5)), exported)
    assert first_columns(out) == first_columns(exported) == [1, 1]


def test_the_command_refuses_such_a_folder_before_it_segments(source: Path, store: StoreLayout, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "labels.json").write_text('{"run_id": "0123456789ab", "labels": {"background": 0}}')
    asked = asking(source, ("liver", 1))
    words = ["segment", str(source), "--weights", "baseline:box", "--prompts", str(asked.prompts), "--out", str(out)]
    answer = CliRunner().invoke(cli, [*words, "--store", str(store.root)], standalone_mode=False)
    assert "belongs to another export (0123456789ab)" in str(answer.exception)
    assert not store.runs().exists()


def test_workers_of_a_run_that_was_replaced_write_nothing(source: Path, store: StoreLayout, tmp_path: Path) -> None:
    out = tmp_path / "out"
    runs = [run_of(store, asking(source, box)).run for box in (("liver", 1), ("spleen", 5))]
    old = claim_as(store, runs[0], out)
    require_claim(out, old)
    claim_as(store, runs[1], tmp_path / "out")
    with pytest.raises(SupersededError, match="another run has taken over"):
        require_claim(out, old)


def claim_as(store: StoreLayout, run: Run, out: Path) -> str:
    """A claim of a run that the store knows."""
    from storage.runs.ledger import write_run

    write_run(store, run)
    return claim_folder(store, run, out, anonymous=False)


def test_a_labels_file_that_is_none_is_named(source: Path, store: StoreLayout, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text("[1")
    run = run_of(store, asking(source, ("liver", 1))).run
    with pytest.raises(UsageError, match=r"labels\.json is not a list of labels; remove it, or choose another --out"):
        require_claimable(store, run, tmp_path, anonymous=False)


def test_nothing_found_is_an_ending_of_its_own_and_not_tried_again(
    source: Path, store: StoreLayout, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked = SegmentRequest(str(source), "tiny-untrained", texts=("liver",), settings=("threshold=0.9999",))
    run, counts, _ = segment_here(store, asked, out, "dicom-seg")
    assert counts == {"empty": 2}
    assert SegmentSummary(run.cohort, run.run_id, counts).unfinished == 0
    assert {(row["status"], row["file"]) for row in manifest(out)} == {("empty", "")}
    assert all(row["reason"].startswith("nothing was found") for row in manifest(out))
    rows = read_table(store.exports(run.run_id), EXPORTS).to_pylist()
    assert [row["status"] for row in rows] == ["empty", "empty"]
    assert segment_here(store, asked, out, "dicom-seg")[1] == {"empty": 2}
    assert read_table(store.exports(run.run_id), EXPORTS).num_rows == 2
    assert segment_here(store, asked, out, "nifti")[1] == {"segmented": 2}


def test_a_file_of_an_older_attempt_does_not_stay_beside_a_manifest_without_it(
    source: Path, store: StoreLayout, tmp_path: Path
) -> None:
    out, asked = tmp_path / "out", asking(source, ("liver", 1))
    run, _, _ = segment_here(store, asked, out)
    for file in (source / "one").iterdir():
        changed = pydicom.dcmread(file)
        changed.RescaleIntercept = -1000
        changed.save_as(file)

    def spoil() -> None:
        for row in manifest(out):
            if row["source"].startswith("one"):
                store.prediction(run.run_id, row["case_id"]).unlink()

    assert segment_here(store, asked, out, before_release=spoil)[1] == {"segmented": 1, "unreleased": 1}
    assert {row["file"] for row in manifest(out)} == {"", *(file.name for file in out.glob("*.nii.gz"))}
    assert len(list(out.glob("*.nii.gz"))) == 1
