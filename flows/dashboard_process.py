"""Dashboard and report run as a process of their own: they read the store and know nothing of tasks and flows."""

import subprocess
import sys
from pathlib import Path

from storage.store_layout import existing_store


def run_dashboards(command: str, store: Path, *options: str) -> int:
    """Run `python -m dashboards COMMAND` on a store; its exit code.

    Raises:
        StoreError: If there is no store.
    """
    root = existing_store(store).root.resolve()
    call = [sys.executable, "-m", "dashboards", command, "--store", str(root), *options]
    with subprocess.Popen(call) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # the terminal sends it to both; the other process ends by itself
                continue
