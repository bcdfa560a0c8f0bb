"""Prefect server for one command, if none is configured: it survives Ctrl-C and ends with its command.

Prefect can start such a server itself. But Ctrl-C reaches that one too, so that the command cannot report its
interruption, and a killed command leaves it behind. This one runs in its own session and ends when the pipe to its
command closes.

`python -m flows.service.private` is the server: it prints its port, then serves until its standard input ends.
"""

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from typing import IO

from medsam3_core.errors import Medsam3Error

_START_SECONDS = 120.0
_END_SECONDS = 8.0


class PrivateServerError(Medsam3Error):
    """The Prefect server of this command did not start."""


class PrivateServer:
    """The server process, seen from the command."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flows.service.private"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PREFECT_UI_ENABLED": "0"},
            start_new_session=True,
        )
        atexit.register(self.stop)

    def api_url(self) -> str:
        """Wait until the server is ready; returns the URL of its API.

        Raises:
            PrivateServerError: If it exits or does not become ready.
        """
        alarm = threading.Timer(_START_SECONDS, self._process.kill)
        alarm.start()
        try:
            port = _pipe(self._process.stdout).readline().decode().strip()
        finally:
            alarm.cancel()
        if not port:
            self.stop()
            msg = (
                f"the Prefect server of this command exited with code {self._process.wait()} during its start; see its "
                "messages above, run medsam3 doctor, or set PREFECT_API_URL to a server of your own"
            )
            raise PrivateServerError(msg)
        return f"http://127.0.0.1:{port}/api"

    def stop(self) -> None:
        """Close the pipe and wait for the server to exit; a second call does nothing."""
        _pipe(self._process.stdin).close()
        try:
            self._process.wait(timeout=2 * _END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _pipe(end: IO[bytes] | None) -> IO[bytes]:
    assert end is not None, "the process was started with pipes"
    return end


def serve() -> None:
    """Serve Prefect's API on a free loopback port until standard input ends."""
    import uvicorn
    from prefect.server.api.server import create_app

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()  # from now on health requests wait instead of failing
    app = create_app(ephemeral=True, final=True)
    config = uvicorn.Config(app, log_level="error", lifespan="on", access_log=False, timeout_graceful_shutdown=3)
    server = uvicorn.Server(config)

    def announce() -> None:
        port = listener.getsockname()[1]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=_START_SECONDS):
            print(port, flush=True)  # noqa: T201 - the command reads it

    def end_with_the_command() -> None:
        sys.stdin.buffer.read()
        server.should_exit = True
        time.sleep(_END_SECONDS)  # a daemon thread: it ends earlier if the server exits in order
        os.kill(os.getpid(), signal.SIGKILL)

    for duty in (announce, end_with_the_command):
        threading.Thread(target=duty, daemon=True).start()
    server.run(sockets=[listener])


if __name__ == "__main__":
    serve()
