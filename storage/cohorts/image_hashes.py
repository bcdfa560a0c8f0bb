"""Digests and perceptual hashes of all images of a cohort, for finding duplicates across cohorts."""

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
    """An image in the store; `image_hash` is None for flat images."""

    cohort: str
    case_id: str
    split: str | None
    is_volume: bool
    image_digest: str
    image_hash: bytes | None


def image_hash_row(case_id: str, split: str | None, volume: CaseVolume, ingested_at: Any) -> dict[str, Any]:
    """The row of a case."""
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
    """Add rows; a newer row of the same case replaces the older one on reading."""
    if rows:
        write_rows(store.image_hashes(cohort), rows, IMAGE_HASHES)


def newest_image_digests(store: StoreLayout, cohort: str) -> dict[str, str]:
    """Newest digest of the voxels of every case of a cohort."""
    table = read_table(store.image_hashes(cohort), IMAGE_HASHES, columns=("case_id", "image_digest", "ingested_at"))
    return {row["case_id"]: row["image_digest"] for row in table.sort_by("ingested_at").to_pylist()}


def known_images(store: StoreLayout, *, but_not_from: str) -> list[KnownImage]:
    """Newest hashes of all images of all cohorts, except those that were ingested from this source folder."""
    found = []
    for cohort in cohort_names(store):
        if but_not_from in read_cohort(store, cohort).sources:
            continue
        rows = read_table(store.image_hashes(cohort), IMAGE_HASHES).sort_by("ingested_at").to_pylist()
        for row in {row["case_id"]: row for row in rows}.values():  # the newest row of each case
            hashed = bytes.fromhex(row["image_hash"]) if row["image_hash"] else None
            known = {name: row[name] for name in ("case_id", "split", "is_volume", "image_digest")}
            found.append(KnownImage(cohort, **known, image_hash=hashed))
    return found
