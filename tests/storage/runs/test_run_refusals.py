"""Combinations that a segmenter cannot take: refused at planning by one sentence, and no run is made."""

from dataclasses import replace
from pathlib import Path

import pytest

from medsam3_core.capabilities import Capabilities
from medsam3_core.errors import UsageError
from medsam3_core.prompts.policies import PromptPolicy
from medsam3_core.settings.inference import InferenceSettings
from storage.runs.refusals import refusal
from storage.runs.requests import BenchmarkRequest
from storage.store.layout import StoreLayout
from storage.weights.checkpoints import write_untrained
from storage.weights.registry import add_weights
from storage.weights.weights import Weights
from tests.stores.small import ingest_here, plan_here

BOX = Weights("baseline:box", 1, "a", None, "baseline", Capabilities(text=False, box=True))
DETECTOR = Weights("medsam3", 1, "b", "b.pt", "bare", Capabilities(text=True, box=True), resolutions=(1008, 504))
WHOLE = replace(DETECTOR, name="sam3", capabilities=Capabilities(True, True, True, True))
OLDER = replace(WHOLE, name="older", resolutions=())


def sentence(weights: Weights, policy: str, *settings: str) -> str | None:
    return refusal(weights, PromptPolicy.parse(policy), InferenceSettings.parse(settings))


@pytest.mark.parametrize(
    ("weights", "policy", "settings", "missing"),
    [
        (BOX, "text", (), "text prompts"),
        (BOX, "box", ("mode=interactive",), "mode=interactive"),
        (BOX, "box", ("merge=semantic",), "merge=semantic"),
        (BOX, "box", ("merge=components",), "merge=components"),
        (BOX, "box", ("tiles=2",), "tiles=2"),
        (BOX, "box", ("resolution=504",), "resolution=504"),
        (BOX, "box", ("tiles=2", "resolution=504"), "tiles=2 or resolution=504"),
        (DETECTOR, "points", (), "interactive prompts"),
        (DETECTOR, "box", ("mode=interactive",), "mode=interactive"),
        (DETECTOR, "box", ("resolution=500",), "resolution=500 (only 1008, 504)"),
        (WHOLE, "text", ("mode=interactive",), "text prompts with mode=interactive"),
        (WHOLE, "points", ("merge=semantic",), "merge=semantic with interactive prompts"),
        (WHOLE, "box", ("mode=interactive", "merge=semantic"), "merge=semantic with interactive prompts"),
        (WHOLE, "box:slices=key", ("tiles=2",), "tiles=2 with slices=key"),
    ],
)
def test_what_cannot_be_taken_is_named(weights: Weights, policy: str, settings: tuple[str, ...], missing: str) -> None:
    assert sentence(weights, policy, *settings) == (
        f"{weights.name} does not accept {missing} ({PromptPolicy.parse(policy).canonical()})"
    )


@pytest.mark.parametrize(
    ("weights", "policy", "settings"),
    [
        (BOX, "box", ("dtype=fp32",)),
        (BOX, "box:slices=key", ()),
        (DETECTOR, "text+box", ("merge=semantic", "tiles=2", "resolution=504")),
        (DETECTOR, "box:slices=key", ("tiles=2",)),
        (WHOLE, "points", ("mode=interactive",)),
        (WHOLE, "box:slices=key", ("mode=interactive",)),
        (OLDER, "text", ("resolution=500",)),
    ],
)
def test_what_can_be_taken_is_not_refused(weights: Weights, policy: str, settings: tuple[str, ...]) -> None:
    assert sentence(weights, policy, *settings) is None


def test_a_refused_combination_makes_no_run_beside_the_ones_that_work(store: StoreLayout, tmp_path: Path) -> None:
    ingest_here(store, "phantom:fundus,cases=2,size=48x48", "eyes")
    request = BenchmarkRequest(("eyes",), ("baseline:box", "tiny-untrained"), ("box",), ("resolution=112",), "all")
    plan = plan_here(store, request)
    assert plan.refused == ("skipped: baseline:box does not accept resolution=112 (box:jitter=0,per=auto,slices=all)",)
    assert len(plan.run_ids) == 1
    with pytest.raises(UsageError, match=r"nothing to run: .*resolution=100 \(only 224, 112\)"):
        plan_here(store, replace(request, settings=("resolution=100",)))


def test_weights_that_would_take_clicks_are_named(store: StoreLayout, tmp_path: Path) -> None:
    ingest_here(store, "phantom:fundus,cases=1,size=1x48x48", "eyes")
    request = BenchmarkRequest(("eyes",), ("baseline:box",), ("box", "points"), split="all")
    assert "add it with: medsam3 weights add sam3 PATH" in plan_here(store, request).refused[0]
    write_untrained(tmp_path / "clickable", tracker=True)
    add_weights(store, "clickable", tmp_path / "clickable")
    (sentence,) = plan_here(store, request).refused
    assert sentence.endswith("registered weights with the interactive head: clickable@1")
