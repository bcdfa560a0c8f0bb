"""The nightly deployment over an archive: nothing where none is set, and exactly what the settings say where one is."""

from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from flows import archive
from flows.archive import segment_archive
from flows.segment import SegmentSummary
from storage.exports.segment_plan import ReleaseRequest, SegmentRequest
from storage.store.layout import StoreLayout


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What the flow asks of `segment`, which has its own tests; one case of three is not released."""
    calls: list[tuple[object, ...]] = []

    def segment(*words: object) -> SegmentSummary:
        calls.append(words)
        return SegmentSummary("segment-abc", "0123456789ab", {"segmented": 2, "rejected": 1})

    monkeypatch.setattr(archive, "segment_source", segment)
    return calls


def test_without_an_archive_in_the_settings_the_night_passes(store: StoreLayout, asked: list[object]) -> None:
    with disable_run_logger():
        state = segment_archive.fn(store=str(store.root))
    assert state.is_completed()
    assert state.message.startswith("no archive is configured: set source, weights, texts and out under [archive]")
    assert not asked


def test_the_archive_of_the_settings_is_segmented_and_missing_cases_fail_the_run(
    store: StoreLayout, asked: list[tuple[object, ...]]
) -> None:
    Path(store.root.parent / "medsam3.toml").write_text(
        '[archive]\nsource = "/pacs"\nweights = "m"\ntexts = ["liver"]\nout = "/masks"\nform = "dicom-seg"\n'
    )
    with disable_run_logger():
        state = segment_archive.fn(store=str(store.root))
    wanted = SegmentRequest("/pacs", "m", ("liver",)), ReleaseRequest("/masks", "dicom-seg")
    assert asked == [(*wanted, str(store.root), "local")]
    assert state.is_failed()
    assert state.message == "/pacs: 1 rejected, 2 segmented (run 0123456789ab)"
