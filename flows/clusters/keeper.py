"""Replace lost workers of our own cluster.

Dask's nanny restarts a worker that dies. But a cluster drops a nanny whose worker does not come back in time (it died
again while it started, or the machine is busy) and opens no other: without workers the batches would wait for ever. A
thread opens new ones under the same names.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from distributed import SpecCluster, Status

logger = logging.getLogger(__name__)

_CHECK_INTERVAL_SECONDS = 2.0
_REPLACE_TIMEOUT_SECONDS = 120.0
_GONE = (Status.closed, Status.failed, Status.stopped)


@contextmanager
def keeping_workers(cluster: SpecCluster) -> Iterator[None]:
    """Replace lost workers of this cluster while the block runs."""
    stop = threading.Event()
    keeper = threading.Thread(target=_keep, args=(cluster, stop), name="worker-keeper", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        stop.set()
        keeper.join()


def _keep(cluster: SpecCluster, stop: threading.Event) -> None:
    while not stop.wait(_CHECK_INTERVAL_SECONDS):
        gone = [name for name, worker in list(cluster.workers.items()) if worker.status in _GONE]
        if not gone and len(cluster.workers) >= len(cluster.worker_spec):
            continue
        try:
            cluster.sync(_open_again, cluster, gone, callback_timeout=_REPLACE_TIMEOUT_SECONDS)
        except Exception as error:  # noqa: BLE001 - the next check tries again
            logger.info("a worker could not be replaced: %s", error)


async def _open_again(cluster: SpecCluster, gone: list[object]) -> None:
    for name in gone:
        cluster.workers.pop(name, None)
    await cluster  # opens all workers of its specification that are missing
