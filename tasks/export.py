"""Export: write predictions in a clinical format, verify them, and record released and failed cases."""

import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsam3_core.cases.cases import CaseSource
from medsam3_core.errors import CaseDataError, DamagedFileError
from storage.cohorts.cohorts import CaseRef
from storage.cohorts.volumes import open_case_volume
from storage.exports.claims import require_claim
from storage.exports.ledger import ReleaseStatus, release_row, write_releases
from storage.exports.registry import CaseToWrite, ExportFormat, NothingDrawnError, ReleaseError
from storage.exports.releases import DamagedPredictionError, release
from storage.sources.layouts.archive import without_names
from storage.store.layout import StoreLayout
from storage.store.locations import local_copies, location
from tasks.faults import is_gone, of_all_cases
from tasks.stream.breadcrumbs import Breadcrumb


@dataclass(frozen=True, slots=True)
class PendingExport:
    """A segmented case to write, with the id of the batch that segmented it and its files in the source."""

    case: CaseRef
    batch_id: str
    source: CaseSource | None

    @property
    def case_id(self) -> str:
        """Id of the case in breadcrumbs."""
        return self.case.case_id


@dataclass(frozen=True, slots=True)
class ExportBatch:
    """The work of an export.

    Attributes:
        run_id: Run of the predictions.
        structures: Structures in the order of label values.
        texts: Text of each structure.
        weights: Name and version.
        claim: Claim of that folder, see `storage.exports.claims`.
        anonymous: Leave patient names out of DICOM.
    """

    store: StoreLayout
    run_id: str
    structures: tuple[str, ...]
    texts: Mapping[str, str]
    weights: str
    source_root: str
    form: ExportFormat
    out: Path
    claim: str
    anonymous: bool = False

    def __call__(self, batch_id: str, cases: Sequence[PendingExport], crumb: Breadcrumb) -> Mapping[str, int]:
        """Write cases; each gets one row, released or with the reason of its failure."""
        rows = [self.row(case) for case in crumb.along(cases)]
        write_releases(self.store, self.run_id, batch_id, rows)
        return Counter(row["status"] for row in rows)

    def unfinished(self, batch_id: str, cases: Sequence[PendingExport]) -> tuple[list[PendingExport], dict[str, int]]:
        """All cases of a batch: a second export costs only time."""
        return list(cases), {}

    def row(self, pending: PendingExport) -> dict[str, Any]:
        """Write one case; faults of the case end in its row, faults of the disk are raised."""
        files = pending.source.image if pending.source is not None else ()
        with local_copies(location(self.source_root), files, missing_ok=True) as source:
            return self._row(pending, source)

    def _row(self, pending: PendingExport, source: Path) -> dict[str, Any]:
        require_claim(self.out, self.claim)
        try:
            released = release(self._item(pending, source), self.form, self.out)
        except NothingDrawnError as error:
            return self._unwritten(pending, str(error), ReleaseStatus.EMPTY)
        except (CaseDataError, ReleaseError) as error:
            return self._unwritten(pending, str(error))
        except DamagedFileError as error:
            if is_gone(self.store, pending.case.cohort):
                raise
            is_prediction = isinstance(error, DamagedPredictionError)
            status = ReleaseStatus.DAMAGED if is_prediction else ReleaseStatus.FAILED
            return self._unwritten(pending, str(error), status)
        except of_all_cases():
            raise
        except Exception as error:  # noqa: BLE001 - a fault of one case must not affect others
            return self._unwritten(pending, _without_values(error))
        return self._unwritten(pending, None, ReleaseStatus.RELEASED) | {
            "path": str(released.path),
            "contested": released.contested,
            "largest_shift_mm": released.largest_shift,
        }

    def _item(self, pending: PendingExport, source: Path) -> CaseToWrite:
        case = pending.case
        try:
            volume = open_case_volume(self.store.volume(case.cohort, case.case_id, zipped=case.ndim == 2))
        except DamagedFileError as error:
            msg = (
                f"the image of {case.case_id} in the store is damaged ({error.__cause__}); touch its source files, so "
                "that they are read again, and run the same command again"
            )
            raise DamagedFileError(msg) from error
        return CaseToWrite(
            case.case_id,
            self.store.prediction(self.run_id, case.case_id),
            volume,
            self.structures,
            "run medsam3 segment again with --retry, which segments the case again",
            self.texts,
            self.weights,
            source,
            pending.source,
            self.anonymous,
        )

    def record_crash(self, pending: PendingExport, reason: str) -> None:
        """Write the row of a case that crashed its worker."""
        row = self._unwritten(pending, reason)
        write_releases(self.store, self.run_id, f"crash-{pending.batch_id}-{pending.case_id}"[:150], [row])

    def _unwritten(
        self, pending: PendingExport, reason: str | None, status: ReleaseStatus = ReleaseStatus.FAILED
    ) -> dict[str, Any]:
        """The row of a case without a file; its reason does not name the patient."""
        if reason is not None and pending.source is not None:
            reason = without_names(reason, pending.source)
        row = release_row(
            self.run_id, pending.case_id, pending.batch_id, self.form.name, self.claim, anonymous=self.anonymous
        )
        return row | {"status": str(status), "reason": reason[:500] if reason else None}


def _without_values(error: Exception) -> str:
    """Kind and place of an unexpected error, without its text, which may quote a header with the name of a patient."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).parent.name}/{Path(place.filename).name}:{place.lineno}"
    if isinstance(error, OSError):
        return f"{error.filename or where}: {error.strerror or type(error).__name__}; run the same command again"
    return f"{type(error).__name__} in {where}; the case cannot be written in this format, try another --format"
