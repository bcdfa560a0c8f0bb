"""What all commands share: exit codes, the option `--store`, a help that keeps its examples readable."""

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


class LocationType(click.ParamType[Path]):
    """A folder, or the path of an object store."""

    name = "location"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Path:
        """A path that can be read and joined, wherever it lies."""
        return location(value)


class LateHelp(click.Option):
    """An option whose help is made only when it is shown: what knows the words takes a second to import."""

    def __init__(self, *args: Any, words: Callable[[], str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.words = words

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Declaration and help."""
        self.help = self.words()
        return super().get_help_record(ctx)


def formats_help(command: str, key: str = "name") -> str:
    """Name (or another `key`) and description of each format that a command writes."""
    from storage.exports.registry import formats_of

    return "; ".join(f"{getattr(item, key)}: {item.help}" for item in formats_of(command)) + "."


def threshold_help() -> str:
    """The description of the inference setting."""
    from medsam3_core.settings.described import option_help
    from medsam3_core.settings.inference import InferenceSettings

    return option_help(InferenceSettings, "threshold")


reader_option = click.option("--reader", default=READER, show_default=True, help="Recipe or layout by name.")
prompt_option = click.option(
    "--prompt", default=PROMPT, show_default=True, help="text, or agent: --text is a request in your words."
)
settings_option = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Inference setting; repeat for several."
)


def cluster_option(words: str = "Cluster by name.") -> Callable[[click.decorators.FC], click.decorators.FC]:
    """`--cluster NAME`, the same everywhere."""
    return click.option("--cluster", default=CLUSTER, show_default=True, help=words)


def store_option(command: click.decorators.FC) -> click.decorators.FC:
    """`--store DIR`, the same everywhere."""
    return click.option(
        "--store",
        type=LocationType(),
        default=lambda: os.environ.get(STORE_VARIABLE, DEFAULT_STORE),
        help=f"Folder of the store, or s3://bucket/prefix.  [default: ${STORE_VARIABLE}, else ./{DEFAULT_STORE}]",
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
