"""`medsam3 status`: cohorts, runs, disk usage."""

from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.messages.formatting import format_size
from flows.messages.tables import plain_table, stdout_console
from flows.settings.options import store_to_read
from medsam3_core.prompts.policies import short_prompt
from storage.catalog.queries.status import RunStatus
from storage.upkeep.status import CohortStatus, read_status


def run_status(store_root: Path, console: Console | None = None) -> int:
    """Print cohorts, runs, disk usage and notes, readable in 100 columns; exit code 0."""
    status = read_status(store_to_read(store_root))
    parts: list[RenderableType] = [_cohort_table(status.cohorts)]
    parts.append(_run_table(status.runs) if status.runs else Text("No run yet: medsam3 benchmark"))
    parts.append(Text(f"{store_root}: {status.files} files, {format_size(status.size_bytes)}"))
    if status.leftovers:
        what = "1 unfinished file" if status.leftovers == 1 else f"{status.leftovers} unfinished files"
        parts.append(Text(f"{what} of a killed or running process; medsam3 prune removes those of killed processes"))
    if any(run.pending for run in status.runs):
        parts.append(Text("To compute pending cases, run the same medsam3 benchmark again."))
    if any(run.failed for run in status.runs) or any(cohort.rejected for cohort in status.cohorts):
        parts.append(Text('Reasons of failures: medsam3 sql "SELECT * FROM failures"'))
    (console or stdout_console()).print(Group(*parts))
    return 0


def _cohort_table(cohorts: tuple[CohortStatus, ...]) -> Table:
    table = plain_table("cohort", "splits", "licence", "accepted", "rejected", right=("accepted", "rejected"))
    for cohort in cohorts:
        splits = ", ".join(f"{name or 'no split'} {count}" for name, count in cohort.splits.items())
        cells = (cohort.name, splits, cohort.licence, str(cohort.accepted), str(cohort.rejected))
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _run_table(runs: tuple[RunStatus, ...]) -> Table:
    texts = ("run", "cohort", "weights", "prompt and settings")
    numbers = ("planned", "scored", "failed", "pending")
    table = plain_table(*texts, *numbers, "last (UTC)", right=numbers, fixed=("run", "last (UTC)"))
    for run in runs:
        weights = run.weights if run.weights_version == 1 else f"{run.weights}@{run.weights_version}"
        asked = short_prompt(run.prompt) if run.settings == "default" else f"{short_prompt(run.prompt)} {run.settings}"
        counts = (run.planned, run.scored, run.failed, run.pending)
        last = run.last_activity.strftime("%m-%d %H:%M") if run.last_activity else ""
        cells = (run.run_id, run.cohort, weights, asked, *map(str, counts), last)
        table.add_row(*(Text(cell) for cell in cells))
    return table
