"""The command line `medsam3`: one function per command; heavy packages are imported by the command that needs them.

Exit codes: 0 done, 1 done but some cases failed, 2 wrong usage or input, 3 regression found, 130 interrupted.
"""

import atexit
import os
import sys
from pathlib import Path

import click

from flows.cli_options import FAILED_CASES, INTERRUPTED, WRONG_USAGE, CommandWithExamples, LocationType, store_option
from flows.cli_results import RESULT_COMMANDS
from flows.cli_train import train
from flows.cli_upkeep import prune, watch
from flows.cli_weights import weights
from flows.environment import prepare_environment
from medsam3_core.errors import Medsam3Error

prepare_environment()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="medsam3")
def cli() -> None:
    """Segment and benchmark medical images with SAM3 and Medical-SAM3, by the cohort."""


@cli.command(cls=CommandWithExamples, epilog="medsam3 demo\nmedsam3 demo --store /data/demo-store")
@click.option("--store", type=click.Path(path_type=Path), default=Path(".store-demo"), show_default=True)
@click.option("--cases", type=click.IntRange(min=4), default=10, show_default=True, help="Phantom cases per cohort.")
def demo(store: Path, cases: int) -> None:
    """Run the main job on embedded phantoms and weights: ingest, benchmark, leaderboard."""
    from flows.cluster_settings import parse_cluster
    from flows.worker_forking import begin_forking

    begin_forking(parse_cluster("local"), [], model=True)  # it imports beside the imports that follow

    from flows.demo import run_demo

    sys.exit(run_demo(store, cases))


@cli.command(cls=CommandWithExamples, epilog="medsam3 doctor\nmedsam3 doctor --store /data/store")
@store_option
def doctor(store: Path) -> None:
    """Check device, model path, cluster, Prefect, disk and the licences of the data."""
    from flows.doctor import examine

    sys.exit(examine(store))


@cli.command(
    cls=CommandWithExamples,
    epilog="""medsam3 ingest data/CHASE_DB1 --cohort chase
    medsam3 ingest data/Task04_Hippocampus --cohort hippocampus --limit 20
    medsam3 ingest data/tn3k --check
    medsam3 ingest data/tn3k --reader tn3k --check --format json
    medsam3 ingest phantom:ct,cases=12 --cohort phantom-ct""",
)
@click.argument("source")
@click.option("--cohort", help="Name of the cohort in the store.")
@click.option("--reader", default="auto", show_default=True, help="Recipe or layout by name.")
@click.option("--recipe", type=click.Path(path_type=Path), help="Recipe file (YAML).")
@click.option("--split", help="Split of all cases, against the recipe's own rule.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many cases.")
@click.option("--cluster", default="local", show_default=True, help="Cluster by name.")
@click.option("--check", is_flag=True, help="Read everything, write nothing, say what is wrong or suspicious.")
@click.option("--format", "output", type=click.Choice(["table", "json"]), help="Answer of --check.  [default: table]")
@store_option
def ingest(
    source: str,
    cohort: str | None,
    reader: str,
    recipe: Path | None,
    split: str | None,
    limit: int | None,
    cluster: str,
    check: bool,
    output: str | None,
    store: Path,
) -> None:
    """Convert SOURCE to OME-Zarr and record every case as accepted or rejected with its reason.

    SOURCE is a folder, or a phantom: ct, mr, fundus, nuclei, ultrasound, endoscopy, dermoscopy, xray or shapes,
    written phantom:KIND.

    --check exits with 1 if it finds anything, and looks for the same images in the cohorts of the store.
    """
    if check:
        from flows.check_command import CheckWords, run_check

        sys.exit(run_check(CheckWords(source, reader, recipe, split, limit or 0, output or "table"), store))
    if cohort is None or output is not None:
        msg = "--cohort is missing" if cohort is None else "--format is for --check"
        raise click.UsageError(msg)
    from flows.settings import named_cluster
    from flows.worker_forking import begin_forking
    from storage.store_layout import open_store

    open_store(store)  # refused before anything starts
    settings = named_cluster(cluster, store)
    begin_forking(settings, [])  # it imports beside the imports that follow

    from flows.clusters import workers_starting
    from flows.console import say
    from flows.ingest import ingest_cohort
    from flows.prefect_session import prefect_session

    with workers_starting(settings, []), prefect_session():
        summary = ingest_cohort(
            str(store), source, cohort, reader, str(recipe) if recipe else None, split, limit or 0, cluster
        )
    say(
        f"cohort {summary.cohort}: {summary.accepted} accepted, {summary.rejected} rejected, "
        f"{summary.unchanged} unchanged"
    )
    if summary.rejected:
        say(f"reasons: medsam3 sql \"SELECT case_id, reason FROM failures WHERE cohort = '{summary.cohort}'\"")
    sys.exit(FAILED_CASES if summary.rejected else 0)


