"""Pictures: overlays of a case with its reference, or the instances of one slice."""

from pathlib import Path

from storage.exports.instance_overlays import DrawnSlice, draw_instances
from storage.exports.overlays import draw_overlay
from storage.exports.registry import CaseToWrite, ExportCommand, ExportFormat


def _write(case: CaseToWrite, scratch: Path) -> None:
    rater = next(iter(case.volume.raters), None)
    assert case.caption is not None
    draw_overlay(case.volume, case.prediction, case.structures, rater, case.caption).save(scratch, format="PNG")


def _write_slice(drawn: DrawnSlice, scratch: Path) -> None:
    image = drawn.image
    where = f"{image.path.name}  slice {drawn.z}" if image.depth > 1 else image.path.name
    rgb = image.rgb(drawn.z, drawn.window)
    draw_instances(rgb, image.geometry, drawn.answers, where, drawn.caption).save(scratch, format="PNG")


FORMAT = ExportFormat(
    name="png",
    suffix=".png",
    help="picture for the eye",
    commands=frozenset({ExportCommand.EXPORT, ExportCommand.PREDICT}),
    write=_write,
    write_slice=_write_slice,
)
