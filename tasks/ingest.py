"""Ingest: read a case from its source, verify it, write it to the store, return its row."""

import logging
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medsam3_core.cases.cases import CaseSource, CaseStatus, CaseVolume
from medsam3_core.cases.recipes import Recipe
from medsam3_core.digests import digest_json
from medsam3_core.errors import CaseDataError
from storage.cohorts.agreement import agreement_rows, write_agreement
from storage.cohorts.cohorts import committed_cases, write_cases
from storage.cohorts.image_hashes import image_hash_row, write_image_hashes
from storage.cohorts.volumes import write_case_volume
from storage.sources.layouts.archive import without_names
from storage.sources.reading import read_case
from storage.sources.registry import layout_of
from storage.store.layout import StoreLayout, utc_now
from storage.store.locations import location
from tasks.faults import of_all_cases
from tasks.stream.breadcrumbs import Breadcrumb

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PendingCase:
    """A case to read.

    Attributes:
        fingerprint: Fingerprint of its source files when they were listed.
        standing: Digest of its current row if that is a rejection; the same rejection adds no row.
    """

    source: CaseSource
    fingerprint: str
    standing: str = ""

    @property
    def case_id(self) -> str:
        """Id of the case in breadcrumbs."""
        return self.source.case_id


@dataclass(frozen=True, slots=True)
class IngestBatch:
    """The work of an ingest: read, verify, write.

    Attributes:
        source_root: Source folder, or the pseudo source of phantoms.
        with_references: True if references are read and structures are part of the digests of cases.
    """

    store: StoreLayout
    cohort: str
    recipe: Recipe
    source_root: str
    with_references: bool = True

    def __call__(self, batch_id: str, cases: Sequence[PendingCase], crumb: Breadcrumb) -> Mapping[str, int]:
        """Ingest cases; each gets one row, accepted or rejected with its reason."""
        beside = _TablesBeside()
        rows = [self.row(case, beside) for case in crumb.along(cases)]
        write_image_hashes(self.store, self.cohort, beside.image_hashes)
        write_agreement(self.store, self.cohort, beside.agreement)
        new = [row for case, row in zip(cases, rows, strict=True) if row["case_digest"] != case.standing]
        write_cases(self.store, self.cohort, new, name=batch_id)
        return Counter(row["status"] for row in rows)

    def unfinished(self, batch_id: str, cases: Sequence[PendingCase]) -> tuple[list[PendingCase], dict[str, int]]:
        """Cases without a row of this batch, and the statuses of the others."""
        committed = committed_cases(self.store, self.cohort, batch_id)
        return [case for case in cases if case.case_id not in committed], dict(Counter(committed.values()))

    def record_crash(self, case: PendingCase, reason: str) -> None:
        """Write the row of a case that crashed its worker, unless it exists already."""
        row = self.rejected(case, reason)
        if row["case_digest"] != case.standing:
            write_cases(self.store, self.cohort, [row])

    def row(self, case: PendingCase, beside: "_TablesBeside") -> dict[str, Any]:
        """Read and write one case; faults of its data end in the row, faults of the store are raised."""
        try:
            volume = self._read(case.source)
        except of_all_cases():
            raise
        except Exception as error:  # noqa: BLE001 - a fault of one case must not affect others
            return self.rejected(case, _reason(case.source, error))
        try:
            return self._written(case, volume, beside)
        except of_all_cases(OSError):
            raise
        except Exception as error:  # noqa: BLE001 - the same
            return self.rejected(case, _reason(case.source, error))

    def _written(self, case: PendingCase, volume: CaseVolume, beside: "_TablesBeside") -> dict[str, Any]:
        digest = volume.digest(self.recipe.for_digests(with_references=self.with_references))
        image_hash = image_hash_row(case.case_id, case.source.split, volume, utc_now())
        agreement = agreement_rows(self.cohort, case.case_id, digest, volume, self.recipe)
        target = self.store.volume(self.cohort, case.case_id, zipped=volume.geometry.is_2d)
        write_case_volume(target, case.case_id, volume, digest)
        beside.image_hashes.append(image_hash)
        beside.agreement += agreement
        return self._common(case) | _facts(volume) | {
            "status": str(CaseStatus.ACCEPTED),
            "case_digest": digest,
        }  # fmt: skip

    def _read(self, source: CaseSource) -> CaseVolume:
        if source.reject_reason:
            raise CaseDataError(source.reject_reason)
        volume = read_case(layout_of(self.recipe), location(self.source_root), source, self.recipe)
        if source.references and not volume.references:
            msg = f"{source.case_id}: the reader listed references {dict(source.references)} and read none"
            raise CaseDataError(msg)
        return volume

    def rejected(self, case: PendingCase, reason: str) -> dict[str, Any]:
        """The row of a case whose data are unusable; its digest changes with reason or source."""
        return self._common(case) | {
            "status": str(CaseStatus.REJECTED),
            "reason": reason,
            "case_digest": digest_json(["rejected", reason, case.fingerprint]),
            "ndim": 0,
            "raters": sorted(case.source.references) or ["reference"],
            "modality": self.recipe.modality,
        }

    def _common(self, case: PendingCase) -> dict[str, Any]:
        return {
            "cohort": self.cohort,
            "case_id": case.case_id,
            "patient_id": case.source.patient_id,
            "split": case.source.split,
            "structures": [],
            "in_training": list(case.source.seen_by),
            "source": case.source.extra.get("shown", case.source.image[0] if case.source.image else None),
            "source_root": self.source_root,
            "source_fingerprint": case.fingerprint,
            "ingested_at": utc_now(),
        }


@dataclass
class _TablesBeside:
    """Rows of a batch for tables other than `cases`."""

    image_hashes: list[dict[str, Any]] = field(default_factory=list)
    agreement: list[dict[str, Any]] = field(default_factory=list)


def _reason(source: CaseSource, error: Exception) -> str:
    """Reason of a rejection, without the name of the patient."""
    match error:
        case CaseDataError():
            return str(error)
        case MemoryError():
            return "does not fit into the memory of the worker; raise the memory limit of the cluster"
        case OSError():
            return without_names(f"{error.filename or source.image}: {error.strerror or error}", source)
    logger.warning("case %s failed:\n%s", source.case_id, without_names(traceback.format_exc(), source))
    shown = source.extra.get("shown", ", ".join(source.image[:1]) or source.case_id)
    text = without_names(f"{type(error).__name__}: {error}", source)[:500]
    return f"{shown} cannot be read ({text}); it is damaged or of an unknown format: export it again or remove it"


def _facts(volume: CaseVolume) -> dict[str, Any]:
    size, spacing = volume.geometry.shape_zyx, volume.geometry.spacing_zyx
    facts: dict[str, Any] = {f"size_{axis}": size[index] for index, axis in enumerate("zyx")}
    facts |= {f"spacing_{axis}": spacing[index] for index, axis in enumerate("zyx")}
    primary = volume.references[0] if volume.references else None
    return facts | {
        "modality": volume.modality,
        "ndim": 2 if volume.geometry.is_2d else 3,
        "distance_unit": str(volume.geometry.unit),
        "raters": [reference.rater for reference in volume.references],
        "structures": list(primary.present_structures()) if primary is not None else [],
    }
