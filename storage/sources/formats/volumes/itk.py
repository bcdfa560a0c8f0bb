"""Common parts of formats that SimpleITK reads: LPS becomes RAS+, components and a fourth axis are channels.

SimpleITK refuses missing voxels but ignores many other faults; each format refuses those by the text of its header.
"""

import math
import re
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own convention
from numpy.typing import NDArray

from medsam3_core.cases.geometry import AffineUnit, VolumeGeometry
from medsam3_core.errors import CaseDataError, UnreadableFileError
from storage.sources.formats.volumes.format import Volume, as_numbers, make_volume, three_dimensional, unreadable
from storage.sources.listing.files import naming
from storage.sources.listing.limits import require_fitting

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_HEADER_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 20


def header_bytes(path: Path, name: str) -> bytes:
    """The first bytes of a file, which hold its header.

    Raises:
        UnreadableFileError: If the file does not exist or cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(_HEADER_BYTES)
    except OSError as error:
        raise unreadable(path, name, error) from error


def read_itk(
    path: Path,
    name: str,
    image_io: str,
    channel: int | None,
    *,
    unit: AffineUnit = AffineUnit.MILLIMETRE,
    attributes: dict[str, Any] | None = None,
) -> Volume:
    """Read a file with one of SimpleITK's readers.

    Args:
        path: The file.
        name: Name of the format, for messages.
        image_io: Reader of SimpleITK, such as `MetaImageIO`.
        channel: Component of a vector, or volume of a fourth axis; None: the file must have a single one.
        unit: Unit in the header, which SimpleITK does not read.
        attributes: Further fields of the header (JSON values).

    Raises:
        CaseDataError: If the file is damaged, too large, has several channels and none is chosen, or a singular affine.
    """
    try:
        reader = _information(path, image_io)
    except RuntimeError as error:
        raise unreadable(path, name, _in_short(error)) from error
    pixel = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    bits = re.search(r"(\d+)-bit", pixel)
    count = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
    require_fitting(str(path), count * (int(bits.group(1)) // 8 if bits else 8))
    with naming(path):
        affine = _affine(reader)
        VolumeGeometry.from_nifti((1, 1, 1), affine)  # SimpleITK's reason for a singular one has no remedy
    try:
        stored = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise unreadable(path, name, _in_short(error)) from error
    with naming(path):
        spatial = three_dimensional(as_numbers(_channels_last(stored, reader)), channel)
        facts = {f"{name.lower()}_pixel": pixel, **(attributes or {})}
        if channel is not None and stored.ndim > 3:
            facts["channel"] = channel
        return make_volume(spatial, affine, unit, facts)


def itk_size_xy(path: Path, image_io: str) -> tuple[int, int] | None:
    """Width and height of a slice from the header; None if SimpleITK cannot read it."""
    try:
        width, height, *_ = _information(path, image_io).GetSize()
    except (RuntimeError, ValueError):
        return None
    return width, height


def itk_geometry(first: bytes, suffix: str, image_io: str) -> VolumeGeometry | None:
    """Shape and position from the first bytes of a file; None if they hold no header of three dimensions."""
    with tempfile.TemporaryDirectory(prefix="medsam3-header-") as folder:
        path = Path(folder) / f"header{suffix}"
        path.write_bytes(first)
        try:
            reader = _information(path, image_io)
            width, height, depth = reader.GetSize()
            return VolumeGeometry.from_nifti((depth, height, width), _affine(reader))
        except (RuntimeError, ValueError, CaseDataError):
            return None


def check_compressed(path: Path, start: int, window_bits: int = zlib.MAX_WBITS) -> None:
    """Read compressed voxels to their checksum, which SimpleITK does not check.

    Args:
        path: The file.
        start: Offset of its voxels.
        window_bits: As `zlib` takes them: `16 + zlib.MAX_WBITS` for gzip.

    Raises:
        UnreadableFileError: If it is damaged or ends early.
    """
    stream = zlib.decompressobj(window_bits)
    try:
        with path.open("rb") as file:
            file.seek(start)
            while not stream.eof and (block := stream.unconsumed_tail or file.read(_BLOCK_BYTES)):
                stream.decompress(block, _BLOCK_BYTES)
    except zlib.error as error:
        msg = f"{path} holds damaged voxels ({error}); copy it again"
        raise UnreadableFileError(msg) from error
    if not stream.eof:
        msg = f"{path} ends inside its compressed voxels; copy it again"
        raise UnreadableFileError(msg)


def _information(path: Path, image_io: str) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def _affine(reader: sitk.ImageFileReader) -> NDArray[np.float64]:
    """Affine for index order (x, y, z), to RAS+; the third axis of a 2D image is its normal, one unit long."""
    dimensions = reader.GetDimension()
    axes = min(dimensions, 3)
    direction = np.asarray(reader.GetDirection()).reshape(dimensions, dimensions)[:axes, :axes]
    affine = np.eye(4)
    affine[:axes, :axes] = direction * np.asarray(reader.GetSpacing()[:axes])
    affine[:axes, 3] = reader.GetOrigin()[:axes]
    in_ras: NDArray[np.float64] = _LPS_TO_RAS @ affine + 0.0
    return in_ras


def _channels_last(stored: NDArray[Any], reader: sitk.ImageFileReader) -> NDArray[Any]:
    """Reorder ([t,] [z,] y, x [, component]) to (x, y, z [, t] [, component])."""
    is_vector = stored.ndim > reader.GetDimension()
    ordered = (np.moveaxis(stored, -1, 0) if is_vector else stored).T
    return ordered[:, :, None] if reader.GetDimension() == 2 else ordered


def _in_short(error: RuntimeError) -> ValueError:
    """The last part of a message of SimpleITK, without source locations and addresses."""
    reason = str(error).rpartition("ERROR: ")[2].partition("\nReason:")[0]
    return ValueError(re.sub(r"^\w+\(0x[0-9a-f]+\): ", "", reason))
