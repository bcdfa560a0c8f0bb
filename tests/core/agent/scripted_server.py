"""An OpenAI-compatible HTTP server on loopback that answers from a script, faults included."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def call(name: str, **arguments: Any) -> dict[str, Any]:
    """An answer that calls one tool."""
    return calls((name, json.dumps(arguments)))


def calls(*made: tuple[str, str]) -> dict[str, Any]:
    """An answer that calls tools with these arguments, valid JSON or not."""
    listed = [
        {"id": f"c{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for number, (name, arguments) in enumerate(made)
    ]
    return {"message": {"role": "assistant", "content": None, "tool_calls": listed}}


def words(text: str) -> dict[str, Any]:
    """An answer in words, without a call."""
    return {"message": {"role": "assistant", "content": text}}


def status(code: int, **headers: str) -> dict[str, Any]:
    """An HTTP error."""
    return {"status": code, "headers": headers}


def slow(seconds: float, answer: dict[str, Any]) -> dict[str, Any]:
    """An answer that takes its time."""
    return {"sleep": seconds, **answer}


def drip(seconds: float, answer: dict[str, Any]) -> dict[str, Any]:
    """An answer that comes in twenty pieces, with a pause before each."""
    return {"drip": seconds, **answer}


@dataclass
class ScriptedModel:
    """Answers in the order of the script; the last one again and again.

    Attributes:
        script: What is answered.
        seen: Bodies of all requests.
        headers: Headers of all requests.
        url: Base URL.
    """

    script: Sequence[dict[str, Any]]
    seen: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    @property
    def tools(self) -> list[str]:
        """Names of the tools that were offered first."""
        return [one["function"]["name"] for one in self.seen[0]["tools"]]

    def told(self, request: int) -> list[str]:
        """Contents of the tool messages of a request."""
        return [one["content"] for one in self.seen[request]["messages"] if one["role"] == "tool"]


@contextmanager
def scripted(*script: dict[str, Any]) -> Iterator[ScriptedModel]:
    """Serve a script on a free port."""
    model = ScriptedModel(script)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = model.script[min(len(model.seen), len(model.script) - 1)]
            model.seen.append(body)
            model.headers.append(dict(self.headers))
            time.sleep(answer.get("sleep", 0))
            self._send(answer)

        def _send(self, answer: dict[str, Any]) -> None:
            if "raw" in answer:
                payload = answer["raw"].encode("utf-8", "surrogatepass")
            elif "message" in answer:
                usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
                choice = {"index": 0, "message": answer["message"], "finish_reason": "stop"}
                completion = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
                payload = json.dumps(completion | {"choices": [choice], "usage": answer.get("usage", usage)}).encode()
            else:
                payload = b'{"error": {"message": "scripted"}}'
            try:
                self.send_response(answer.get("status", 200))
                for name, value in answer.get("headers", {}).items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                piece = -(-len(payload) // 20) if "drip" in answer else len(payload)
                for start in range(0, len(payload), piece):
                    time.sleep(answer.get("drip", 0))
                    self.wfile.write(payload[start : start + piece])
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client had no patience; that is what the script wanted

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    model.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield model
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
