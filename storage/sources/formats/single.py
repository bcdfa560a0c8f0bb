"""A single input image: PNG, JPEG, TIFF, BMP or a volume such as NIfTI, as RGB slices for a segmenter."""

import math
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medsam3_core.cases.geometry import AffineUnit, VolumeGeometry
from medsam3_core.cases.intensity import IntensityPolicy, as_rgb, to_uint8
from medsam3_core.errors import CaseDataError, UsageError
from storage.sources.formats.pixels import read_image
from storage.sources.formats.volumes.registry import VOLUME_SUFFIXES, is_volume, read_volume, slice_size

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 64 * 1024 * 1024
"""Pixels of a slice that is decoded; the limit of the segmenters."""

_UNKNOWN_SCALE = "percentile:0.5,99.5"


@dataclass(frozen=True, eq=False)
class InputImage:
    """A picture or volume in memory.

    Attributes:
        path: Its file.
        voxels: Shape (z, y, x), or (3, z, y, x) for colour.
        geometry: Position of the voxels.
        affine: 4 x 4 for index order (x, y, z), exactly as the header of a volume gives it; None for pictures.
        window: Intensity policy: `identity` for 8 bits, otherwise percentiles of the volume.
        unit: Unit of the affine.
    """

    path: Path
    voxels: NDArray[Any]
    geometry: VolumeGeometry
    affine: NDArray[np.float64] | None
    window: str
    unit: AffineUnit = AffineUnit.MILLIMETRE
    _ranges: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """Number of slices."""
        return self.geometry.shape_zyx[0]

    @property
    def shape_yx(self) -> tuple[int, int]:
        """Size of a slice in pixels."""
        return self.geometry.shape_zyx[1:]

    def rgb(self, z: int, window: str = "recipe") -> NDArray[np.uint8]:
        """Slice z as uint8, shape (y, x, 3); `recipe` is the image's own window."""
        name = self.window if window == "recipe" else window
        if name not in self._ranges:
            self._ranges[name] = IntensityPolicy.parse(name).value_range(self.voxels)
        return as_rgb(to_uint8(self.voxels[..., z, :, :], self._ranges[name]))

    def require_slice(self, z: int | None) -> int:
        """The slice z, or the only slice of an image if z is None.

        Raises:
            UsageError: If z is None for an image with several slices, or is out of range.
        """
        if z is None and self.depth == 1:
            return 0
        if z is None:
            msg = f"{self.path} has {self.depth} slices; name one with --slice, 0..{self.depth - 1}"
            raise UsageError(msg)
        if not 0 <= z < self.depth:
            msg = f"{self.path} has no slice {z}; choose one of 0..{self.depth - 1}"
            raise UsageError(msg)
        return z


def read_input_image(path: Path) -> InputImage:
    """Read an image or volume by the suffix of its file.

    Raises:
        UsageError: If the file does not exist, or its suffix is unknown.
        CaseDataError: If it is damaged, or too large to segment in one piece.
    """
    known = " ".join((*PICTURES, *VOLUME_SUFFIXES))
    if not path.is_file():
        msg = f"no image at {path}; give a file that ends in {known}"
        raise UsageError(msg)
    name = path.name.lower()
    if is_volume(name):
        if (size := slice_size(path)) is not None:  # otherwise the reader reports the fault
            _require_size(path, size)
        volume = read_volume(path)
        return InputImage(path, volume.voxels, volume.geometry, volume.affine, _window(volume.voxels), volume.unit)
    if name.endswith(PICTURES):
        _require_decodable(path)
        pixels = read_image(path)
        geometry = VolumeGeometry.pixel_grid(pixels.shape_zyx)
        return InputImage(path, pixels.voxels, geometry, None, _window(pixels.voxels))
    msg = f"cannot read {path.name}: unknown file type; give a file that ends in {known}"
    raise UsageError(msg)


def _window(voxels: NDArray[Any]) -> str:
    return "identity" if voxels.dtype == np.uint8 else _UNKNOWN_SCALE


def _require_decodable(path: Path) -> None:
    """Check the size in the header: a picture of 400 million pixels would take gigabytes to decode."""
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            _require_size(path, image.size)
    except Image.DecompressionBombError as error:
        pixels = next(iter(re.findall(r"\d+", str(error))), "too many")
        raise _too_large(path, pixels) from error
    except (OSError, ValueError, SyntaxError):  # the reader reports the fault
        return


def _require_size(path: Path, size_xy: tuple[int, int]) -> None:
    if math.prod(size_xy) > MAX_PIXELS:
        raise _too_large(path, f"{size_xy[0]} x {size_xy[1]}")


def _too_large(path: Path, size: str) -> CaseDataError:
    msg = f"{path}: {size} pixels are over the limit of {MAX_PIXELS} pixels a slice; cut it into pieces or shrink it"
    return CaseDataError(msg)
