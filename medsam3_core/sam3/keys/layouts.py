"""Detect the layout of a state dict from all its keys, and assign each key to a part of SAM3."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from medsam3_core.errors import WeightsError


class Layout(StrEnum):
    """Families of key names of SAM3 weights."""

    RELEASED = "released"
    """`detector.*` and `tracker.*`, as in `sam3.pt`."""
    BARE = "bare"
    """Official names without prefix, as in Medical-SAM3; `inst_interactive_predictor.model.*` is the tracker."""
    HUGGING_FACE = "hugging-face"
    """Names of `transformers`: `Sam3Model`, or `Sam3VideoModel` with `detector_model.`/`tracker_model.`."""
    LORA = "lora"
    """A LoRA adapter, merged into weights of another layout."""


class Part(StrEnum):
    """The three modules that hold tensors."""

    DETECTOR = "detector"
    TRACKER = "tracker"
    TRACKER_NECK = "tracker_neck"


@dataclass(frozen=True, slots=True)
class PlacedKey:
    """A key of the file, its part (None if unknown) and its name inside that part."""

    source: str
    part: Part | None
    name: str


_WRAPPERS = re.compile(r"(module\.|_orig_mod\.|model\.)*")
"""Prefixes of data-parallel training, `torch.compile` and Lightning."""
HUGGING_FACE_PREFIXES = {
    Part.DETECTOR: "detector_model.",
    Part.TRACKER: "tracker_model.",
    Part.TRACKER_NECK: "tracker_neck.",
}
"""Names of the parts in `Sam3VideoModel`."""
_PREFIXES: dict[Layout, dict[str, Part]] = {
    Layout.RELEASED: {
        "detector.backbone.vision_backbone.sam2_convs.": Part.TRACKER_NECK,
        "detector.inst_interactive_predictor.model.": Part.TRACKER,
        "detector.": Part.DETECTOR,
        "tracker.": Part.TRACKER,
    },
    Layout.BARE: {
        "backbone.vision_backbone.sam2_convs.": Part.TRACKER_NECK,
        "inst_interactive_predictor.model.": Part.TRACKER,
        **dict.fromkeys(("backbone.", "transformer.", "segmentation_head.", "dot_prod_scoring."), Part.DETECTOR),
    },
    Layout.HUGGING_FACE: {
        **{prefix: part for part, prefix in HUGGING_FACE_PREFIXES.items()},
        **dict.fromkeys(("vision_encoder.", "text_encoder.", "text_projection."), Part.DETECTOR),
        **dict.fromkeys(("detr_encoder.", "detr_decoder.", "mask_decoder.", "dot_product_scoring."), Part.DETECTOR),
    },
}
_SHARED = {"geometry_encoder.": Part.DETECTOR}
"""A prefix of two layouts; not used for detection."""
_STRIPPED = (*HUGGING_FACE_PREFIXES.values(), "inst_interactive_predictor.model.", "tracker.")


def detect_layout(keys: Iterable[str]) -> Layout:
    """The layout that most keys match.

    Raises:
        WeightsError: If no key looks like SAM3; shows the first keys.
    """
    names = [unwrapped(key) for key in keys]
    votes = Counter(layout for name in names for layout, known in _PREFIXES.items() if name.startswith(tuple(known)))
    if not votes:
        shown = ", ".join(repr(name) for name in names[:3]) or "none at all"
        msg = f"not SAM3: no key looks like a known layout (first keys: {shown}); give SAM3 or Medical-SAM3 weights"
        raise WeightsError(msg)
    return votes.most_common(1)[0][0]


def place_keys(keys: Iterable[str], layout: Layout) -> list[PlacedKey]:
    """Assign every key to a part of SAM3; unknown keys get `part=None`."""
    return [_place(key, layout) for key in keys]


def unwrapped(key: str) -> str:
    """Remove all prefixes of training wrappers from a key."""
    return _WRAPPERS.sub("", key, count=1)


def _place(key: str, layout: Layout) -> PlacedKey:
    name = unwrapped(key)
    known = _PREFIXES[layout] | ({} if layout is Layout.RELEASED else _SHARED)
    prefix = next((prefix for prefix in known if name.startswith(prefix)), None)
    if prefix is None:
        return PlacedKey(key, None, name)
    if layout is Layout.RELEASED:
        name = name.removeprefix("detector.")
    stripped = next((start for start in _STRIPPED if name.startswith(start)), "")
    return PlacedKey(key, known[prefix], name.removeprefix(stripped))
