"""The format `masks`: a folder for each case with one binary mask per structure."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medsam3_core.errors import CaseDataError
from storage.cohorts.volumes import open_case_volume
from storage.exports.formats import masks, nifti
from storage.exports.registry import CaseToWrite, ExportCommand, ReleaseError, format_named
from storage.exports.releases import release
from storage.exports.runs import export_run
from storage.exports.segment_plan import SegmentRequest
from storage.runs.predictions import PredictionWriter, open_prediction
from storage.store.layout import StoreLayout
from tests.journeys.archives.segmented_here import segment_here
from tests.storage.exports.test_exports import CT_STRUCTURES, run_of

FORMAT = format_named("masks", ExportCommand.SEGMENT)


def overlapping_case(store: StoreLayout, folder: Path, structures: tuple[str, ...]) -> CaseToWrite:
    """A case in which all structures claim the first slice."""
    volume = open_case_volume(store.volume("ct", "ct_000", zipped=False))
    labels = np.zeros(volume.geometry.shape_zyx, np.uint16)
    labels[0] = 2
    writer = PredictionWriter(volume.geometry, structures, {})
    for structure in structures:
        writer.add(structure, labels, (0.9, 0.8))
    writer.write(folder / "x.ozx")
    return CaseToWrite("ct_000", folder / "x.ozx", volume, structures, "segment it again")


def test_every_structure_of_a_run_is_a_mask_that_lies_where_the_source_does(
    phantom_run: StoreLayout, tmp_path: Path
) -> None:
    run_id = run_of(phantom_run, "ct")
    ((folder, contested),) = export_run(phantom_run, run_id, "masks", ["ct_000"], tmp_path)
    assert (folder, contested) == (tmp_path / "ct_000", 0)
    assert {file.name for file in folder.iterdir()} == {f"{name}.nii.gz" for name in CT_STRUCTURES}
    affine = open_case_volume(phantom_run.volume("ct", "ct_000", zipped=False)).nifti_affine
    prediction = open_prediction(phantom_run.prediction(run_id, "ct_000"))
    for name in CT_STRUCTURES:
        image = nib.load(folder / f"{name}.nii.gz")
        values = np.asarray(image.dataobj).T
        assert (values.dtype, image.header.get_xyzt_units()[0]) == (np.uint8, "mm")
        np.testing.assert_array_equal(image.affine, affine.astype(np.float32))
        np.testing.assert_array_equal(values, prediction.labels(name) > 0)


def test_overlapping_structures_are_kept_whole(phantom_run: StoreLayout, tmp_path: Path) -> None:
    case = overlapping_case(phantom_run, tmp_path, ("lung_left", "tumour"))
    released = release(case, FORMAT, tmp_path)
    assert (released.contested, released.largest_shift < 0.01) == (0, True)
    for name in ("lung_left.nii.gz", "tumour.nii.gz"):
        values = np.asarray(nib.load(tmp_path / "ct_000" / name).dataobj).T
        assert (values[0] == 1).all()
        assert not values[1:].any()


def test_names_that_become_one_file_are_refused(phantom_run: StoreLayout, tmp_path: Path) -> None:
    with pytest.raises(CaseDataError, match=r"'Liver' and 'liver' would share a file .*; rename one"):
        release(overlapping_case(phantom_run, tmp_path, ("Liver", "liver")), FORMAT, tmp_path)
    assert not (tmp_path / "ct_000").exists()


def test_a_mask_that_reads_back_differently_is_not_released(
    phantom_run: StoreLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masks, "save_in_place", lambda values, *rest: nifti.save_in_place(values * 2, *rest))
    with pytest.raises(ReleaseError, match=r"'tumour' was read back with \d+ other voxels; nothing was released"):
        release(overlapping_case(phantom_run, tmp_path, ("tumour",)), FORMAT, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x.ozx"]


def test_segment_releases_masks_once(store: StoreLayout, tmp_path: Path) -> None:
    image, prompts, out = tmp_path / "a" / "v.nii.gz", tmp_path / "boxes.csv", tmp_path / "out"
    image.parent.mkdir()
    nib.save(nib.Nifti1Image(np.arange(8 * 9 * 4, dtype=np.int16).reshape(8, 9, 4), np.diag([0.5, 0.5, 2, 1])), image)
    prompts.write_text("case_id,slice,structure,instance,kind,x0,y0,x1,y1\nv,2,liver,0,box,1,2,5,6\n")
    asked = SegmentRequest(str(image.parent), "baseline:box", prompts=prompts)
    assert segment_here(store, asked, out, "masks")[1:] == ({"segmented": 1}, 1)
    mask = out / "v" / "liver.nii.gz"
    assert int(np.asarray(nib.load(mask).dataobj).sum()) == 16
    written = mask.stat().st_mtime_ns
    assert segment_here(store, asked, out, "masks")[1:] == ({"segmented": 1}, 0)
    assert mask.stat().st_mtime_ns == written
    assert "v,v,v.nii.gz,segmented,,v\n" in (out / "manifest.csv").read_text().replace("\r", "")
