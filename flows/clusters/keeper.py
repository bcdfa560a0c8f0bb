"""Replaces workers of our own cluster that are gone for good.

Dask's nanny restarts a worker that dies. But a cluster drops a nanny whose worker has not come back 15 seconds after
it was lost (it died again while it started, or the machine is busy), and nobody opens another: with all of them gone
the batches would wait for ever. A thread looks after them and opens new ones under the same names.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from distributed import SpecCluster, Status

logger = logging.getLogger(__name__)

_LOOK_EVERY_SECONDS = 2.0
_REPLACING_SECONDS = 120.0
_GONE = (Status.closed, Status.failed, Status.stopped)


@contextmanager
def keeping_workers(cluster: SpecCluster) -> Iterator[None]:
    """Look after the workers of this cluster while the block runs."""
    stop = threading.Event()
    keeper = threading.Thread(target=_keep, args=(cluster, stop), name="worker-keeper", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        stop.set()
        keeper.join()


def _keep(cluster: SpecCluster, stop: threading.Event) -> None:
    while not stop.wait(_LOOK_EVERY_SECONDS):
        gone = [name for name, worker in list(cluster.workers.items()) if worker.status in _GONE]
        if not gone and len(cluster.workers) >= len(cluster.worker_spec):
            continue
        try:
            cluster.sync(_open_again, cluster, gone, callback_timeout=_REPLACING_SECONDS)
        except Exception as error:  # noqa: BLE001 - whatever kept the new one from starting: the next look tries again
            logger.info("a worker could not be replaced: %s", error)


async def _open_again(cluster: SpecCluster, gone: list[object]) -> None:
    for name in gone:
        cluster.workers.pop(name, None)
    await cluster  # opens what its specification has and `workers` lacks
