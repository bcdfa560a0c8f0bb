"""`medsam3 compare`: a verdict, one table per cohort, prompt and metric, and the worst cases."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.messages.formatting import format_number
from flows.messages.tables import plain_table, stdout_console
from flows.settings.options import REGRESSION, store_to_read
from medsam3_core.errors import UsageError
from medsam3_core.prompts.policies import short_prompt
from storage.comparisons.comparison import Comparison, ComparisonRequest, StructureComparison, Verdict, compare_weights
from storage.comparisons.words import comparison_notes, comparison_sentences, has_several_raters

_STYLES = {Verdict.WORSE: "bold red", Verdict.BETTER: "green", Verdict.WITHIN_MARGIN: "yellow"}


def parse_margins(assignments: Sequence[str]) -> dict[str, float]:
    """Parse `METRIC=NUMBER` assignments; the request checks the names of the metrics.

    Raises:
        UsageError: If one has another form, or a metric is given twice.
    """
    margins: dict[str, float] = {}
    for assignment in assignments:
        metric, _, number = assignment.partition("=")
        try:
            value = float(number)
        except ValueError:
            msg = f"margin {assignment!r} is not METRIC=NUMBER, such as dice=0.01"
            raise UsageError(msg) from None
        if metric in margins:
            msg = f"margin for {metric!r} is given twice"
            raise UsageError(msg)
        margins[metric] = value
    return margins


def run_compare(root: Path, request: ComparisonRequest, *, fail_on_regression: bool) -> int:
    """Print the comparison; exit code 0, or 3 for a regression if `fail_on_regression`."""
    comparison = compare_weights(store_to_read(root), request)
    stdout_console().print(render_comparison(comparison))
    return REGRESSION if fail_on_regression and comparison.regressions else 0


def render_comparison(comparison: Comparison) -> RenderableType:
    """Verdict, tables, worst cases and notes, readable in 100 columns."""
    parts: list[RenderableType] = [Text(line, style="bold") for line in comparison_sentences(comparison)]
    blocks: dict[tuple[str, ...], list[StructureComparison]] = {}
    for item in comparison.structures:
        blocks.setdefault((*item.group, item.metric), []).append(item)
    for rows in blocks.values():
        parts += [Text(), Text(_title(rows[0])), _block(rows)]
    if len(comparison.worst):
        parts += [Text(), Text(f"Cases with the largest loss in {comparison.request.metrics[0]}"), _worst(comparison)]
    return Group(*parts, *(Text(note, style="dim") for note in comparison_notes(comparison)))


def _title(item: StructureComparison) -> str:
    settings = "" if item.settings == "default" else f", {item.settings}"
    rater = "" if item.rater in (None, "reference") else f", rater {item.rater}"
    unit = f" in {item.unit}" if item.unit else ""
    return f"{item.cohort}, {item.prompt}{settings}{rater}: {item.metric}{unit}"


def _block(rows: Sequence[StructureComparison]) -> Table:
    numbers = ("patients", "BASE", "NEW", "difference [95 %]", "p Holm", "effect", "w/t/l")
    table = plain_table("structure", *numbers, "NEW is", right=numbers)
    for item in rows:
        found = item.numbers
        cells = [item.structure, str(found.patients), format_number(found.base_mean), format_number(found.new_mean)]
        cells += [_difference(item), _p(item), format_number(found.rank_biserial, "+.2f")]
        cells += [f"{found.wins}/{found.ties}/{found.losses}"]
        table.add_row(*(Text(cell) for cell in cells), Text(str(item.verdict), style=_STYLES.get(item.verdict, "")))
    return table


def _worst(comparison: Comparison) -> Table:
    several_raters = has_several_raters(comparison)
    numbers = ("BASE", "NEW", "difference")
    rater = ("rater",) if several_raters else ()
    table = plain_table("case", "cohort", "structure", *rater, *numbers, "prompt", right=numbers)
    for row in comparison.worst.to_dict("records"):
        status = "" if row["new_status"] == "scored" else f" ({row['new_status']})"
        table.add_row(
            Text(row["case_id"]), Text(row["cohort"]), Text(row["structure"]),
            *([Text(str(row["rater"]))] if several_raters else []), format_number(row["base"]),
            Text(format_number(row["new"]) + status), format_number(row["difference"], "+.3f"),
            Text(short_prompt(row["prompt"])),
        )  # fmt: skip
    return table


def _difference(item: StructureComparison) -> str:
    found = item.numbers
    if found.difference is None:
        return "-"
    if found.low is None or found.high is None:
        return f"{found.difference:+.3f} [one patient]"
    return f"{found.difference:+.3f} [{found.low:+.3f} {found.high:+.3f}]"


def _p(item: StructureComparison) -> str:
    if item.adjusted_p is None:
        return "-"
    return "<0.001" if item.adjusted_p < 0.001 else f"{item.adjusted_p:.3f}"
