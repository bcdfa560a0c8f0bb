"""PNG overlays: the image as the segmenter saw it, predictions filled lightly, references as dashed white lines.

Slices are flipped for display only, never in the store: patient axes follow the radiological convention. Images without
physical position are shown as they are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medsam3_core.cases.geometry import LengthUnit, VolumeGeometry
from medsam3_core.cases.intensity import IntensityPolicy, as_rgb, to_uint8
from medsam3_core.metrics.overlap import count_masks, dice
from storage.cohorts.volumes import StoredVolume
from storage.runs.predictions import StoredPrediction

_MAX_TILES = 9
COLOURS = (
    (0, 200, 255), (255, 213, 0), (255, 79, 216), (61, 240, 106), (255, 138, 30), (157, 123, 255), (255, 77, 77),
    (0, 255, 213), (200, 160, 110), (150, 190, 255),
)  # fmt: skip
WHITE, GREY, _BACKGROUND = (255, 255, 255), (150, 150, 150), (18, 18, 18)
_FILL = 0.28
_WHOLE_SIDE, _TILE_SIDE = 1400, 460
_MARGIN, _LINE, _TEXT, _GAP = 12, 26, 17, 4
_DASH, _DASH_GAP = 6, 4
_AXES = (("L", "R"), ("P", "A"), ("I", "S"))
"""Names of the negative and positive end of each world axis."""

Rgb = NDArray[np.uint8]
Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class OverlayCaption:
    """Title (cohort and case), subtitle (weights, prompt and run) and intensity policy of an overlay."""

    case: str
    run: str
    window: str


@dataclass(frozen=True, eq=False)
class _StructureToDraw:
    name: str
    colour: Colour
    prediction: NDArray[np.uint16]
    reference: NDArray[np.bool_] | None

    @property
    def legend(self) -> str:
        if self.reference is None:
            return f"{self.name}  no reference"
        counts = count_masks(self.reference, self.prediction > 0)
        if not counts.reference and not counts.prediction:
            return f"{self.name}  absent, nothing drawn"
        absent = "  (absent in reference)" if not counts.reference else ""
        return f"{self.name}  Dice {dice(counts):.3f}{absent}"


@dataclass(frozen=True, eq=False)
class SliceView:
    """Flips and scaling of slices for display.

    Attributes:
        flip_rows: The last row comes first.
        flip_columns: The last column comes first.
        size: Width and height in screen pixels.
        edges: Letters at the left and upper edge; None without patient axes.
    """

    flip_rows: bool
    flip_columns: bool
    size: tuple[int, int]
    edges: tuple[str, str] | None

    def turned(self, plane: NDArray[np.generic]) -> NDArray[np.generic]:
        """Flip a slice; rows and columns are its first axes. It is not resized."""
        rows, columns = (slice(None, None, -1 if flip else 1) for flip in (self.flip_rows, self.flip_columns))
        return np.ascontiguousarray(plane[rows, columns])

    def tile(self, rgb: Rgb) -> NDArray[np.float32]:
        """A slice (y, x, 3) as displayed, ready to be painted on."""
        image = Image.fromarray(self.turned(rgb)).resize(self.size, Image.Resampling.BICUBIC)
        return np.asarray(image).astype(np.float32)

    def labels(self, plane: NDArray[np.generic]) -> NDArray[np.int32]:
        """Labels (y, x) as displayed, by nearest neighbour."""
        image = Image.fromarray(self.turned(plane).astype(np.int32))
        return np.asarray(image.resize(self.size, Image.Resampling.NEAREST))


def draw_overlay(
    volume: StoredVolume,
    prediction: StoredPrediction,
    structures: Sequence[str],
    rater: str | None,
    caption: OverlayCaption,
) -> Image.Image:
    """One picture of a case: the image, or up to nine slices spread over the extent of the prediction.

    `structures` are in the order of their colours. The reference of `rater` is shown, None for cases without one.
    """
    drawn = list(_structures(volume, prediction, structures, rater))
    shown = _slices_to_show(drawn, volume.geometry.shape_zyx[0])
    columns = min(len(shown), 3)
    view = view_of(volume.geometry, _WHOLE_SIDE if columns == 1 else _TILE_SIDE)
    policy = IntensityPolicy.parse(caption.window).resolved(volume.modality, volume.dtype)
    needs_voxels = policy.kind in ("percentile", "minmax")
    value_range = policy.value_range(volume.voxels() if needs_voxels else np.zeros(1))
    tiles = []
    for z in shown:
        tile = _tile(as_rgb(to_uint8(volume.slice(z), value_range)), z, drawn, view)
        tiles.append(_marked(tile, "" if volume.geometry.is_2d else f"z {z}", view.edges))
    legend = _legend_rows(drawn, page_width(view.size[0], columns) - 2 * _MARGIN)
    note = "- - -  reference" if rater is not None else ""
    return draw_page(tiles, columns, legend, (caption.case, caption.run), note)


def _structures(
    volume: StoredVolume, prediction: StoredPrediction, structures: Sequence[str], rater: str | None
) -> Iterator[_StructureToDraw]:
    reference = volume.reference(rater) if rater is not None else None
    for index, name in enumerate(structures):
        if name in prediction.structures:
            mask = reference.mask(name) if reference is not None else None
            yield _StructureToDraw(name, COLOURS[index % len(COLOURS)], prediction.labels(name), mask)


def _slices_to_show(drawn: Sequence[_StructureToDraw], depth: int) -> list[int]:
    """Slices spread evenly over those with a prediction, else with a reference, else all."""
    predicted = [item.prediction > 0 for item in drawn]
    referred = [item.reference for item in drawn if item.reference is not None]
    for masks in (predicted, referred):
        held = np.zeros(depth, dtype=bool)
        for mask in masks:
            held |= mask.any(axis=(1, 2))
        if held.any():
            found = np.flatnonzero(held)
            break
    else:
        found = np.arange(depth)
    places = np.linspace(0, len(found) - 1, min(_MAX_TILES, len(found)))
    return [int(found[round(place)]) for place in places]


def view_of(geometry: VolumeGeometry, side: int) -> SliceView:
    """The view of a volume's slices in which their longer side has `side` pixels."""
    _, height, width = geometry.shape_zyx
    _, spacing_y, spacing_x = geometry.spacing_zyx
    extent_y, extent_x = height * spacing_y, width * spacing_x
    scale = side / max(extent_y, extent_x)
    size = (max(1, round(extent_x * scale)), max(1, round(extent_y * scale)))
    if geometry.unit is LengthUnit.PIXEL:
        return SliceView(flip_rows=False, flip_columns=False, size=size, edges=None)
    matrix = np.asarray(geometry.affine_zyx_to_ras_mm)[:3, :3]
    flips, edges = [], []
    for column in (1, 2):  # world axis that rows and columns follow most
        axis = int(np.abs(matrix[:, column]).argmax())
        flips.append(bool(matrix[axis, column] > 0))
        edges.append(_AXES[axis][1])
    return SliceView(flips[0], flips[1], size, (edges[1], edges[0]))


