"""Small DICOM series, written with pydicom: a CT of known voxels at known places, to which tests add faults."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

ROWS, COLUMNS, GAP_MM = 12, 10, 2.5
SPACING = (0.8, 0.5)
ORIGIN = (-30.0, -40.0, 100.0)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def stored_voxels(depth: int, seed: int = 0) -> NDArray[np.uint16]:
    """Stored pixels of a series of this depth, shape (z, y, x), 12 bits."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 4096, (depth, ROWS, COLUMNS)).astype(np.uint16)


def ct_slices(depth: int = 6, *, seed: int = 0, **changes: Any) -> list[FileDataset]:
    """Slices of one CT series from feet to head; `changes` are DICOM keywords for all of them."""
    study, series, space = generate_uid(), generate_uid(), generate_uid()
    voxels = stored_voxels(depth, seed)
    return [_slice(z, voxels[z], study, series, space, changes) for z in range(depth)]


def _slice(
    z: int, pixels: NDArray[np.uint16], study: str, series: str, space: str, changes: dict[str, Any]
) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, space
    data.Modality, data.SeriesNumber, data.InstanceNumber = "CT", 3, z + 1
    data.PatientName, data.PatientID, data.PatientBirthDate, data.PatientSex = "", "", "", "O"
    data.StudyID, data.StudyDate, data.StudyTime, data.AccessionNumber = "1", "20260101", "120000", ""
    data.ReferringPhysicianName, data.PositionReferenceIndicator, data.Manufacturer = "", "", "nobody"
    data.ImagePositionPatient = [ORIGIN[0], ORIGIN[1], ORIGIN[2] + GAP_MM * z]
    data.ImageOrientationPatient, data.PixelSpacing, data.SliceThickness = list(AXIAL), list(SPACING), 5.0
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, -1024, "HU"
    data.PixelData = pixels.tobytes()
    for keyword, value in changes.items():
        setattr(data, keyword, value)
    return data


def save(folder: Path, slices: list[FileDataset], name: Callable[[int], str] = lambda z: f"IM{z:04d}") -> list[Path]:
    """Write slices; returns their files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name(z) for z in range(len(slices))]
    for path, data in zip(files, slices, strict=True):
        data.save_as(path, enforce_file_format=True)
    return files


def enhanced_ct(depth: int = 5, order: list[int] | None = None) -> FileDataset:
    """One multi-frame file; `order` gives the place of each stored frame."""
    first = ct_slices(1)[0]
    voxels = stored_voxels(depth)
    order = list(range(depth)) if order is None else order
    first.SOPClassUID = first.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    first.NumberOfFrames = depth
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"):
        delattr(first, keyword)
    del first.RescaleIntercept
    shared, orientation, measures, values = Dataset(), Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = list(AXIAL)
    measures.PixelSpacing, measures.SliceThickness = list(SPACING), 5.0
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, -1024, "HU"
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    shared.PixelValueTransformationSequence = [values]
    frames = []
    for z in order:
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = [ORIGIN[0], ORIGIN[1], ORIGIN[2] + GAP_MM * z]
        frame.PlanePositionSequence = [position]
        frames.append(frame)
    first.SharedFunctionalGroupsSequence, first.PerFrameFunctionalGroupsSequence = [shared], frames
    first.PixelData = voxels[order].tobytes()
    return first
