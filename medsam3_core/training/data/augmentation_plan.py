"""What augmentation may do to a slice: the strengths, and which mirrors keep left and right where they belong."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from medsam3_core.errors import UsageError

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
SCALE, FINE_SCALE, DEGREES = (0.4, 1.15), (0.18, 1.15), 15.0
"""What slices get where nothing else is said; fine structures are seen from closer."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far a slice is changed; each `p_` is the probability of one change.

    Where None is allowed it leaves the choice to `augmentation_for`, which knows modality and structures.

    Attributes:
        side: Side of the square that comes out, in pixels; always the model's input side.
        p_whole: Share of samples that show the whole slice; the others show a window of it.
        scale: Sides of the window as a share of the slice, log-uniform; above 1 there is an empty margin. None is
            0.4 to 1.15, from 0.18 where there are vessels or many instances.
        stretch: Largest ratio by which one side of the window is changed against the other.
        p_keep: Share of windows that are placed over a pixel of a structure.
        p_turn: Probability of a rotation with shear.
        degrees: Largest rotation either way; None is 15, or any where there is no up.
        shear: Largest shear, as a tangent.
        p_elastic: Probability of a smooth deformation.
        elastic: Its largest displacement as a share of the side.
        mirror_x: Whether left and right may be exchanged; None is as the names of the structures allow.
        mirror_y: Whether top and bottom may be exchanged; None likewise.
        p_tone: Probability of another gamma, contrast and brightness.
        tone: Their largest change: exponent and factor in `exp(+-tone)`, offset in `+-tone / 2` of the range.
        p_colour: Probability of a jitter of hue, saturation and tint, for colour pictures alone.
        p_blur: Probability of a Gaussian blur.
        p_noise: Probability of noise.
        p_low_resolution: Probability of losing resolution.
        p_invert: Probability of exchanging bright and dark; None is as the modality has pictures of both kinds.
    """

    side: int = 224
    p_whole: float = 0.35
    scale: tuple[float, float] | None = None
    stretch: float = 1.2
    p_keep: float = 0.8
    p_turn: float = 0.5
    degrees: float | None = None
    shear: float = 0.08
    p_elastic: float = 0.2
    elastic: float = 0.03
    mirror_x: bool | None = None
    mirror_y: bool | None = None
    p_tone: float = 0.7
    tone: float = 0.35
    p_colour: float = 0.6
    p_blur: float = 0.12
    p_noise: float = 0.25
    p_low_resolution: float = 0.15
    p_invert: float | None = None

    def __post_init__(self) -> None:
        low, high = self.scale or SCALE
        shares = [getattr(self, field.name) or 0.0 for field in fields(self) if field.name.startswith("p_")]
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
        base: What was asked for; it wins where it says something.

    Raises:
        UsageError: If a mirror is asked for that would exchange left and right structures, or another side.
    """
    start = Augmentation() if base is None else base
    if start.side not in (Augmentation().side, side):
        msg = f"augmentation.side is that of the weights, {side}; leave it out (got {start.side})"
        raise UsageError(msg)
    return replace(
        start,
        side=side,
        mirror_x=_mirror("mirror_x", start.mirror_x, allowed=mirror),
        mirror_y=_mirror("mirror_y", start.mirror_y, allowed=mirror and not upright),
        scale=start.scale or (FINE_SCALE if fine else SCALE),
        degrees=start.degrees if start.degrees is not None else DEGREES if upright else 180.0,
        p_invert=_P_INVERT.get(modality.strip().lower(), 0.0) if start.p_invert is None else start.p_invert,
    )


def _mirror(name: str, asked: bool | None, *, allowed: bool) -> bool:
    if asked and not allowed:
        msg = (
            f"augmentation.{name}: true would teach a wrong anatomy, for a structure has a side, or an organ or the "
            "slice lies one way up; leave it out"
        )
        raise UsageError(msg)
    return allowed if asked is None else asked


def handedness(words: Iterable[str], modality: str) -> tuple[bool, bool]:
    """Whether slices may be mirrored, and whether they have an up and a down: `(mirror, upright)`.

    No mirror where a structure has a side (`kidney_left`) or an organ lies on one side of the body (liver). An up and
    a down in all anatomy, and wherever a structure is told from its neighbour by it (`anterior`).

    Args:
        words: Names and texts of all that is asked of the slices, synonyms too.
        modality: Modality of the recipe.
    """
    spelled = [re.sub(r"[\s\-.]+", "_", word.lower()) for word in words]
    mirror = not any(_SIDED.search(word) or _ONE_SIDED_ORGANS.search(word) for word in spelled)
    directed = any(_DIRECTED.search(word) for word in spelled)
    return mirror, directed or modality.strip().lower() not in _WITHOUT_UP


def log_uniform(low: float, high: float, share: float) -> float:
    """The number at `share` of the way from low to high on a logarithmic scale."""
    return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
