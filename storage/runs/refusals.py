"""Combinations of weights, prompt policy and settings that cannot run, and weights that could."""

from collections.abc import Iterator

from medsam3_core.prompts.policies import PromptedSlices, PromptKind, PromptPolicy
from medsam3_core.settings.agent import AgentSettings
from medsam3_core.settings.inference import InferenceSettings, PromptMode
from storage.store.layout import StoreLayout
from storage.weights.registry import registered_weights
from storage.weights.weights import Weights

_NAMES = {"text": "text prompts", "box": "box prompts", "interactive": "interactive prompts"}
"""Names of capabilities in messages."""


def refusal(weights: Weights, policy: PromptPolicy, settings: InferenceSettings) -> str | None:
    """One sentence if these weights do not accept the policy or the settings; None if they do."""
    lacking = (_NAMES.get(need, need) for need in policy.lacking(weights.capabilities))
    missing = [*lacking, *_unfit_settings(weights, policy, settings)]
    return f"{weights.name} does not accept {' or '.join(missing)} ({policy.canonical()})" if missing else None


def remedy(store: StoreLayout, weights: Weights, policy: PromptPolicy, settings: InferenceSettings) -> str:
    """Registered weights that accept points, masks and interactive boxes, if these lack the head for them."""
    clicked = settings.mode is PromptMode.INTERACTIVE or "interactive" in policy.needs
    if not clicked or weights.capabilities.interactive:
        return ""
    able = [item for item in registered_weights(store) if refusal(item, policy, settings) is None]
    if not able:
        return "; the released sam3.pt has the interactive head, add it with: medsam3 weights add sam3 PATH"
    return f"; registered weights with the interactive head: {', '.join(f'{one.name}@{one.version}' for one in able)}"


def _unfit_settings(weights: Weights, policy: PromptPolicy, settings: InferenceSettings) -> Iterator[str]:
    """Settings that these weights would ignore or fail on under this policy, as `key=value`."""
    can = weights.capabilities
    clicked = settings.mode is PromptMode.INTERACTIVE or "interactive" in policy.needs
    if settings.mode is PromptMode.INTERACTIVE:
        if not can.interactive:
            yield "mode=interactive"
        elif "text" in policy.needs:
            yield "text prompts with mode=interactive"
    if settings.merge.uses_semantic_mask and (not can.text or clicked):
        yield f"merge={settings.merge}" if not can.text else f"merge={settings.merge} with interactive prompts"
    if settings.tiles > 1:
        if not can.text:
            yield f"tiles={settings.tiles}"
        elif can.propagation and policy.slices is PromptedSlices.KEY:
            yield f"tiles={settings.tiles} with slices=key"
    if policy.kind is not PromptKind.AGENT and settings.agent != AgentSettings():
        yield "agent settings"
    if settings.resolution and not _takes_resolution(weights, settings.resolution):
        taken = f" (only {', '.join(map(str, weights.resolutions))})" if weights.resolutions else ""
        yield f"resolution={settings.resolution}{taken}"


def _takes_resolution(weights: Weights, resolution: int) -> bool:
    """True if weights accept an input side, or if it is unknown (registered before the sides were recorded)."""
    return resolution in weights.resolutions if weights.resolutions else weights.path is not None