@cli.command(
    cls=CommandWithExamples,
    epilog="""medsam3 benchmark --cohort chase --weights baseline:box --weights tiny-medical --prompt box
    medsam3 benchmark --cohort chase --weights sam3 --prompt box:jitter=0.1 --set threshold=0.4 --split all
    medsam3 benchmark --cohort chase --weights sam3 --prompt text --cache-encodings 20GB
    medsam3 benchmark --cohort chase --weights sam3 --preset medical-sam3-v1
    medsam3 benchmark --cohort chase --weights sam3 --prompt text --plan
    medsam3 benchmark --plan""",
)
@click.option("--cohort", "cohorts", multiple=True, help="Cohort; repeat for several.")
@click.option("--weights", "names", multiple=True, help="NAME or NAME@N; repeat for several.")
@click.option("--prompt", "prompts", multiple=True, help="Policy, such as text or box:jitter=0.1.")
@click.option("--split", help="Split, or all.  [default: test where the cohort has one, else all]")
@click.option("--structure", "structures", multiple=True, help="Structure; repeat for several.  [default: all]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Inference setting; repeat for several.")
@click.option("--preset", metavar="NAME", help="Prompts and settings of a published protocol: medical-sam3-v1.")
@click.option("--cluster", default="local", show_default=True, help="Cluster by name.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many cases per cohort.")
@click.option(
    "--cache-encodings",
    metavar="SIZE",
    default="",
    help="Keep encodings of slices in the store, such as 20GB: later benchmarks with other prompts skip the encoder.",
)
@click.option("--retry", is_flag=True, help="Try rejected, failed and crashed cases again.")
@click.option("--plan", "plan_only", is_flag=True, help="Say what would be computed, and how long it takes, and stop.")
@store_option
def benchmark(
    cohorts: tuple[str, ...],
    names: tuple[str, ...],
    prompts: tuple[str, ...],
    split: str | None,
    structures: tuple[str, ...],
    settings: tuple[str, ...],
    preset: str | None,
    cluster: str,
    limit: int | None,
    cache_encodings: str,
    retry: bool,
    plan_only: bool,
    store: Path,
) -> None:
    """Segment and score cohorts; only what is not in the store yet is computed.

    What is left out of --cohort, --weights and --prompt is taken from what was benchmarked before: without any of them
    everything is brought up to date that newer weights, new cases or a new protocol have made stale.
    """
    from flows.agent_options import with_site_model
    from flows.benchmark_command import run_benchmark, show_plan
    from medsam3_core.presets import apply_preset
    from storage.run_planning import BenchmarkRequest

    if preset:
        prompts, settings = apply_preset(preset, prompts, settings)
    settings = with_site_model(store, prompts, settings)
    request = BenchmarkRequest(cohorts, names, prompts, settings, split, structures, limit or 0, retry)
    sys.exit(
        show_plan(store, request, cluster) if plan_only else run_benchmark(store, request, cluster, cache_encodings)
    )


