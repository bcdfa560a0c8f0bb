import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from flows.service.private import PrivateServer, PrivateServerError
from tests.journeys.main_job.conftest import wait_until

COMMAND = """
import time
from flows.service.private import PrivateServer
print(PrivateServer().api_url(), flush=True)
time.sleep(600)
"""


def _command(tmp_path: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    return subprocess.Popen([sys.executable, "-c", COMMAND], env=environment, stdout=subprocess.PIPE, text=True)


def test_a_server_of_a_killed_command_ends_too(tmp_path: Path) -> None:
    command = _command(tmp_path)
    assert command.stdout is not None
    url = command.stdout.readline().strip()
    with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:
        assert answer.status == 200
    (server,) = psutil.Process(command.pid).children()
    assert os.getpgid(server.pid) != os.getpgid(command.pid), "Ctrl-C must not reach it"
    command.send_signal(signal.SIGKILL)
    command.wait()
    wait_until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, "the server to end", 60)


def test_a_server_that_cannot_start_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    occupied = tmp_path / "a file"
    occupied.touch()
    monkeypatch.setenv("PREFECT_HOME", str(occupied / "prefect"))
    server = PrivateServer()
    with pytest.raises(PrivateServerError, match="set PREFECT_API_URL to a server of your own"):
        server.api_url()
