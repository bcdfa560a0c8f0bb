"""`medsam3 weights`: register, check and list weights, with what they are and what they take."""

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.messages.console import say
from flows.messages.tables import stdout_console
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
        say("no licence note: nothing beside the weights says one; give it with --licence")
    print_weights([added])
    return 0


def run_weights_check(root: Path, name_or_path: str, base: str | None) -> int:
    """Read weights whole and print them; exit code 0."""
    found = check_registered(StoreLayout(root), name_or_path, base)
    say_match(found)
    print_weights([found])
    return 0


def print_weights(weights: Sequence[Weights], console: Console | None = None) -> None:
    """One row per version, readable in 100 columns."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for name in ("weights", "sha256", "layout", "parameters", "takes", "note"):
        fixed = name in ("weights", "sha256", "parameters")
        table.add_column(name, justify="right" if name == "parameters" else "left", no_wrap=fixed, overflow="fold")
    for item in weights:
        cells = (
            f"{item.name}@{item.version}",
            item.sha256[:12],
            item.layout,
            in_millions(item.parameters),
            ", ".join(taken(item.capabilities)),
            item.note,
        )
        table.add_row(*(Text(cell) for cell in cells))
    (console or stdout_console()).print(table)


def say_match(item: Weights) -> None:
    """How the keys of the file were matched: weights are whole or refused, so nothing can be missing here."""
    if item.matched:
        say(f"{item.matched} keys matched, 0 missing, 0 unexpected, {item.dropped} dropped on purpose; values finite")
    for reason in item.drop_reasons:
        say(f"dropped: {reason}")
    if item.revision:
        say(f"{item.source} at revision {item.revision}")


def taken(capabilities: Capabilities) -> list[str]:
    """Kinds of prompts that weights take, and propagation."""
    kinds = {
        "text": capabilities.text,
        "box": capabilities.box,
        "points": capabilities.interactive,
        "mask": capabilities.interactive,
        "propagation": capabilities.propagation,
    }
    return [kind for kind, can in kinds.items() if can]


def in_millions(parameters: int) -> str:
    """Number of parameters as people read it; `-` for none."""
    return f"{parameters / 1e6:.3g} M" if parameters else "-"
