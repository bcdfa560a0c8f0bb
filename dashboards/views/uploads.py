"""An uploaded file as slices to look at: read in a folder that is gone when the reader is done; nothing is kept."""

import importlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.cases.intensity import IntensityPolicy, as_rgb, to_uint8
from medsam3_core.errors import CaseDataError, UsageError
from storage.sources.formats.nifti import read_nifti
from storage.sources.formats.pixels import read_image

READABLE = "PNG, JPEG, BMP, TIFF, NIfTI (.nii, .nii.gz) or DICOM"
_PIXELS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_DICOM_MARK = slice(128, 132)


@dataclass(frozen=True, eq=False)
class UploadedImage:
    """Voxels of an upload.

    Attributes:
        voxels: Shape (z, y, x) or (c, z, y, x).
        spacing_yx: Distance between rows and between columns.
        window: Intensity policy that suits it.
    """

    voxels: NDArray[Any]
    spacing_yx: tuple[float, float]
    window: str

    @property
    def depth(self) -> int:
        """Number of slices."""
        return int(self.voxels.shape[-3])

    def rgb(self, z: int) -> NDArray[np.uint8]:
        """Slice z, shape (y, x, 3)."""
        value_range = IntensityPolicy.parse(self.window).value_range(self.voxels)
        return as_rgb(to_uint8(self.voxels[..., z, :, :], value_range))


def read_upload(name: str, content: bytes) -> UploadedImage:
    """Read PNG, JPEG, BMP, TIFF, NIfTI or one DICOM file; the latter under any name, as scanners write them.

    Raises:
        CaseDataError: If the file is damaged; the message names the upload.
        UsageError: If its kind is not known.
    """
    suffix = "".join(Path(name).suffixes[-2:]).lower() if name.lower().endswith(".gz") else Path(name).suffix.lower()
    if content[_DICOM_MARK] == b"DICM":
        suffix = ".dcm"
    with tempfile.TemporaryDirectory(prefix="medsam3-upload-") as folder:
        path = Path(folder) / f"upload{suffix}"
        path.write_bytes(content)
        try:
            return _read(path, suffix)
        except CaseDataError as error:
            msg = str(error).replace(str(path), name)
            raise CaseDataError(msg) from error


def _read(path: Path, suffix: str) -> UploadedImage:
    if suffix in (".nii", ".nii.gz"):
        volume = read_nifti(path)
        _, y, x = volume.geometry.spacing_zyx
        return UploadedImage(volume.voxels, (y, x), "percentile:0.5,99.5")
    if suffix in (".dcm", ""):
        return _read_dicom(path)
    if suffix in _PIXELS:
        pixels = read_image(path).voxels
        return UploadedImage(pixels, (1.0, 1.0), "identity" if pixels.dtype == np.uint8 else "percentile:0.5,99.5")
    msg = f"cannot read files that end in {suffix!r}; choose a file that is {READABLE}"
    raise UsageError(msg)


def _read_dicom(path: Path) -> UploadedImage:
    """One DICOM file: its frames as slices, rescaled, windowed by its own first window if it has one."""
    try:
        pydicom = importlib.import_module("pydicom")
        apply_rescale = importlib.import_module("pydicom.pixels").apply_rescale
    except ImportError as error:
        msg = "reading DICOM needs the package pydicom: pip install pydicom"
        raise UsageError(msg) from error
    try:
        dataset = pydicom.dcmread(path)
        stored = dataset.pixel_array
        colour = int(dataset.get("SamplesPerPixel", 1)) == 3
        voxels = stored if colour else np.asarray(apply_rescale(stored, dataset), dtype=np.float32)
    except Exception as error:
        msg = f"{path} cannot be read as DICOM ({error}); copy or export it again"
        raise CaseDataError(msg) from error
    framed = voxels if voxels.ndim == (4 if colour else 3) else voxels[None]
    y, x = (float(value) for value in dataset.get("PixelSpacing", (1.0, 1.0)))
    if colour:
        return UploadedImage(np.moveaxis(framed, -1, 0), (y, x), "identity")
    centre, width = (np.atleast_1d(dataset.get(name, 0.0))[0] for name in ("WindowCenter", "WindowWidth"))
    own = f"ct:{float(centre)},{float(width)}" if float(width) > 0 else "percentile:0.5,99.5"
    return UploadedImage(framed, (y, x), own)
