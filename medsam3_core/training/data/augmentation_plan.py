"""Strengths of augmentation, and the flips that keep left and right correct."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from medsam3_core.errors import UsageError

_SIDED = re.compile(r"(?<![a-z])(left|right|sinister|dexter|lt|rt|[lr])(?![a-z])")
"""Matches names with a side; `_` and digits end a word."""
_DIRECTED = re.compile(
    r"(?<![a-z])(anterior|posterior|superior|inferior|upper|lower|dorsal|ventral|cranial|caudal|apical|basal)(?![a-z])"
)
"""Matches names with a direction along another axis than left and right."""
_ONE_SIDED_ORGANS = re.compile(
    r"(?<![a-z])(liver|spleen|stomach|gallbladder|gall_bladder|pancreas|heart|aorta|vena_cava|duodenum|colon|atrium|"
    r"ventricle_of_the_heart|myocardium|appendix|cecum)(?![a-z])"
)
"""Organs on one side of the body: a mirrored slice shows an anatomy of one in 10,000 people."""
_WITHOUT_UP = frozenset({"microscopy", "histology", "pathology", "dermoscopy", "endoscopy", "shapes"})
"""Modalities whose images have neither an upper edge nor a side."""
_P_INVERT = {"microscopy": 0.25, "x-ray": 0.1, "cr": 0.1, "dx": 0.1}
SCALE, FINE_SCALE, DEGREES = (0.4, 1.15), (0.18, 1.15), 15.0
"""Defaults; fine structures get smaller windows."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Strength of augmentation; each `p_` is the probability of one change.

    None leaves the choice to `augmentation_for`, which knows modality and structures.

    Attributes:
        side: Side of the output square in pixels; always the model's input side.
        p_whole: Share of samples with the whole slice; the others show a window of it.
        scale: Sides of the window as a share of the slice, log-uniform; above 1 there is an empty margin. None is
            0.4 to 1.15, or from 0.18 for vessels or many instances.
        stretch: Maximum change of the aspect ratio of the window.
        p_keep: Share of windows placed over a pixel of a structure.
        p_turn: Probability of a rotation with shear.
        degrees: Maximum rotation either way; None is 15, or any for images without an upper edge.
        shear: Maximum shear, as a tangent.
        p_elastic: Probability of a smooth deformation.
        elastic: Its maximum displacement as a share of the side.
        mirror_x: True to flip left and right; None if the names of the structures allow it.
        mirror_y: True to flip top and bottom; None likewise.
        p_tone: Probability of another gamma, contrast and brightness.
        tone: Their maximum change: exponent and factor in `exp(+-tone)`, offset in `+-tone / 2` of the range.
        p_colour: Probability of a jitter of hue, saturation and tint, for colour images only.
        p_blur: Probability of a Gaussian blur.
        p_noise: Probability of noise.
        p_low_resolution: Probability of a loss of resolution.
        p_invert: Probability of inverted intensities; None depends on the modality.
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
    """Augmentation for slices of one cohort.

    Intensities are inverted only if the modality has images of both kinds (fluorescence and stain, radiographs).

    Args:
        modality: Modality of the recipe.
        side: The model's input side.
        mirror: True if left and right may be flipped, see `handedness`.
        upright: True if up and down matter; else any rotation is allowed and, with `mirror`, vertical flips too.
        fine: True for vessels or many instances, which need smaller windows, as the mask grid loses them.
        base: User's plan; its values take precedence over None.

    Raises:
        UsageError: If the plan asks for a flip that would swap left and right structures, or for another side.
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
            f"augmentation.{name}: true would teach a wrong anatomy: a structure has a side, or the slice or an organ "
            "has an orientation; leave it out"
        )
        raise UsageError(msg)
    return allowed if asked is None else asked


def handedness(words: Iterable[str], modality: str) -> tuple[bool, bool]:
    """True if slices may be mirrored, and true if up and down matter: `(mirror, upright)`.

    A structure with a side (`kidney_left`) or an organ on one side of the body (liver) rules out mirroring. Up and down
    matter in all anatomy and for structures with a direction (`anterior`).

    Args:
        words: Names, texts and synonyms of all concepts.
        modality: Modality of the recipe.
    """
    spelled = [re.sub(r"[\s\-.]+", "_", word.lower()) for word in words]
    mirror = not any(_SIDED.search(word) or _ONE_SIDED_ORGANS.search(word) for word in spelled)
    directed = any(_DIRECTED.search(word) for word in spelled)
    return mirror, directed or modality.strip().lower() not in _WITHOUT_UP


def log_uniform(low: float, high: float, share: float) -> float:
    """Interpolate from low to high on a logarithmic scale; `share` is in [0, 1]."""
    return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
