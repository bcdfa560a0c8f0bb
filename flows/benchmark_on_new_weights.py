"""Flow started by new weights: updates their stale runs, compares with the previous version, reports the answer."""

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
from flows.messages.formatting import format_counts, format_number
from flows.service.dashboard import write_report
from flows.service.deployed import store_of
from flows.service.notifications import notify_and_log
from flows.service.prepared import planned_requests
from flows.service.storms import supersede_waiting_runs
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
    *("cohort", "prompt", "structure", "metric", "patients"),
    *("BASE", "NEW", "difference [95 %]", "p Holm", "NEW is"),
)


@dataclass(frozen=True, eq=False)
class Answer:
    """Answer of a triggered benchmark: verdict, comparison, computed results and report.

    Attributes:
        new: Benchmarked weights.
        base: Version they were compared with; None if no earlier version was benchmarked.
        computed: Outcome of the benchmark.
        comparison: New against base; None without a base.
        report: File with the report of the whole store; None if it could not be written.
    """

    new: Weights
    base: Weights | None
    computed: BenchmarkSummary
    comparison: Comparison | None
    report: Path | None

    @property
    def regression(self) -> bool:
        """True if the new version is worse by more than the margins."""
        return bool(self.comparison and self.comparison.regressions)

    @property
    def verdict(self) -> str:
        """One sentence; also the message of the flow run's final state."""
        named = f"{self.new.name}@{self.new.version}"
        if self.comparison is None:
            return f"{named}: no earlier version was benchmarked, nothing to compare with."
        return comparison_sentences(self.comparison)[0]

    def markdown(self) -> str:
        """The answer in Markdown: verdict, computed results, table, notes, link to the report."""
        base = f"{self.base.name}@{self.base.version} ({self.base.sha256[:12]})" if self.base else "none"
        counts = format_counts(self.computed.computed) or "nothing"
        lines = [
            f"# {self.verdict}",
            "",
            f"New: **{self.new.name}@{self.new.version}** ({self.new.sha256[:12]}). Base: {base}.",
            f"Computed: {counts}; {self.computed.fresh} results were up to date.",
        ]
        if self.computed.unscored:
            lines += ["", f"**{self.computed.unscored} results have no score**: see the view `failures`."]
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
    difference = format_number(found.difference, "+.3f")
    if found.low is not None and found.high is not None:
        difference += f" [{found.low:+.3f} {found.high:+.3f}]"
    return (
        item.cohort,
        short_prompt(item.prompt),
        item.structure,
        f"{item.metric} {item.unit}".strip(),
        str(found.patients),
        format_number(found.base_mean),
        format_number(found.new_mean),
        difference,
        format_number(item.adjusted_p),
        str(item.verdict),
    )


@flow(name="benchmark-on-new-weights", flow_run_name="benchmark-new-{weights}")
def benchmark_new_weights(
    weights: str,
    store: str = "",
    old_sha256: str = "",
    new_sha256: str = "",
    cluster: str = CLUSTER,
    quiet_seconds: float = 10.0,
) -> State[str]:
    """Update all benchmarks of some weights to their newest version and compare it with the previous one.

    Only earlier benchmarks of these weights run again, and only their stale results. The flow run fails if the new
    version regresses beyond the margins in `medsam3.toml`.

    Args:
        weights: Name of the weights, from the event.
        store: Folder of the store; empty for `$MEDSAM3_STORE`.
        old_sha256: Digest of the previous version, from the event.
        new_sha256: Digest of the new version, from the event.
        cluster: Cluster by name.
        quiet_seconds: Time without further events about these weights before work begins.
    """
    layout = store_of(store)
    settings = read_settings(layout.root)
    _begin_workers(layout, weights, cluster)
    supersede_waiting_runs({"weights": weights, "store": store}, quiet_seconds=quiet_seconds)
    new = find_weights(layout, weights)
    if new_sha256 and new_sha256 != new.sha256:
        tell(f"the event names {new_sha256[:12]}; benchmarking the newer {new.name}@{new.version} ({new.sha256[:12]})")
    requests = requests_following(layout, new.name)
    if not requests:
        return Completed(message=f"{new.name} was never benchmarked: nothing to update")
    try:
        answer = _answer(layout, settings, new, requests, cluster)
    except Medsam3Error as error:
        _notify(settings, "error", new, f"benchmark of {new.name}@{new.version} failed: {error}")
        raise
    publish_answer(settings, answer)
    return (Failed if answer.regression else Completed)(message=answer.verdict, data=answer.verdict)


def _begin_workers(store: StoreLayout, name: str, cluster: str) -> None:
    """Let workers import while this run waits for further events, if there may be something to compute."""
    with suppress(UsageError):  # planning raises it again
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
    """Publish the answer as artifacts of the flow run, in its log, and to the hooks in the settings."""
    key = "".join(letter if letter.isalnum() else "-" for letter in f"benchmark-{answer.new.name}".lower())
    create_markdown_artifact(answer.markdown(), key=key, description=answer.verdict)
    if answer.report is not None:
        create_link_artifact(answer.report.absolute().as_uri(), "report of the whole store", key=f"{key}-report")
    tell(answer.verdict, alarming=answer.regression)
    kind = "regression" if answer.regression else "no regression"
    _notify(settings, kind, answer.new, answer.verdict, answer)


def _notify(settings: Settings, kind: str, new: Weights, text: str, answer: Answer | None = None) -> None:
    message = {"kind": kind, "weights": f"{new.name}@{new.version}", "sha256": new.sha256, "text": text}
    if answer is not None:
        message["markdown"] = answer.markdown()
        message["base"] = f"{answer.base.name}@{answer.base.version}" if answer.base else ""
        message["report"] = str(answer.report or "")
    notify_and_log(settings.notify, message)
