"""Fill outlines, split components into instances, and merge overlapping instances."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medsam3_core.cases.structures import LabelEntry
from medsam3_core.errors import CaseDataError, LabelValueError
from storage.sources.listing.parameters import FillRule

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)
_MAX_LABEL = 65_535
_MAX_FIT_ERROR = 0.05
"""Mean distance from a fitted ellipse, as a share of its radius in that direction."""

Mask = NDArray[np.bool_]


def fill_outline(outline: Mask, rule: FillRule) -> Mask:
    """The area that an outline of shape (1, y, x) encloses, including the outline.

    An outline that encloses nothing (cut by the edge of the image, or with a gap) is completed by the ellipse that fits
    it, if the rule is `ellipse`.

    Raises:
        CaseDataError: If the outline is not closed and the rule is `outline`, or no ellipse fits it.
    """
    if rule is FillRule.NONE or not outline.any():
        return outline
    filled: Mask = ndimage.binary_fill_holes(outline[0])
    if filled.sum() > outline.sum():
        return np.expand_dims(filled, 0)
    if rule is FillRule.OUTLINE:
        msg = f"the outline of {int(outline.sum())} pixels encloses nothing; close its gaps or export filled masks"
        raise CaseDataError(msg)
    return np.expand_dims(_fitted_ellipse(outline[0]) | outline[0], 0)


def component_labels(labels: NDArray[Any], entries: list[LabelEntry]) -> tuple[NDArray[Any], list[LabelEntry]]:
    """One instance per connected component (8 neighbours) of every structure, numbered row by row.

    Args:
        labels: Label map of one slice, shape (1, y, x).
        entries: Meaning of its values; a value of several structures keeps them all.

    Raises:
        LabelValueError: If there are more instances than a label map can hold.
    """
    meanings: dict[int, list[str]] = defaultdict(list)
    for entry in entries:
        meanings[entry.value].append(entry.structure)
    numbered = np.zeros(labels.shape, dtype=np.int64)
    found: list[LabelEntry] = []
    counts = Counter[str]()
    total = 0
    for value, structures in sorted(meanings.items()):
        components, count = ndimage.label(labels[0] == value, structure=_EIGHT_NEIGHBOURS)
        inside = components > 0
        numbered[0][inside] = components[inside] + total
        for component in range(total + 1, total + count + 1):
            for structure in structures:
                counts[structure] += 1
                found.append(LabelEntry(component, structure, counts[structure]))
        total += count
    return compact(numbered), found


def compact(labels: NDArray[Any]) -> NDArray[Any]:
    """The same labels as uint8 or uint16.

    Raises:
        LabelValueError: If a label is above 65,535.
    """
    largest = int(labels.max(initial=0))
    if largest > _MAX_LABEL:
        msg = f"{largest} instances in one image; at most {_MAX_LABEL} are stored, cut the image into tiles"
        raise LabelValueError(msg)
    return labels.astype(np.uint8 if largest <= 255 else np.uint16)


def _fitted_ellipse(outline: Mask) -> Mask:
    """Pixels inside the ellipse that fits an outline best (least squares on the conic, normalised coordinates)."""
    rows, columns = np.nonzero(outline)
    centre = np.array([columns.mean(), rows.mean()])
    scale = max(1.0, float(np.std(np.concatenate([columns - centre[0], rows - centre[1]]))))
    x, y = (columns - centre[0]) / scale, (rows - centre[1]) / scale
    conic = _ellipse_conic(x, y)
    grid_y, grid_x = np.indices(outline.shape, dtype=np.float64)
    inside = _conic_value(conic, (grid_x - centre[0]) / scale, (grid_y - centre[1]) / scale) <= 0
    error = np.abs(_conic_value(conic, x, y)).mean() / 2  # near the conic, value = 2 x (radius - own radius) / radius
    if not error <= _MAX_FIT_ERROR or not inside.any():
        msg = f"the outline of {len(rows)} pixels is not closed and no ellipse fits it; correct the annotation"
        raise CaseDataError(msg)
    return inside


def _ellipse_conic(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coefficients of ax2 + bxy + cy2 + dx + ey + f, negative inside, scaled to the value -1 at the centre.

    The direct fit of Halir and Flusser (1998): of all conics with 4ac - b2 = 1 the one with the least algebraic error.
    """
    quadratic, linear = np.stack([x * x, x * y, y * y], axis=1), np.stack([x, y, np.ones_like(x)], axis=1)
    scatter, mixed, straight = quadratic.T @ quadratic, quadratic.T @ linear, linear.T @ linear
    try:
        to_linear = -np.linalg.solve(straight, mixed.T)
        reduced = scatter + mixed @ to_linear
        reduced = np.stack([reduced[2] / 2, -reduced[1], reduced[0] / 2])
        _, vectors = np.linalg.eig(reduced)
    except np.linalg.LinAlgError:
        return np.full(6, np.nan)
    vectors = np.real(vectors)
    is_ellipse = 4 * vectors[0] * vectors[2] - vectors[1] ** 2 > 0
    if not is_ellipse.any():
        return np.full(6, np.nan)
    chosen = vectors[:, int(np.argmax(is_ellipse))]
    conic = np.concatenate([chosen, to_linear @ chosen])
    a, b, c, d, e, f = conic
    at_centre = f - (c * d * d - b * d * e + a * e * e) / (4 * a * c - b * b)
    result: NDArray[np.float64] = conic / -at_centre
    return result


def _conic_value(conic: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    a, b, c, d, e, f = conic
    value: NDArray[np.float64] = a * x * x + b * x * y + c * y * y + d * x + e * y + f
    return value


def overlay_instances(
    shape_zyx: tuple[int, int, int], instances: Sequence[tuple[str, NDArray[np.bool_]]]
) -> tuple[NDArray[Any], tuple[LabelEntry, ...], int]:
    """One label map of instances of several structures.

    Within a structure a pixel belongs to the smallest instance that covers it; pixels of several structures get a
    separate value that means all of them.

    Args:
        shape_zyx: One slice: (1, y, x).
        instances: Structure and mask (1, y, x) of each, numbered per structure in this order.

    Returns:
        Labels as uint8 or uint16, their meaning, and how many pixels two instances of one structure claimed.
    """
    structures = sorted({name for name, _ in instances})
    planes, contested = [], 0
    for structure in structures:
        own = [mask for name, mask in instances if name == structure]
        plane = np.zeros(shape_zyx, dtype=np.int64)
        claims = np.zeros(shape_zyx, dtype=np.int32)
        for number in sorted(range(len(own)), key=lambda index: -int(own[index].sum())):
            plane[own[number]] = number + 1
            claims += own[number]
        planes.append(plane)
        contested += int((claims > 1).sum())
    if not planes:
        return np.zeros(shape_zyx, dtype=np.uint8), (), 0
    stacked = np.stack(planes, axis=-1).reshape(-1, len(planes))
    found, labels = np.unique(stacked, axis=0, return_inverse=True)
    labels = labels.reshape(shape_zyx) + int(found[0].any())
    entries = tuple(
        LabelEntry(value, structures[column], int(number))
        for value, row in enumerate(found, start=int(found[0].any()))
        for column, number in enumerate(row)
        if number
    )
    return compact(labels), entries, contested
