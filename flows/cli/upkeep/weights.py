"""`medsam3 weights`: register, check and list weights."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from flows.messages.console import say
from flows.messages.tables import plain_table, stdout_console
from medsam3_core.capabilities import Capabilities
from storage.store.layout import StoreLayout, open_store
from storage.weights.registry import add_weights, check_registered, list_weights
from storage.weights.weights import Weights


def run_weights_list(root: Path) -> int:
    """Print all weights of a store; exit code 0."""
    print_weights(list_weights(open_store(root)))
    return 0


def run_weights_add(root: Path, name: str, path: str, *, licence: str, base: str | None) -> int:
    """Register weights and print them; exit code 0."""
    added = add_weights(open_store(root), name, path, licence=licence, base=base)
    say_match(added)
    if not added.note:
        say("no licence note found beside the weights; set one with --licence")
    print_weights([added])
    return 0


def run_weights_check(root: Path, name_or_path: str, base: str | None) -> int:
    """Read and check weights completely and print them; exit code 0."""
    found = check_registered(StoreLayout(root), name_or_path, base)
    say_match(found)
    print_weights([found])
    return 0


def print_weights(weights: Sequence[Weights], console: Console | None = None) -> None:
    """One row per version, readable in 100 columns."""
    columns = ("weights", "sha256", "layout", "parameters", "takes", "note")
    table = plain_table(*columns, right=("parameters",), fixed=("weights", "sha256"))
    for item in weights:
        cells = (
            f"{item.name}@{item.version}",
            item.sha256[:12],
            item.layout,
            f"{item.parameters / 1e6:.3g} M" if item.parameters else "-",
            ", ".join(accepted_prompts(item.capabilities)),
            item.note,
        )
        table.add_row(*(Text(cell) for cell in cells))
    (console or stdout_console()).print(table)


def say_match(item: Weights) -> None:
    """Report how the keys of the file were matched; incomplete weights are refused earlier."""
    if item.matched:
        say(f"{item.matched} keys matched, 0 missing, 0 unexpected, {item.dropped} dropped on purpose; values finite")
    for reason in item.drop_reasons:
        say(f"dropped: {reason}")
    if item.revision:
        say(f"{item.source} at revision {item.revision}")


def accepted_prompts(capabilities: Capabilities) -> list[str]:
    """Kinds of prompts that weights accept, and `propagation`."""
    kinds = {
        "text": capabilities.text,
        "box": capabilities.box,
        "points": capabilities.interactive,
        "mask": capabilities.interactive,
        "propagation": capabilities.propagation,
    }
    return [kind for kind, can in kinds.items() if can]
