"""A broken accelerator ends its worker; what one case does wrong does not."""

import multiprocessing
from functools import partial

import pytest

from storage.catalog.guard import run_sql
from storage.runs.plan import record_plan
from storage.runs.requests import BenchmarkRequest
from storage.store.layout import StoreLayout
from tasks.plugin import EXIT_CODE, is_of_the_accelerator
from tasks.segment import SegmentBatch
from tasks.stream.breadcrumbs import BreadcrumbFolder
from tasks.stream.work import run_batch
from tests.stores.small import ingest_here, plan_here

ILLEGAL = "CUDA error: an illegal memory access was encountered"


class Failing:
    """A segmenter of which every slice fails with one error."""

    device = "cuda:0"

    def __init__(self, capabilities, error):
        self.capabilities, self._error = capabilities, error

    def precision(self, settings):
        return "fp32"

    def encode(self, images, settings):
        raise self._error

    def segment(self, encoding, prompts, settings):
        raise self._error


@pytest.mark.parametrize(
    ("error", "broken"),
    [
        (RuntimeError(ILLEGAL), True),
        (RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm"), True),
        (RuntimeError("CUDA error: out of memory"), False),
        (RuntimeError("shapes do not fit"), False),
        (ValueError(ILLEGAL), False),
    ],
)
def test_what_breaks_an_accelerator_is_told_from_what_breaks_a_case(error, broken):
    assert is_of_the_accelerator(error) is broken


def _work(store: StoreLayout, error: Exception) -> None:
    request = BenchmarkRequest(("cells",), ("baseline:box",), ("box",), (), "all")
    for group in plan_here(store, request).groups:
        record_plan(store, group)
        failing = Failing(group.weights.capabilities, error)
        work = SegmentBatch(store, group.cohort.recipe, group.runs, lambda failing=failing: failing)
        run_batch(work, "batch", BreadcrumbFolder(store.breadcrumbs() / "b"), group.pending)


@pytest.mark.parametrize(("words", "code", "failed"), [(ILLEGAL, EXIT_CODE, 0), ("shapes do not fit", 0, 2)])
def test_a_worker_ends_with_its_accelerator_and_records_no_failures(store, words, code, failed):
    ingest_here(store, "phantom:nuclei,cases=2,size=48x48", "cells")
    process = multiprocessing.get_context("spawn").Process(target=partial(_work, store, RuntimeError(words)))
    process.start()
    process.join(120)
    assert process.exitcode == code
    counted = run_sql(store, "SELECT count(*) FILTER (status = 'failed') AS failed FROM outcomes")
    assert counted.to_pylist() == [{"failed": failed}]
