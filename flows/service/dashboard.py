"""Run the dashboard and the report as separate processes."""

import subprocess
import sys
from pathlib import Path

from flows.messages.console import tell
from medsam3_core.settings.extras import Extra, lacking
from storage.store.layout import existing_store


def write_report(store: Path, target: Path) -> bool:
    """Write the report of a store; True if it was written. Warns if its extra is not installed."""
    if sentence := lacking(Extra.DASHBOARD, "the report", "plotly"):
        tell(sentence, alarming=True)
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    call = [sys.executable, "-m", "dashboards", "report", "--store", str(store.resolve()), "--out", str(target)]
    return subprocess.run(call, capture_output=True, check=False).returncode == 0


def run_dashboards(command: str, store: Path, *options: str) -> int:
    """Run `python -m dashboards COMMAND` on a store; returns its exit code.

    Raises:
        StoreError: If there is no store.
    """
    root = existing_store(store).root.resolve()
    call = [sys.executable, "-m", "dashboards", command, "--store", str(root), *options]
    with subprocess.Popen(call) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # the terminal sends it to both processes
                continue
