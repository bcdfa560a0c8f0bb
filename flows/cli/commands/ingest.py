"""The command ingest, and its `--check`."""

from pathlib import Path

import click

from flows.settings.options import CommandWithExamples, cluster_option, reader_option, store_option


@click.command(
    cls=CommandWithExamples,
    epilog="""medsam3 ingest data/CHASE_DB1 --cohort chase
    medsam3 ingest data/Task04_Hippocampus --cohort hippocampus --limit 20
    medsam3 ingest data/tn3k --check
    medsam3 ingest data/tn3k --reader tn3k --check --format json
    medsam3 ingest phantom:ct,cases=12 --cohort phantom-ct""",
)
@click.argument("source")
@click.option("--cohort", help="Name of the cohort in the store.")
@reader_option
@click.option("--recipe", type=click.Path(path_type=Path), help="Recipe file (YAML).")
@click.option("--split", help="Split of all cases, overriding the recipe.")
@click.option("--limit", type=click.IntRange(min=1), help="Maximum number of cases.")
@cluster_option()
@click.option("--check", is_flag=True, help="Read every case, write nothing, report problems.")
@click.option(
    "--format", "output", type=click.Choice(["table", "json"]), help="Output format of --check.  [default: table]"
)
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
) -> int:
    """Convert SOURCE to OME-Zarr and record every case as accepted or rejected with its reason.

    SOURCE is a folder or phantom:KIND, where KIND is ct, mr, fundus, nuclei, ultrasound, endoscopy, dermoscopy, xray
    or shapes.

    --check also looks for duplicate images in the cohorts of the store. It exits with 1 if it finds anything.
    """
    if not check and (cohort is None or output is not None):
        msg = "--cohort is missing" if cohort is None else "--format is for --check"
        raise click.UsageError(msg)
    from storage.ingest.plan import IngestRequest

    request = IngestRequest(source, cohort or "", reader, recipe, split, limit or 0)
    if check:
        from flows.cli.work.check import run_check

        return run_check(store, request, output or "table")
    from flows.cli.work.ingest import run_ingest

    return run_ingest(store, request, cluster)
