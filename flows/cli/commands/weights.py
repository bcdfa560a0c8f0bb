"""The commands `medsam3 weights ...`."""

from pathlib import Path

import click

from flows.settings.options import CommandWithExamples, store_option


@click.group()
def weights() -> None:
    """Weights by name: what they are, what they can take, whether they load."""


@weights.command("list", cls=CommandWithExamples, epilog="medsam3 weights list")
@store_option
def weights_list(store: Path) -> None:
    """List all weights with version, identity and capabilities."""
    from flows.cli.upkeep.weights import print_weights
    from storage.store.layout import open_store
    from storage.weights.registry import list_weights

    print_weights(list_weights(open_store(store)))


@weights.command(
    "add",
    cls=CommandWithExamples,
    epilog="""medsam3 weights add sam3 checkpoints/sam3.pt --licence 'SAM License'
    medsam3 weights add sam3 hf://facebook/sam3/sam3.pt
    medsam3 weights add polyps adapters/polyps --base sam3""",
)
@click.argument("name")
@click.argument("path")
@click.option("--base", metavar="NAME|PATH", help="What a LoRA adapter was trained on.  [default: what it says]")
@click.option("--licence", default="", help="Licence note, kept in the registry.  [default: as the folder says]")
@store_option
def weights_add(name: str, path: str, base: str | None, licence: str, store: Path) -> None:
    """Register weights: every tensor must match the architecture, every value must be finite.

    PATH is a checkpoint file, a Hugging Face folder, a LoRA adapter, or hf://owner/name[@revision][/file].
    """
    from flows.cli.upkeep.weights import print_weights, say_match
    from flows.messages.console import say
    from storage.store.layout import open_store
    from storage.weights.registry import add_weights

    added = add_weights(open_store(store), name, path, licence=licence, base=base)
    say_match(added)
    if not added.note:
        say("no licence note: nothing beside the weights says one; give it with --licence")
    print_weights([added])


@weights.command(
    "check", cls=CommandWithExamples, epilog="medsam3 weights check sam3\nmedsam3 weights check checkpoints/sam3.pt"
)
@click.argument("name_or_path")
@click.option("--base", metavar="NAME|PATH", help="What a LoRA adapter was trained on.  [default: what it says]")
@store_option
def weights_check(name_or_path: str, base: str | None, store: Path) -> None:
    """Read weights, match every tensor, look at every value and compare the digest with the registry."""
    from flows.cli.upkeep.weights import print_weights, say_match
    from storage.store.layout import StoreLayout
    from storage.weights.registry import check_registered

    found = check_registered(StoreLayout(store), name_or_path, base)
    say_match(found)
    print_weights([found])
