"""The commands that draw where there is no reference: predict one image, segment an archive."""

from functools import partial
from pathlib import Path

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
@click.option("--weights", "name", required=True, metavar="NAME|PATH", help="NAME, NAME@N, a checkpoint or hf://...")
@click.option("--text", "texts", multiple=True, help="What to look for; repeat for several.")
@click.option(
    "--box", "boxes", multiple=True, metavar="X0,Y0,X1,Y1[,-]", help="Example in pixels; - a counter-example."
)
@click.option("--point", "points", multiple=True, metavar="X,Y[,+|-]", help="Point inside (+) or outside (-).")
@click.option(
    "--mask", "masks", multiple=True, type=click.Path(path_type=Path), help="Drawn mask of one object, as a file."
)
@click.option("--prompts", type=click.Path(path_type=Path), metavar="FILE", help="Prompts as CSV, Parquet or JSON.")
@prompt_option
@click.option("--replay", type=click.Path(path_type=Path), help="Answer from this trace of the agent, asking nobody.")
@click.option("--slice", "z", type=int, help="Slice of a volume, from 0.")
@click.option("--slice-only", "alone", is_flag=True, help="Leave the other slices of a volume alone.")
@click.option("--threshold", cls=LateHelp, words=threshold_help, type=float)
@settings_option
@click.option(
    "--out",
    cls=LateHelp,
    words=partial(formats_help, "predict", "suffix"),
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
)
@store_option
def predict(
    image: Path,
    name: str,
    texts: tuple[str, ...],
    boxes: tuple[str, ...],
    points: tuple[str, ...],
    masks: tuple[Path, ...],
    prompts: Path | None,
    prompt: str,
    replay: Path | None,
    z: int | None,
    alone: bool,
    threshold: float | None,
    settings: tuple[str, ...],
    out: Path,
    store: Path,
) -> int:
    """Segment one image (PNG, JPEG, TIFF or a volume such as NIfTI) and write every instance.

    Boxes show examples of what to find; with --set mode=interactive each box is one object to draw. All points are one
    object, together with at most one box and one mask; a prompts file holds any number of objects, each with an
    instance number of its own, on one slice or several. Of a volume, a text without --slice is asked on all slices;
    what is drawn on --slice is followed through the others, by the tracker if the weights have one, else by detection
    linked by overlap.
    """
    from flows.cli.work.predict import run_predict
    from flows.cli.work.predict_request import PredictOptions

    options = PredictOptions(
        image, name, texts, boxes, points, masks, prompts, prompt, replay, z, alone, threshold, settings, out
    )
    return run_predict(store, options)


@click.command(
    cls=CommandWithExamples,
    epilog="""medsam3 segment archive/ --weights sam3 --text liver --text spleen --out masks
    medsam3 segment archive/ --weights sam3 --prompts clicks.csv --out segs --format dicom-seg
    medsam3 segment archive/ --weights sam3 --prompt agent --text "right renal organ" --out masks""",
)
@click.argument("source")
@click.option("--weights", "name", required=True, metavar="NAME", help="NAME or NAME@N.")
@click.option("--text", "texts", multiple=True, help="Structure to look for; repeat for several.")
@prompt_option
@click.option("--prompts", type=click.Path(path_type=Path), metavar="FILE", help="Prompts as CSV, Parquet or JSON.")
@click.option("--out", type=LocationType(), required=True, help="Folder for the segmentations, or s3://.")
@click.option(
    "--format", "form", cls=LateHelp, words=partial(formats_help, "segment"), default=FORMAT, show_default=True
)
@reader_option
@settings_option
@cluster_option()
@click.option("--limit", type=click.IntRange(min=1), help="At most so many cases.")
@click.option("--retry", is_flag=True, help="Try rejected, failed and crashed cases, and damaged predictions, again.")
@click.option("--anonymous", is_flag=True, help="Leave patients' names, numbers and birth dates out of DICOM.")
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
    """Segment every case of SOURCE, without references, and release what was proved to be written right.

    SOURCE is an archive of DICOM, NIfTI and image files. The folder gets one file per case, manifest.csv with the end
    of every case, and measurements.parquet. Running it again goes on where it stopped.
    """
    from flows.cli.work.segment import run_segment
    from storage.exports.segment_plan import ReleaseRequest, SegmentRequest

    request = SegmentRequest(source, name, texts, prompts, settings, limit or 0, retry, prompt, reader)
    return run_segment(store, request, ReleaseRequest(str(out), form, anonymous), cluster)
