"""Start the Streamlit server of the dashboard on 127.0.0.1, without usage statistics."""

import importlib
import os
from pathlib import Path

from dashboards.figures.style import ACCENT, INK
from storage.store.layout import STORE_VARIABLE, StoreLayout

PAGE_PATHS = ("leaderboard", "compare", "cases", "runs", "failures", "try", "sql")
"""URL paths of the pages; the first page is also served at the root."""

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
_BACKEND_SCRIPT = "<script>window.__streamlit = {BACKEND_BASE_URL: window.location.origin}</script>"
"""Names the server to a page: Streamlit would guess it from the URL, and each wrong guess is a console error."""


def serve(store: StoreLayout, port: int) -> None:
    """Serve until interrupted; print the address once it is reachable."""
    os.environ[STORE_VARIABLE] = str(store.root)
    for module in _SLOW_TO_IMPORT:
        importlib.import_module(module)  # before the first visit, which would wait for it
    from starlette.responses import HTMLResponse
    from starlette.routing import Route
    from streamlit import App
    from streamlit.file_util import get_static_dir

    frame = Path(get_static_dir(), "index.html").read_text(encoding="utf-8")
    page = frame.replace("<head>", f"<head>{_BACKEND_SCRIPT}", 1)
    headers = {"Cache-Control": "no-cache"}
    routes = [Route(f"/{path}", lambda _: HTMLResponse(page, headers=headers)) for path in PAGE_PATHS]
    App(Path(__file__).with_name("app.py"), routes=routes).run(config={**_OPTIONS, "server.port": port})
