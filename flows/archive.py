"""The nightly flow over the archive of the settings: new series are segmented, what is done is not done again."""

from prefect import flow
from prefect.states import Completed, Failed, State

from flows.messages.console import tell
from flows.segment import segment_source
from flows.service.deployed import store_of
from flows.settings.defaults import CLUSTER, FORMAT
from flows.settings.settings import ArchiveSettings, read_settings
from storage.exports.segment_plan import ReleaseRequest, SegmentRequest

_AS_IN_THE_SETTINGS = ArchiveSettings()


@flow(name="segment-archive", flow_run_name="segment-archive")
def segment_archive(
    archive: ArchiveSettings = _AS_IN_THE_SETTINGS, store: str = "", cluster: str = CLUSTER
) -> State[str]:
    """Segment what is new in an archive and release it.

    Args:
        archive: Which archive, and what of it; what is left out stands in the settings under `[archive]`.
        store: Folder of the store; empty for `$MEDSAM3_STORE`.
        cluster: Cluster by name.
    """
    layout = store_of(store)
    asked = archive.completed(read_settings(layout.root).archive)
    if not (asked.source and asked.weights and asked.out and asked.texts):
        said = "no archive is set: name source, weights, texts and out under [archive] in medsam3.toml"
        tell(said)
        return Completed(message=said, data=said)
    request = SegmentRequest(asked.source, asked.weights, asked.texts)
    summary = segment_source(request, ReleaseRequest(asked.out, asked.form or FORMAT), str(layout.root), cluster)
    counted = ", ".join(f"{count} {status}" for status, count in sorted(summary.counts.items())) or "no case"
    said = f"{asked.source}: {counted} (run {summary.run_id})"
    tell(said, alarming=bool(summary.unfinished))
    return (Failed if summary.unfinished else Completed)(message=said, data=said)
