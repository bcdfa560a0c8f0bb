"""One binary mask per structure, as TotalSegmentator writes them: a folder for each case with `STRUCTURE.nii.gz`."""

from pathlib import Path

import numpy as np

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.errors import CaseDataError
from storage.exports.formats.nifti import load_in_place, save_in_place
from storage.exports.registry import CaseToWrite, ExportCommand, ExportFormat, Voxels


def _files(case: CaseToWrite) -> dict[str, str]:
    """Structure to the name of its file; names must differ on disks that ignore case."""
    structures, _ = case.content(FORMAT)
    taken: dict[str, str] = {}
    for structure in structures:
        if (other := taken.setdefault(structure.lower(), structure)) != structure:
            msg = f"structures {other!r} and {structure!r} would share a file on disks that ignore case; rename one"
            raise CaseDataError(msg)
    return {structure: f"{structure}.nii.gz" for structure in structures}


def _write(case: CaseToWrite, scratch: Path) -> None:
    _, voxels = case.content(FORMAT)
    files = _files(case)
    scratch.mkdir()
    for structure, file in files.items():
        save_in_place(voxels(structure).astype(np.uint8), case, scratch / file)


def _read(case: CaseToWrite, scratch: Path) -> tuple[Voxels, VolumeGeometry]:
    files = {structure: scratch / file for structure, file in _files(case).items()}
    _, geometry = load_in_place(case, next(iter(files.values())))
    return lambda structure: load_in_place(case, files[structure])[0], geometry


FORMAT = ExportFormat(
    name="masks",
    suffix="",
    help="folder per case, one mask (0, 1) per structure",
    commands=frozenset({ExportCommand.EXPORT, ExportCommand.SEGMENT}),
    write=_write,
    read=_read,
)
