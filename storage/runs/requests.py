"""Runs of a request; cheap, because it reads neither scores nor cases."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from pydantic import ConfigDict, NonNegativeInt

from medsam3_core.errors import UsageError
from medsam3_core.prompts.policies import PromptPolicy
from medsam3_core.settings.inference import InferenceSettings
from storage.cohorts.cohorts import Cohort, read_cohort
from storage.runs.ledger import Run
from storage.runs.refusals import refusal, remedy
from storage.store.atomic import read_json
from storage.store.layout import StoreLayout
from storage.store.request_schema import STRICT
from storage.weights.registry import find_weights
from storage.weights.weights import Weights


@dataclass(frozen=True, slots=True)
class BenchmarkRequest:
    """Every combination of cohort, weights and prompt policy is one run; omitted fields come from earlier requests.

    Attributes:
        cohorts: Cohorts by name; none for all that were benchmarked before.
        weights: Weights as `NAME` or `NAME@N`; none for all that were benchmarked before.
        prompts: Prompt policies such as `text` or `box:jitter=0.1`; none for all that were requested before.
        settings: Inference settings as `key=value`.
        split: Split, or `all`; none for `test` if the cohort has one, otherwise all cases.
        structures: Structures; none for all of the recipe.
        limit: Maximum number of cases per cohort, in order of case_id; 0 for all.
        retry: Try rejected, failed and crashed cases again.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    cohorts: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    split: str | None = None
    structures: tuple[str, ...] = ()
    limit: NonNegativeInt = 0
    retry: bool = False


ALL_THAT_IS_STALE = BenchmarkRequest()


@dataclass(frozen=True, slots=True)
class RequestedRuns:
    """Runs of one cohort and one set of weights for a request.

    Attributes:
        request: The request.
        cohort: Cohort.
        weights: Name in the request.
        runs: One per prompt policy that these weights accept.
    """

    request: BenchmarkRequest
    cohort: Cohort
    weights: str
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class BenchmarkRuns:
    """All runs of some requests, and one sentence per skipped combination."""

    groups: tuple[RequestedRuns, ...]
    refused: tuple[str, ...]

    @property
    def run_ids(self) -> list[str]:
        """All runs, in order."""
        return list(dict.fromkeys(run.run_id for group in self.groups for run in group.runs))

    @property
    def weights(self) -> list[Weights]:
        """Weights that workers may have to load."""
        return list({run.weights.sha256: run.weights for group in self.groups for run in group.runs}.values())


def runs_of(store: StoreLayout, requests: Sequence[BenchmarkRequest]) -> BenchmarkRuns:
    """Runs of complete requests; `storage.runs.plan.pending` finds their pending cases.

    Of several requests, those that cannot be met any more (cohort or weights are gone) give a sentence in `refused`.

    Raises:
        UsageError: If no request gives a run, or the only request is invalid; lists the existing names.
    """
    groups: list[RequestedRuns] = []
    refused, sentences = list[str](), list[str]()
    for request in requests:
        try:
            asked, said = _runs_of(store, request)
        except UsageError as error:
            if len(requests) == 1:
                raise
            refused.append(str(error))
        else:
            groups += asked
            sentences += said
    if not groups:
        raise UsageError("; ".join(dict.fromkeys(refused)))
    return BenchmarkRuns(tuple(groups), tuple(dict.fromkeys(refused + sentences)))


def _runs_of(store: StoreLayout, request: BenchmarkRequest) -> tuple[list[RequestedRuns], list[str]]:
    settings = InferenceSettings.parse(request.settings)
    policies = [PromptPolicy.parse(text) for text in dict.fromkeys(request.prompts)]
    weights = {text: find_weights(store, text) for text in request.weights}
    cohorts = [read_cohort(store, name) for name in dict.fromkeys(request.cohorts)]
    taken: dict[str, list[PromptPolicy]] = {text: [] for text in weights}
    refused = []
    for text, item in weights.items():
        for policy in policies:
            if (sentence := refusal(item, policy, settings)) is None:
                taken[text].append(policy)
            else:
                refused.append(sentence + remedy(store, item, policy, settings))
    groups = [
        RequestedRuns(
            request,
            cohort,
            text,
            tuple(
                _as_recorded(store, _run(cohort, item, policy, settings, request.structures)) for policy in taken[text]
            ),
        )
        for cohort in cohorts
        for text, item in weights.items()
        if taken[text]
    ]
    if not groups:
        msg = "nothing to run: " + "; ".join(refused or ["give at least one cohort, weights and prompt policy"])
        raise UsageError(msg)
    return groups, [f"skipped: {sentence}" for sentence in refused]


def _run(
    cohort: Cohort, weights: Weights, policy: PromptPolicy, settings: InferenceSettings, structures: Sequence[str]
) -> Run:
    chosen = [cohort.recipe.structure(name).name for name in structures]
    names = tuple(item.name for item in cohort.recipe.structures if not chosen or item.name in chosen)
    texts = {item.name: item.text for item in cohort.recipe.structures}
    return Run(weights, cohort.name, policy, policy.prompt_id(texts), settings, names)


def _as_recorded(store: StoreLayout, run: Run) -> Run:
    """The run under the weights' name in its rows: the same tensors may be registered again under another."""
    path = store.run_json(run.run_id)
    if not path.exists():
        return run
    known = read_json(path)
    return replace(run, weights=replace(run.weights, name=known["weights"], version=known["weights_version"]))
