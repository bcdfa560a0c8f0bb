"""Flow `maintenance`: compacts scores, evicts encodings, removes leftovers."""

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.messages.console import tell
from flows.messages.formatting import format_size
from flows.service.deployed import store_of
from flows.settings.settings import MaintenanceSettings, read_settings
from storage.store.layout import StoreLayout
from storage.upkeep.upkeep import Upkeep, compact_store, prune_store
from storage.weights.encodings import parse_size

_HOUR = 3600.0


@flow(name="maintenance", flow_run_name="maintenance")
def maintain_store(store: str = "", encodings: str = "") -> str:
    """Compact scores, trim the cache of encodings, remove leftovers of killed processes. No score is lost.

    Args:
        store: Folder of the store; empty for `$MEDSAM3_STORE`.
        encodings: Size to which the cache of slice encodings is trimmed, such as `20GB`; empty for the settings' value.
    """
    layout = store_of(store)
    settings = read_settings(layout.root).maintenance
    compacted = compact(layout, settings.files_per_run)
    swept = sweep(layout, settings, encodings)
    for run_id in compacted.busy:
        tell(f"run {run_id} is being written; its scores will be compacted next time")
    said = f"{len(compacted.compacted)} runs compacted; {describe_upkeep(swept)}"
    rows = [
        {"what": "runs compacted", "count": len(compacted.compacted)},
        {"what": "runs skipped, being written", "count": len(compacted.busy)},
        {"what": "leftovers removed", "count": swept.leftovers},
        {"what": "replaced score generations removed", "count": swept.generations},
        {"what": "encodings evicted", "count": swept.encodings},
        {"what": "bytes freed", "count": swept.freed_bytes},
    ]
    create_table_artifact(rows, key="maintenance", description=said)
    tell(said)
    return said


@task(name="compact-scores", cache_policy=NO_CACHE)
def compact(store: StoreLayout, files_per_run: int) -> Upkeep:
    """Merge the score files of runs that have many."""
    return compact_store(store, more_files_than=files_per_run)


@task(name="sweep-leftovers", cache_policy=NO_CACHE)
def sweep(store: StoreLayout, settings: MaintenanceSettings, encodings: str) -> Upkeep:
    """Remove leftovers, replaced score files and surplus encodings."""
    return prune_by_settings(store, settings, encodings)


def describe_upkeep(swept: Upkeep) -> str:
    """Counts of what was removed, and the freed space."""
    counts = f"{swept.leftovers} leftovers, {swept.generations} replaced score generations, {swept.encodings} encodings"
    return f"{counts}: {format_size(swept.freed_bytes)}"


def prune_by_settings(
    store: StoreLayout, settings: MaintenanceSettings, encodings: str, *, dry_run: bool = False
) -> Upkeep:
    """Prune by the settings; a given size of the encodings overrides theirs."""
    size = encodings or settings.encodings
    return prune_store(
        store,
        encodings_size=parse_size(size) if size else None,
        leftover_seconds=settings.leftover_hours * _HOUR,
        dry_run=dry_run,
    )
