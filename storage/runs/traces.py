"""Traces of the agent in the store: its events, row by row, and the spending of a run."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medsam3_core.agent.budget import Spent
from medsam3_core.agent.trace import EventKind, TraceEvent
from medsam3_core.errors import StoreError
from storage.store.atomic import read_json, write_json
from storage.store.layout import StoreLayout
from storage.store.schemas import TRACES
from storage.store.tables import read_file, read_table, write_rows


def trace_rows(run_id: str, case_id: str, batch_id: str, events: Iterable[TraceEvent]) -> list[dict[str, Any]]:
    """Rows of the events of one case."""
    who = {"run_id": run_id, "case_id": case_id, "attempt": batch_id}
    return [who | asdict(event) | {"kind": str(event.kind), "images": list(event.images)} for event in events]


def write_traces(store: StoreLayout, run_id: str, name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as one file; writing twice under one name gives the same file."""
    if rows:
        write_rows(store.traces(run_id), rows, TRACES, name=name)


def write_trace_file(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the trace of a single image beside its result."""
    write_rows(path.parent, rows, TRACES, name=path.name.removesuffix(".parquet"))


def read_traces(store: StoreLayout, run_id: str) -> dict[tuple[str, str], list[TraceEvent]]:
    """Events of a run by case and batch, in order."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in read_table(store.traces(run_id), TRACES).to_pylist():
        rows.setdefault((row["case_id"], row["attempt"]), []).append(row)
    return {key: _events(found) for key, found in rows.items()}


def read_trace_file(path: Path) -> list[TraceEvent]:
    """Events of the trace of a single image.

    Raises:
        StoreError: If there is no such file, or it is not a trace.
    """
    if not path.is_file():
        msg = f"no trace at {path}; traces lie beside their results and end in .trace.parquet"
        raise StoreError(msg)
    return _events(read_file(path, TRACES).to_pylist())


def _events(rows: Iterable[dict[str, Any]]) -> list[TraceEvent]:
    names = [name for name in TRACES.names if name not in ("run_id", "case_id", "attempt")]
    events = [
        TraceEvent(
            **{name: row[name] for name in names}
            | {"kind": EventKind(row["kind"]), "images": tuple(row["images"] or ())}
        )
        for row in rows
    ]
    return sorted(events, key=lambda event: event.step)


class SpentLedger:
    """Spending of a run, over all workers: each case writes its own file, and the files are summed.

    A case that is repeated under the same name, after its worker died, adds to its earlier spending.
    """

    def __init__(self, store: StoreLayout, run_id: str, name: str) -> None:
        self._folder = store.agent_spending(run_id)
        self._path = self._folder / f"{name}.json"
        self._before = Spent(**read_json(self._path)) if self._path.is_file() else Spent()

    def note(self, case: Spent) -> None:
        """Write the spending of the current case so far."""
        write_json(self._path, asdict(self._before + case))

    def others(self) -> Spent:
        """Spending of the run without the current case."""
        files = self._folder.glob("[!.]*.json") if self._folder.is_dir() else ()
        return sum((Spent(**read_json(path)) for path in files if path != self._path), self._before)
