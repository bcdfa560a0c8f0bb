"""Read an uploaded file as slices, through a temporary folder; nothing of it is kept."""

import tempfile
from pathlib import Path

import numpy as np
import pydicom
from pydicom.pixels import apply_rescale

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.errors import CaseDataError, UsageError
from storage.sources.formats.single import PICTURES, InputImage, read_input_image
from storage.sources.formats.volumes.registry import VOLUME_FORMATS, is_volume

_VOLUMES = ", ".join(f"{known.name} ({', '.join(sorted(known.suffixes))})" for known in VOLUME_FORMATS)
READABLE = f"PNG, JPEG, BMP, TIFF, {_VOLUMES} or DICOM"
_DICOM_MARK = slice(128, 132)


def read_upload(name: str, content: bytes) -> InputImage:
    """Read PNG, JPEG, BMP, TIFF, a volume or one DICOM file (under any name, as scanners write them).

    Raises:
        CaseDataError: If the file is damaged; the message names the upload.
        UsageError: If the format is not supported.
    """
    suffix = "".join(Path(name).suffixes[-2:]).lower() if name.lower().endswith(".gz") else Path(name).suffix.lower()
    is_dicom = content[_DICOM_MARK] == b"DICM" or suffix in (".dcm", "")
    if not is_dicom and suffix not in PICTURES and not is_volume(name):
        msg = f"cannot read files that end in {suffix!r}; choose {READABLE}"
        raise UsageError(msg)
    with tempfile.TemporaryDirectory(prefix="medsam3-upload-") as folder:
        path = Path(folder) / f"upload{suffix}"
        path.write_bytes(content)
        try:
            return _read_dicom(path) if is_dicom else read_input_image(path)
        except CaseDataError as error:
            msg = str(error).replace(str(path), name)
            raise CaseDataError(msg) from error


def _read_dicom(path: Path) -> InputImage:
    """Read one DICOM file: frames as slices, rescaled, with its first window if it has one."""
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
    depth, height, width = framed.shape[:3]
    geometry = VolumeGeometry.from_nifti((depth, height, width), np.diag([x, y, 1.0, 1.0]))
    if colour:
        return InputImage(path, np.moveaxis(framed, -1, 0), geometry, None, "identity")
    centre, opening = (np.atleast_1d(dataset.get(name, 0.0))[0] for name in ("WindowCenter", "WindowWidth"))
    own = f"ct:{float(centre)},{float(opening)}" if float(opening) > 0 else "percentile:0.5,99.5"
    return InputImage(path, framed, geometry, None, own)
