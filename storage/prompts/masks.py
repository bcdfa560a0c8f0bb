"""A mask that a person drew on one slice, as a prompt: a picture, an array or a label map."""

import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from medsam3_core.errors import UsageError
from medsam3_core.prompts.prompts import MaskPrompt
from storage.sources.formats.pixels import read_label_values

_ENDINGS = (".png", ".bmp", ".tif", ".tiff", ".npy", ".npz", ".nii", ".nii.gz")


def read_mask_prompts(path: Path, z: int) -> list[MaskPrompt]:
    """Masks of a file, everything but 0 inside: one from a picture or a slice, one per mask from an array (n, y, x).

    Args:
        path: A picture, an array (`.npy`, or `.npz` with `masks` as `predict` writes it) or a NIfTI volume.
        z: Slice of a volume.

    Raises:
        UsageError: If there is no such file or slice, or it is not a mask.
        CaseDataError: If a picture is damaged or coloured.
    """
    if not path.is_file() or not path.name.lower().endswith(_ENDINGS):
        msg = f"no mask at {path}; give a file that ends in {' '.join(_ENDINGS)}"
        raise UsageError(msg)
    voxels = _voxels(path, z)
    if voxels.ndim == 2:
        voxels = voxels[None]
    if voxels.ndim != 3:
        msg = f"{path} holds an array of shape {voxels.shape}; a mask has the shape (y, x), several have (n, y, x)"
        raise UsageError(msg)
    return [MaskPrompt(one != 0) for one in voxels]


def _voxels(path: Path, z: int) -> NDArray[Any]:
    name = path.name.lower()
    try:
        if name.endswith((".npy", ".npz")):
            content = np.load(path, allow_pickle=False)
            stored: NDArray[Any] = np.asarray(content["masks"] if name.endswith(".npz") else content)
            return stored
        if name.endswith((".nii", ".nii.gz")):
            return _nifti_slice(path, z)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, ImageFileError) as error:
        msg = f"{path} cannot be read as a mask ({error}); write it again"
        raise UsageError(msg) from None
    picture: NDArray[Any] = read_label_values(path)[0]
    return picture


def _nifti_slice(path: Path, z: int) -> NDArray[Any]:
    image: Any = nib.load(path)
    if len(image.shape) != 3 or not 0 <= z < image.shape[2]:
        msg = f"its shape is {image.shape}, slice {z} is asked for"
        raise ValueError(msg)
    drawn: NDArray[Any] = np.asarray(image.dataobj[:, :, z]).T
    return drawn
