"""Large slices in N x N overlapping tiles, which keep detail that a resize to the model's square would erase.

Each tile is encoded like a slice. Semantic logits are blended before the threshold; instances of neighbouring tiles are
joined where they agree on the overlap.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from medsam3_core.inference.protocol import SliceInstances
from medsam3_core.prompts.prompts import BoxPrompt, MaskPrompt, PointPrompt, SlicePrompt
from medsam3_core.sam3.network.encoder import SliceEncoding
from medsam3_core.sam3.tensors.postprocess import mask_limit

_OVERLAP = 0.125
"""Share of a tile's side that overlaps its neighbour."""
_SAME_INSTANCE = 0.5
"""IoU inside the overlap above which two instances are the same."""
_ENOUGH = 0.5
"""Share of a box, or of the tile, that must lie in a tile for the box to be used there."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A half-open window of a slice, in pixels."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def shape_yx(self) -> tuple[int, int]:
        """Size in pixels."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def window(self) -> tuple[slice, slice]:
        """Index of an array of shape (..., y, x)."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def overlap(self, other: "Tile") -> "Tile | None":
        """Window shared by two tiles, if any."""
        y0, x0 = max(self.y0, other.y0), max(self.x0, other.x0)
        y1, x1 = min(self.y1, other.y1), min(self.x1, other.x1)
        return Tile(y0, x0, y1, x1) if y0 < y1 and x0 < x1 else None

    def inside(self, outer: "Tile") -> tuple[slice, slice]:
        """This window in the coordinates of a tile around it."""
        return Tile(self.y0 - outer.y0, self.x0 - outer.x0, self.y1 - outer.y0, self.x1 - outer.x0).window


@dataclass(frozen=True, eq=False)
class TiledEncoding:
    """A slice encoded tile by tile."""

    shape_yx: tuple[int, int]
    tiles: tuple[Tile, ...]
    encodings: tuple[SliceEncoding, ...]

    @property
    def nbytes(self) -> int:
        """Memory of all tiles."""
        return sum(one.nbytes for one in self.encodings)


@dataclass(frozen=True, eq=False)
class TileAnswer:
    """Answer of one tile to one prompt: masks at the tile's size, and semantic logits if needed."""

    tile: Tile
    instances: SliceInstances
    semantic_logits: NDArray[np.float32] | None = None


def tiles_of(shape_yx: tuple[int, int], count: int) -> tuple[Tile, ...]:
    """Cut a slice into `count` x `count` tiles of equal size, row by row; fewer where it has fewer pixels."""
    rows, columns = (_spans(size, count) for size in shape_yx)
    return tuple(Tile(y0, x0, y1, x1) for y0, y1 in rows for x0, x1 in columns)


def prompts_per_tile(prompt: SlicePrompt, tiles: Sequence[Tile]) -> list[SlicePrompt | None]:
    """The prompt of each tile; None where no part of the prompt lies in it.

    A text applies to every tile. A box is clipped to every tile that holds half of it or that it half covers, and to
    the tile that holds most of it. Points and masks are cropped in the same way.
    """
    objects = max(len(prompt.boxes), len(prompt.points), len(prompt.masks))
    shown = [_tiles_showing(prompt, index, tiles) for index in range(objects)]
    return [
        _cropped(prompt, tile, [index for index in range(objects) if number in shown[index]])
        for number, tile in enumerate(tiles)
    ]


def join_tiles(answers: Sequence[TileAnswer], shape_yx: tuple[int, int]) -> SliceInstances:
    """Merge the answers of all tiles into one answer for the slice."""
    groups = _same_instances(answers)
    scores = np.array([max(answers[t].instances.scores[i] for t, i in group) for group in groups], dtype=np.float32)
    order = np.argsort(-scores, kind="stable")
    limit = mask_limit(shape_yx)
    kept = order[:limit]
    masks = np.zeros((len(kept), *shape_yx), dtype=bool)
    boxes = np.zeros((len(kept), 4), dtype=np.float32)
    for row, index in enumerate(kept):
        for t, i in groups[index]:
            masks[row][answers[t].tile.window] |= answers[t].instances.masks[i]
        boxes[row] = _joint_box([(answers[t], i) for t, i in groups[index]])
    notes = tuple(dict.fromkeys(note for answer in answers for note in answer.instances.fallbacks))
    if len(order) > limit:
        notes += (f"instances-capped:{len(order)}>{limit}",)
    presence = max((answer.instances.presence for answer in answers), default=0.0)
    return SliceInstances(masks, scores[kept], boxes, _blended(answers, shape_yx), notes, presence)


def _spans(size: int, count: int) -> list[tuple[int, int]]:
    count = min(count, size)
    side = min(size, int(np.ceil(size / (count - (count - 1) * _OVERLAP))))
    starts = np.linspace(0, size - side, count).round().astype(int)
    return [(int(start), int(start) + side) for start in starts]


