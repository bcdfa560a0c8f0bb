"""Hand the prepared work of a command to its flow, so that nothing is planned, listed or looked up twice.

A command knows before a server or worker starts that there is nothing to compute or that a name is wrong. A flow of a
deployment prepares the same itself.
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
def handing(key: Any, prepared: Any) -> Iterator[None]:
    """Make `prepared` available to the flow called in this block; the key is store and request."""
    token = _handed.set({**_handed.get({}), key: prepared})
    try:
        yield
    finally:
        _handed.reset(token)


def handed(key: Any) -> Any:
    """Prepared work for a store and request; None if the flow must prepare it."""
    return _handed.get({}).get(key)


@dataclass(frozen=True, slots=True, eq=False)
class PlannedBenchmark:
    """Plan of a benchmark, and the token with which workers commit, see `storage.store.writers`."""

    plan: BenchmarkPlan
    token: str


def nothing_to_compute(plan: BenchmarkPlan) -> str | None:
    """The answer if nothing is pending; None otherwise."""
    return None if plan.pending else f"nothing to compute: {plan.fresh} results are up to date"


@contextmanager
def planned_benchmark(store: StoreLayout, request: BenchmarkRequest) -> Iterator[PlannedBenchmark]:
    """The plan of a request, holding the writer locks of its runs; available to the flow called in this block.

    Raises:
        UsageError: If a name is wrong, nothing can be run, or data may not be sent to the language model.
        StoreError: If another process is writing one of the runs.
    """
    if (known := handed((store.root, request))) is not None:
        yield known
        return
    asked = replace(request, settings=with_site_model(store.root, request.prompts, request.settings))
    with planned_requests(store, completed_requests(store, asked)) as planned, handing((store.root, request), planned):
        yield planned


@contextmanager
def planned_requests(store: StoreLayout, requests: Sequence[BenchmarkRequest]) -> Iterator[PlannedBenchmark]:
    """The plan of complete requests, holding the writer locks of its runs."""
    runs = runs_of(store, requests)
    require_runs_allowed(store.root, runs)
    with writing(store, runs.run_ids) as token:
        yield PlannedBenchmark(pending(store, runs), token)