def _tile(rgb: Rgb, z: int, drawn: Sequence[_StructureToDraw], view: SliceView) -> Rgb:
    tile = view.tile(rgb)
    for item in drawn:
        paint(tile, view.labels(item.prediction[z]), item.colour)
    for item in drawn:
        if item.reference is not None:
            tile[_dashed(_outline_of(view.labels(item.reference[z])))] = WHITE
    return tile.astype(np.uint8)


def paint(tile: NDArray[np.float32], labels: NDArray[np.int32], colour: Colour) -> None:
    """Fill the labels of a tile lightly and outline them, in place."""
    inside = labels > 0
    tile[inside] = (1 - _FILL) * tile[inside] + _FILL * np.asarray(colour, dtype=np.float32)
    tile[_outline_of(labels)] = colour


def _outline_of(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Pixels of a label that touch another label or the background; the image border is no outline."""
    edge = np.zeros(labels.shape, dtype=bool)
    rows, columns = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= rows
    edge[:-1] |= rows
    edge[:, 1:] |= columns
    edge[:, :-1] |= columns
    return edge & (labels > 0)


def _dashed(outline: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The outline with gaps, so that a prediction under it stays visible."""
    y, x = np.indices(outline.shape)
    dashed: NDArray[np.bool_] = outline & ((x + y) % (_DASH + _DASH_GAP) < _DASH)
    return dashed


def _marked(tile: Rgb, corner: str, edges: tuple[str, str] | None) -> Image.Image:
    image = Image.fromarray(tile)
    pen = ImageDraw.Draw(image)

    def write(place: tuple[int, int], text: str, anchor: str) -> None:
        pen.text(place, text, WHITE, font_of(15), anchor, stroke_width=2, stroke_fill=(0, 0, 0))

    write((5, 3), corner, "la")
    if edges:
        write((5, image.height // 2), edges[0], "lm")
        write((image.width // 2, 4), edges[1], "ma")
    return image


def page_width(tile_width: int, columns: int) -> int:
    """Width of a page with so many tiles in a row, in pixels."""
    return max(2 * _MARGIN + columns * tile_width + (columns - 1) * _GAP, 760)


def draw_page(
    tiles: Sequence[Image.Image],
    columns: int,
    legend: Sequence[Sequence[tuple[int, Colour, str]]],
    titles: tuple[str, str],
    note: str = "",
    *,
    gap: int = _GAP,
) -> Image.Image:
    """Title and subtitle, tiles with a gap below each, rows of a legend (x, colour and text of each entry), a note."""
    tile_width, height = tiles[0].size
    rows = -(-len(tiles) // columns)
    width = page_width(tile_width, columns)
    top = _MARGIN + 2 * _LINE
    below = top + rows * (height + gap) + _MARGIN
    page = Image.new("RGB", (width, below + (len(legend) + bool(note)) * _LINE + _MARGIN), _BACKGROUND)
    pen = ImageDraw.Draw(page)
    pen.text((_MARGIN, _MARGIN), titles[0], font=font_of(20), fill=WHITE)
    pen.text((_MARGIN, _MARGIN + _LINE), titles[1], font=font_of(15), fill=GREY)
    left = (width - columns * tile_width - (columns - 1) * gap) // 2
    for index, tile in enumerate(tiles):
        page.paste(tile, (left + index % columns * (tile_width + gap), top + index // columns * (height + gap)))
    for row, entries in enumerate(legend):
        y = below + row * _LINE
        for x, colour, text in entries:
            pen.rectangle((_MARGIN + x, y + 4, _MARGIN + x + 16, y + 18), fill=colour)
            pen.text((_MARGIN + x + 24, y), text, font=font_of(_TEXT), fill=WHITE)
    if note:
        pen.text((_MARGIN, below + len(legend) * _LINE), note, font=font_of(_TEXT), fill=GREY)
    return page


def _legend_rows(drawn: Sequence[_StructureToDraw], width: int) -> list[list[tuple[int, Colour, str]]]:
    """Legend entries with their x, wrapped into rows."""
    rows: list[list[tuple[int, Colour, str]]] = [[]]
    x = 0
    for item in drawn:
        text = item.legend
        needed = 24 + round(font_of(_TEXT).getlength(text)) + 28
        if rows[-1] and x + needed > width:
            rows.append([])
            x = 0
        rows[-1].append((x, item.colour, text))
        x += needed
    return rows


def font_of(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of all pictures."""
    return ImageFont.load_default(size)
