"""Start the Streamlit server of the dashboard: on this machine alone, nothing reported to anybody."""

import importlib
import os
from pathlib import Path

from dashboards.figures.style import ACCENT, INK
from storage.store.layout import STORE_VARIABLE, StoreLayout

PAGE_PATHS = ("leaderboard", "compare", "cases", "runs", "failures", "try", "sql")
"""Addresses of the pages; the first one is served at the root too."""

_SLOW_TO_IMPORT = (
    "dashboards.figures.comparison", "dashboards.figures.figures", "storage.catalog.queries.pages",
    "dashboards.figures.viewer", "storage.catalog.guard",
)  # fmt: skip
_OPTIONS = {
    "server.address": "127.0.0.1",
    "server.headless": True,
    "server.fileWatcherType": "none",
    "server.maxUploadSize": 1024,
    "browser.gatherUsageStats": False,
    "client.toolbarMode": "minimal",
    "client.showErrorLinks": False,
    "global.developmentMode": False,
    "theme.base": "light",
    "theme.primaryColor": ACCENT,
    "theme.textColor": INK,
}
_SERVER_OF_THE_PAGE = "<script>window.__streamlit = {BACKEND_BASE_URL: window.location.origin}</script>"
"""Streamlit guesses from a page's address where its server is, and each wrong guess is an error in the console."""

_NOT_KEPT = {"Cache-Control": "no-cache"}


def serve(store: StoreLayout, port: int) -> None:
    """Serve until interrupted; prints the address once it can be opened."""
    os.environ[STORE_VARIABLE] = str(store.root)
    for module in _SLOW_TO_IMPORT:
        importlib.import_module(module)  # so that the first visitor does not wait for it
    from starlette.responses import HTMLResponse
    from starlette.routing import Route
    from streamlit import App
    from streamlit.file_util import get_static_dir

    frame = Path(get_static_dir(), "index.html").read_text(encoding="utf-8")
    told = frame.replace("<head>", f"<head>{_SERVER_OF_THE_PAGE}", 1)
    routes = [Route(f"/{path}", lambda _: HTMLResponse(told, headers=_NOT_KEPT)) for path in PAGE_PATHS]
    App(Path(__file__).with_name("app.py"), routes=routes).run(config={**_OPTIONS, "server.port": port})
