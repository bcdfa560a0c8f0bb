"""The leaderboard that ends `benchmark` and `demo`: means with intervals and denominators, and what they leave out."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.messages.tables import stdout_console
from medsam3_core.prompts.policies import short_prompt
from storage.catalog.queries.leaderboard import read_inter_rater, read_leaderboard
from storage.store.layout import StoreLayout
from storage.weights.shipped import shipped_names

Row = Mapping[str, Any]


def leaderboard_rows(store: StoreLayout, run_ids: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Rows of the view `leaderboard` of these runs, or of all current runs."""
    rows: list[dict[str, Any]] = read_leaderboard(store, run_ids).to_pylist()
    return rows


def inter_rater_rows(store: StoreLayout) -> list[dict[str, Any]]:
    """Rows of the view `inter_rater`."""
    rows: list[dict[str, Any]] = read_inter_rater(store).to_pylist()
    return rows


def print_leaderboard(rows: Sequence[Row], console: Console | None = None, inter_rater: Sequence[Row] = ()) -> None:
    """Print one table per cohort and split, with how far raters agree and notes under it."""
    (console or stdout_console()).print(render_leaderboard(rows, inter_rater))


def render_leaderboard(rows: Sequence[Row], inter_rater: Sequence[Row] = ()) -> RenderableType:
    """One table per cohort and split, readable in 100 columns, and the notes that its marks need."""
    if not rows:
        return Text("No scores yet: run `medsam3 benchmark` first.")
    blocks: dict[tuple[str, str | None], list[Row]] = {}
    for row in rows:
        blocks.setdefault((row["cohort"], row["split"]), []).append(row)
    parts: list[RenderableType] = []
    for (cohort, split), block in blocks.items():
        parts += [Text(f"{cohort}, {f'split {split}' if split else 'all cases'}", style="bold"), _block_table(block)]
        parts += [Text(line) for line in _inter_rater_lines(inter_rater, cohort, split)]
    return Group(*parts, *(Text(note, style="dim") for note in leaderboard_notes(rows)))


def _inter_rater_lines(inter_rater: Sequence[Row], cohort: str, split: str | None) -> list[str]:
    """How far people agree on these cases, one line per structure and pair of raters."""
    return [
        f"inter-rater, {row['structure']}: {row['other_rater']} against {row['rater']}, Dice {row['dice_mean']:.3f} "
        f"({row['dice_min']:.3f} to {row['dice_max']:.3f}, {row['cases']} cases)"
        for row in inter_rater
        if (row["cohort"], row["split"]) == (cohort, split) and row["dice_mean"] is not None
    ]


def leaderboard_notes(rows: Sequence[Row]) -> list[str]:
    """What a reader must know about these rows, one sentence each; only what applies."""
    notes = ["Means over scored cases that hold the structure; [ ] 95 % t interval over patients."]
    if any(row["privileged"] for row in rows):
        notes.append("* prompts made from the reference (privileged).")
    if any(row["failed"] for row in rows):
        notes.append(
            "Failed cases are not in the means. dice0 is the Dice with each failed case counted as 0, unless the "
            'structure is known to be absent from it; `medsam3 sql "SELECT * FROM failures"` says why they failed.'
        )
    if any(row["pending"] for row in rows):
        notes.append("+N planned cases have not been tried yet; run the same benchmark again.")
    if any(row["in_training"] for row in rows):
        notes.append("tN scored cases were in the training data of the weights and are left out of all means.")
    if any((row["hd95_n"] or 0) < row["present"] for row in rows):
        notes.append("HD95 has no value where nothing was drawn.")
    if any("untrained" in row["weights"] for row in rows):
        notes.append("Untrained weights draw at random: they prove that the path works, nothing else.")
    if small := sorted({row["weights"] for row in rows if row["weights"] in shipped_names()}):
        notes.append(
            f"{' and '.join(small)}: demo weights of 7 million parameters that come with medsam3, not for patients; "
            "bring your own with `medsam3 weights add`."
        )
    return notes


def _block_table(rows: Sequence[Row]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    several_raters = len({row["rater"] for row in rows}) > 1
    failures = any(row["failed"] for row in rows)
    for name in ("structure", *(["rater"] if several_raters else []), "weights", "prompt"):
        table.add_column(name, overflow="fold", no_wrap=name == "weights")
    numbers = ("scored", "failed", "Dice [95 %]", *(["dice0"] if failures else []), "NSD", "HD95")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = [row["structure"], *([row["rater"]] if several_raters else []), _weights(row), _prompt(row)]
        cells += [_denominator(row), str(row["failed"]), _interval(row)]
        cells += [_number(row["dice_mean_failures_as_zero"])] if failures else []
        cells += [_number(row["nsd_mean"]), _distance(row)]
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _weights(row: Row) -> str:
    version = row["weights_version"]
    return f"{row['weights']}@{version}" if version not in (None, 1) else str(row["weights"])


def _prompt(row: Row) -> str:
    return f"{short_prompt(row['prompt'])}{'*' if row['privileged'] else ''}"


def _denominator(row: Row) -> str:
    pending = f"+{row['pending']}" if row["pending"] else ""
    trained = f"t{row['in_training']}" if row["in_training"] else ""
    return " ".join(part for part in (f"{row['scored']}/{row['planned']}", pending, trained) if part)


def _interval(row: Row) -> str:
    if row["dice_mean"] is None:
        return "-"
    if row["dice_low"] is None:
        return f"{row['dice_mean']:.3f} [one patient]"
    return f"{row['dice_mean']:.3f} [{row['dice_low']:.3f} {row['dice_high']:.3f}]"


def _distance(row: Row) -> str:
    return "-" if row["hd95_mean"] is None else f"{row['hd95_mean']:.1f} {row['distance_unit']}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
