"""Waiting times and screenshots of the pages of the dashboard.

    python -m benchmarks.pages [--store DIR] [--out DIR] [--rounds 3]

Starts `medsam3 dashboard` on a store (by default one made by `medsam3 demo`) and drives Debian's chromium. `first
chart` is the time from the URL to the first drawn chart, in a new tab with an empty cache, on a server that has just
started. An interaction ends when the page shows the change and the server is idle. Prints the worst round, with the
CPU seconds of server and browser, which mean more than wall time on a shared machine. Screenshots go to --out.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chromium import Watched, browser
from benchmarks.costs import Cost

FIRST_CHART_SECONDS, INTERACTION_SECONDS = 10.0, 1.5
PAGES = ("", "compare", "cases", "runs", "failures", "try", "sql")
NAMES = ("Leaderboard", "Compare", "Cases", "Runs", "Failures", "Try", "SQL")
_CHART = ".js-plotly-plot .main-svg"
_ANSWER = "[data-testid='stDataFrame']"
_IDLE = "document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'"
_DRAWING = "[...document.querySelectorAll('.js-plotly-plot')].map(plot => plot.innerHTML.length + ':' + plot.innerText)"
_HANG_MS, _POLL_MS = 120_000, 50


def main() -> None:
    """Print one line per page and per interaction."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="store to show  [default: one made by the demo]")
    parser.add_argument("--out", type=Path, default=Path("pages"), help="folder of the screenshots")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        store = options.store or _demo(Path(folder) / "store")
        measure(store, options.out, options.rounds)


def measure(store: Path, out: Path, rounds: int) -> None:
    """Open all pages, interact with each, print the worst times."""
    watched, waits = Watched(), dict[str, list[Cost]]()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for place in range(rounds):
        with _served(store, waits) as address, browser() as chromium:
            for path, name in zip(PAGES, NAMES, strict=True):
                with _tab(chromium, watched) as page:
                    wait = _timed(partial(_open, page, f"{address}/{path}"))
                    waits.setdefault(f"{name}: first chart", []).append(wait)
                    if place == 0:
                        _settle(page)
                        _picture(page, out / f"{name.lower()}.png")
            with _tab(chromium, watched) as page:
                _open(page, f"{address}/")
                _settle(page)
                for what, seconds in _interactions(page):
                    waits.setdefault(what, []).append(seconds)
    _report(waits, watched)


def _interactions(page: Any) -> Iterator[tuple[str, Cost]]:
    """Typical interactions on each page."""
    yield "Leaderboard: another metric", _timed(lambda: _choose(page, "Metric", 1))
    yield "Leaderboard: another cohort", _timed(lambda: _choose(page, "Cohort", 1))
    yield from _opened(page, "Compare")
    yield "Compare: another metric", _timed(lambda: _choose(page, "Metric", 2))
    yield from _opened(page, "Cases")
    yield "Cases: sorted by another metric", _timed(lambda: _choose(page, "Sort by", 1, draws=False))
    if (sliders := page.get_by_role("slider", name="Slice z (index)")).count():
        yield "Cases: next slice", _timed(lambda: _redrawn(page, lambda: sliders.first.press("ArrowRight")))
    yield from _opened(page, "Runs")
    yield "Runs: another cohort", _timed(lambda: _choose(page, "Cohort", 0))
    yield from _opened(page, "Failures")
    yield from _opened(page, "Try")
    yield "Try: a box is drawn", _timed(lambda: _draw_box(page))
    yield "Try: two baselines answer", _timed(lambda: _segment(page))
    yield from _opened(page, "SQL")
    yield "SQL: an example is answered", _timed(lambda: _answered(page))


def _opened(page: Any, name: str) -> Iterator[tuple[str, Cost]]:
    def go() -> None:
        page.get_by_role("link", name=name, exact=True).click()
        page.wait_for_selector(f"h3:has-text('{name}')")
        page.wait_for_function(_IDLE, polling=_POLL_MS)
        if name != "SQL" and not page.get_by_test_id("stAlert").count():
            page.wait_for_selector(_CHART)

    yield f"{name}: opened from the menu", _timed(go)
    _settle(page)


def _open(page: Any, address: str) -> None:
    page.goto(address)
    page.wait_for_selector(f"{_CHART}, {_ANSWER}, [data-testid='stAlert']")


