"""Commands of `medsam3 weights`."""

from pathlib import Path

import click

from flows.settings.options import CommandWithExamples, store_option


@click.group()
def weights() -> None:
    """List, register and check weights."""


@weights.command("list", cls=CommandWithExamples, epilog="medsam3 weights list")
@store_option
def weights_list(store: Path) -> int:
    """List all weights with version, identity and capabilities."""
    from flows.cli.upkeep.weights import run_weights_list

    return run_weights_list(store)


@weights.command(
    "add",
    cls=CommandWithExamples,
    epilog="""medsam3 weights add sam3 checkpoints/sam3.pt --licence 'SAM License'
    medsam3 weights add sam3 hf://facebook/sam3/sam3.pt
    medsam3 weights add polyps adapters/polyps --base sam3""",
)
@click.argument("name")
@click.argument("path")
@click.option("--base", metavar="NAME|PATH", help="Base weights of a LoRA adapter.  [default: from the adapter]")
@click.option("--licence", default="", help="Licence note, kept in the registry.  [default: from the folder]")
@store_option
def weights_add(name: str, path: str, base: str | None, licence: str, store: Path) -> int:
    """Register weights; every tensor must match the architecture, and every value must be finite.

    PATH is a checkpoint file, a Hugging Face folder, a LoRA adapter, or hf://owner/name[@revision][/file].
    """
    from flows.cli.upkeep.weights import run_weights_add

    return run_weights_add(store, name, path, licence=licence, base=base)


@weights.command(
    "check", cls=CommandWithExamples, epilog="medsam3 weights check sam3\nmedsam3 weights check checkpoints/sam3.pt"
)
@click.argument("name_or_path")
@click.option("--base", metavar="NAME|PATH", help="Base weights of a LoRA adapter.  [default: from the adapter]")
@store_option
def weights_check(name_or_path: str, base: str | None, store: Path) -> int:
    """Check every tensor and value of weights, and compare their digest with the registry."""
    from flows.cli.upkeep.weights import run_weights_check

    return run_weights_check(store, name_or_path, base)
