"""Exit codes, options and classes shared by all commands."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from flows.settings.defaults import CLUSTER, PROMPT, READER
from storage.store.layout import DEFAULT_STORE, STORE_VARIABLE, StoreLayout, existing_store
from storage.store.locations import location

FAILED_CASES, WRONG_USAGE, REGRESSION, INTERRUPTED = 1, 2, 3, 130


class CommandWithExamples(click.Command):
    """A command that exits with the code returned by its body and shows its examples line by line."""

    def invoke(self, context: click.Context) -> NoReturn:
        """Run the body and exit with its code."""
        context.exit(super().invoke(context))

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the epilog line by line, each indented."""
        if self.epilog:
            formatter.write_paragraph()
            formatter.write("Examples:\n")
            for line in self.epilog.strip().splitlines():
                formatter.write(f"  {line.strip()}\n")


class LocationType(click.ParamType[Path]):
    """A folder, or a path in an object store."""

    name = "location"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Path:
        """Convert to a path, local or remote."""
        return location(value)


class LateHelp(click.Option):
    """An option whose help is built only when it is shown, because its source takes a second to import."""

    def __init__(self, *args: Any, make_help: Callable[[], str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.make_help = make_help

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Declaration and help of the option."""
        self.help = self.make_help()
        return super().get_help_record(ctx)


def formats_help(command: str, key: str = "name") -> str:
    """Name (or another `key`) and description of each format that `command` writes."""
    from storage.exports.registry import formats_of

    return "; ".join(f"{getattr(item, key)}: {item.help}" for item in formats_of(command)) + "."


def threshold_help() -> str:
    """Description of the inference setting `threshold`."""
    from medsam3_core.settings.described import option_help
    from medsam3_core.settings.inference import InferenceSettings

    return option_help(InferenceSettings, "threshold")


reader_option = click.option("--reader", default=READER, show_default=True, help="Name of a recipe or layout.")
prompt_option = click.option(
    "--prompt",
    default=PROMPT,
    show_default=True,
    help="Prompt policy: text, or agent (--text is a request in plain words).",
)
settings_option = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Inference setting; repeatable."
)


def cluster_option(text: str = "Cluster by name.") -> Callable[[click.decorators.FC], click.decorators.FC]:
    """The option `--cluster NAME`."""
    return click.option("--cluster", default=CLUSTER, show_default=True, help=text)


def store_option(command: click.decorators.FC) -> click.decorators.FC:
    """The option `--store DIR`."""
    return click.option(
        "--store",
        type=LocationType(),
        default=lambda: os.environ.get(STORE_VARIABLE, DEFAULT_STORE),
        help=f"Folder of the store, or s3://bucket/prefix.  [default: ${STORE_VARIABLE}, else ./{DEFAULT_STORE}]",
    )(command)


def store_to_read(root: Path) -> StoreLayout:
    """Open the store at `root` for reading; warn about broken runs, which no view shows.

    Raises:
        StoreError: If there is none; names the command that creates one.
    """
    from flows.messages.console import say
    from storage.store.runs import broken_runs

    store = existing_store(root)
    for sentence in broken_runs(store):
        say(sentence)
    return store
