"""Start the Streamlit server of the dashboard: on this machine alone, nothing reported to anybody."""

import importlib
import os
import sys
from pathlib import Path

from dashboards.style import ACCENT, INK
from storage.store_layout import StoreLayout

STORE_VARIABLE = "MEDSAM3_STORE"
_SLOW_TO_IMPORT = (
    "dashboards.comparison_figures", "dashboards.figures", "dashboards.queries", "dashboards.viewer_figure",
    "storage.sql_guard",
)  # fmt: skip
_OPTIONS = {
    "server.address": "127.0.0.1",
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "server.maxUploadSize": "1024",
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "minimal",
    "client.showErrorLinks": "false",
    "global.developmentMode": "false",
    "theme.base": "light",
    "theme.primaryColor": ACCENT,
    "theme.textColor": INK,
}


def serve(store: StoreLayout, port: int) -> None:
    """Serve until interrupted; prints the address once it can be opened."""
    os.environ[STORE_VARIABLE] = str(store.root)
    for module in _SLOW_TO_IMPORT:
        importlib.import_module(module)  # so that the first visitor does not wait for it
    from streamlit.web import cli

    options = [f"--{name}={value}" for name, value in {**_OPTIONS, "server.port": str(port)}.items()]
    sys.argv = ["streamlit", "run", str(Path(__file__).with_name("app.py")), *options]
    cli.main()
