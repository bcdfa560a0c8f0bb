"""What all commands share: exit codes, the option `--store`, a help that keeps its examples readable."""

import os
from pathlib import Path
from typing import Any, NoReturn

import click

from storage.store.layout import STORE_VARIABLE, StoreLayout, existing_store
from storage.store.locations import location

FAILED_CASES, WRONG_USAGE, REGRESSION, INTERRUPTED = 1, 2, 3, 130


class CommandWithExamples(click.Command):
    """A command that ends with the exit code that its body returns, and whose help keeps the layout of its examples."""

    def invoke(self, context: click.Context) -> NoReturn:
        """Run the body."""
        context.exit(super().invoke(context))

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the epilog line by line, each indented."""
        if self.epilog:
            formatter.write_paragraph()
            formatter.write("Examples:\n")
            for line in self.epilog.strip().splitlines():
                formatter.write(f"  {line.strip()}\n")


class LocationType(click.ParamType):
    """A folder, or the path of an object store."""

    name = "location"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Path:
        """A path that can be read and joined, wherever it lies."""
        return location(value)


class FormatOption(click.Option):
    """An option whose help is made of what the formats of its command say, read only when the help is shown."""

    def __init__(self, *args: Any, command: str, key: str = "name", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.command, self.key = command, key

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Name (or another `key`) and help of each format."""
        from storage.exports.registry import formats_of

        said = [f"{getattr(item, self.key)}: {item.help}" for item in formats_of(self.command)]
        self.help = f"{'; '.join(said)}."
        return super().get_help_record(ctx)


def store_option(command: click.decorators.FC) -> click.decorators.FC:
    """`--store DIR`, the same everywhere."""
    return click.option(
        "--store",
        type=LocationType(),
        default=lambda: os.environ.get(STORE_VARIABLE, "medsam3-store"),
        help="Folder of the store, or s3://bucket/prefix.  [default: $MEDSAM3_STORE, else ./medsam3-store]",
    )(command)


def store_to_read(root: Path) -> StoreLayout:
    """The store at `root`; says which runs are in no view.

    Raises:
        StoreError: If there is none; says how to make one.
    """
    from flows.messages.console import say
    from storage.store.runs import broken_runs

    store = existing_store(root)
    for sentence in broken_runs(store):
        say(sentence)
    return store
