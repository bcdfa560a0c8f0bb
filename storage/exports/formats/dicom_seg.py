"""DICOM segmentations that refer to the source series."""

from pathlib import Path

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.errors import CaseDataError
from storage.exports.registry import CaseToWrite, ExportCommand, ExportFormat, Voxels
from storage.sources.dicom.segmentations import read_segmentation


def _write(case: CaseToWrite, scratch: Path) -> None:
    from storage.exports.dicom_seg import write_segmentation  # highdicom takes a second to import

    if case.case is None or case.source is None:
        msg = "its source files are missing or have changed since they were read; run the same command again"
        raise CaseDataError(msg)
    if case.case.extra.get("kind") != "dicom":
        msg = "the source is not a DICOM series, so a DICOM segmentation cannot refer to it; use nifti"
        raise CaseDataError(msg)
    structures, voxels = case.content(FORMAT)
    masks = {name: voxels(name) for name in structures}
    write_segmentation(scratch, case.source, case.case, masks, case.texts, case.weights, anonymous=case.anonymous)


def _read(case: CaseToWrite, scratch: Path) -> tuple[Voxels, VolumeGeometry]:
    geometry = case.prediction.geometry()
    return read_segmentation(scratch, geometry, "written").mask, geometry


FORMAT = ExportFormat(
    name="dicom-seg",
    suffix=".dcm",
    help="DICOM segmentation of the series",
    commands=frozenset({ExportCommand.SEGMENT}),
    needs_source=True,
    write=_write,
    read=_read,
)
