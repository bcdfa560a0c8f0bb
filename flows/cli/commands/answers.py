"""Commands that read a store: status, sql, export, compare, report, dashboard, replay, clusters."""

from functools import partial
from pathlib import Path

import click

from flows.settings.defaults import METRICS
from flows.settings.options import CommandWithExamples, LateHelp, formats_help, store_option
from medsam3_core.settings.extras import Extra, require_extra


@click.command(cls=CommandWithExamples, epilog="medsam3 status\nmedsam3 status --store /data/store")
@store_option
def status(store: Path) -> int:
    """Show cohorts, runs and their pending and failed cases."""
    from flows.cli.answers.status import run_status

    return run_status(store)


@click.command(
    cls=CommandWithExamples,
    epilog="""medsam3 sql "SELECT weights, structure, dice_mean FROM leaderboard ORDER BY dice_mean DESC"
    medsam3 sql "SELECT * FROM failures" --format csv > failures.csv""",
)
@click.argument("query")
@click.option(
    "--format", "form", type=click.Choice(["table", "csv", "json", "parquet"]), default="table", show_default=True
)
@store_option
def sql(query: str, form: str, store: Path) -> int:
    """Run one SELECT over the views of the store.

    Common views: leaderboard, scores, failures, cases, history, and compare('BASE', 'NEW'). docs/reference/catalog.md
    lists all views and columns.
    """
    from flows.cli.answers.sql import run_query

    return run_query(store, query, form)


@click.command(
    cls=CommandWithExamples,
    epilog="""medsam3 export 1f0c2d3e4a5b --format nifti --out masks
    medsam3 export 1f0c2d3e4a5b --format png --case Image_01L""",
)
@click.argument("run_id")
@click.option("--format", "form", cls=LateHelp, make_help=partial(formats_help, "export"), required=True)
@click.option("--case", "case_ids", multiple=True, help="Case ID; repeatable.  [default: all]")
@click.option("--out", type=click.Path(path_type=Path), default=Path("export"), show_default=True)
@store_option
def export(run_id: str, form: str, case_ids: tuple[str, ...], out: Path, store: Path) -> int:
    """Write the predictions of a run as files for other tools, or as images."""
    from flows.cli.answers.export import run_export

    return run_export(store, run_id, form, case_ids, out)


@click.command(
    cls=CommandWithExamples,
    epilog="""medsam3 compare baseline:box sam3
    medsam3 compare sam3@1 sam3@2 --cohort chase --fail-on-regression --margin dice=0.01
    medsam3 compare sam3 medsam3 --metric nsd --metric hd95""",
)
@click.argument("base")
@click.argument("new")
@click.option("--cohort", "cohorts", multiple=True, help="Cohort; repeatable.  [default: all in common]")
@click.option("--split", help="Only cases of this split.  [default: all]")
@click.option("--metric", "metrics", multiple=True, default=METRICS, show_default=True, help="Metric; repeatable.")
@click.option(
    "--margin", "margins", multiple=True, metavar="METRIC=F", help="Tolerated decline of a metric; repeatable."
)
@click.option("--fail-on-regression", is_flag=True, help="Exit with code 3 if NEW is worse by more than the margin.")
@store_option
def compare(
    base: str,
    new: str,
    cohorts: tuple[str, ...],
    split: str | None,
    metrics: tuple[str, ...],
    margins: tuple[str, ...],
    fail_on_regression: bool,
    store: Path,
) -> int:
    """Compare weights NEW with weights BASE, paired by case, structure and prompt, tested by patient.

    BASE and NEW are NAME or NAME@N.
    """
    from flows.cli.answers.compare import parse_margins, run_compare
    from storage.comparisons.comparison import ComparisonRequest

    request = ComparisonRequest(base, new, cohorts, split, tuple(dict.fromkeys(metrics)), parse_margins(margins))
    return run_compare(store, request, fail_on_regression=fail_on_regression)


@click.command(cls=CommandWithExamples, epilog="medsam3 report --out report.html")
@click.option("--out", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True)
@store_option
def report(out: Path, store: Path) -> int:
    """Write one self-contained HTML page with all results, for offline reading."""
    from flows.service.dashboard import run_dashboards

    require_extra(Extra.DASHBOARD, "medsam3 report", "plotly")
    return run_dashboards("report", store, "--out", str(out))


@click.command(cls=CommandWithExamples, epilog="medsam3 dashboard\nmedsam3 dashboard --port 8600 --store /data/store")
@click.option("--port", type=click.IntRange(1024, 65535), default=8501, show_default=True)
@store_option
def dashboard(port: int, store: Path) -> int:
    """Serve the dashboard on this machine only (127.0.0.1) until Ctrl+C."""
    from flows.service.dashboard import run_dashboards

    require_extra(Extra.DASHBOARD, "medsam3 dashboard", "plotly", "streamlit")
    return run_dashboards("serve", store, "--port", str(port))


@click.command(cls=CommandWithExamples, epilog="medsam3 replay 3f2a9c017b5e\nmedsam3 replay 3f2a9c017b5e --case ct_004")
@click.argument("run")
@click.option("--case", "cases", multiple=True, help="Case ID; repeatable.  [default: all]")
@store_option
def replay(run: str, cases: tuple[str, ...], store: Path) -> int:
    """Replay an agent RUN from its trace, offline, and compare the masks; exits with 1 if one differs."""
    from flows.cli.work.agent import run_replay

    return run_replay(store, run, cases)


@click.command(cls=CommandWithExamples, epilog="medsam3 clusters\nmedsam3 clusters night > job.sh")
@click.argument("name", required=False)
@store_option
def clusters(name: str | None, store: Path) -> int:
    """List the values of --cluster, or print the job script of the cluster NAME."""
    from flows.cli.upkeep.clusters import run_clusters

    return run_clusters(store, name)


RESULT_COMMANDS = (status, sql, export, compare, report, dashboard, replay, clusters)