@cli.command(
    cls=CommandWithExamples,
    epilog="""medsam3 predict fundus.png --weights sam3 --text vessel --out vessels.png
    medsam3 predict cells.png --weights sam3 --box 10,20,60,80 --box 90,20,140,70,- --out cells.npz
    medsam3 predict ct.nii.gz --weights sam3 --slice 40 --point 210,180 --point 260,180,- --out liver.nii.gz
    medsam3 predict cells.png --weights sam3 --prompts clicks.csv --out cells.npz
    medsam3 predict ct.nii.gz --weights sam3 --text liver --out liver.nii.gz""",
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
@click.option("--prompt", default="text", show_default=True, help="text, or agent: --text is a request in your words.")
@click.option("--replay", type=click.Path(path_type=Path), help="Answer from this trace of the agent, asking nobody.")
@click.option("--slice", "z", type=int, help="Slice of a volume, from 0.")
@click.option("--slice-only", "alone", is_flag=True, help="Leave the other slices of a volume alone.")
@click.option("--threshold", type=float, help="Instances with a score above it are kept.  [default: 0.5]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Inference setting; repeat for several.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE.png|.npz|.nii.gz")
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
) -> None:
    """Segment one image (PNG, JPEG, TIFF or NIfTI) and write every instance.

    Boxes show examples of what to find; with --set mode=interactive each box is one object to draw. All points are one
    object, together with at most one box and one mask; a prompts file holds any number of objects, each with an
    instance number of its own, on one slice or several. FILE.npz holds masks, scores and boxes, FILE.png is a picture,
    FILE.nii.gz a label map. Of a volume, a text without --slice is asked on all slices; what is drawn on --slice is
    followed through the others, by the tracker if the weights have one, else by detection linked by overlap.
    """
    from flows.agent_commands import AgentWords, is_agent, run_predict_agent
    from flows.predict_command import PredictWords, run_predict
    from storage.store_layout import StoreLayout

    if is_agent(prompt):
        if boxes or points or masks or prompts or alone:
            msg = "--prompt agent takes requests by --text alone, no --box, --point, --mask, --prompts or --slice-only"
            raise click.UsageError(msg)
        settings = settings if threshold is None else (*settings, f"threshold={threshold}")
        asked = AgentWords(image, name, prompt, texts, z, settings, out, replay)
        click.echo(str(run_predict_agent(StoreLayout(store), asked)))
        return
    words = PredictWords(image, name, texts, boxes, points, masks, prompts, z, alone, threshold, settings, out)
    click.echo(str(run_predict(StoreLayout(store), words)))


@cli.command(
    cls=CommandWithExamples,
    epilog="""medsam3 segment archive/ --weights sam3 --text liver --text spleen --out masks
    medsam3 segment archive/ --weights sam3 --prompts clicks.csv --out segs --format dicom-seg""",
)
@click.argument("source")
@click.option("--weights", "name", required=True, metavar="NAME", help="NAME or NAME@N.")
@click.option("--text", "texts", multiple=True, help="Structure to look for; repeat for several.")
@click.option("--prompt", default="text", show_default=True, help="text, or agent: --text is a request in your words.")
@click.option("--prompts", type=click.Path(path_type=Path), metavar="FILE", help="Prompts as CSV, Parquet or JSON.")
@click.option("--out", type=LocationType(), required=True, help="Folder for the segmentations, or s3://.")
@click.option("--format", "form", type=click.Choice(["nifti", "dicom-seg", "zarr"]), default="nifti", show_default=True)
@click.option("--reader", default="auto", show_default=True, help="Recipe or layout by name.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Inference setting; repeat for several.")
@click.option("--cluster", default="local", show_default=True, help="Cluster by name.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many cases.")
@click.option("--retry", is_flag=True, help="Try rejected, failed and crashed cases again.")
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
) -> None:
    """Segment every case of SOURCE, without references, and release what was proved to be written right.

    SOURCE is an archive of DICOM, NIfTI and image files. The folder gets one file per case, manifest.csv with the end
    of every case, and measurements.parquet. Running it again goes on where it stopped.
    """
    from flows.agent_options import with_site_model
    from flows.segment_command import run_segment
    from storage.segment_planning import SegmentRequest

    chosen = with_site_model(store, [prompt], settings)
    request = SegmentRequest(source, name, texts, prompts, chosen, limit or 0, retry, prompt)
    sys.exit(run_segment(store, request, out, form, reader, cluster, anonymous=anonymous))


cli.add_command(weights)
cli.add_command(train)
cli.add_command(watch)
cli.add_command(prune)
for command in RESULT_COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Run the command line; every error of ours is one line on stderr, never a traceback."""
    _leave(_run())


def _run() -> int:
    try:
        code = cli(standalone_mode=False)
    except SystemExit as leaving:
        code = leaving.code
    except (click.exceptions.Abort, KeyboardInterrupt):
        return _say("interrupted; all that is finished is kept, run the same command again to go on", INTERRUPTED)
    except click.ClickException as error:
        error.show()
        return WRONG_USAGE
    except Medsam3Error as error:
        return _say(str(error), WRONG_USAGE)
    return code if isinstance(code, int) else 0


def _say(message: str, code: int) -> int:
    click.echo(f"medsam3: {message}", err=True)
    return code


def _leave(code: int) -> None:
    """End the process after its exit handlers, without tearing the interpreter down.

    Dask and Prefect keep daemon threads; while they live, DuckDB's bindings print a hundred lines about leaked objects
    at interpreter shutdown, and the shutdown itself takes seconds.
    """
    atexit._run_exitfuncs()  # stops Prefect's own server, closes clusters, flushes logs
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
