from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.errors import UsageError
from storage.prompts.masks import read_mask_prompts
from storage.sources.formats.volumes.registry import VOLUME_FORMATS, is_volume, slice_size, suffixes_in, volume_geometry
from tests.phantom_files import write_nifti
from tests.storage.sources.volume_files import AFFINE, IMAGE, LABELS, check_read_everywhere


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_is_read_everywhere(tmp_path: Path, suffix: str) -> None:
    check_read_everywhere(tmp_path, suffix, write_nifti)


def test_no_suffix_is_claimed_by_two_formats() -> None:
    suffixes = [suffix for known in VOLUME_FORMATS for suffix in known.suffixes]
    assert len(set(suffixes)) == len(suffixes)
    for known in VOLUME_FORMATS:
        for number, suffix in enumerate(known.suffixes):
            assert not any(later.endswith(suffix) for later in known.suffixes[number + 1 :]), "longer ends come first"


def test_suffixes_are_those_of_the_formats_that_occur() -> None:
    assert suffixes_in(["images/a.NII", "readme.md"]) == (".nii.gz", ".nii")
    assert suffixes_in(["a.png"]) == ()


def test_names_are_compared_without_case() -> None:
    assert is_volume("A.NII.GZ")
    assert not is_volume("nii.gz.txt")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_the_first_bytes_of_a_file_say_where_it_lies(tmp_path: Path, suffix: str) -> None:
    write_nifti(tmp_path / f"a{suffix}", IMAGE, AFFINE)
    geometry = volume_geometry(tmp_path / f"a{suffix}")
    assert isinstance(geometry, VolumeGeometry)
    assert geometry.shape_zyx == IMAGE.shape
    np.testing.assert_allclose(geometry.affine_nifti, AFFINE, atol=1e-6)
    assert slice_size(tmp_path / f"a{suffix}") == (5, 4)


@pytest.mark.parametrize("known", VOLUME_FORMATS, ids=lambda known: known.name)
def test_a_file_that_is_none_has_no_geometry(tmp_path: Path, known: object) -> None:
    path = tmp_path / f"a{known.suffixes[0]}"  # type: ignore[attr-defined]
    assert volume_geometry(path) is None
    path.write_bytes(b"no volume at all")
    assert (volume_geometry(path), slice_size(path)) == (None, None)


def test_a_mask_prompt_names_the_slice_that_a_volume_lacks(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(LABELS.T, AFFINE), tmp_path / "a.nii.gz")
    with pytest.raises(UsageError, match=r"shape \(z, y, x\) is \(3, 4, 5\), there is no slice 3"):
        read_mask_prompts(tmp_path / "a.nii.gz", 3)
