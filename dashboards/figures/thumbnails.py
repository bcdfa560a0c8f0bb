"""Thumbnails for the report: image with outlines of reference and prediction, as JPEG data URIs."""

import base64
import io
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dashboards.figures.pictures import contours, fullest_slice, open_case_picture, open_case_prediction, predicted_mask
from dashboards.figures.style import REFERENCE_COLOUR
from storage.store.layout import StoreLayout

_SIDE = 230
_MARGIN = 0.35
_QUALITY = 82


def case_thumbnail(
    store: StoreLayout, cohort: str, case_id: str, ndim: int, run_id: str, structure: str, rater: str, colour: str
) -> tuple[str, int]:
    """Draw a case around one structure, on the slice with the largest area of the reference.

    Returns:
        Data URI of a JPEG and index of the slice.

    Raises:
        StoreError: If the case or prediction is damaged or missing.
    """
    picture = open_case_picture(store, cohort, case_id, ndim)
    reference = picture.reference(rater)
    expected = None if reference is None else reference.mask(structure)
    drawn = predicted_mask(open_case_prediction(store, run_id, case_id), structure)
    z = fullest_slice([expected, drawn])
    z = picture.volume.geometry.shape_zyx[0] // 2 if z is None else z
    masks = [(mask[z], shade) for mask, shade in ((expected, REFERENCE_COLOUR), (drawn, colour)) if mask is not None]
    return data_uri(outlined(picture.rgb(z), masks)), z


def outlined(rgb: NDArray[np.uint8], masks: Iterable[tuple[NDArray[np.bool_], str]]) -> Image.Image:
    """Crop around the masks, scale to the size of a thumbnail, draw the outlines."""
    shown = list(masks)
    x0, y0, x1, y1 = _crop(rgb.shape[:2], [mask for mask, _ in shown])
    scale = _SIDE / max(x1 - x0, y1 - y0)
    size = (max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale)))
    image = Image.fromarray(rgb[y0:y1, x0:x1]).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for place, (mask, colour) in enumerate(shown):
        for line in contours(mask):
            points = [((x - x0 + 0.5) * scale, (y - y0 + 0.5) * scale) for x, y in line]
            draw.line(points, fill=colour, width=4 if place == 0 else 2, joint="curve")
    return image


def data_uri(image: Image.Image, form: str = "JPEG") -> str:
    """Encode an image as a data URI."""
    sink = io.BytesIO()
    image.save(sink, form, **({"quality": _QUALITY, "optimize": True} if form == "JPEG" else {"compress_level": 1}))
    return f"data:image/{form.lower()};base64,{base64.b64encode(sink.getvalue()).decode()}"


def _crop(shape_yx: tuple[int, ...], masks: list[NDArray[np.bool_]]) -> tuple[int, int, int, int]:
    """Bounding box x0, y0, x1, y1 around all masks with a margin; the whole slice if they are empty."""
    height, width = shape_yx
    union = np.zeros((height, width), dtype=bool)
    for mask in masks:
        union |= mask
    if not union.any():
        return 0, 0, width, height
    rows, columns = np.flatnonzero(union.any(axis=1)), np.flatnonzero(union.any(axis=0))
    side = max(rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1)
    half = max(side * (0.5 + _MARGIN), 16)
    y, x = (rows[0] + rows[-1] + 1) / 2, (columns[0] + columns[-1] + 1) / 2
    return (
        max(0, int(x - half)), max(0, int(y - half)), min(width, int(np.ceil(x + half))),
        min(height, int(np.ceil(y + half))),
    )  # fmt: skip
