"""The nightly flow over the archive of the settings: new series are segmented, what is done is not done again."""

from prefect import flow
from prefect.states import Completed, Failed, State

from flows.messages.console import tell
from flows.segment import segment_source
from flows.service.deployed import store_of
from flows.settings.settings import read_settings


@flow(name="segment-archive", flow_run_name="segment-archive")
def segment_archive(
    store: str = "",
    source: str = "",
    weights: str = "",
    texts: list[str] | None = None,
    out: str = "",
    form: str = "",
    cluster: str = "local",
) -> State[str]:
    """Segment what is new in an archive and release it; what is left out stands in the settings under `[archive]`.

    Args:
        store: Folder of the store; empty for `$MEDSAM3_STORE`.
        source: Folder of the archive.
        weights: `NAME` or `NAME@N`.
        texts: What to look for.
        out: Folder for the segmentations.
        form: `nifti`, `dicom-seg` or `zarr`.
        cluster: Cluster by name.
    """
    layout = store_of(store)
    known = read_settings(layout.root).archive
    source, weights, out = source or known.source, weights or known.weights, out or known.out
    texts = texts or list(known.texts)
    if not (source and weights and out and texts):
        said = "no archive is set: name source, weights, texts and out under [archive] in medsam3.toml"
        tell(said)
        return Completed(message=said, data=said)
    summary = segment_source(str(layout.root), source, weights, out, texts, form=form or known.form, cluster=cluster)
    counted = ", ".join(f"{count} {status}" for status, count in sorted(summary.counts.items())) or "no case"
    said = f"{source}: {counted} (run {summary.run_id})"
    tell(said, alarming=bool(summary.unfinished))
    return (Failed if summary.unfinished else Completed)(message=said, data=said)
