"""Mask prompts from files: a picture, an array or a label map."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.errors import CaseDataError, UsageError
from medsam3_core.prompts.prompts import MaskPrompt
from storage.sources.formats.pixels import read_label_values
from storage.sources.formats.volumes.registry import VOLUME_SUFFIXES, is_volume, read_volume

_ENDINGS = (".png", ".bmp", ".tif", ".tiff", ".npy", ".npz", *VOLUME_SUFFIXES)


def read_mask_prompts(path: Path, z: int) -> list[MaskPrompt]:
    """Masks of a file, nonzero is inside: one from a picture or slice `z` of a volume, n from an array (n, y, x).

    Arrays are `.npy`, or `.npz` with `masks` as `predict` writes it.

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
        if is_volume(name):
            return _slice(path, z)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, CaseDataError) as error:
        msg = f"{path} cannot be read as a mask ({error}); write it again"
        raise UsageError(msg) from None
    picture: NDArray[Any] = read_label_values(path)[0]
    return picture


def _slice(path: Path, z: int) -> NDArray[Any]:
    voxels = read_volume(path).voxels
    if not 0 <= z < len(voxels):
        msg = f"shape (z, y, x) is {voxels.shape}, there is no slice {z}"
        raise ValueError(msg)
    drawn: NDArray[Any] = voxels[z]
    return drawn
