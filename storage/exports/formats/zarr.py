"""A copy of the prediction as a folder that any OME-Zarr reader opens: one label image per structure."""

import zipfile
from pathlib import Path

from medsam3_core.cases.geometry import VolumeGeometry
from storage.exports.registry import CaseToWrite, ExportCommand, ExportFormat, Voxels
from storage.runs.predictions import StoredPrediction
from storage.store.arrays import open_group
from storage.store.locations import local_copy


def _write(case: CaseToWrite, scratch: Path) -> None:
    with local_copy(case.prediction_file) as file, zipfile.ZipFile(file) as archive:
        archive.extractall(scratch)


def _read(case: CaseToWrite, scratch: Path) -> tuple[Voxels, VolumeGeometry]:
    copy = StoredPrediction(open_group(scratch))
    return copy.labels, copy.geometry()


FORMAT = ExportFormat(
    name="zarr",
    suffix=".ome.zarr",
    help="OME-Zarr with instances and scores",
    commands=frozenset({ExportCommand.SEGMENT}),
    instances=True,
    write=_write,
    read=_read,
)
