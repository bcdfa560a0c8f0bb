"""Runs of a store, and runs whose `run.json` is missing or damaged.

A run begins with its `run.json`, before any table: a folder of tables without one was copied in part or damaged. Such a
run has no weights and no prompts, so it is left out of every view, with a warning.
"""

import json

from storage.store.layout import StoreLayout


def run_ids(store: StoreLayout) -> list[str]:
    """Ids of the runs whose `run.json` can be read, sorted."""
    return [name for name, fault in _run_folders(store) if fault is None]


def broken_runs(store: StoreLayout) -> list[str]:
    """One sentence per run that is left out of all views, with the remedy."""
    return [
        f"run {name} is left out of all views: {fault}; restore it from a backup, or run the benchmark again to "
        "recompute it"
        for name, fault in _run_folders(store)
        if fault is not None
    ]


def _run_folders(store: StoreLayout) -> list[tuple[str, str | None]]:
    """Name and fault of every folder that holds a `run.json` or tables."""
    if not store.runs().is_dir():
        return []
    names = sorted(path.name for path in store.runs().iterdir() if path.is_dir() and not path.name.startswith("."))
    found = ((name, _fault(store, name)) for name in names)
    return [(name, fault) for name, fault in found if fault != ""]


def _fault(store: StoreLayout, run_id: str) -> str | None:
    """None for a complete run, empty for a folder without tables, which is not a run yet."""
    path = store.run_json(run_id)
    try:
        whole = isinstance(json.loads(path.read_bytes()), dict)
    except FileNotFoundError:
        has_tables = any(folder.is_dir() for folder in (store.plan(run_id), store.outcomes(run_id)))
        return f"{path} is missing" if has_tables else ""
    except (OSError, ValueError) as error:
        return f"{path} is damaged ({error})"
    return None if whole else f"{path} is not a JSON object"
