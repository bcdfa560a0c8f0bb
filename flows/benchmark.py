"""Flow `benchmark`: cohorts x weights x prompt policies; only missing and stale results are computed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.clusters.clusters import Workers, dask_workers
from flows.messages.console import note, tell
from flows.service.deployed import store_of
from flows.service.prepared import PlannedBenchmark, nothing_to_compute, planned_benchmark
from flows.settings.agent import endpoint_settings
from flows.settings.defaults import CLUSTER
from flows.settings.settings import named_cluster
from flows.stream import stream_cases
from storage.catalog.catalog import publish_catalog
from storage.catalog.compaction import tidy_scores
from storage.runs.plan import BenchmarkPlan, PlannedCase, WorkGroup, record_plan
from storage.runs.requests import ALL_THAT_IS_STALE, BenchmarkRequest
from storage.runs.standing import record_requests
from storage.store.layout import StoreLayout
from storage.weights.encodings import CacheSettings, parse_size, prepare_cache, trim_cache
from tasks.ledger import record_rejected
from tasks.plugin import SegmenterPlugin, current_segmenter
from tasks.segment import SegmentBatch
from tasks.stream.stream import StreamCounts

SHARD_CASES = 5000


@dataclass(frozen=True, slots=True)
class BenchmarkSummary:
    """Outcome of a benchmark; a result is one case in one run.

    Attributes:
        run_ids: Requested runs.
        refused: Reasons for skipped combinations of weights and prompts.
        computed: Results of this attempt by status.
        fresh: Results that were up to date already.
        peak_rss_bytes: Highest resident memory of a worker.
        stream_seconds: Wall time of the streams, without start-up and publication.
    """

    run_ids: tuple[str, ...]
    refused: tuple[str, ...]
    computed: dict[str, int]
    fresh: int
    peak_rss_bytes: int
    stream_seconds: float

    @property
    def unscored(self) -> int:
        """Number of results of this attempt without a score."""
        return sum(count for status, count in self.computed.items() if status not in ("scored", "rescored"))


@flow(name="benchmark", flow_run_name="benchmark-{request.cohorts}")
def benchmark_cohorts(
    request: BenchmarkRequest = ALL_THAT_IS_STALE, store: str = "", cluster: str = CLUSTER, cache_encodings: str = ""
) -> BenchmarkSummary:
    """Segment and score every case without an up-to-date score, for every requested combination.

    Cohorts, weights or prompts that are left out are taken from earlier benchmarks. Without any of the three,
    everything stale is computed.

    Args:
        request: Cohorts, weights, prompts and settings; what is left out is taken from earlier benchmarks.
        store: Folder of the store; empty for `$MEDSAM3_STORE`.
        cluster: Cluster by name.
        cache_encodings: Size of the cache of slice encodings in the store, such as `20GB`; empty for none.
    """
    layout = store_of(store)
    with planned_benchmark(layout, request) as planned:
        return compute_plan(layout, planned, cluster, cache_encodings)


def compute_plan(
    store: StoreLayout, planned: PlannedBenchmark, cluster: str, cache_encodings: str = ""
) -> BenchmarkSummary:
    """Compute a plan, inside a flow.

    Args:
        store: The store.
        planned: The plan, and the token of its writer locks.
        cluster: Cluster by name.
        cache_encodings: Size of the cache of slice encodings; empty for none.
    """
    plan = planned.plan
    if (answer := nothing_to_compute(plan)) is not None:
        tell(answer)
    for group in plan.groups:
        record_plan(store, group)
        record_rejected(store, group)
    record_requests(store, plan)
    counts = _compute(store, plan, cluster, cache_encodings, planned.token)
    tidy_scores(store, plan.run_ids)
    publish_catalog(store)
    computed: Counter[str] = Counter()
    for one in counts:
        computed.update(one.statuses)
    computed["rejected"] += sum(len(item.run_ids) for group in plan.groups for item in group.rejected)
    return BenchmarkSummary(
        tuple(plan.run_ids),
        plan.refused,
        {status: count for status, count in computed.items() if count},
        plan.fresh,
        max((one.peak_rss_bytes for one in counts), default=0),
        sum(one.seconds for one in counts),
    )


def _compute(
    store: StoreLayout, plan: BenchmarkPlan, cluster: str, cache_encodings: str, token: str
) -> list[StreamCounts]:
    groups = [group for group in plan.groups if group.pending]
    if not groups:
        return []
    cache = CacheSettings(store.encodings(), parse_size(cache_encodings)) if cache_encodings else None
    if cache is not None:
        prepare_cache(cache)
    note(f"{sum(len(group.pending) for group in groups)} cases pending; asking for workers")
    settings = named_cluster(cluster, store.root)
    with dask_workers(settings, [group.weights for group in groups]) as workers, workers.on_store(store):
        note(f"workers are ready: {workers.slots} batches at a time")
        counts = []
        for group in groups:
            workers.register(SegmenterPlugin(group.weights, workers.threads_per_worker, cache))
            note(f"{group.weights.name}@{group.weights.version} is loaded")
            counts += [segment_shard(store, group, shard, workers, token) for shard in shards_of(group.pending)]
        if cache is not None:
            trim_cache(cache)
        return counts


def shards_of(cases: Sequence[PlannedCase]) -> list[Sequence[PlannedCase]]:
    """Shards of at most `SHARD_CASES` cases, one Prefect task each."""
    return [cases[start : start + SHARD_CASES] for start in range(0, len(cases), SHARD_CASES)]


@task(name="segment-shard", task_run_name="segment-shard", tags=["stage:segment"], cache_policy=NO_CACHE)
def segment_shard(
    store: StoreLayout, group: WorkGroup, cases: Sequence[PlannedCase], workers: Workers, token: str
) -> StreamCounts:
    """Segment and score cases in one bounded stream of batches over the workers; each batch commits its own rows."""
    work = SegmentBatch(
        store,
        group.cohort.recipe,
        group.runs,
        partial(current_segmenter, group.weights),
        endpoint=endpoint_settings(store.root),
        token=token,
    )
    return stream_cases(
        f"{group.weights.name} on {group.cohort.name}",
        store,
        work,
        cases,
        workers,
        target_seconds=10.0,
        resources=workers.resources,
    )
