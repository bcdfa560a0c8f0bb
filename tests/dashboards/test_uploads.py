import io
import tempfile

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from dashboards.views.try_slice import TrialPrompt, load_trial_segmenter, weights_names
from dashboards.views.uploads import read_upload
from medsam3_core.errors import CaseDataError, UnsupportedPromptError, UsageError
from storage.store.layout import StoreLayout
from tests.journeys.archives.written_dicom import SPACING, ct_slices, stored_voxels


def png_bytes(pixels):
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def test_a_png_becomes_one_slice_with_square_pixels():
    upload = read_upload("photo.PNG", png_bytes(np.full((6, 8, 3), 200, np.uint8)))
    assert (upload.depth, upload.geometry.spacing_zyx[1:]) == (1, (1.0, 1.0))
    assert upload.rgb(0).shape == (6, 8, 3)


def test_a_nifti_keeps_its_spacing_and_its_slices():
    image = nib.Nifti1Image(np.arange(4 * 5 * 3, dtype=np.float32).reshape(4, 5, 3), np.diag([1.0, 2.0, 3.0, 1.0]))
    upload = read_upload("scan.nii", image.to_bytes())
    assert (upload.depth, upload.geometry.spacing_zyx[1:]) == (3, (2.0, 1.0))
    assert upload.rgb(2).shape == (5, 4, 3)


def test_a_broken_file_is_named_as_the_person_knows_it():
    with pytest.raises(CaseDataError, match=r"^photo\.png cannot be read as an image"):
        read_upload("photo.png", b"not an image")


def test_an_unknown_kind_of_file_is_refused():
    with pytest.raises(UsageError, match=r"cannot read files that end in '\.txt'; choose PNG"):
        read_upload("notes.txt", b"hello")


@pytest.mark.parametrize("name", ["scan.dcm", "IM0001", "1.2.840.113"])
def test_a_dicom_file_is_rescaled_and_shown_through_its_own_window_under_any_name(name):
    sink = io.BytesIO()
    ct_slices(1, WindowCenter=40, WindowWidth=400)[0].save_as(sink, enforce_file_format=True)
    upload = read_upload(name, sink.getvalue())
    assert (upload.depth, upload.geometry.spacing_zyx[1:], upload.window) == (1, SPACING, "ct:40.0,400.0")
    assert upload.voxels[0].tolist() == (stored_voxels(1)[0].astype(float) - 1024).tolist()


@pytest.mark.parametrize("name", ["photo.png", "scan.nii"])
def test_nothing_uploaded_is_left_on_disk(tmp_path, monkeypatch, name):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    volume = nib.Nifti1Image(np.zeros((4, 4, 2), np.float32), np.eye(4))
    read_upload(name, png_bytes(np.zeros((4, 4), np.uint8)) if name.endswith("png") else volume.to_bytes())
    assert not list(tmp_path.iterdir())


def test_a_box_on_a_slice_is_answered_at_once(tmp_path):
    segmenter = load_trial_segmenter(StoreLayout(tmp_path), "baseline:box")
    answer = segmenter.answer(np.zeros((10, 12, 3), np.uint8), TrialPrompt(box=(2, 3, 6, 8)), 0.5)
    assert answer.mask.shape == (10, 12)
    assert answer.mask.sum() == 4 * 5


def test_weights_without_an_interactive_head_refuse_points(tmp_path):
    segmenter = load_trial_segmenter(StoreLayout(tmp_path), "baseline:otsu")
    with pytest.raises(UnsupportedPromptError, match="baseline"):
        segmenter.answer(np.zeros((10, 12, 3), np.uint8), TrialPrompt(points=((2, 3, True),)), 0.5)


def test_listing_weights_writes_nothing(tmp_path):
    assert "baseline:box" in weights_names(StoreLayout(tmp_path))
    assert not list(tmp_path.iterdir())
