"""One phantom case of any kind."""

from collections.abc import Callable

import numpy as np

from medsam3_core.cases.cases import CaseVolume
from medsam3_core.digests import seed_from
from medsam3_core.errors import UsageError
from medsam3_core.phantoms.images import draw_fundus, draw_nuclei
from medsam3_core.phantoms.kinds import DEFAULT_SHAPES_ZYX, PhantomKind, absent_structure
from medsam3_core.phantoms.scans import draw_dermoscopy, draw_endoscopy, draw_ultrasound, draw_xray
from medsam3_core.phantoms.shapes import draw_shapes
from medsam3_core.phantoms.volumes import draw_ct, draw_mr

_Draw = Callable[[np.random.Generator, int, tuple[int, int, int], str | None], CaseVolume]
_DRAWERS: dict[PhantomKind, _Draw] = {
    PhantomKind.CT: draw_ct,
    PhantomKind.MR: draw_mr,
    PhantomKind.FUNDUS: draw_fundus,
    PhantomKind.NUCLEI: draw_nuclei,
    PhantomKind.ULTRASOUND: draw_ultrasound,
    PhantomKind.ENDOSCOPY: draw_endoscopy,
    PhantomKind.DERMOSCOPY: draw_dermoscopy,
    PhantomKind.XRAY: draw_xray,
    PhantomKind.SHAPES: draw_shapes,
}
_MIN_SHAPE_ZYX = {True: (1, 48, 48), False: (6, 32, 32)}


def phantom_case(kind: PhantomKind, seed: int, *, shape_zyx: tuple[int, int, int] | None = None) -> CaseVolume:
    """Draw one case; the same arguments give the same voxels in every process.

    Every fifth seed lacks a structure (`absent_structure`); of the volumes every third has an oblique affine.

    Args:
        kind: Kind of image.
        seed: Number of the case, at least 0.
        shape_zyx: Shape; None for the default of the kind (12 x 96 x 96, images 1 x 128 x 128).

    Returns:
        The image, `(z, y, x)` int16 for CT and MR, else `(3, 1, y, x)` uint8, and its reference.

    Raises:
        UsageError: If the seed is negative, an image has more than one slice, or the shape is too small to hold
            every structure.
    """
    shape = DEFAULT_SHAPES_ZYX[kind] if shape_zyx is None else shape_zyx
    is_image = DEFAULT_SHAPES_ZYX[kind][0] == 1
    smallest = _MIN_SHAPE_ZYX[is_image]
    too_small = any(size < least for size, least in zip(shape, smallest, strict=True))
    if seed < 0 or too_small or (is_image and shape[0] != 1):
        msg = (
            f"phantom {kind} of seed {seed} and shape {shape} cannot be drawn; the seed must be at least 0, the shape "
            f"at least {smallest}{', with one slice' if is_image else ''}"
        )
        raise UsageError(msg)
    rng = np.random.default_rng(seed_from("phantom", kind, seed))
    return _DRAWERS[kind](rng, seed, shape, absent_structure(kind, seed))
