"""What augmentation may do to a slice: the strengths, and which mirrors keep left and right where they belong."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from medsam3_core.errors import UsageError
from medsam3_core.structures import Structure

_SIDED = re.compile(r"(?<![a-z])(left|right|sinister|dexter|lt|rt|[lr])(?![a-z])")
"""A structure whose name says on which side it lies; `_` and digits end a word."""
_DIRECTED = re.compile(
    r"(?<![a-z])(anterior|posterior|superior|inferior|upper|lower|dorsal|ventral|cranial|caudal|apical|basal)(?![a-z])"
)
"""A structure whose name tells it from its neighbour along another axis than left and right."""
_ONE_SIDED_ORGANS = re.compile(
    r"(?<![a-z])(liver|spleen|stomach|gallbladder|gall_bladder|pancreas|heart|aorta|vena_cava|duodenum|colon|atrium|"
    r"ventricle_of_the_heart|myocardium|appendix|cecum)(?![a-z])"
)
"""Organs that lie on one side of the body: a mirrored slice shows an anatomy that one in 10,000 people has."""
_WITHOUT_UP = frozenset({"microscopy", "histology", "pathology", "dermoscopy", "endoscopy", "shapes"})
"""Modalities whose pictures have neither an upper edge nor a side."""
_P_INVERT = {"microscopy": 0.25, "x-ray": 0.1, "cr": 0.1, "dx": 0.1}


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far a slice is changed; each `p_` is the probability of one change.

    Attributes:
        side: Side of the square that comes out, the model's input side, in pixels.
        p_whole: Share of samples that show the whole slice; the others show a window of it.
        scale: Sides of the window as a share of the slice, log-uniform; above 1 there is an empty margin.
        stretch: Largest ratio by which one side of the window is changed against the other.
        p_keep: Share of windows that are placed over a pixel of a structure.
        p_turn: Probability of a rotation with shear.
        degrees: Largest rotation either way.
        shear: Largest shear, as a tangent.
        p_elastic: Probability of a smooth deformation.
        elastic: Its largest displacement as a share of the side.
        mirror_x: Whether left and right may be exchanged.
        mirror_y: Whether top and bottom may be exchanged.
        p_tone: Probability of another gamma, contrast and brightness.
        tone: Their largest change: exponent and factor in `exp(+-tone)`, offset in `+-tone / 2` of the range.
        p_colour: Probability of a jitter of hue, saturation and tint, for colour pictures alone.
        p_blur: Probability of a Gaussian blur.
        p_noise: Probability of noise.
        p_low_resolution: Probability of losing resolution.
        p_invert: Probability of exchanging bright and dark.
    """

    side: int = 224
    p_whole: float = 0.35
    scale: tuple[float, float] = (0.4, 1.15)
    stretch: float = 1.2
    p_keep: float = 0.8
    p_turn: float = 0.5
    degrees: float = 15.0
    shear: float = 0.08
    p_elastic: float = 0.2
    elastic: float = 0.03
    mirror_x: bool = False
    mirror_y: bool = False
    p_tone: float = 0.7
    tone: float = 0.35
    p_colour: float = 0.6
    p_blur: float = 0.12
    p_noise: float = 0.25
    p_low_resolution: float = 0.15
    p_invert: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.scale
        shares = [getattr(self, field.name) for field in fields(self) if field.name.startswith("p_")]
        if self.side < 8 or not 0 < low <= high or self.stretch < 1 or not all(0 <= share <= 1 for share in shares):
            msg = f"augmentation needs side >= 8, 0 < scale low <= high, stretch >= 1 and p_* in [0, 1], got {self}"
            raise UsageError(msg)


def augmentation_for(
    modality: str, *, side: int, mirror: bool, upright: bool, fine: bool = False, base: Augmentation | None = None
) -> Augmentation:
    """The augmentation that is right for slices of one cohort.

    Bright and dark are exchanged only where pictures of both kinds exist (fluorescence and stain, radiographs).

    Args:
        modality: Modality of the recipe.
        side: The model's input side.
        mirror: Whether left and right may be exchanged, see `handedness`.
        upright: Whether there is an up and a down; else turns are free and, with `mirror`, upside-down flips too.
        fine: Whether there are vessels or many instances, which the mask grid loses on whole slices: closer windows.
        base: Strengths to start from.
    """
    kind = modality.strip().lower()
    start = Augmentation() if base is None else base
    return replace(
        start,
        side=side,
        mirror_x=mirror,
        mirror_y=mirror and not upright,
        scale=(min(start.scale[0], 0.18), start.scale[1]) if fine else start.scale,
        degrees=start.degrees if upright else 180.0,
        p_invert=max(start.p_invert, _P_INVERT.get(kind, 0.0)),
    )


def handedness(structures: Iterable[Structure], modality: str) -> tuple[bool, bool]:
    """Whether slices may be mirrored, and whether they have an up and a down: `(mirror, upright)`.

    No mirror where a structure has a side (`kidney_left`) or an organ lies on one side of the body (liver). An up and
    a down in all anatomy, and wherever a structure is told from its neighbour by it (`anterior`).

    Args:
        structures: Structures of the recipe; names, texts and synonyms count.
        modality: Modality of the recipe.
    """
    words = [word.lower() for item in structures for word in (item.name, item.text, *item.synonyms)]
    spelled = [re.sub(r"[\s\-.]+", "_", word) for word in words]
    mirror = not any(_SIDED.search(word) or _ONE_SIDED_ORGANS.search(word) for word in spelled)
    directed = any(_DIRECTED.search(word) for word in spelled)
    return mirror, directed or modality.strip().lower() not in _WITHOUT_UP


def log_uniform(low: float, high: float, share: float) -> float:
    """The number at `share` of the way from low to high on a logarithmic scale."""
    return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
