"""The flow that new weights start: their stale runs, the comparison with the version before, an answer that is told."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.states import Completed, Failed, State

from flows.benchmark import BenchmarkSummary, compute_plan
from flows.clusters.forking import begin_forking
from flows.messages.console import tell
from flows.service.dashboard import write_report
from flows.service.deployed import store_of
from flows.service.notifications import notify
from flows.service.prepared import planned_requests
from flows.service.storms import answer_for_waiting_runs
from flows.settings.defaults import CLUSTER
from flows.settings.settings import Settings, named_cluster, read_settings
from medsam3_core.errors import Medsam3Error, UsageError
from medsam3_core.prompts.policies import short_prompt
from storage.comparisons.comparison import Comparison, ComparisonRequest, StructureComparison, compare_weights
from storage.comparisons.words import comparison_notes, comparison_sentences
from storage.runs.requests import BenchmarkRequest, runs_of
from storage.runs.standing import only_rescoring, previous_version, requests_following
from storage.store.layout import StoreLayout
from storage.weights.registry import find_weights
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
    """How a triggered benchmark ended, told in markdown: verdict, table, what was computed, where to read on.

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


@flow(name="benchmark-on-new-weights", flow_run_name="benchmark-new-{weights}")
def benchmark_new_weights(
    weights: str,
    store: str = "",
    old_sha256: str = "",
    new_sha256: str = "",
    cluster: str = CLUSTER,
    quiet_seconds: float = 10.0,
) -> State[str]:
    """Bring all benchmarks of some weights up to date with their newest version, and say whether it got worse.

    Only what has been benchmarked with these weights before runs again, and of that only what is stale. The run ends
    Failed where the new version is worse than the one before beyond the margins of the settings.

    Args:
        weights: Name of the weights, as it stands in the event.
        store: Folder of the store; empty for `$MEDSAM3_STORE`.
        old_sha256: Digest of the version before, from the event.
        new_sha256: Digest of the new version, from the event.
        cluster: Cluster by name.
        quiet_seconds: How long no further event about these weights must have come before work begins.
    """
    layout = store_of(store)
    settings = read_settings(layout.root)
    _begin_workers(layout, weights, cluster)
    answer_for_waiting_runs({"weights": weights, "store": store}, quiet_seconds=quiet_seconds)
    new = find_weights(layout, weights)
    if new_sha256 and new_sha256 != new.sha256:
        tell(f"the event was about {new_sha256[:12]}; {new.name}@{new.version} ({new.sha256[:12]}) is newer")
    requests = requests_following(layout, new.name)
    if not requests:
        return Completed(message=f"nothing was ever benchmarked with {new.name}: nothing depends on it")
    try:
        answer = _answer(layout, settings, new, requests, cluster)
    except Medsam3Error as error:
        _tell_people(settings, "error", new, f"benchmark of {new.name}@{new.version} ended early: {error}")
        raise
    publish_answer(settings, answer)
    return (Failed if answer.regression else Completed)(message=answer.verdict, data=answer.verdict)


def _begin_workers(store: StoreLayout, name: str, cluster: str) -> None:
    """Let workers import while further events are waited for, if there may be something to compute."""
    with suppress(UsageError):  # said when it is planned in earnest
        if requests := requests_following(store, name):
            begin_forking(named_cluster(cluster, store.root), runs_of(store, requests).weights)


def _answer(
    store: StoreLayout, settings: Settings, new: Weights, requests: list[BenchmarkRequest], cluster: str
) -> Answer:
    with planned_requests(store, requests) as planned:
        computed = compute_plan(store, planned, cluster)
    base = previous_version(store, new)
    comparison = None
    if base is not None:
        named = f"{base.name}@{base.version}"
        earlier = [replace(request, weights=(named,)) for request in requests]
        with planned_requests(store, earlier) as planned:
            compute_plan(store, replace(planned, plan=only_rescoring(planned.plan)), cluster)
        comparison = _compared(store, settings, named, f"{new.name}@{new.version}", requests)
    report = store.report(f"{new.name}-{new.version}")
    return Answer(new, base, computed, comparison, report if write_report(store.root, report) else None)


def _compared(
    store: StoreLayout, settings: Settings, base: str, new: str, requests: list[BenchmarkRequest]
) -> Comparison:
    cohorts = tuple(sorted({cohort for request in requests for cohort in request.cohorts}))
    asked = ComparisonRequest(base, new, cohorts, None, settings.compare.metrics, settings.compare.margins)
    return compare_weights(store, asked)


def publish_answer(settings: Settings, answer: Answer) -> None:
    """Artifacts of the flow run, the log, and whoever the settings name."""
    key = "".join(letter if letter.isalnum() else "-" for letter in f"benchmark-{answer.new.name}".lower())
    create_markdown_artifact(answer.markdown(), key=key, description=answer.verdict)
    if answer.report is not None:
        create_link_artifact(answer.report.absolute().as_uri(), "report of the whole store", key=f"{key}-report")
    tell(answer.verdict, alarming=answer.regression)
    kind = "regression" if answer.regression else "no regression"
    _tell_people(settings, kind, answer.new, answer.verdict, answer)


def _tell_people(settings: Settings, kind: str, new: Weights, text: str, answer: Answer | None = None) -> None:
    message = {"kind": kind, "weights": f"{new.name}@{new.version}", "sha256": new.sha256, "text": text}
    if answer is not None:
        message["markdown"] = answer.markdown()
        message["base"] = f"{answer.base.name}@{answer.base.version}" if answer.base else ""
        message["report"] = str(answer.report or "")
    for trouble in notify(settings.notify, message):
        tell(trouble, alarming=True)
