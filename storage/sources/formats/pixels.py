"""Read a PNG, JPEG, TIFF, BMP, GIF or PNM (also gzipped) with its pixels as stored.

EXIF orientation is not applied and resolution tags are ignored: image and mask share the stored grid, and values of a
camera are not millimetres. Alpha is dropped, a palette becomes RGB in images and stays an index in label masks.
"""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from medsam3_core.errors import CaseDataError, LabelValueError, NotBinaryError, UnreadableFileError
from storage.sources.listing.files import open_source

_EXIF_ORIENTATION = 0x0112
_UNREADABLE = (
    UnidentifiedImageError,
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_TO_RGB = {"RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV"}
_DEEP = {"I", "F", "I;16", "I;16L", "I;16B", "I;16N"}


@dataclass(frozen=True, eq=False)
class Pixels:
    """An image file.

    Attributes:
        voxels: Shape (1, y, x), or (3, 1, y, x) for colour; uint8, uint16 or float32.
        attributes: Properties of the file that the voxels lack (JSON values): mode, dropped alpha, EXIF orientation.
    """

    voxels: NDArray[Any]
    attributes: dict[str, Any]

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """One slice: (1, y, x)."""
        return (1, self.voxels.shape[-2], self.voxels.shape[-1])


def read_image(path: Path) -> Pixels:
    """Read an image; grey and 1-bit become (1, y, x), everything else RGB.

    Raises:
        CaseDataError: If the file is missing, truncated or not an image, holds several frames, or has a mode that is
            neither grey nor RGB; names file, value and remedy.
    """
    image = _load(path)
    attributes: dict[str, Any] = {"pixel_mode": image.mode}
    if "A" in image.getbands() or "transparency" in image.info:
        attributes["alpha"] = "dropped"
    if (orientation := image.getexif().get(_EXIF_ORIENTATION, 1)) != 1:
        attributes["exif_orientation_not_applied"] = int(orientation)
    if image.mode in _DEEP:
        return Pixels(_deep_pixels(image, path)[None], attributes)
    if image.mode in ("1", "L", "LA", "La"):
        return Pixels(np.asarray(image.convert("L"))[None], attributes)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA").convert("RGB")
    elif image.mode in _TO_RGB:
        image = image.convert("RGB")
    if image.mode != "RGB":
        msg = f"{path} has the pixel mode {image.mode!r}; convert it to grey or RGB"
        raise CaseDataError(msg)
    return Pixels(np.ascontiguousarray(np.moveaxis(np.asarray(image), 2, 0))[:, None], attributes)


def read_label_values(path: Path) -> NDArray[Any]:
    """Read a label mask, shape (1, y, x): grey values, or the indices of a palette.

    Raises:
        CaseDataError: As `read_image`, and if the mask is coloured.
    """
    image = _load(path)
    if image.mode in ("P", "PA"):
        return np.asarray(image if image.mode == "P" else image.getchannel("P"))[None]
    return _grey_values(image, path)


def read_binary_mask(path: Path, *, threshold: int | None = None) -> NDArray[np.bool_]:
    """Read a mask of one structure, shape (1, y, x): 0 is background, 1 or 255 the structure.

    Args:
        path: The mask.
        threshold: Grey values above it are the structure; None accepts only 0, 1 and 255.

    Raises:
        CaseDataError: As `read_image`, and if the mask is coloured or not binary.
    """
    image = _load(path)
    values = _grey_values(image.convert("RGB") if image.mode in ("P", "PA") else image, path)
    if threshold is not None:
        above: NDArray[np.bool_] = values > threshold
        return above
    foreground: NDArray[np.bool_] = values != 0
    stray = values[foreground & (values != 1) & (values != 255)]
    if stray.size:
        found = np.unique(stray)
        msg = (
            f"{path} is not binary: {stray.size} pixels with {found.size} values other than 0, 1 and 255, the first "
            f"{found[0]}; give label_values or mask_threshold in the recipe, or save it as 0 and 255"
        )
        raise NotBinaryError(msg)
    return foreground


def read_colours(path: Path) -> NDArray[np.uint8]:
    """Read a mask with one colour per structure, shape (1, y, x, 3); alpha is dropped, a palette is resolved.

    Raises:
        CaseDataError: As `read_image`.
    """
    image = _load(path)
    if image.mode in _DEEP:
        msg = f"{path} has the pixel mode {image.mode!r}; 8-bit colours are expected, convert it"
        raise CaseDataError(msg)
    return np.asarray(image.convert("RGBA").convert("RGB") if "P" in image.mode else image.convert("RGB"))[None]


def _load(path: Path) -> Image.Image:
    try:
        with open_source(path) as file, Image.open(file) as image:  # closes the file; loaded pixels remain
            frames = getattr(image, "n_frames", 1)
            image.load()
    except _UNREADABLE as error:
        msg = f"{path} cannot be read as an image ({error}); it may be truncated, copy or export it again"
        raise UnreadableFileError(msg) from error
    if frames > 1:
        msg = f"{path} holds {frames} frames; one is expected, split the file"
        raise CaseDataError(msg)
    return image


def _grey_values(image: Image.Image, path: Path) -> NDArray[Any]:
    if image.mode in _DEEP:
        return _deep_pixels(image, path)[None]
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)[None]
    if image.mode in ("L", "LA", "La"):
        return np.asarray(image.getchannel(0))[None]
    colour = np.asarray(image.convert("RGB"))
    differing = int((colour != colour[..., :1]).any(axis=2).sum())
    if differing:
        msg = (
            f"{path} is a coloured mask ({differing} pixels are not grey); give label_colours in the recipe, or save "
            "it as one grey value per structure"
        )
        raise LabelValueError(msg)
    return np.ascontiguousarray(colour[..., 0])[None]


def _deep_pixels(image: Image.Image, path: Path) -> NDArray[Any]:
    """Pixels (y, x) of more than 8 bits: uint16, or float32 for floating point."""
    pixels = np.asarray(image)
    if pixels.dtype.kind == "f":
        return pixels.astype(np.float32)
    if pixels.min(initial=0) < 0 or pixels.max(initial=0) > 65_535:
        msg = f"{path} holds values from {pixels.min()} to {pixels.max()}; 16 bits are expected, convert it"
        raise CaseDataError(msg)
    return pixels.astype(np.uint16)
