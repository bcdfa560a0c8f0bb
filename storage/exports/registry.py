"""Export formats: what each can hold and where it may be used; found in `storage.exports.formats`, a module each."""

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
"""Voxels (z, y, x) of a structure, read when asked for: memory holds one structure at a time."""


class ReleaseError(Medsam3Error):
    """The file that was read back differs from the prediction; nothing was released."""


class NothingDrawnError(CaseDataError):
    """The prediction has no voxel, and the format has no file without one: an answer, not a failure."""


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
        volume: Its image in the store.
        structures: In order: values 1..n of a label map, segments of a segmentation.
        remedy: What brings a damaged prediction back, for the error that finds it damaged.
        texts: Text of each structure.
        weights: Name and version, for provenance.
        source: Root of the source, for formats that need it.
        case: Files of the case in the source, for formats that need them.
        anonymous: Leave the patient's name and birth date out.
        caption: Words above a picture.
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
        """All structures in one map, value n for the n-th, and the number of contested voxels."""
        return merge_structures(self.prediction, self.structures)

    def held(self, form: "ExportFormat") -> tuple[Sequence[str], Voxels]:
        """The structures that a file in this format must hold, and their voxels: instance numbers if it keeps them."""
        if not form.overlaps:
            return self.structures, lambda name: self.label_map[0] == self.structures.index(name) + 1
        asked = [name for name in self.structures if name in self.prediction.structures]
        labels = self.prediction.labels
        return asked, labels if form.instances else lambda name: labels(name) > 0


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """One format.

    Attributes:
        name: As `--format` takes it and the table `exports` keeps it.
        suffix: End of the file's name; empty for a folder named by the case.
        help: The file in a few words.
        commands: Where the format may be used.
        overlaps: Holds voxels that belong to several structures; else each goes to the structure with the higher score.
        instances: Keeps the numbers of instances.
        needs_source: Refers to the files of the source.
        write: Writes a case to a path of this machine; None for formats of `predict` alone.
            Raises `NothingDrawnError` or `CaseDataError` for a case that the format cannot hold.
        read: Reads back what `write` wrote, to prove it; None for pictures.
        write_slice: Writes what `predict` drew on one slice.
        write_volume: Writes what `predict` drew in a volume; None where the format holds one slice.
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
        """Whether `predict` writes a volume in it; else one slice."""
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
    """The format that a command was asked for.

    Raises:
        UsageError: If the command writes none of this name; lists those that it writes.
    """
    formats = {item.name: item for item in formats_of(command)}
    if name not in formats:
        msg = f"unknown format {name!r}; medsam3 {command} writes: {', '.join(formats)}"
        raise UsageError(msg)
    return formats[name]


def format_of_file(target: Path, *, volume: bool = False) -> ExportFormat:
    """The format that the name of a file of `predict` asks for.

    Args:
        target: The file.
        volume: Whether it must hold a volume, not one slice.

    Raises:
        UsageError: If it asks for none that is known or that holds this, or its folder does not exist.
    """
    formats = formats_of(ExportCommand.PREDICT)
    found = next((item for item in formats if target.name.lower().endswith(item.suffix)), None)
    if found is None:
        ends = " ".join(item.suffix for item in formats)
        msg = f"cannot write {target.name}: its kind is not known; end the name in {ends}"
        raise UsageError(msg)
    if not target.parent.is_dir():
        msg = f"cannot write {target}: there is no folder {target.parent}"
        raise UsageError(msg)
    if volume and not found.holds_volumes:
        msg = f"a volume is written as a label map; end {target.name} in {volume_suffixes()}"
        raise UsageError(msg)
    return found


def volume_suffixes() -> str:
    """Ends of the files in which `predict` writes a volume."""
    return " ".join(item.suffix for item in formats_of(ExportCommand.PREDICT) if item.holds_volumes)
