"""List an archive in one walk: types of files, series, and the label maps of each image."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from posixpath import basename, splitext

from medsam3_core.errors import UsageError
from storage.sources.dicom.elements import PREAMBLE, is_dicom
from storage.sources.dicom.headers import DicomHeader, HeaderKind
from storage.sources.dicom.scan import scan_headers
from storage.sources.dicom.segmentations import SegmentationHeader, read_segmentation_header
from storage.sources.dicom.series import DicomSeries, find_series
from storage.sources.formats.volumes.registry import VOLUME_SUFFIXES, is_volume, suffixes_in
from storage.sources.layouts.archive_references import match_references
from storage.sources.listing.cases import FoundCase
from storage.sources.listing.files import IMAGE_SUFFIXES, SourceFile, read_range, walk_files, without_suffix
from storage.sources.listing.guesses import LABEL_FILE
from storage.sources.listing.labels import LabelTable, read_label_table
from storage.sources.listing.pairing import guess_patterns, pair_files
from storage.sources.listing.parameters import PairParameters
from storage.store.pseudonyms import Pseudonyms

logger = logging.getLogger(__name__)

_MAX_OPENED = 50
_DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".dic", ".ima", ".dc3", ".img", ""})
_NO_IMAGES = frozenset(
    """
    .txt .json .csv .tsv .xml .pdf .md .rst .html .htm .log .zip .gz .tar .tgz .7z .xlsx .xls .docx .doc
    .yaml .yml .toml .ini .py .sh .ipynb .mat .npy .npz .h5 .hdf5 .parquet .bval .bvec .pkl .db .sqlite .url
    .lnk .exe .dll .js .css .ico .inf .jar .bat .cfg .sha256 .md5 .mp4 .avi .mov .bib .tex
    """.split()  # noqa: SIM905 - fifty suffixes are easier to read without quotes
)
_NO_IMAGE_NAMES = ("license", "licence", "readme", "copying", "changelog", "version", "notice", "authors", "makefile")


@dataclass(frozen=True)
class ArchiveListing:
    """Content of an archive.

    Attributes:
        series: DICOM series, sorted by key, rejected ones with their reason.
        segmentations: DICOM segmentations that could be read.
        labels_of: Key of a series to its files of label maps.
        volumes: Volumes of any format, with references if a rule pairs them.
        images: Images, likewise.
        foreign: Files that should be DICOM and are not.
        labels: The label table beside the data.
        hidden: Parts of paths that name a patient, each with its replacement.
    """

    series: tuple[DicomSeries, ...]
    segmentations: tuple[SegmentationHeader, ...]
    labels_of: dict[str, tuple[str, ...]]
    volumes: tuple[FoundCase, ...]
    images: tuple[FoundCase, ...]
    foreign: tuple[str, ...]
    labels: LabelTable
    hidden: tuple[tuple[str, str], ...]


def holds_dicom(source: Path) -> bool:
    """True if any file below a folder is DICOM; stops at the first.

    Of the files with names of other types only the first 50 are opened, because a folder may hold a hundred thousand
    pictures.
    """
    names = [file.name for file in walk_files(source)]
    unclear = [name for name in names if _is_candidate(name)]
    named_otherwise = islice((name for name in names if not _is_candidate(name)), _MAX_OPENED)
    return any(is_dicom(_first_bytes(source / name)) for name in chain(unclear, named_otherwise))


def list_archive(source: Path, pseudonyms: Pseudonyms) -> ArchiveListing:
    """Walk and read headers; the last result is cached until a file changes."""
    return _list_archive(source, pseudonyms, tuple(sorted(walk_files(source), key=lambda file: file.name)))


@lru_cache(maxsize=1)
def _list_archive(source: Path, pseudonyms: Pseudonyms, files: tuple[SourceFile, ...]) -> ArchiveListing:
    names = [file.name for file in files]
    others: list[str] = []
    headers: list[DicomHeader] = []
    foreign: list[str] = []
    segmentations: list[SegmentationHeader] = []
    unread: Counter[str] = Counter()
    for name, header in scan_headers(source, names, pseudonyms):
        if header is None:
            if not _is_candidate(name):
                others.append(name)
            elif _should_be_dicom(name):
                foreign.append(name)
            else:
                unread[splitext(name)[1]] += 1
        elif header.kind is HeaderKind.SEGMENTATION and (found := read_segmentation_header(source, name)):
            segmentations.append(found)
        elif header.kind is not HeaderKind.DIRECTORY:
            headers.append(header)
    if unread:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in unread.most_common(8))
        logger.warning("skipped files of unknown type: %s", kinds)
    volumes = [name for name in others if is_volume(name)]
    images = [name for name in others if name.lower().endswith(IMAGE_SUFFIXES)]
    series = find_series(headers)
    labels_of, taken = match_references(source, series, segmentations, volumes)
    untaken = [name for name in volumes if name not in taken]
    hidden = {pair for header in headers for pair in header.hidden}
    return ArchiveListing(
        tuple(series),
        tuple(segmentations),
        labels_of,
        tuple(_paired(untaken, suffixes_in(untaken))),
        tuple(_paired(images, IMAGE_SUFFIXES)),
        tuple(foreign),
        _label_table(source, others),
        tuple(sorted(hidden, key=lambda pair: (-len(pair[0]), pair))),
    )


def _paired(files: Sequence[str], suffixes: tuple[str, ...]) -> list[FoundCase]:
    """Images with the references that a known rule pairs them with, and every file outside of the rule."""
    patterns = guess_patterns(list(files), suffixes) if files else None
    found = pair_files(files, PairParameters.model_validate(patterns)) if patterns else []
    used = {name for item in found for name in (*item.image, *(f for names in item.references.values() for f in names))}
    kept = [
        item if item.references else FoundCase(item.key, item.image, split=item.split, patient=item.patient)
        for item in found
        if item.image
    ]
    orphans = [item for item in found if not item.image]
    rest = [FoundCase(without_suffix(name, suffixes), (name,)) for name in files if name not in used]
    return [*kept, *orphans, *rest]


def _is_candidate(name: str) -> bool:
    """True if the name does not identify another file type; DICOM is recognised by content under any name."""
    low = basename(name).lower()
    if low.endswith((*VOLUME_SUFFIXES, *IMAGE_SUFFIXES)):
        return False
    return splitext(low)[1] not in _NO_IMAGES and not low.startswith(_NO_IMAGE_NAMES)


def _first_bytes(path: Path) -> bytes:
    try:
        return read_range(path, 0, PREAMBLE)[0]
    except OSError:
        return b""


def _should_be_dicom(name: str) -> bool:
    """True if a file that is not DICOM must be reported: named like DICOM, by number, or without suffix."""
    suffix = splitext(basename(name).lower())[1]
    return suffix in _DICOM_SUFFIXES or suffix[1:].isdecimal()


def _label_table(source: Path, names: Sequence[str]) -> LabelTable:
    """`labels.json` of the source, else of a subfolder.

    Raises:
        UsageError: If it is broken, or subfolders hold different ones and the source none.
    """
    tables = sorted((name for name in names if basename(name) == LABEL_FILE), key=lambda name: (name.count("/"), name))
    if not tables:
        return LabelTable()
    if "/" in tables[0] and len({(source / name).read_bytes() for name in tables}) > 1:
        msg = f"{source} holds {len(tables)} different {LABEL_FILE}, the first {tables[0]}; put one into the source"
        raise UsageError(msg)
    return read_label_table(source / tables[0])
