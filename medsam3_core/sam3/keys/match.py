"""Match the tensors of a checkpoint with an architecture, one to one."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from medsam3_core.errors import WeightsMismatchError
from medsam3_core.sam3.keys.key_rules import drop_reason, official_names, to_transformers, translate
from medsam3_core.sam3.keys.key_table import DETECTOR_RULES, TRACKER_NECK_RULES, Rule
from medsam3_core.sam3.keys.layouts import Layout, Part, PlacedKey, detect_layout, place_keys
from medsam3_core.sam3.keys.tracker_key_table import TRACKER_RULES

RULES: dict[Part, tuple[Rule, ...]] = {
    Part.DETECTOR: DETECTOR_RULES,
    Part.TRACKER: TRACKER_RULES,
    Part.TRACKER_NECK: TRACKER_NECK_RULES,
}
_SHOWN = 10
_TIED = (("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding"),)
"""One official tensor with two names in `transformers`; a file may hold only one of them."""

_OFFICIAL_PREFIXES = {
    Layout.RELEASED: ("detector.", "tracker."),
    Layout.BARE: ("", "inst_interactive_predictor.model."),
}
"""Prefixes of detector and tracker in the official layouts."""

Shapes = Mapping[Part, Mapping[str, torch.Size]]


@dataclass(frozen=True, slots=True)
class MatchReport:
    """Match result of every key of a checkpoint.

    Attributes:
        layout: Family of key names.
        matched: Keys of the file that hold a tensor of the architecture.
        missing: Tensors of the architecture that the file lacks, under the layout's names.
        unexpected: Keys of the file that the architecture lacks, and those with another shape.
        dropped: Keys left out on purpose, with the reason.
        parameters: Count of numbers in the matched tensors.
    """

    layout: Layout
    matched: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    dropped: Mapping[str, str] = field(default_factory=dict)
    parameters: int = 0

    @property
    def complete(self) -> bool:
        """True if the match is one to one."""
        return not (self.missing or self.unexpected)

    def require_complete(self, source: str) -> None:
        """Reject anything but a full match.

        Raises:
            WeightsMismatchError: Names the first ten offending keys.
        """
        if self.complete:
            return
        missing = [f"missing {key}" for key in self.missing]
        unexpected = [f"unexpected {key}" for key in self.unexpected]
        half = max(_SHOWN // 2, _SHOWN - len(unexpected))
        shown = (missing[:half] + unexpected)[:_SHOWN]
        first = "\n  ".join(shown)
        left = len(missing) + len(unexpected) - len(shown)
        more = f"\n  ... and {left} more" if left else ""
        msg = (
            f"{source}: {len(self.missing)} tensors are missing and {len(self.unexpected)} are unexpected "
            f"({self.layout} layout, {len(self.matched)} keys match):\n  {first}{more}\n"
            "Give the whole checkpoint; for another architecture than the released one put its config.json (and "
            "tracker_config.json, if it has a tracker) beside it."
        )
        raise WeightsMismatchError(msg)


@dataclass(frozen=True, slots=True)
class MatchedTensors:
    """Tensors under their `transformers` names, per part, and the match report."""

    parts: Mapping[Part, dict[str, torch.Tensor]]
    report: MatchReport


def parts_present(keys: list[str]) -> set[Part]:
    """Parts of SAM3 that a state dict contains."""
    return {placed.part for placed in place_keys(keys, detect_layout(keys)) if placed.part is not None}


def match_tensors(tensors: Mapping[str, torch.Tensor], expected: Shapes) -> MatchedTensors:
    """Sort tensors into the parts of an architecture.

    Args:
        tensors: State dict as read, any layout.
        expected: Per part, the shape of every tensor under its `transformers` name; keys of other parts are reported
            as unexpected.
    """
    layout = detect_layout(tensors)
    ledger = _Ledger(layout, expected)
    per_part: dict[Part, list[PlacedKey]] = {part: [] for part in expected}
    for placed in place_keys(tensors, layout):
        if not ledger.sort_out(placed, Part.TRACKER in expected):
            per_part[placed.part].append(placed)  # type: ignore[index]  # sort_out keeps keys without a part
    parts = {part: ledger.claim(part, keys, tensors) for part, keys in per_part.items()}
    return MatchedTensors(parts, ledger.report())


class _Ledger:
    """Collects the match result of each key."""

    def __init__(self, layout: Layout, expected: Shapes) -> None:
        self._layout = layout
        self._expected = expected
        self._matched: list[str] = []
        self._missing: list[str] = []
        self._unexpected: list[str] = []
        self._dropped: dict[str, str] = {}
        self._parameters = 0

    def sort_out(self, placed: PlacedKey, has_tracker: bool) -> bool:
        """Record a key that no part loads: unknown, dropped, or of a missing part. True if recorded."""
        reason = _drop_reason(placed, self._layout)
        if placed.part is Part.TRACKER_NECK and not has_tracker:
            reason = "interactive neck without its tracker"
        if reason is not None:
            self._dropped[placed.source] = reason
            return True
        known = placed.part in self._expected and _is_known(placed, self._layout)
        if not known:
            self._unexpected.append(placed.source)
        return not known

    def claim(self, part: Part, keys: list[PlacedKey], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Rename the keys of one part and compare them with the architecture."""
        keys = self._without_rivals(keys, tensors)
        named = {key.name: tensors[key.source] for key in keys}
        found = named if self._layout is Layout.HUGGING_FACE else to_transformers(named, RULES[part])
        _share_tied(found)
        expected = self._expected[part]
        self._missing += self._in_layout(part, [name for name in expected if name not in found])
        for key in keys:
            targets = _targets(key, self._layout)
            strays = [name for name in targets if name not in expected]
            odd = [name for name in targets if name in expected and found[name].shape != expected[name]]
            if strays:
                self._unexpected.append(key.source)
            elif odd:
                have, want = tuple(found[odd[0]].shape), tuple(expected[odd[0]])
                self._unexpected.append(f"{key.source} (shape {have} where the architecture has {want})")
            else:
                self._matched.append(key.source)
        wanted = {name: tensor for name, tensor in found.items() if name in expected}
        self._parameters += sum(tensor.numel() for tensor in wanted.values())
        return wanted

    def _without_rivals(self, keys: list[PlacedKey], tensors: Mapping[str, torch.Tensor]) -> list[PlacedKey]:
        """Report keys that give the same tensor with different values: the choice would be arbitrary."""
        first: dict[str, PlacedKey] = {}
        kept = []
        for key in keys:
            rival = first.setdefault(key.name, key)
            one, other = tensors[rival.source], tensors[key.source]
            if rival is key or (one.shape == other.shape and torch.equal(one, other)):
                kept.append(key)
            else:
                self._unexpected.append(f"{key.source} (the same tensor as {rival.source}, with other values)")
        return kept

    def report(self) -> MatchReport:
        return MatchReport(
            self._layout,
            tuple(self._matched),
            tuple(self._missing),
            tuple(self._unexpected),
            self._dropped,
            self._parameters,
        )

    def _in_layout(self, part: Part, names: list[str]) -> list[str]:
        if self._layout is Layout.HUGGING_FACE:
            return [f"{name} ({part})" if part is not Part.DETECTOR else name for name in names]
        detector, tracker = _OFFICIAL_PREFIXES[self._layout]
        prefix = tracker if part is Part.TRACKER else detector
        return [prefix + name for name in official_names(names, RULES[part])]


def _drop_reason(placed: PlacedKey, layout: Layout) -> str | None:
    if layout is not Layout.HUGGING_FACE:
        return drop_reason(placed.name) if placed.part is Part.DETECTOR else None
    return "position numbers, computed" if placed.name.endswith(".position_ids") else None


def _is_known(placed: PlacedKey, layout: Layout) -> bool:
    if placed.part is None:
        return False
    return layout is Layout.HUGGING_FACE or translate(placed.name, RULES[placed.part]) is not None


def _targets(key: PlacedKey, layout: Layout) -> tuple[str, ...]:
    if layout is Layout.HUGGING_FACE or key.part is None:
        return (key.name,)
    translation = translate(key.name, RULES[key.part])
    return translation.targets if translation else ()


def _share_tied(found: dict[str, torch.Tensor]) -> None:
    for names in _TIED:
        present = [found[name] for name in names if name in found]
        if present:
            for name in names:
                found.setdefault(name, present[0])
