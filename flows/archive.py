"""Nightly flow over the archive named in the settings: segments new series, skips finished ones."""

from prefect import flow
from prefect.states import Completed, Failed, State

from flows.messages.console import tell
from flows.messages.formatting import format_counts
from flows.segment import segment_source
from flows.service.deployed import store_of
from flows.settings.defaults import CLUSTER, FORMAT
from flows.settings.settings import ArchiveSettings, read_settings
from storage.exports.segment_plan import ReleaseRequest, SegmentRequest

_FROM_SETTINGS = ArchiveSettings()


@flow(name="segment-archive", flow_run_name="segment-archive")
def segment_archive(archive: ArchiveSettings = _FROM_SETTINGS, store: str = "", cluster: str = CLUSTER) -> State[str]:
    """Segment new cases of an archive and write their segmentations.

    Args:
        archive: Source, weights, texts and output; empty fields are taken from `[archive]` in the settings.
        store: Folder of the store; empty for `$MEDSAM3_STORE`.
        cluster: Cluster by name.
    """
    layout = store_of(store)
    asked = archive.completed(read_settings(layout.root).archive)
    if not (asked.source and asked.weights and asked.out and asked.texts):
        said = "no archive is configured: set source, weights, texts and out under [archive] in medsam3.toml"
        tell(said)
        return Completed(message=said, data=said)
    request = SegmentRequest(asked.source, asked.weights, asked.texts)
    summary = segment_source(request, ReleaseRequest(asked.out, asked.form or FORMAT), str(layout.root), cluster)
    said = f"{asked.source}: {format_counts(summary.counts) or 'no case'} (run {summary.run_id})"
    tell(said, alarming=bool(summary.unfinished))
    return (Failed if summary.unfinished else Completed)(message=said, data=said)
