"""Export: write predictions in a clinical format, prove them, and note what was released and what was not."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from medsam3_core.cases import CaseSource
from medsam3_core.errors import CaseDataError
from storage.case_volumes import open_case_volume
from storage.cohorts import CaseRef
from storage.locations import local_copies, location
from storage.release_claims import require_claim
from storage.release_ledger import release_row, write_releases
from storage.released_exports import ReleaseError, ReleaseForm, ToRelease, release
from storage.store_layout import StoreLayout
from tasks.batch_stream import BatchReport
from tasks.breadcrumbs import BETWEEN_CASES, Breadcrumb, BreadcrumbFolder


@dataclass(frozen=True, slots=True)
class PendingExport:
    """A segmented case to write, with the attempt that segmented it and its files in the source."""

    case: CaseRef
    attempt: str
    source: CaseSource | None

    @property
    def case_id(self) -> str:
        """Names the case in breadcrumbs."""
        return self.case.case_id


@dataclass(frozen=True, slots=True)
class ExportBatch:
    """The work of an export.

    Attributes:
        store: The store.
        run_id: Whose predictions.
        structures: In the order of label values.
        texts: Text of each.
        weights: Name and version.
        source_root: Root of the source.
        form: What is written.
        out: Where to.
        claim: Under which claim of that folder, see `storage.release_claims`.
        anonymous: Leave patients' names out of DICOM.
    """

    store: StoreLayout
    run_id: str
    structures: tuple[str, ...]
    texts: Mapping[str, str]
    weights: str
    source_root: str
    form: ReleaseForm
    out: Path
    claim: str
    anonymous: bool = False

    def __call__(self, batch_id: str, crumbs: BreadcrumbFolder, cases: Sequence[PendingExport]) -> BatchReport:
        """Write cases; each ends as one row, released or with the reason why not."""
        started = time.perf_counter()
        rows = []
        with Breadcrumb(crumbs, batch_id) as crumb:
            for case in cases:
                crumb.at(case.case_id)
                rows.append(self.row(case))
            crumb.at(BETWEEN_CASES)
            write_releases(self.store, self.run_id, batch_id, rows)
        released = sum(row["path"] is not None for row in rows)
        statuses = {"released": released, "unreleased": len(rows) - released}
        return BatchReport(
            {status: count for status, count in statuses.items() if count},
            time.perf_counter() - started,
            peak_rss_bytes=psutil.Process().memory_info().rss,
        )

    def row(self, pending: PendingExport) -> dict[str, Any]:
        """Write one case; trouble with it ends in its row, trouble with the disk is raised."""
        files = pending.source.image if pending.source is not None else ()
        with local_copies(location(self.source_root), files, missing_ok=True) as source:
            return self._row(pending, source)

    def _row(self, pending: PendingExport, source: Path) -> dict[str, Any]:
        require_claim(self.out, self.claim)
        case = pending.case
        item = ToRelease(
            case.case_id,
            self.store.prediction(self.run_id, case.case_id),
            open_case_volume(self.store.volume(case.cohort, case.case_id, zipped=case.ndim == 2)),
            self.structures,
            self.texts,
            self.weights,
            source,
            pending.source,
            self.anonymous,
        )
        common = self._unwritten(pending)
        try:
            released = release(item, self.form, self.out)
        except (CaseDataError, ReleaseError, OSError, ValueError, AttributeError) as error:
            return common | {"reason": f"{error}"[:500]}
        return common | {
            "path": str(released.path),
            "contested": released.contested,
            "largest_shift_mm": released.largest_shift,
        }

    def record_crash(self, pending: PendingExport, reason: str) -> None:
        """Write the row of a case that killed its worker; called by the driver."""
        row = self._unwritten(pending) | {"reason": reason}
        write_releases(self.store, self.run_id, f"crash-{pending.attempt}-{pending.case_id}"[:150], [row])

    def _unwritten(self, pending: PendingExport) -> dict[str, Any]:
        case_id, attempt = pending.case_id, pending.attempt
        return release_row(self.run_id, case_id, attempt, self.form, self.claim, anonymous=self.anonymous)
