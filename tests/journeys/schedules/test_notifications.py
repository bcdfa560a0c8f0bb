import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from flows.service.notifications import notify
from flows.settings.settings import NotifySettings

MESSAGE = {"kind": "regression", "text": "worse"}


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server that takes what is posted, and refuses under /broken."""
    taken: list[dict[str, str]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if self.path == "/broken" else 204)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            """Tests are quiet."""

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", taken
        server.shutdown()
        thread.join()


def test_by_default_nobody_is_told() -> None:
    assert notify(NotifySettings(), MESSAGE) == []


def test_a_command_gets_the_message_on_stdin(tmp_path: Path) -> None:
    script = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.stdin.read())"
    assert notify(NotifySettings((sys.executable, "-c", script, str(tmp_path / "told"))), MESSAGE) == []
    assert json.loads((tmp_path / "told").read_text()) == MESSAGE


def test_a_webhook_gets_the_message_posted(webhook: tuple[str, list[dict[str, str]]]) -> None:
    url, taken = webhook
    assert notify(NotifySettings(webhook=f"{url}/hook"), MESSAGE) == []
    assert taken == [MESSAGE]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("/nowhere/tell",), "notification command /nowhere/tell cannot be started: No such file or directory"),
        ((sys.executable, "-c", "raise SystemExit('no network')"), "ended with code 1: no network"),
        ((sys.executable, "-c", "import time; time.sleep(60)"), "did not end within 0.5 s"),
    ],
)
def test_a_command_that_fails_is_said_and_raises_nothing(command: tuple[str, ...], said: str) -> None:
    (trouble,) = notify(
        NotifySettings(command, timeout_seconds=0.5 if "sleep" in said or "within" in said else 30), MESSAGE
    )
    assert said in trouble


def test_a_webhook_that_fails_is_said_and_raises_nothing(webhook: tuple[str, list[dict[str, str]]]) -> None:
    url, _ = webhook
    (trouble,) = notify(NotifySettings(webhook=f"{url}/broken"), MESSAGE)
    assert trouble.endswith("answered 500 Internal Server Error")
    (trouble,) = notify(NotifySettings(webhook="http://127.0.0.1:9/hook"), MESSAGE)
    assert "cannot be reached" in trouble