def _choose(page: Any, label: str, place: int, *, draws: bool = True) -> None:
    """Choose another entry of a select box and wait for the change."""
    page.get_by_role("combobox", name=label).first.click()
    entries = page.get_by_role("option")
    entries.first.wait_for()
    entry = entries.nth(min(place, entries.count() - 1))
    (_redrawn if draws else _rerun)(page, entry.click)


def _redrawn(page: Any, act: Callable[[], object]) -> None:
    """Act, then wait until a chart has changed and the server is idle."""
    before = page.evaluate(_DRAWING)
    act()
    page.wait_for_function(
        f"before => JSON.stringify({_DRAWING}) !== before", arg=_json(page, before), polling=_POLL_MS
    )
    page.wait_for_function(_IDLE, polling=_POLL_MS)


def _json(page: Any, value: object) -> str:
    text: str = page.evaluate("value => JSON.stringify(value)", value)
    return text


def _rerun(page: Any, act: Callable[[], object]) -> None:
    act()
    page.wait_for_timeout(60)
    page.wait_for_function(_IDLE, polling=_POLL_MS)


def _draw_box(page: Any) -> None:
    frame = page.locator(".js-plotly-plot .nsewdrag").first.bounding_box()
    corners = ((0.2, 0.25), (0.6, 0.7))
    points = [(frame["x"] + frame["width"] * x, frame["y"] + frame["height"] * y) for x, y in corners]
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move(*points[1], steps=4)
    page.mouse.up()
    page.get_by_text("Prompt: box x").wait_for()


def _segment(page: Any) -> None:
    page.get_by_role("button", name="Segment").click()
    page.get_by_text("best score").nth(1).wait_for()
    page.wait_for_function(_IDLE, polling=_POLL_MS)


def _answered(page: Any) -> None:
    page.get_by_text("Worst cases").click()
    page.get_by_text("rows", exact=False).first.wait_for()
    _rerun(page, lambda: None)


def _timed(act: Callable[[], object]) -> Cost:
    started, worked = time.perf_counter(), _cpu_seconds()
    act()
    return Cost(time.perf_counter() - started, _cpu_seconds() - worked)


def _cpu_seconds() -> float:
    """CPU seconds of this process and of its running descendants."""
    own = psutil.Process()
    total = 0.0
    for process in (own, *own.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _settle(page: Any) -> None:
    page.wait_for_function(_IDLE, polling=_POLL_MS)
    page.wait_for_timeout(700)


def _picture(page: Any, target: Path) -> None:
    """Take a screenshot of the whole page; the window grows first, because the page scrolls inside it."""
    width = page.viewport_size["width"]
    height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": width, "height": min(int(height) + 80, 2600)})
    page.wait_for_timeout(700)
    page.screenshot(path=target)


@contextmanager
def _tab(chromium: Any, watched: Watched) -> Iterator[Any]:
    context = chromium.new_context(viewport={"width": 1360, "height": 900})
    page = context.new_page()
    page.set_default_timeout(_HANG_MS)
    watched.watch(page)
    yield page
    context.close()


@contextmanager
def _served(store: Path, waits: dict[str, list[Cost]]) -> Iterator[str]:
    """Serve the dashboard on a free port until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    call = [sys.executable, "-m", "dashboards", "serve", "--store", str(store), "--port", str(port)]
    server = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        waits.setdefault("server answers", []).append(_timed(lambda: _wait_for(server, address)))
        yield address
    finally:
        server.terminate()
        server.wait(30)


def _wait_for(server: subprocess.Popen[bytes], address: str) -> None:
    while not _answers(f"{address}/_stcore/health"):
        if server.poll() is not None:
            msg = f"the dashboard ended with {server.returncode}; run `medsam3 dashboard` to see why"
            raise SystemExit(msg)
        time.sleep(0.1)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2):
            return True
    except OSError:
        return False


def _demo(store: Path) -> Path:
    subprocess.run([sys.executable, "-m", "flows", "demo", "--store", str(store)], check=True)
    return store


def _report(waits: dict[str, list[Cost]], watched: Watched) -> None:
    for what, found in waits.items():
        limit = FIRST_CHART_SECONDS if "first chart" in what else INTERACTION_SECONDS
        worst, cpu = max(wait.wall for wait in found), min(wait.cpu for wait in found)
        missed = "" if worst <= limit or what.startswith("server") else f", above {limit:g} s"
        print(f"{what}: {worst:.2f} s, {cpu:.2f} s CPU{missed}")
    print(f"console errors: {watched.errors or 0}; requests to other hosts: {watched.external or 0}")


if __name__ == "__main__":
    main()
