"""Headers that declare more than the memory of any machine are refused before memory is allocated."""

import struct
import tracemalloc
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest

from medsam3_core.cases.series_geometry import SeriesRejectedError
from storage.sources.formats.arrays import read_array
from storage.sources.formats.volumes.nifti import read_nifti

SIDE = 30_000  # cubed, in 2 bytes: 54 TB


def nifti_bomb(path: Path) -> Path:
    header = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)).header.copy()
    content = bytearray(header.binaryblock) + bytes(4)
    content[40:56] = struct.pack("<8h", 3, SIDE, SIDE, SIDE, 1, 1, 1, 1)
    content[108:112] = struct.pack("<f", 352.0)
    opened = nib.openers.Opener(str(path), "wb")
    with opened as file:
        file.write(bytes(content))
    return path


def numpy_bomb(path: Path) -> Path:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<i2", "fortran_order": False, "shape": (SIDE, SIDE, SIDE)}
        )
    return path


def hdf5_bomb(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("image", shape=(SIDE, SIDE, SIDE), dtype="<i2", chunks=(1, 64, 64))  # nothing is written
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.npy", "a.h5"])
def test_a_file_that_declares_54_terabytes_is_refused_unread(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    make = nifti_bomb if name.endswith((".nii", ".nii.gz")) else numpy_bomb if name.endswith("npy") else hdf5_bomb
    make(path)
    tracemalloc.start()
    with pytest.raises(SeriesRejectedError, match=r"too-large: .*a\.\S+ declares 54000\.00 GB of voxels"):
        read_nifti(path) if make is nifti_bomb else read_array(path, "image")
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


def test_the_limit_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.nii"
    nib.save(nib.Nifti1Image(np.zeros((10, 10, 10), np.int16), np.eye(4)), path)
    assert read_nifti(path).voxels.shape == (10, 10, 10)
    monkeypatch.setenv("MEDSAM3_LARGEST_CASE_GB", "0.000001")
    with pytest.raises(SeriesRejectedError, match="MEDSAM3_LARGEST_CASE_GB"):
        read_nifti(path)
