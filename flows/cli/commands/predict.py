"""Commands without references: predict one image, segment an archive."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from flows.settings.defaults import FORMAT
from flows.settings.options import (
    CommandWithExamples,
    LateHelp,
    LocationType,
    cluster_option,
    formats_help,
    prompt_option,
    reader_option,
    settings_option,
    store_option,
    threshold_help,
)


@click.command(
    cls=CommandWithExamples,
    epilog="""medsam3 predict fundus.png --weights sam3 --text vessel --out vessels.png
    medsam3 predict cells.png --weights sam3 --box 10,20,60,80 --box 90,20,140,70,- --out cells.npz
    medsam3 predict ct.nii.gz --weights sam3 --slice 40 --point 210,180 --point 260,180,- --out liver.nii.gz
    medsam3 predict cells.png --weights sam3 --prompts clicks.csv --out cells.npz
    medsam3 predict ct.nii.gz --weights sam3 --text liver --out liver.nii.gz
    medsam3 predict ct.nii.gz --weights sam3 --prompt agent --text "organ that filters blood" --out kidneys.nii.gz
    medsam3 predict ct.nii.gz --weights sam3 --replay kidneys.nii.gz.trace.parquet --out again.nii.gz""",
)
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--weights", required=True, metavar="NAME|PATH", help="NAME, NAME@N, a checkpoint or hf://...")
@click.option("--text", "texts", multiple=True, help="Text prompt; repeatable.")
@click.option(
    "--box", "boxes", multiple=True, metavar="X0,Y0,X1,Y1[,-]", help="Box in pixels; with - a counter-example."
)
@click.option(
    "--point", "points", multiple=True, metavar="X,Y[,+|-]", help="Point inside (+) or outside (-) the object."
)
@click.option("--mask", "masks", multiple=True, type=click.Path(path_type=Path), help="File with a mask of one object.")
@click.option("--prompts", type=click.Path(path_type=Path), metavar="FILE", help="Prompts as CSV, Parquet or JSON.")
@prompt_option
@click.option("--replay", type=click.Path(path_type=Path), help="Replay this trace of the agent, offline.")
@click.option("--slice", type=int, help="Slice of a volume, from 0.")
@click.option("--slice-only", "alone", is_flag=True, help="Segment only this slice of a volume.")
@click.option("--threshold", cls=LateHelp, make_help=threshold_help, type=float)
@settings_option
@click.option(
    "--out",
    cls=LateHelp,
    make_help=partial(formats_help, "predict", "suffix"),
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
)
@store_option
def predict(store: Path, **options: Any) -> int:
    """Segment one image (PNG, JPEG, TIFF or a volume such as NIfTI) and write every instance.

    A box shows an example of the objects to find; with --set mode=interactive each box is one object to segment. All
    points describe one object, together with at most one box and one mask. A prompts file holds any number of objects
    on one or several slices.

    In a volume, a text without --slice prompts all slices. Objects segmented on --slice are followed through the other
    slices, by the tracker if the weights have one, else by detection linked by overlap.
    """
    from flows.cli.work.predict import run_predict
    from flows.cli.work.predict_request import PredictOptions

    return run_predict(store, PredictOptions(**options))


@click.command(
    cls=CommandWithExamples,
    epilog="""medsam3 segment archive/ --weights sam3 --text liver --text spleen --out masks
    medsam3 segment archive/ --weights sam3 --prompts clicks.csv --out segs --format dicom-seg
    medsam3 segment archive/ --weights sam3 --prompt agent --text "right renal organ" --out masks""",
)
@click.argument("source")
@click.option("--weights", "name", required=True, metavar="NAME", help="NAME or NAME@N.")
@click.option("--text", "texts", multiple=True, help="Structure to segment; repeatable.")
@prompt_option
@click.option("--prompts", type=click.Path(path_type=Path), metavar="FILE", help="Prompts as CSV, Parquet or JSON.")
@click.option("--out", type=LocationType(), required=True, help="Output folder, or s3://bucket/prefix.")
@click.option(
    "--format", "form", cls=LateHelp, make_help=partial(formats_help, "segment"), default=FORMAT, show_default=True
)
@reader_option
@settings_option
@cluster_option()
@click.option("--limit", type=click.IntRange(min=1), help="Maximum number of cases.")
@click.option("--retry", is_flag=True, help="Retry rejected, failed and crashed cases and damaged predictions.")
@click.option("--anonymous", is_flag=True, help="Omit patient names, IDs and birth dates from DICOM.")
@store_option
def segment(
    source: str,
    name: str,
    texts: tuple[str, ...],
    prompt: str,
    prompts: Path | None,
    out: Path,
    form: str,
    reader: str,
    settings: tuple[str, ...],
    cluster: str,
    limit: int | None,
    retry: bool,
    anonymous: bool,
    store: Path,
) -> int:
    """Segment every case of SOURCE, without references, and write verified segmentations.

    SOURCE is an archive of DICOM, volume and picture files. The output folder receives a file or folder per
    segmented case, manifest.csv with the status of every case, and measurements.parquet. Running the command again
    continues where it stopped.
    """
    from flows.cli.work.segment import run_segment
    from storage.exports.segment_plan import ReleaseRequest, SegmentRequest

    request = SegmentRequest(source, name, texts, prompts, settings, limit or 0, retry, prompt, reader)
    return run_segment(store, request, ReleaseRequest(str(out), form, anonymous), cluster)
