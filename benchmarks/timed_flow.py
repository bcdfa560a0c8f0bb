"""Run the benchmark flow as the command line does; print stream and start-up seconds, peak and idle memory."""

import os
import sys
import time
from pathlib import Path

STARTED = time.perf_counter()

from flows.settings.environment import prepare_environment  # noqa: E402 - the clock starts before the imports
from flows.settings.python_internals import run_exit_functions  # noqa: E402

prepare_environment()


def main(
    store: str,
    weights: str,
    workers: str,
    policy: str = "box",
    cache: str = "",
    cohort: str = "small",
    *settings: str,
) -> None:
    """Run the flow once; start-up is the total time minus that of the stream."""
    from flows.clusters.forking import begin_forking
    from flows.settings.clusters import parse_cluster
    from storage.runs.requests import BenchmarkRequest
    from storage.store.layout import open_store
    from storage.weights.registry import find_weights

    cluster = f"local:{workers}"
    found = find_weights(open_store(Path(store)), weights)
    begin_forking(parse_cluster(cluster), [found])

    from flows.benchmark import benchmark_cohorts
    from flows.clusters.clusters import dask_workers, workers_starting
    from flows.service.session import prefect_session
    from tasks.plugin import SegmenterPlugin

    with workers_starting(parse_cluster(cluster), [found]), prefect_session():
        idle: list[int] = []

        def note_idle() -> None:
            with dask_workers(parse_cluster(cluster), [found]) as running:
                running.client.register_plugin(SegmenterPlugin(found, running.threads_per_worker))
                idle.extend(running.client.run(_resident_bytes).values())

        note_idle()
        summary = benchmark_cohorts(
            BenchmarkRequest((cohort,), (weights,), (policy,), settings, split="all"), store, cluster, cache
        )
    total = time.perf_counter() - STARTED
    print(summary.stream_seconds, total - summary.stream_seconds, summary.peak_rss_bytes, max(idle))
    sys.stdout.flush()
    run_exit_functions()  # stops the server that Prefect started for this process
    os._exit(0)


def _resident_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    main(*sys.argv[1:])
