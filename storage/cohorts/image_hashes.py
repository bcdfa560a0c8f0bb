"""Digests and perceptual hashes of all images of a cohort: what duplicates across cohorts are found by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from medsam3_core.cases.cases import CaseVolume
from medsam3_core.cases.perceptual_hash import perceptual_hash
from storage.cohorts.checks import image_digest
from storage.cohorts.cohorts import cohort_names, read_cohort
from storage.store.layout import StoreLayout
from storage.store.tables import read_table, write_rows

IMAGE_HASHES = pa.schema(
    [
        pa.field("case_id", pa.string(), metadata={"description": "case"}),
        pa.field("split", pa.string(), metadata={"description": "split of the case"}),
        pa.field("is_volume", pa.bool_(), metadata={"description": "whether it has several slices"}),
        pa.field("image_digest", pa.string(), metadata={"description": "digest of the voxels"}),
        pa.field("image_hash", pa.string(), metadata={"description": "perceptual hash, hex; NULL for flat images"}),
        pa.field("ingested_at", pa.timestamp("us"), metadata={"description": "UTC"}),
    ],
    metadata={"table": "fingerprints", "schema_version": "1"},
)


@dataclass(frozen=True, slots=True)
class KnownImage:
    """An image in the store.

    Attributes:
        cohort: Its cohort.
        case_id: Its case.
        split: Its split.
        is_volume: Whether it has several slices.
        image_digest: Digest of the voxels.
        image_hash: Perceptual hash or None.
    """

    cohort: str
    case_id: str
    split: str | None
    is_volume: bool
    image_digest: str
    image_hash: bytes | None


def image_hash_row(case_id: str, split: str | None, volume: CaseVolume, ingested_at: Any) -> dict[str, Any]:
    """The row of a case that was read."""
    hashed = perceptual_hash(volume.voxels)
    return {
        "case_id": case_id,
        "split": split,
        "is_volume": not volume.geometry.is_2d,
        "image_digest": image_digest(volume),
        "image_hash": hashed.hex() if hashed else None,
        "ingested_at": ingested_at,
    }


def write_image_hashes(store: StoreLayout, cohort: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows; a newer row of the same case replaces the older one when they are read."""
    if rows:
        write_rows(store.image_hashes(cohort), rows, IMAGE_HASHES)


def newest_image_digests(store: StoreLayout, cohort: str) -> dict[str, str]:
    """Digest of the voxels of every case of a cohort, as it was read last."""
    table = read_table(store.image_hashes(cohort), IMAGE_HASHES, columns=("case_id", "image_digest", "ingested_at"))
    table = table.sort_by("ingested_at")
    return dict(zip(table["case_id"].to_pylist(), table["image_digest"].to_pylist(), strict=True))


def known_images(store: StoreLayout, *, but_not_from: str) -> list[KnownImage]:
    """Newest hashes of all images of all cohorts, except those that were ingested from this source folder."""
    found = []
    for cohort in cohort_names(store):
        if but_not_from in read_cohort(store, cohort).sources:
            continue
        newest: dict[str, dict[str, Any]] = {}
        for row in read_table(store.image_hashes(cohort), IMAGE_HASHES).sort_by("ingested_at").to_pylist():
            newest[row["case_id"]] = row
        found += [
            KnownImage(
                cohort,
                case_id,
                row["split"],
                row["is_volume"],
                row["image_digest"],
                bytes.fromhex(row["image_hash"]) if row["image_hash"] else None,
            )
            for case_id, row in newest.items()
        ]
    return found