def _tiles_showing(prompt: SlicePrompt, index: int, tiles: Sequence[Tile]) -> set[int]:
    """Numbers of the tiles that an object of a prompt belongs to."""
    if prompt.boxes:
        box = prompt.boxes[index]
        areas = [_common_area(box, tile) for tile in tiles]
        own = (box.x1 - box.x0) * (box.y1 - box.y0)
        enough = {
            number
            for number, (area, tile) in enumerate(zip(areas, tiles, strict=True))
            if area >= _ENOUGH * own or area >= _ENOUGH * tile.shape_yx[0] * tile.shape_yx[1]
        }
        return enough | {int(np.argmax(areas))}
    if prompt.points:
        first = next((point for point in prompt.points[index] if point.positive), prompt.points[index][0])
        return {int(np.argmax([_depth(first, tile) for tile in tiles]))}
    return {number for number, tile in enumerate(tiles) if prompt.masks[index].mask[tile.window].any()}


def _cropped(prompt: SlicePrompt, tile: Tile, objects: list[int]) -> SlicePrompt | None:
    boxes = tuple(_clipped(prompt.boxes[index], tile) for index in objects) if prompt.boxes else ()
    if prompt.text is None and (not objects or (boxes and not any(box.positive for box in boxes))):
        return None
    points = tuple(_points_in(prompt.points[index], tile) for index in objects) if prompt.points else ()
    masks = tuple(MaskPrompt(prompt.masks[index].mask[tile.window]) for index in objects) if prompt.masks else ()
    return replace(prompt, boxes=boxes, points=points, masks=masks)


def _clipped(box: BoxPrompt, tile: Tile) -> BoxPrompt:
    return replace(
        box,
        x0=max(box.x0, tile.x0) - tile.x0,
        y0=max(box.y0, tile.y0) - tile.y0,
        x1=min(box.x1, tile.x1) - tile.x0,
        y1=min(box.y1, tile.y1) - tile.y0,
    )


def _points_in(points: tuple[PointPrompt, ...], tile: Tile) -> tuple[PointPrompt, ...]:
    return tuple(replace(one, x=one.x - tile.x0, y=one.y - tile.y0) for one in points if _depth(one, tile) >= 0)


def _depth(point: PointPrompt, tile: Tile) -> float:
    """Distance to the nearest edge of the tile in pixels; negative outside."""
    return min(point.x - tile.x0, tile.x1 - 1 - point.x, point.y - tile.y0, tile.y1 - 1 - point.y)


def _common_area(box: BoxPrompt, tile: Tile) -> float:
    width, height = min(box.x1, tile.x1) - max(box.x0, tile.x0), min(box.y1, tile.y1) - max(box.y0, tile.y0)
    return max(0.0, width) * max(0.0, height)


def _same_instances(answers: Sequence[TileAnswer]) -> list[list[tuple[int, int]]]:
    """Groups of (tile, instance) that are one instance, linked where two tiles agree on their overlap."""
    parent = {(t, i): (t, i) for t, answer in enumerate(answers) for i in range(len(answer.instances.scores))}

    def root(node: tuple[int, int]) -> tuple[int, int]:
        while parent[node] != node:
            node = parent[node]
        return node

    for s, t in combinations(range(len(answers)), 2):
        for i, j in _agreeing(answers[s], answers[t]):
            parent[root((t, j))] = root((s, i))
    groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for node in parent:
        groups.setdefault(root(node), []).append(node)
    return list(groups.values())


def _agreeing(one: TileAnswer, other: TileAnswer) -> list[tuple[int, int]]:
    common = one.tile.overlap(other.tile)
    if common is None or not len(one.instances.scores) or not len(other.instances.scores):
        return []
    first, second = (
        answer.instances.masks[(slice(None), *common.inside(answer.tile))].reshape(len(answer.instances.scores), -1)
        for answer in (one, other)
    )
    shared = first.astype(np.float32) @ second.astype(np.float32).T
    union = first.sum(axis=1)[:, None] + second.sum(axis=1)[None] - shared
    pairs = np.argwhere((shared > 0) & (shared > _SAME_INSTANCE * union))
    return [(int(i), int(j)) for i, j in pairs]


def _joint_box(parts: list[tuple[TileAnswer, int]]) -> NDArray[np.float32]:
    """Box around the boxes of an instance in several tiles, in pixels of the slice."""
    shifts = np.array([(one.tile.x0, one.tile.y0) * 2 for one, _ in parts], dtype=np.float32)
    moved = np.stack([one.instances.boxes_xyxy[index] for one, index in parts]) + shifts
    return np.concatenate([moved[:, :2].min(axis=0), moved[:, 2:].max(axis=0)])


def _blended(answers: Sequence[TileAnswer], shape_yx: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Semantic mask: weighted sum of the logits of the tiles, then the threshold."""
    total = np.zeros(shape_yx, dtype=np.float32)
    weight = np.zeros(shape_yx, dtype=np.float32)
    for answer in answers:
        if answer.semantic_logits is None:
            return None
        ramp = np.outer(*(_ramp(size) for size in answer.tile.shape_yx)).astype(np.float32)
        total[answer.tile.window] += ramp * answer.semantic_logits
        weight[answer.tile.window] += ramp
    mask: NDArray[np.bool_] = (total > 0) & (weight > 0)
    return mask


def _ramp(size: int) -> NDArray[np.float32]:
    """Weights along a side: 1 in the middle, almost 0 at the edges."""
    distance = np.minimum(np.arange(1, size + 1), np.arange(size, 0, -1))
    ramp: NDArray[np.float32] = np.minimum(1.0, distance / max(1.0, _OVERLAP * size)).astype(np.float32)
    return ramp
