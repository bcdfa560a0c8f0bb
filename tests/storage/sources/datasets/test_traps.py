"""Every known trap of the field, on a folder in a dataset's own layout: what is listed, read, rejected and found."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.cli.work.check import check_source
from medsam3_core.cases.findings import FindingKind
from medsam3_core.errors import LabelValueError, UnreadableFileError
from storage.ingest.plan import IngestRequest
from storage.ingest.preflight import Preflight
from storage.sources.registry import find_reader
from tests.storage.sources.datasets import published_2d, published_3d
from tests.storage.sources.datasets.drawn import blobs, save, textured


def checked(folder: Path, reader: str = "auto") -> Preflight:
    return check_source(IngestRequest(str(folder), "", reader), None)


def kinds(preflight: Preflight) -> dict[str, int]:
    return preflight.to_json()["counts"]


def read(folder: Path, case_id: str, reader: str = "auto"):
    layout, recipe = find_reader(str(folder), reader)
    case = next(case for case in layout.list_cases(folder, recipe) if case.case_id == case_id)
    return layout.read_case(folder, case, recipe)


@pytest.mark.parametrize("name", [*published_2d.WRITERS, *published_3d.WRITERS])
def test_a_clean_dataset_has_no_finding(every_dataset, name) -> None:
    reader = "btcv_8" if name == "btcv_8" else "auto"
    preflight = checked(every_dataset[name].folder, reader)
    assert preflight.findings == ()
    assert preflight.to_json()["usable"] == len(every_dataset[name].cases)


def test_upper_case_extensions_never_make_an_image_its_own_mask(tmp_path) -> None:
    dataset = published_2d.ddti(tmp_path / "ddti")
    for case in dataset.cases.values():
        assert not np.array_equal(case.mask("nodule"), case.voxels[0] > 127)
    assert checked(dataset.folder).findings == ()
    shutil.rmtree(dataset.folder / "DDTI" / "1_or_data" / "mask")
    assert kinds(checked(dataset.folder, "ddti")) == {"missing-reference": 2}


def test_the_image_saved_as_its_own_mask_is_found(tmp_path) -> None:
    folder = published_2d.ddti(tmp_path / "ddti").folder
    root = folder / "DDTI" / "1_or_data"
    shutil.copy(root / "image" / "1.PNG", root / "mask" / "1.PNG")
    (finding,) = checked(folder).findings
    assert finding.kind is FindingKind.REFERENCE_IS_IMAGE
    assert "mask/1.PNG is the image DDTI/1_or_data/image/1.PNG itself" in finding.message


def test_a_binary_image_that_equals_its_mask_is_found(tmp_path) -> None:
    mask = blobs(3, 2)[0][0].astype(np.uint8) * 255
    for key in "ab":
        save(tmp_path / "images" / f"{key}.png", mask if key == "a" else textured(1, channels=1))
        save(tmp_path / "masks" / f"{key}.png", mask)
    assert kinds(checked(tmp_path)) == {"reference-is-image": 1}


def test_missing_mask_and_mask_without_image_are_found(tmp_path) -> None:
    folder = published_2d.ph2(tmp_path / "ph2").folder
    (folder / "PH2 Dataset images/IMD002/IMD002_lesion/IMD002_lesion.bmp").unlink()
    (folder / "PH2 Dataset images/IMD423/IMD423_Dermoscopic_Image/IMD423.bmp").unlink()
    preflight = checked(folder, "ph2")
    assert kinds(preflight) == {"missing-reference": 1, "missing-image": 1}
    assert [finding.case_ids for finding in preflight.findings] == [("IMD002",), ("IMD423",)]


def test_a_mask_named_like_another_image_is_doubled_and_its_own_image_has_none(tmp_path) -> None:
    root = published_2d.etis_larib(tmp_path / "etis").folder / "ETIS-LaribPolypDB"
    (root / "Ground Truth" / "p1.tif").rename(root / "Ground Truth" / "2.tif")
    preflight = checked(root, "etis_larib")
    assert kinds(preflight) == {"missing-reference": 1, "doubled-reference": 1}
    assert "has 2 references: Ground Truth/2.tif, Ground Truth/p2.tif; keep one" in preflight.findings[1].message


def test_identical_ids_in_two_splits_stay_two_cases_and_are_noted(tmp_path) -> None:
    preflight = checked(published_2d.tn3k(tmp_path / "tn3k").folder)
    assert preflight.splits() == {"test": {"cases": 1, "patients": 1}, "train": {"cases": 2, "patients": 2}}
    assert "1 file names occur in several splits; the split is part of the case id" in preflight.notes


@pytest.mark.parametrize("writer", [published_2d.dsb18, published_2d.consep])
def test_zero_instances_are_a_case_and_a_finding(tmp_path, writer) -> None:
    dataset = writer(tmp_path / "data")
    key = next(iter(dataset.cases))
    if writer is published_2d.dsb18:
        for path in (dataset.folder / key / "masks").iterdir():
            path.unlink()
    else:
        empty = np.zeros((40, 56))
        published_2d.write_mat(dataset.folder / "Train/Labels/train_1.mat", {"inst_map": empty, "type_map": empty})
    preflight = checked(dataset.folder)
    assert kinds(preflight) == {"empty-reference": 1}
    assert preflight.to_json()["usable"] == 2
    assert read(dataset.folder, key).references[0].entries == ()


def test_a_truncated_mat_is_named(tmp_path) -> None:
    folder = published_2d.consep(tmp_path / "consep").folder
    path = folder / "Train" / "Labels" / "train_1.mat"
    path.write_bytes(path.read_bytes()[:300])
    (finding,) = checked(folder).findings
    assert finding.kind is FindingKind.UNREADABLE
    assert finding.message.startswith(f"{path} cannot be read (")
    with pytest.raises(UnreadableFileError, match=r"train_1.mat cannot be read .* copy or export it again"):
        read(folder, finding.case_ids[0])


def test_a_mat_without_the_named_maps_lists_what_it_has(tmp_path) -> None:
    folder = published_2d.consep(tmp_path / "consep").folder
    published_2d.write_mat(folder / "Train/Labels/train_1.mat", {"ann": np.zeros((40, 56, 2))})
    (finding,) = checked(folder).findings
    assert "train_1.mat has no array 'inst_map'; its arrays are: ann" in finding.message


def test_an_rgb_mask_is_read_when_grey_and_refused_when_coloured(tmp_path) -> None:
    folder = published_2d.cvc_clinicdb(tmp_path / "cvc").folder
    mask = np.asarray(Image.open(folder / "Ground Truth" / "1.tif"))
    save(folder / "Ground Truth" / "1.tif", np.stack([mask] * 3, axis=2))
    assert checked(folder).findings == ()
    save(folder / "Ground Truth" / "1.tif", np.stack([mask, mask * 0, mask * 0], axis=2))
    (finding,) = checked(folder).findings
    assert finding.kind is FindingKind.LABEL_VALUE
    assert "1.tif is a coloured mask" in finding.message


def test_a_palette_png_mask_is_read_by_its_colours(tmp_path) -> None:
    dataset = published_2d.ddti(tmp_path / "ddti")
    path = dataset.folder / "DDTI" / "1_or_data" / "mask" / "1.PNG"
    indexed = Image.fromarray((np.asarray(Image.open(path)) > 0).astype(np.uint8), mode="P")
    indexed.putpalette([0, 0, 0, 255, 255, 255])
    indexed.save(path)
    reference = read(dataset.folder, "1").references[0]
    np.testing.assert_array_equal(reference.mask("nodule"), dataset.cases["1"].mask("nodule"))


def test_a_16_bit_png_mask_keeps_its_meaning_and_a_16_bit_image_needs_a_window(tmp_path) -> None:
    dataset = published_2d.ddti(tmp_path / "ddti")
    root = dataset.folder / "DDTI" / "1_or_data"
    mask = np.asarray(Image.open(root / "mask" / "1.PNG")).astype(np.uint16) * 257
    Image.fromarray(mask).save(root / "mask" / "1.PNG")
    reference = read(dataset.folder, "1").references[0]
    np.testing.assert_array_equal(reference.mask("nodule"), dataset.cases["1"].mask("nodule"))
    Image.fromarray(textured(9, channels=1).astype(np.uint16) * 200).save(root / "image" / "2.PNG")
    (finding,) = checked(dataset.folder).findings
    assert "but recipe 'ddti' has the window identity; use minmax" in finding.message


def test_an_alpha_channel_is_dropped_and_noted(tmp_path) -> None:
    dataset = published_2d.dsb18(tmp_path / "dsb")
    case_id, drawn = next(iter(dataset.cases.items()))
    volume = read(dataset.folder, case_id)
    assert volume.attributes["alpha"] == "dropped"
    np.testing.assert_array_equal(volume.voxels, drawn.voxels)


def test_exif_rotation_is_noted_and_never_turns_an_image_away_from_its_mask(tmp_path) -> None:
    dataset = published_2d.chase_db1(tmp_path / "chase")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(dataset.folder / "Image_01L.jpg").save(dataset.folder / "Image_01L.jpg", quality=95, exif=exif)
    volume = read(dataset.folder, "Image_01L")
    assert volume.voxels.shape == (3, 1, 40, 56)
    assert volume.attributes["exif_orientation_not_applied"] == 6
    assert checked(dataset.folder).findings == ()


def test_a_label_map_with_interpolated_values_is_refused(tmp_path) -> None:
    folder = published_3d.btcv(tmp_path / "btcv").folder
    path = folder / "RawData" / "Training" / "label" / "label0001.nii.gz"
    values = np.full(published_3d.SHAPE, 0, np.float32)
    values[0, :5] = 2.5
    published_3d.write_nifti(path, values)
    (finding,) = checked(folder).findings
    assert finding.kind is FindingKind.LABEL_VALUE
    with pytest.raises(LabelValueError, match=r"label0001.nii.gz: label value 2.5 is not an integer .* interpolated"):
        read(folder, "0001")


def test_label_values_outside_the_recipe_are_named(tmp_path) -> None:
    folder = published_3d.btcv(tmp_path / "btcv").folder
    path = folder / "RawData" / "Training" / "label" / "label0001.nii.gz"
    published_3d.write_nifti(path, np.full(published_3d.SHAPE, 14, np.uint8))
    (finding,) = checked(folder).findings
    assert "label0001.nii.gz: label value 14 has no name" in finding.message


def test_an_interpolated_binary_mask_is_refused_where_masks_are_promised_binary(tmp_path) -> None:
    folder = published_2d.ph2(tmp_path / "ph2").folder
    path = folder / "PH2 Dataset images/IMD002/IMD002_lesion/IMD002_lesion.bmp"
    save(path, (np.asarray(Image.open(path)) * np.uint8(200)).astype(np.uint8))
    (finding,) = checked(folder).findings
    assert finding.kind is FindingKind.NOT_BINARY


def test_system_files_are_ignored_and_counted(tmp_path) -> None:
    folder = published_2d.tn3k(tmp_path / "tn3k").folder
    for name in (".DS_Store", "tn3k/test-image/.DS_Store", "tn3k/test-image/Thumbs.db", "tn3k/test-image/._0000.jpg"):
        (folder / name).write_bytes(b"x")
    preflight = checked(folder)
    assert preflight.findings == ()
    assert "4 hidden and system files are ignored" in preflight.notes


def test_spaces_and_umlauts_in_names_are_kept_apart(tmp_path) -> None:
    for index, key in enumerate(("Fall Müller 1", "Fall Moeller 1", "Fall  Müller 1")):
        save(tmp_path / "images" / f"{key}.png", textured(index))
        save(tmp_path / "masks" / f"{key}.png", blobs(index, 1)[0][0].astype(np.uint8) * 255)
    preflight = checked(tmp_path)
    assert preflight.findings == ()
    ids = [check.case_id for check in preflight.checks]
    assert len(set(ids)) == 3
    assert all(character.isascii() and character != " " for case_id in ids for character in case_id)


def test_full_masks_and_other_sizes_are_found(tmp_path) -> None:
    folder = published_2d.ddti(tmp_path / "ddti").folder
    masks = folder / "DDTI" / "1_or_data" / "mask"
    save(masks / "1.PNG", np.full((40, 56), 255, np.uint8))
    save(masks / "2.PNG", np.zeros((20, 28), np.uint8))
    preflight = checked(folder)
    assert kinds(preflight) == {"shape-mismatch": 1, "full-reference": 1}
    assert "28 x 20 pixels, its image" in preflight.findings[0].message


def test_an_image_file_that_nothing_explains_is_found_and_documents_are_noted(tmp_path) -> None:
    folder = published_2d.hc18(tmp_path / "hc18").folder
    save(folder / "training_set" / "overview.png", textured(1))
    (folder / "notes.docx").touch()
    preflight = checked(folder)
    assert [finding.message.partition(" ")[0] for finding in preflight.findings] == ["training_set/overview.png"]
    assert "other files: 1 .docx" in preflight.notes


def test_pixel_sizes_that_are_missing_are_named(tmp_path) -> None:
    folder = published_2d.hc18(tmp_path / "hc18").folder
    table = folder / "training_set_pixel_size_and_HC.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]))
    (finding,) = checked(folder).findings
    assert "001_2HC.png: no pixel size in column 'pixel size(mm)'" in finding.message
    table.unlink()
    with pytest.raises(Exception, match=r"has no table of pixel sizes that matches .*; put it beside the images"):
        checked(folder, "hc18")


@pytest.mark.parametrize(("gap", "closed"), [(False, True), (True, True)])
def test_an_ellipse_that_leaves_the_image_is_completed(tmp_path, gap, closed) -> None:
    from PIL import ImageDraw

    folder = published_2d.hc18(tmp_path / "hc18").folder
    box = (-8, 6, 40, 34)
    outline, filled = Image.new("L", (56, 40)), Image.new("L", (56, 40))
    ImageDraw.Draw(outline).ellipse(box, outline=255)
    ImageDraw.Draw(filled).ellipse(box, fill=255, outline=255)
    save(folder / "training_set" / "000_HC_Annotation.png", np.asarray(outline))
    head, expected = read(folder, "000_HC").references[0].mask("fetal_head")[0], np.asarray(filled) > 0
    assert 2 * (head & expected).sum() / (head.sum() + expected.sum()) > 0.98


def test_an_open_line_that_is_no_ellipse_is_refused(tmp_path) -> None:
    folder = published_2d.hc18(tmp_path / "hc18").folder
    line = np.zeros((40, 56), np.uint8)
    line[10, 5:40] = line[10:30, 40] = line[30, 20:40] = 255
    save(folder / "training_set" / "000_HC_Annotation.png", line)
    (finding,) = checked(folder).findings
    assert "000_HC_Annotation.png: the outline of" in finding.message


def test_a_pickle_that_would_run_code_is_refused_unread(tmp_path) -> None:
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    dataset = published_3d.cvpr_biomedsegfm(tmp_path / "cvpr")
    path = dataset.folder / "3D_val_npz" / "CT_Abdomen_0002.npz"
    content = dict(np.load(path, allow_pickle=True)) | {"text_prompts": np.array(Bomb(), dtype=object)}
    np.savez(path, **content)
    (finding,) = checked(dataset.folder).findings
    assert "only texts and numbers are read" in finding.message
    assert not (tmp_path / "exploded").exists()


def test_the_same_image_in_two_splits_and_a_recompressed_copy_are_found(tmp_path) -> None:
    folder = published_2d.tn3k(tmp_path / "tn3k").folder / "tn3k"
    shutil.copy(folder / "trainval-image" / "0001.jpg", folder / "test-image" / "0007.jpg")
    shutil.copy(folder / "trainval-mask" / "0001.jpg", folder / "test-mask" / "0007.jpg")
    Image.open(folder / "trainval-image" / "0000.jpg").save(folder / "trainval-image" / "0009.jpg", quality=50)
    shutil.copy(folder / "trainval-mask" / "0000.jpg", folder / "trainval-mask" / "0009.jpg")
    same, alike = checked(folder).findings
    assert (same.kind, alike.kind) == (FindingKind.DUPLICATE_IMAGE, FindingKind.SIMILAR_IMAGE)
    assert "hold the same image (across the splits test, train)" in same.message
    assert "look alike (within one split)" in alike.message


def test_duplicates_across_cohorts_are_found_and_the_own_cohort_is_left_out(every_dataset, field_store, tmp_path):
    own = every_dataset["tn3k"].folder
    assert check_source(IngestRequest(str(own), ""), field_store).findings == ()
    copy = tmp_path / "copy"
    shutil.copytree(own, copy)
    findings = check_source(IngestRequest(str(copy), ""), field_store).findings
    assert {finding.kind for finding in findings} == {FindingKind.DUPLICATE_IMAGE}
    assert len(findings) == 3
    assert all("(across cohorts)" in finding.message for finding in findings)
    assert any(name.startswith("tn3k:") for name in findings[0].case_ids)


def test_a_patient_in_two_splits_is_found(tmp_path) -> None:
    folder = published_3d.synapse_transunet(tmp_path / "synapse").folder
    (folder / "test_vol_h5" / "case0001.npy.h5").rename(folder / "test_vol_h5" / "case0005.npy.h5")
    (finding,) = checked(folder).findings
    assert finding.kind is FindingKind.PATIENT_IN_SPLITS
    assert finding.message == "patient case0005 has cases in the splits test, train; split by patient"
