"""Leaderboard printed by `benchmark` and `demo`: means with intervals, denominators and notes."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.messages.formatting import format_number
from flows.messages.tables import plain_table, stdout_console
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
    """Print one table per cohort and split, readable in 100 columns, with inter-rater agreement and notes."""
    console = console or stdout_console()
    if not rows:
        console.print("No scores yet: run `medsam3 benchmark` first.")
        return
    blocks: dict[tuple[str, str | None], list[Row]] = {}
    for row in rows:
        blocks.setdefault((row["cohort"], row["split"]), []).append(row)
    parts: list[RenderableType] = []
    for (cohort, split), block in blocks.items():
        parts += [Text(f"{cohort}, {f'split {split}' if split else 'all cases'}", style="bold"), _block_table(block)]
        parts += [Text(line) for line in _inter_rater_lines(inter_rater, cohort, split)]
    console.print(Group(*parts, *(Text(note, style="dim") for note in leaderboard_notes(rows))))


def _inter_rater_lines(inter_rater: Sequence[Row], cohort: str, split: str | None) -> list[str]:
    """Agreement of raters on these cases, one line per structure and pair of raters."""
    return [
        f"inter-rater, {row['structure']}: {row['other_rater']} against {row['rater']}, Dice {row['dice_mean']:.3f} "
        f"({row['dice_min']:.3f} to {row['dice_max']:.3f}, {row['cases']} cases)"
        for row in inter_rater
        if (row["cohort"], row["split"]) == (cohort, split) and row["dice_mean"] is not None
    ]


def leaderboard_notes(rows: Sequence[Row]) -> list[str]:
    """Notes that apply to these rows, one sentence each."""
    notes = ["Means over scored cases that contain the structure; [ ] 95 % t interval over patients."]
    if any(row["privileged"] for row in rows):
        notes.append("* prompts made from the reference (privileged).")
    if any(row["failed"] for row in rows):
        notes.append(
            "Failed cases are not in the means. dice0 is the mean Dice with failed cases counted as 0, unless the "
            'structure is known to be absent. Reasons: medsam3 sql "SELECT * FROM failures".'
        )
    if any(row["pending"] for row in rows):
        notes.append("+N planned cases are pending; run the same benchmark again.")
    if any(row["in_training"] for row in rows):
        notes.append("tN scored cases are in the training data of the weights and are excluded from all means.")
    if any((row["hd95_n"] or 0) < row["present"] for row in rows):
        notes.append("HD95 is undefined for empty predictions.")
    if any("untrained" in row["weights"] for row in rows):
        notes.append("Untrained weights give random masks; they only test the pipeline.")
    if small := sorted({row["weights"] for row in rows if row["weights"] in shipped_names()}):
        notes.append(
            f"{' and '.join(small)}: demo weights with 7 million parameters, not for clinical use; "
            "add your own with `medsam3 weights add`."
        )
    return notes


def _block_table(rows: Sequence[Row]) -> Table:
    several_raters = len({row["rater"] for row in rows}) > 1
    failures = any(row["failed"] for row in rows)
    texts = ("structure", *(["rater"] if several_raters else []), "weights", "prompt")
    numbers = ("scored", "failed", "Dice [95 %]", *(["dice0"] if failures else []), "NSD", "HD95")
    table = plain_table(*texts, *numbers, right=numbers, fixed=("weights",))
    for row in rows:
        cells = [row["structure"], *([row["rater"]] if several_raters else []), _weights(row), _prompt(row)]
        cells += [_denominator(row), str(row["failed"]), _interval(row)]
        cells += [format_number(row["dice_mean_failures_as_zero"])] if failures else []
        cells += [format_number(row["nsd_mean"]), _distance(row)]
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
