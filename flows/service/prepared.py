"""What a command prepares before anything starts, and its flow goes on with: neither plans, lists or looks up twice.

A command knows in this way that there is nothing to compute, or that a name is wrong, before a server or a worker
starts. A flow that a deployment started prepares the same by itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from flows.settings.agent import require_runs_allowed, with_site_model
from storage.runs.plan import BenchmarkPlan, pending
from storage.runs.requests import BenchmarkRequest, runs_of
from storage.runs.standing import completed_requests
from storage.store.layout import StoreLayout
from storage.store.writers import writing

_handed: ContextVar[Mapping[Any, Any]] = ContextVar("prepared by the command")


@contextmanager
def handing(request: Any, prepared: Any) -> Iterator[None]:
    """Hand what is prepared for a request to the flow that is called with it in this block."""
    token = _handed.set({**_handed.get({}), request: prepared})
    try:
        yield
    finally:
        _handed.reset(token)


def handed(request: Any) -> Any:
    """What was prepared for a request; None where its flow must prepare it."""
    return _handed.get({}).get(request)


@dataclass(frozen=True, slots=True, eq=False)
class PlannedBenchmark:
    """What is to compute, and the token with which workers commit, see `storage.store.writers`."""

    plan: BenchmarkPlan
    token: str


@contextmanager
def planned_benchmark(store: StoreLayout, request: BenchmarkRequest) -> Iterator[PlannedBenchmark]:
    """The plan of a request, with the writer locks of its runs held; handed to the flow that is called in this block.

    Raises:
        UsageError: If a name is wrong, nothing can be run, or something must not be sent to a language model.
        StoreError: If another process writes one of the runs.
    """
    if (known := handed(request)) is not None:
        yield known
        return
    asked = replace(request, settings=with_site_model(store.root, request.prompts, request.settings))
    with planned_requests(store, completed_requests(store, asked)) as planned, handing(request, planned):
        yield planned


@contextmanager
def planned_requests(store: StoreLayout, requests: Sequence[BenchmarkRequest]) -> Iterator[PlannedBenchmark]:
    """The plan of requests that leave nothing out, with the writer locks of its runs held."""
    runs = runs_of(store, requests)
    require_runs_allowed(store.root, runs)
    with writing(store, runs.run_ids) as token:
        yield PlannedBenchmark(pending(store, runs), token)
