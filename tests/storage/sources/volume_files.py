"""One contract for every volume format: read wherever NIfTI is read, and refused alike."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dashboards.views.uploads import read_upload
from storage.prompts.masks import read_mask_prompts
from storage.sources.formats.single import read_input_image
from storage.sources.registry import find_reader

AFFINE = np.array([[-0.8, 0.1, 0, 12.5], [0.05, -0.9, 0.2, 3.25], [0, 0.3, 5.0, -7], [0, 0, 0, 1]])
IMAGE = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5) - 20
LABELS = (np.arange(60).reshape(3, 4, 5) // 20).astype(np.uint8)

Write = Callable[[Path, NDArray[Any], NDArray[np.float64]], None]
"""Writes voxels (z, y, x) with an affine (index order x, y, z; to RAS+ mm)."""


def check_read_everywhere(folder: Path, suffix: str, write: Write) -> None:
    """A file of the format is image and label map of a source, input of `predict`, mask prompt and upload."""
    image, labels = folder / "source" / "images" / f"a{suffix}", folder / "source" / "labels" / f"a{suffix}"
    for path, voxels in ((image, IMAGE), (labels, LABELS)):
        path.parent.mkdir(parents=True)
        write(path, voxels, AFFINE)
    (folder / "source" / "labels.json").write_text(json.dumps({"labels": {"liver": 1, "spleen": 2}}))
    for reader in ("nifti-pairs", "archive"):
        _check_case(folder / "source", reader)
    given = read_input_image(image)
    np.testing.assert_array_equal(given.voxels, IMAGE)
    np.testing.assert_allclose(np.asarray(given.affine), AFFINE, atol=1e-6)
    (mask,) = read_mask_prompts(labels, 1)
    np.testing.assert_array_equal(mask.mask, LABELS[1] > 0)
    np.testing.assert_array_equal(read_upload(f"UPLOAD{suffix.upper()}", image.read_bytes()).voxels, IMAGE)


def _check_case(source: Path, reader: str) -> None:
    layout, recipe = find_reader(str(source), reader)
    (case,) = layout.list_cases(source, recipe)
    volume = layout.read_case(source, case, recipe)
    np.testing.assert_array_equal(volume.voxels, IMAGE)
    np.testing.assert_allclose(volume.geometry.affine_nifti, AFFINE, atol=1e-6)
    np.testing.assert_array_equal(volume.references[0].mask("spleen"), LABELS == 2)
