"""Time from the event of changed weights to the first case in work, by stage.

    python -m benchmarks.trigger [--rounds 3] [--poll 2]

Starts the services of `make server` (the worker polls every 2 s), with small SAM3 weights and a phantom cohort that was
benchmarked with their first version. Each round registers another version, sends the event as `medsam3 watch` does, and
follows the flow run through the records of the server, its log and the breadcrumbs of the first case.
"""

import argparse
import itertools
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.settings.environment import prepare_environment

prepare_environment()

import httpx  # noqa: E402 - the environment comes first

from storage.store.layout import StoreLayout, open_store  # noqa: E402
from storage.weights.checkpoints import write_untrained  # noqa: E402
from storage.weights.registry import add_weights, find_weights  # noqa: E402
from tasks.stream.breadcrumbs import BETWEEN_CASES  # noqa: E402

CHECKOUT = Path(__file__).parents[1]
TARGET_SECONDS = 30
STAGES = (
    "server: event to flow run",
    "poll of the worker",
    "start of the process",
    "quiet, plan",
    "cluster",
    "model load",
    "first case",
)


def main() -> None:
    """Run the rounds and print the median seconds of each stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--poll", type=float, default=2.0, help="polling interval of the worker in seconds")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = open_store(folder / "store")
        with _server(folder, store, asked.poll) as url:
            _first_benchmark(store, folder)
            rounds = [_round(store, folder, url, number) for number in range(1, asked.rounds + 1)]
    _report(rounds, asked.poll)


@contextmanager
def _server(folder: Path, store: StoreLayout, poll: float) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["--port", str(port), "--home", str(folder / "prefect"), "--store", str(store.root), "--poll", str(poll)]
    url = f"http://127.0.0.1:{port}/api"
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.service.server", *words], cwd=CHECKOUT, start_new_session=True
    )
    try:
        _wait(lambda: process.poll() is not None or _deployed(url))
        if process.poll() is not None:
            sys.exit("the server did not start")
        os.environ["PREFECT_API_URL"] = url
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _deployed(url: str) -> bool:
    with suppress(httpx.HTTPError):
        name = "benchmark-on-new-weights"
        return httpx.get(f"{url}/deployments/name/{name}/{name}", timeout=60).is_success
    return False


def _first_benchmark(store: StoreLayout, folder: Path) -> None:
    """Ingest a cohort and benchmark the first version of the weights on it."""
    write_untrained(folder / "weights", seed=0)
    add_weights(store, "tiny", folder / "weights")
    _command("ingest", "phantom:fundus,cases=8,size=64x64", "--cohort", "eyes", "--store", str(store.root))
    _command("benchmark", "--cohort", "eyes", "--weights", "tiny", "--prompt", "text", "--store", str(store.root))


def _round(store: StoreLayout, folder: Path, url: str, number: int) -> list[float]:
    """Run one round; return the seconds of each stage."""
    from flows.service.events import CHANGED, send_event

    shutil.rmtree(folder / "weights")
    write_untrained(folder / "weights", seed=number)
    old = find_weights(store, "tiny")
    new = add_weights(store, "tiny", folder / "weights")
    digests = {"old_sha256": old.sha256, "new_sha256": new.sha256}
    payload = {"store": str(store.root), "name": "tiny", **digests, "version": new.version}
    sent = time.time()
    send_event(CHANGED, "tiny", payload)
    first_case = _wait(lambda: _case_in_work(store))
    run = _wait(lambda: _newest_run(url))
    _wait(lambda: _newest_run(url)["state_type"] in ("COMPLETED", "FAILED"))
    states = _post(url, "/flow_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})[0]
    history = httpx.get(f"{url}/flow_run_states/", params={"flow_run_id": run["id"]}).json()
    newest_first = sorted(history, key=lambda state: state["timestamp"], reverse=True)
    began = {state["type"]: _seconds(state["timestamp"]) for state in newest_first}
    logs = _post(url, "/logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}, "sort": "TIMESTAMP_ASC"})
    marks = [
        sent,
        _seconds(states["created"]),
        began["PENDING"],
        began["RUNNING"],
        _log_time(logs, "asking for workers"),
        _log_time(logs, "workers are ready"),
        _log_time(logs, "is loaded"),
        first_case,
    ]
    return [after - before for before, after in itertools.pairwise(marks)]


def _case_in_work(store: StoreLayout) -> float | None:
    """Current time once a worker has noted a case in its breadcrumb, else None."""
    for crumb in store.breadcrumbs().glob("*/*"):
        if _text(crumb) not in ("", BETWEEN_CASES):
            return time.time()
    return None


def _newest_run(url: str) -> Any:
    asked = {"deployments": {"name": {"any_": ["benchmark-on-new-weights"]}}, "sort": "EXPECTED_START_TIME_DESC"}
    found = _post(url, "/flow_runs/filter", asked)
    return found[0] if found else None


def _post(url: str, path: str, body: Any) -> Any:
    answer = httpx.post(url + path, json=body, timeout=60)
    answer.raise_for_status()
    return answer.json()


def _log_time(logs: list[dict[str, str]], words: str) -> float:
    return next(_seconds(line["timestamp"]) for line in logs if words in line["message"])


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).astimezone(UTC).timestamp()


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _wait(answer: Callable[[], Any], seconds: float = 600.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := answer():
            return found
        time.sleep(0.02)
    sys.exit(f"gave up after {seconds:g} s")


def _command(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "flows", *words], check=True, stdout=subprocess.DEVNULL)


def _report(rounds: list[list[float]], poll: float) -> None:
    totals = [sum(one) for one in rounds]
    print(f"{len(rounds)} rounds, worker polls every {poll:g} s, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for index, stage in enumerate(STAGES):
        print(f"{stage:<26} {statistics.median(one[index] for one in rounds):6.1f} s")
    print(f"{'event to first case':<26} {statistics.median(totals):6.1f} s   ", end="")
    print(f"min {min(totals):.1f} max {max(totals):.1f}   target {TARGET_SECONDS}")


if __name__ == "__main__":
    main()
