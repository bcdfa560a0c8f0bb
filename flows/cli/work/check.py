"""`medsam3 ingest --check`: read a source on all cores, write nothing, report findings."""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from flows.messages.console import say
from flows.messages.tables import plain_table, stdout_console
from medsam3_core.cases.cases import CaseSource
from medsam3_core.cases.recipes import Recipe
from storage.cohorts.checks import CaseCheck
from storage.ingest.plan import IngestRequest
from storage.ingest.preflight import Preflight, conclude
from storage.sources.registry import find_source
from storage.store.layout import StoreLayout
from storage.store.locations import is_remote
from storage.store.pseudonyms import require_key_outside
from tasks.check import check_cases

_MIN_PARALLEL_CASES = 64
_MAX_PER_BATCH = 500
_LINE_EVERY_SECONDS = 10.0
_SHOWN_PER_KIND, _SHOWN_SIZES = 10, 5


def run_check(root: Path, request: IngestRequest, output: str) -> int:
    """Check a source and print the result as `table` or `json`; exit code 1 if anything was found, else 0."""
    started = time.perf_counter()
    if not is_remote(root):
        require_key_outside(root)
    preflight = check_source(request, StoreLayout(root) if (root / "cohorts").is_dir() else None)
    seconds = time.perf_counter() - started
    if output == "json":
        sys.stdout.write(json.dumps(preflight.to_json() | {"seconds": round(seconds, 3)}, indent=1) + "\n")
    else:
        print_preflight(preflight, stdout_console())
    say(f"{len(preflight.checks)} cases, {preflight.files.used} files in {seconds:.1f} s; {_verdict(preflight)}")
    return 1 if preflight.findings else 0


def check_source(request: IngestRequest, store: StoreLayout | None) -> Preflight:
    """List a source, read every case, and report findings.

    Raises:
        UsageError: If source, reader or recipe are wrong, as for `ingest`.
    """
    source = find_source(request.source, request.reader, request.recipe)
    cases = source.list_cases()
    cases = [replace(case, split=request.split) for case in cases] if request.split else cases
    cases = cases[: request.limit] if request.limit else cases
    checks: list[CaseCheck] = []
    said = time.monotonic()
    for batch in _checked(source.root, source.recipe, cases):
        checks += batch
        if time.monotonic() - said >= _LINE_EVERY_SECONDS:
            said = time.monotonic()
            say(f"check {request.source}: {len(checks)}/{len(cases)}")
    return conclude(request.source, source.recipe, cases, checks, store)


def _checked(root: str, recipe: Recipe, cases: Sequence[CaseSource]) -> Iterator[list[CaseCheck]]:
    """Checks of all cases in order, batch by batch; on all cores if there are many cases."""
    cores = os.cpu_count() or 1
    if len(cases) < _MIN_PARALLEL_CASES or cores == 1:
        yield check_cases(root, recipe, cases)
        return
    size = max(1, min(_MAX_PER_BATCH, len(cases) // (4 * cores)))
    batches = [cases[start : start + size] for start in range(0, len(cases), size)]
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(check_cases, [root] * len(batches), [recipe] * len(batches), batches)


def print_preflight(preflight: Preflight, console: Console) -> None:
    """Print splits, structures, sizes, raters and findings, readable in 100 columns."""
    recipe = preflight.recipe
    console.print(Text(f"{preflight.source}: recipe {recipe.name}, layout {recipe.layout}", style="bold"))
    splits = preflight.splits()
    rows = [
        (split, str(found["cases"]), str(found["patients"]))
        for split, found in (*splits.items(), *([] if len(splits) == 1 else [_total(preflight)]))
    ]
    _print_table(console, ("split", "cases", "patients"), rows)
    structures = [(name, str(n["cases"]), str(n["instances"])) for name, n in preflight.structures().items()]
    _print_table(console, ("structure", "in cases", "instances"), structures)
    for title, counted in (("size z y x", preflight.sizes()), ("spacing z y x", preflight.spacings())):
        parts = [f"{_format_size(value)} ({count})" for value, count in counted.most_common(_SHOWN_SIZES)]
        more = f" and {len(counted) - _SHOWN_SIZES} more" if len(counted) > _SHOWN_SIZES else ""
        console.print(Text(f"{title}: {', '.join(parts) or 'none'}{more}"))
    raters = ", ".join(f"{rater} ({count})" for rater, count in preflight.raters().items()) or "none"
    console.print(Text(f"raters: {raters}"))
    compared = ", ".join(preflight.compared_cohorts) or "no other cohort"
    console.print(Text(f"searched for duplicates in this source and in: {compared}"))
    for note in preflight.notes:
        console.print(Text(f"note: {note}", style="dim"))
    _print_findings(preflight, console)


def _print_findings(preflight: Preflight, console: Console) -> None:
    by_kind: dict[str, list[str]] = {}
    for finding in preflight.findings:
        by_kind.setdefault(str(finding.kind), []).append(finding.message)
    for kind, messages in by_kind.items():
        console.print(Text(f"{kind}: {len(messages)}", style="bold red"))
        for message in messages[:_SHOWN_PER_KIND]:
            console.print(Text(f"  {message}"))
        if len(messages) > _SHOWN_PER_KIND:
            console.print(Text(f"  and {len(messages) - _SHOWN_PER_KIND} more; --format json lists all"))
    console.print(Text(_verdict(preflight), style="bold"))


def _verdict(preflight: Preflight) -> str:
    return f"{len(preflight.findings)} findings" if preflight.findings else "nothing found"


def _total(preflight: Preflight) -> tuple[str, dict[str, int]]:
    patients = len({check.patient_id for check in preflight.checks})
    return "all", {"cases": len(preflight.checks), "patients": patients}


def _format_size(value: tuple[object, ...]) -> str:
    if value and isinstance(value[0], tuple):
        return f"{' x '.join(f'{item:g}' for item in value[0])} {value[1]}"
    return " x ".join(str(item) for item in value)


def _print_table(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = plain_table(*columns, right=columns[1:])
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
