"""`python -m dashboards report|serve`: the process behind `medsam3 report` and `medsam3 dashboard`."""

import sys
from pathlib import Path

import click

from medsam3_core.errors import Medsam3Error
from storage.store.layout import existing_store

_store = click.option("--store", required=True, help="Folder of the store, or s3://bucket/prefix.")


@click.group()
def main() -> None:
    """Pages over a store."""


@main.command()
@_store
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File to write.")
def report(store: str, out: Path) -> None:
    """Write the report and print its path."""
    from dashboards.report.report import write_report
    from storage.store.runs import broken_runs

    layout = existing_store(store)
    for sentence in broken_runs(layout):
        click.echo(sentence, err=True)
    click.echo(str(write_report(layout, out)))


@main.command()
@_store
@click.option("--port", type=int, default=8501, show_default=True)
def serve(store: str, port: int) -> None:
    """Serve the dashboard on 127.0.0.1 until interrupted."""
    from dashboards.serve import serve as run

    run(existing_store(store), port)


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except Medsam3Error as error:
        click.echo(f"medsam3: {error}", err=True)
        sys.exit(2)
