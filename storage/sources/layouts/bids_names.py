"""File names of BIDS: entities and suffix, and the image and label table of a segmentation."""

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from medsam3_core.errors import UsageError
from storage.sources.formats.volumes.registry import VOLUME_SUFFIXES
from storage.sources.listing.files import open_source, without_suffix

_ENTITY = re.compile(r"([a-zA-Z]+)-([a-zA-Z0-9+]+)")
_OF_DERIVATIVES = frozenset({"space", "desc", "label", "res", "den", "atlas", "seg", "scale", "hemi"})


@dataclass(frozen=True, slots=True)
class BidsFile:
    """A volume with a BIDS name.

    Attributes:
        path: Relative to the dataset.
        entities: Key to label in the order of the name, such as `sub` to `01`.
        suffix: Last part of the name, such as `T1w`.
        pipeline: Its folder in `derivatives/`; None for raw data.
    """

    path: str
    entities: Mapping[str, str]
    suffix: str
    pipeline: str | None

    @property
    def subject(self) -> str:
        """`sub-01`."""
        return f"sub-{self.entities['sub']}"

    @property
    def is_derived(self) -> bool:
        """True if a pipeline made it."""
        return self.pipeline is not None

    @property
    def key(self) -> str:
        """File name without its extension; the pipeline precedes it for derived files."""
        stem = without_suffix(PurePosixPath(self.path).name, VOLUME_SUFFIXES)
        return f"{self.pipeline}/{stem}" if self.pipeline else stem

    def fits(self, segmentation: "BidsFile") -> bool:
        """True if a segmentation can belong to this image.

        The entities of the acquisition that the segmentation names are equal, and a segmentation in a standard space
        needs an image in that space.
        """
        own = {key: value for key, value in self.entities.items() if key not in _OF_DERIVATIVES}
        other = {key: value for key, value in segmentation.entities.items() if key not in _OF_DERIVATIVES}
        if any(own.get(key) != value for key, value in other.items()):
            return False
        space = segmentation.entities.get("space", "")
        is_native = space.lower() in ("", "orig", "native", "individual", self.suffix.lower())
        return (
            (not self.is_derived or "space" not in self.entities) if is_native else self.entities.get("space") == space
        )


def parse_bids(path: str) -> BidsFile | None:
    """A path as a BIDS file; None if its name has no subject."""
    pure = PurePosixPath(path)
    parts = without_suffix(pure.name, VOLUME_SUFFIXES).split("_")
    matches = [_ENTITY.fullmatch(part) for part in parts[:-1]]
    entities = {match.group(1): match.group(2) for match in matches if match}
    if "sub" not in entities or len(entities) != len(parts) - 1 or "-" in parts[-1]:
        return None
    folders = pure.parts[:-1]
    pipeline = None
    if "derivatives" in folders:
        below = folders[folders.index("derivatives") + 1 :]
        pipeline = below[0] if below and not below[0].startswith("sub-") else "derivatives"
    return BidsFile(path, entities, parts[-1], pipeline)


def label_table_for(source: Path, segmentation: BidsFile) -> dict[int, str]:
    """Label value to name from the nearest `_dseg.tsv`, in the folder or above, whose entities all agree.

    Raises:
        UsageError: If none applies, or it lacks the columns `index` and `name`; names the file.
    """
    folder = (source / segmentation.path).parent
    while True:
        fitting = [path for path in sorted(folder.glob("*dseg.tsv")) if _applies(path.name, segmentation)]
        if fitting:
            return _read_table(max(fitting, key=lambda path: path.name.count("-")))
        if folder == source or source not in folder.parents:
            msg = f"{source / segmentation.path} has no _dseg.tsv in its folder or above that names its values; add one"
            raise UsageError(msg)
        folder = folder.parent


def subject_splits(source: Path) -> dict[str, str]:
    """Subject to split, from a column `split` of `participants.tsv`; empty without one."""
    path = source / "participants.tsv"
    if not path.is_file():
        return {}
    return {
        row["participant_id"]: row["split"].strip()
        for row in _rows(path)
        if row.get("participant_id") and (row.get("split") or "n/a").strip() != "n/a"
    }


def _applies(name: str, segmentation: BidsFile) -> bool:
    parts = name.removesuffix(".tsv").split("_")
    matches = [_ENTITY.fullmatch(part) for part in parts[:-1]]
    return all(match and segmentation.entities.get(match.group(1)) == match.group(2) for match in matches)


def _read_table(path: Path) -> dict[int, str]:
    rows = _rows(path)
    if not rows or not {"index", "name"} <= rows[0].keys():
        msg = f"{path} needs the columns index and name; its columns are: {', '.join(rows[0]) if rows else 'none'}"
        raise UsageError(msg)
    table: dict[int, str] = {}
    for row in rows:
        index, name = (row["index"] or "").strip(), (row["name"] or "").strip()
        if not index.isdecimal() or not name:
            msg = f"{path} has the row {index!r}, {name!r}; index must be an integer >= 0 and name must not be empty"
            raise UsageError(msg)
        if int(index) > 0:
            table[int(index)] = name
    return table


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with open_source(path) as file:
            return list(csv.DictReader(io.StringIO(file.read().decode("utf-8-sig")), delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        msg = f"{path} cannot be read: {error}; repair or remove it"
        raise UsageError(msg) from None
