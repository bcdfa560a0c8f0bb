"""Errors in a batch: those that end one case, and those that stop the batch."""

import logging
import traceback

from medsam3_core.cases.cases import CaseStatus
from medsam3_core.errors import CaseDataError, DamagedFileError, StoreError, WeightsError
from storage.cohorts.cohorts import CaseRef
from storage.store.layout import StoreLayout
from storage.store.locations import connection_errors
from tasks.plugin import end_worker, is_of_the_accelerator

logger = logging.getLogger(__name__)


def of_all_cases(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """Errors that would hit every case of a batch: of the store, of the network, of the installation."""
    return (StoreError, ImportError, ConnectionError, *connection_errors(), *more)


def is_gone(store: StoreLayout, cohort: str) -> bool:
    """True if the cohort itself is missing in the store, so that a damaged file is not the fault of one case."""
    return not store.cohort_json(cohort).exists()


def ending(error: Exception, store: StoreLayout, case: CaseRef) -> tuple[CaseStatus, str]:
    """Status and reason of a case that an error ended; called while the error is handled.

    A broken accelerator ends the worker, see `tasks.plugin`.

    Raises:
        Exception: The error itself, if it is not a fault of the case.
    """
    match error:
        case CaseDataError():
            return CaseStatus.REJECTED, str(error)
        case DamagedFileError() if not is_gone(store, case.cohort):
            return CaseStatus.FAILED, str(error)
    if isinstance(error, of_all_cases(WeightsError)):
        raise error
    if is_of_the_accelerator(error):
        logger.critical("the accelerator is broken; this worker ends:\n%s", traceback.format_exc())
        end_worker()
    logger.warning("case %s failed:\n%s", case.case_id, traceback.format_exc())
    return CaseStatus.FAILED, f"{type(error).__name__}: {error}"[:500]
