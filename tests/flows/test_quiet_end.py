"""A command whose workers end says nothing about it; a worker that loses its scheduler does."""

import asyncio
import logging
import threading
from types import SimpleNamespace

import pytest
from distributed import Client, LocalCluster, Status
from distributed.comm import CommClosedError

from flows.clusters.quiet_end import OwnEnd, QuietEnd


def test_a_worker_that_ends_while_its_heartbeat_is_on_its_way_prints_nothing(capfd):
    arrived = threading.Event()
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(QuietEnd())
        answer = cluster.scheduler.handlers["heartbeat_worker"]

        async def answer_late(*arguments, **words):
            arrived.set()
            await asyncio.sleep(2.0)
            return answer(*arguments, **words)

        cluster.scheduler.handlers["heartbeat_worker"] = answer_late
        assert arrived.wait(60)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("status", "error", "told"),
    [
        (Status.running, CommClosedError("scheduler"), True),
        (Status.closing, CommClosedError("scheduler"), False),
        (Status.closed, CommClosedError("scheduler"), False),
        (Status.closing, OSError("disk is full"), True),
    ],
)
def test_only_connections_that_a_worker_closed_itself_are_left_out(status, error, told):
    record = logging.LogRecord("distributed.worker", logging.ERROR, "", 0, "heartbeat", (), (type(error), error, None))
    assert OwnEnd(SimpleNamespace(status=status)).filter(record) is told


def test_lines_without_an_error_are_told():
    record = logging.LogRecord("distributed.worker", logging.ERROR, "", 0, "worker is full", (), None)
    assert OwnEnd(SimpleNamespace(status=Status.closing)).filter(record)
