"""Prepare `segment`; separate from `prepared`, because readers of sources take a second to import."""

from dataclasses import replace

from flows.service.prepared import handed
from flows.settings.agent import require_run_allowed, with_site_model
from storage.exports.claims import require_claimable
from storage.exports.registry import ExportCommand, format_named
from storage.exports.segment_plan import ReleaseRequest, SegmentRequest, SegmentRun, require_out_apart, run_of
from storage.store.layout import StoreLayout
from storage.store.locations import location


def prepared_segment(store: StoreLayout, request: SegmentRequest, release: ReleaseRequest) -> SegmentRun:
    """Run and source of a request, checked before anything starts.

    Raises:
        UsageError: If a name, file, setting or folder is wrong, or data may not be sent to the language model.
    """
    known: SegmentRun | None = handed((store.root, request, release))
    if known is not None:
        return known
    format_named(release.form, ExportCommand.SEGMENT)
    require_out_apart(request.source, location(release.out))
    chosen = with_site_model(store.root, [request.policy], request.settings)
    asked = run_of(store, replace(request, settings=chosen))
    require_run_allowed(store.root, asked.run)
    require_claimable(store, asked.run, release.folder, anonymous=release.anonymous)
    return asked
