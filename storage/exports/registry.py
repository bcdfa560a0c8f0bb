"""Export formats: where each may be used and what it can hold; one module each in `storage.exports.formats`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from numpy.typing import NDArray

from medsam3_core.cases.cases import CaseSource
from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.errors import CaseDataError, Medsam3Error, UsageError
from medsam3_core.inference.predictions import VolumePrediction
from storage.cohorts.volumes import StoredVolume
from storage.exports.instance_overlays import DrawnSlice
from storage.exports.label_maps import merge_structures
from storage.exports.overlays import OverlayCaption
from storage.runs.predictions import StoredPrediction, open_prediction
from storage.sources.formats.single import InputImage

Voxels = Callable[[str], NDArray[Any]]
"""Voxels (z, y, x) of a structure, read on demand: memory holds one structure at a time."""


class ReleaseError(Medsam3Error):
    """The file that was read back differs from the prediction; nothing was released."""


class NothingDrawnError(CaseDataError):
    """The prediction is empty, and the format has no empty file: a valid result, not a failure."""


class ExportCommand(StrEnum):
    """Commands that write predictions in a format."""

    EXPORT = "export"
    SEGMENT = "segment"
    PREDICT = "predict"


@dataclass(frozen=True)
class CaseToWrite:
    """One case of a run.

    Attributes:
        case_id: Names the file.
        prediction_file: Prediction in the store.
        volume: Image in the store.
        structures: In order: values 1..n of a label map, segments of a segmentation.
        remedy: Remedy for a damaged prediction, for the error message.
        texts: Text of each structure.
        weights: `NAME@N`, for provenance.
        source: Root of the source, for formats that need it.
        case: Files of the case in the source, for formats that need them.
        anonymous: Leave out the patient's name and birth date.
        caption: Caption of a picture.
    """

    case_id: str
    prediction_file: Path
    volume: StoredVolume
    structures: tuple[str, ...]
    remedy: str
    texts: Mapping[str, str] = field(default_factory=dict)
    weights: str = ""
    source: Path | None = None
    case: CaseSource | None = None
    anonymous: bool = False
    caption: OverlayCaption | None = None

    @cached_property
    def prediction(self) -> StoredPrediction:
        """The prediction, open for reading."""
        return open_prediction(self.prediction_file)

    @cached_property
    def label_map(self) -> tuple[NDArray[Any], int]:
        """All structures in one map and the number of contested voxels, see `merge_structures`."""
        return merge_structures(self.prediction, self.structures)

    def content(self, form: "ExportFormat") -> tuple[Sequence[str], Voxels]:
        """Structures that a file in this format must hold, and their voxels: instance numbers if it keeps them."""
        if not form.overlaps:
            return self.structures, lambda name: self.label_map[0] == self.structures.index(name) + 1
        asked = [name for name in self.structures if name in self.prediction.structures]
        labels = self.prediction.labels
        return asked, labels if form.instances else lambda name: labels(name) > 0


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """One format.

    Attributes:
        name: Value of `--format` and of the column `format` of the table `exports`.
        suffix: Suffix of the file; empty for a folder named by the case.
        help: Short description.
        commands: Commands that write the format.
        overlaps: Holds voxels of several structures; else each goes to the structure with the higher score.
        instances: Keeps the numbers of instances.
        needs_source: Refers to the files of the source.
        write: Writes a case to a local path; None for formats of `predict` alone.
            Raises `NothingDrawnError` or `CaseDataError` for a case that the format cannot hold.
        read: Reads back a written case for verification; None for pictures.
        write_slice: Writes one slice of `predict`.
        write_volume: Writes a volume of `predict`, returns the number of slices with objects; None for slice formats.
    """

    name: str
    suffix: str
    help: str
    commands: frozenset[ExportCommand]
    overlaps: bool = True
    instances: bool = False
    needs_source: bool = False
    write: Callable[[CaseToWrite, Path], None] | None = None
    read: Callable[[CaseToWrite, Path], tuple[Voxels, VolumeGeometry]] | None = None
    write_slice: Callable[[DrawnSlice, Path], None] | None = None
    write_volume: Callable[[InputImage, VolumePrediction, Path], int] | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def holds_volumes(self) -> bool:
        """True if `predict` writes volumes in this format, not single slices."""
        return self.write_volume is not None


@cache
def export_formats() -> tuple[ExportFormat, ...]:
    """All formats, by name."""
    folder = Path(__file__).with_name("formats")
    modules = [import_module(f"{__package__}.{folder.name}.{found.name}") for found in iter_modules([str(folder)])]
    return tuple(sorted((module.FORMAT for module in modules), key=str))


def formats_of(command: ExportCommand | str) -> tuple[ExportFormat, ...]:
    """Formats that a command writes, by name."""
    return tuple(item for item in export_formats() if ExportCommand(command) in item.commands)


def format_named(name: str, command: ExportCommand) -> ExportFormat:
    """The format of a command by name.

    Raises:
        UsageError: If the command does not write it; lists the formats of the command.
    """
    formats = {item.name: item for item in formats_of(command)}
    if name not in formats:
        msg = f"unknown format {name!r}; medsam3 {command} writes: {', '.join(formats)}"
        raise UsageError(msg)
    return formats[name]


def format_of_file(target: Path, *, volume: bool = False) -> ExportFormat:
    """The format of an output file of `predict`, by its suffix.

    Raises:
        UsageError: If the suffix is unknown, the folder does not exist, or a slice format is to hold a `volume`.
    """
    formats = formats_of(ExportCommand.PREDICT)
    found = next((item for item in formats if target.name.lower().endswith(item.suffix)), None)
    if found is None:
        ends = " ".join(item.suffix for item in formats)
        msg = f"cannot write {target.name}: unknown format; end the name in {ends}"
        raise UsageError(msg)
    if not target.parent.is_dir():
        msg = f"cannot write {target}: there is no folder {target.parent}"
        raise UsageError(msg)
    if volume and not found.holds_volumes:
        msg = f"a volume is written as a label map; end {target.name} in {volume_suffixes()}"
        raise UsageError(msg)
    return found


def volume_suffixes() -> str:
    """Suffixes of the files in which `predict` writes a volume."""
    return " ".join(item.suffix for item in formats_of(ExportCommand.PREDICT) if item.holds_volumes)
