"""`medsam3 export`: write predictions of a run as files."""

from collections.abc import Sequence
from pathlib import Path

from flows.messages.console import say
from storage.exports.runs import export_run
from storage.store.layout import existing_store


def run_export(root: Path, run_id: str, form: str, case_ids: Sequence[str], out: Path) -> int:
    """Write the files and print their paths; exit code 0."""
    for path, contested in export_run(existing_store(root), run_id, form, tuple(case_ids), out):
        print(path)  # noqa: T201 - the answer
        if contested:
            say(f"{path.name}: {contested} voxels of two structures went to the higher confidence")
    return 0
