"""The answer to a triggered benchmark, in markdown: verdict, table, what was computed, where to read on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.benchmark import BenchmarkSummary
from storage.comparisons.comparison import Comparison, StructureComparison
from storage.comparisons.words import comparison_notes, comparison_sentences, short_prompt
from storage.weights.weights import Weights

_COLUMNS = (
    "cohort",
    "prompt",
    "structure",
    "metric",
    "patients",
    "BASE",
    "NEW",
    "difference [95 %]",
    "p Holm",
    "NEW is",
)


@dataclass(frozen=True, eq=False)
class Answer:
    """How a triggered benchmark ended.

    Attributes:
        new: Weights that were benchmarked.
        base: Version that they were compared with; None where none was benchmarked before.
        computed: What the benchmark did.
        comparison: New against base; None without a base.
        report: Where the report of the whole store was written; None where that failed.
    """

    new: Weights
    base: Weights | None
    computed: BenchmarkSummary
    comparison: Comparison | None
    report: Path | None

    @property
    def regression(self) -> bool:
        """Whether the new version is worse beyond the margins."""
        return bool(self.comparison and self.comparison.regressions)

    @property
    def verdict(self) -> str:
        """One sentence, which is also the message of the flow run's final state."""
        named = f"{self.new.name}@{self.new.version}"
        if self.comparison is None:
            return f"{named}: no earlier version was benchmarked, nothing to compare with."
        return comparison_sentences(self.comparison)[0]

    def markdown(self) -> str:
        """The whole answer."""
        base = f"{self.base.name}@{self.base.version} ({self.base.sha256[:12]})" if self.base else "none"
        counts = ", ".join(f"{count} {status}" for status, count in sorted(self.computed.computed.items())) or "nothing"
        lines = [
            f"# {self.verdict}",
            "",
            f"New: **{self.new.name}@{self.new.version}** ({self.new.sha256[:12]}). Base: {base}.",
            f"Computed: {counts}; {self.computed.fresh} case and run pairs were up to date.",
        ]
        if self.computed.unscored:
            lines += ["", f"**{self.computed.unscored} case and run pairs have no score**: see the view `failures`."]
        if self.comparison is not None:
            lines += ["", *comparison_sentences(self.comparison)[1:], "", *_table(self.comparison.structures), ""]
            lines += [f"- {note}" for note in comparison_notes(self.comparison)]
        lines += [f"- {sentence}" for sentence in self.computed.refused]
        if self.report is not None:
            lines += ["", f"[Report of the whole store]({self.report.absolute().as_uri()})"]
        return "\n".join(lines)


def _table(items: Sequence[StructureComparison]) -> list[str]:
    rows = [_COLUMNS, ("---",) * len(_COLUMNS), *(_cells(item) for item in items)]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]


def _cells(item: StructureComparison) -> tuple[str, ...]:
    found = item.numbers
    difference = "-" if found.difference is None else f"{found.difference:+.3f}"
    if found.low is not None and found.high is not None:
        difference += f" [{found.low:+.3f} {found.high:+.3f}]"
    return (
        item.cohort,
        short_prompt(item.prompt),
        item.structure,
        f"{item.metric} {item.unit}".strip(),
        str(found.patients),
        _number(found.base_mean),
        _number(found.new_mean),
        difference,
        _number(item.adjusted_p),
        str(item.verdict),
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
