"""Generation of the prompts of one case from its reference, the same on every machine and in any order.

The random numbers of a prompt depend on (case, structure, instance, slice, prompt_id) alone. So a growing cohort,
another batch size or another worker never changes an existing prompt.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.cases.structures import LabelMap, Structure
from medsam3_core.digests import seed_from
from medsam3_core.errors import CaseDataError
from medsam3_core.prompts.policies import PromptedSlices, PromptKind, PromptPolicy
from medsam3_core.prompts.regions import ReferenceRegions, Region, SliceRegions, Window
from medsam3_core.prompts.rows import WHOLE_STRUCTURE, PromptRow, RowKind, mask_to_runs

MAX_INSTANCES = 200
"""Maximum instances of a structure that are prompted on one slice; the largest are kept."""

NEGATIVE_MARGIN = 0.25
"""Share by which the box is enlarged for negative points, half of it on either side."""


@dataclass(frozen=True, slots=True)
class CappedInstances:
    """A slice on which a structure has more instances than are prompted."""

    slice: int
    structure: str
    found: int
    kept: int


@dataclass(frozen=True, slots=True)
class GeneratedPrompts:
    """Prompts of one case.

    Attributes:
        rows: By slice, then structure in the given order, then instance; text before box.
        capped: Slices on which instances were left out.
    """

    rows: tuple[PromptRow, ...]
    capped: tuple[CappedInstances, ...] = ()


def generate_prompts(
    policy: PromptPolicy,
    prompt_id: str,
    case_id: str,
    reference: LabelMap | None,
    geometry: VolumeGeometry,
    structures: Sequence[Structure],
) -> GeneratedPrompts:
    """Make the prompts of a policy; `text` on all slices needs no reference.

    `per=instance` uses the instances of the reference if the structure comes in instances, else the connected
    components of each slice (8 neighbours, numbered slice by slice). A structure that the reference lacks gets no box,
    point or mask.

    Args:
        policy: The policy.
        prompt_id: Its id in the cohort; part of every seed.
        case_id: The case; part of every seed.
        reference: The primary reference of the case, if it has one.
        geometry: Geometry of the volume.
        structures: Structures of the recipe.

    Raises:
        CaseDataError: If the policy reads the reference and there is none, or it has another shape than the volume.
    """
    if policy.kind is PromptKind.AGENT:
        return GeneratedPrompts(
            tuple(
                PromptRow(case_id, 0, item.name, WHOLE_STRUCTURE, RowKind.REQUEST, text=item.text)
                for item in structures
            )
        )
    if policy.kind is PromptKind.FILE:
        msg = f"case {case_id!r} has no row in the prompts file; add some or leave the case out"
        raise CaseDataError(msg)
    if not policy.privileged:
        depth = geometry.shape_zyx[0]
        return GeneratedPrompts(tuple(_text_row(case_id, z, item) for z in range(depth) for item in structures))
    if reference is None:
        msg = (
            f"case {case_id!r} has no reference, which prompt policy {policy.canonical()} reads; "
            "use the policy text or a prompts file"
        )
        raise CaseDataError(msg)
    if reference.voxels.shape != geometry.shape_zyx:
        msg = f"case {case_id!r}: reference has shape {reference.voxels.shape}, the volume {geometry.shape_zyx}"
        raise CaseDataError(msg)
    return _from_reference(_PromptMaker(policy, prompt_id, case_id, geometry.shape_zyx[1:]), reference, structures)


def _from_reference(maker: "_PromptMaker", reference: LabelMap, structures: Sequence[Structure]) -> GeneratedPrompts:
    regions = ReferenceRegions(reference)
    rows: list[PromptRow] = []
    capped: list[CappedInstances] = []
    for z, on_slice, structure in _prompted(maker.policy, regions, len(reference.voxels), structures):
        chosen, found = _chosen_regions(maker.policy, on_slice, structure)
        if found > len(chosen):
            capped.append(CappedInstances(z, structure.name, found, len(chosen)))
        rows += maker.rows(z, structure, chosen, on_slice)
    return GeneratedPrompts(tuple(rows), tuple(capped))


def _prompted(
    policy: PromptPolicy, regions: ReferenceRegions, depth: int, structures: Sequence[Structure]
) -> Iterator[tuple[int, SliceRegions, Structure]]:
    """Slices and the structures to prompt on each: those that it holds, or those whose key slice it is."""
    key_slices: dict[str, int] | None = None
    if policy.slices is PromptedSlices.KEY:
        key_slices = regions.key_slices(tuple(structure.name for structure in structures))
    for z in range(depth) if key_slices is None else sorted(set(key_slices.values())):
        on_slice = regions.on_slice(z)
        for structure in structures:
            if on_slice.holds(structure.name) and (key_slices is None or key_slices[structure.name] == z):
                yield z, on_slice, structure


def _chosen_regions(policy: PromptPolicy, on_slice: SliceRegions, structure: Structure) -> tuple[list[Region], int]:
    """Regions to prompt, and the number found; above the cap the largest are kept, in their order."""
    if policy.kind is PromptKind.TEXT:
        return [], 0
    if not policy.is_per_instance(structure):
        whole = on_slice.whole(structure.name)
        return ([whole], 1) if whole else ([], 0)
    find = on_slice.instances if structure.instances else on_slice.components
    found = list(find(structure.name))
    if len(found) <= MAX_INSTANCES:
        return found, len(found)
    largest = sorted(found, key=lambda region: (-region.area, region.instance))[:MAX_INSTANCES]
    return sorted(largest, key=lambda region: region.instance), len(found)


def _text_row(case_id: str, z: int, structure: Structure) -> PromptRow:
    return PromptRow(case_id, z, structure.name, WHOLE_STRUCTURE, RowKind.TEXT, text=structure.text)


@dataclass(frozen=True, slots=True)
class _PromptMaker:
    """Rows of one case under one policy."""

    policy: PromptPolicy
    prompt_id: str
    case_id: str
    shape_yx: tuple[int, int]

    def rows(
        self, z: int, structure: Structure, regions: Sequence[Region], on_slice: SliceRegions
    ) -> Iterator[PromptRow]:
        """Rows of one structure on one slice."""
        if self.policy.kind in (PromptKind.TEXT, PromptKind.TEXT_AND_BOX):
            yield _text_row(self.case_id, z, structure)
        for region in regions:
            if self.policy.kind in (PromptKind.BOX, PromptKind.TEXT_AND_BOX):
                yield self._box_row(z, structure.name, region)
            elif self.policy.kind is PromptKind.POINTS:
                yield from self._point_rows(z, structure.name, region, on_slice)
            elif self.policy.kind is PromptKind.MASK:
                yield self._mask_row(z, structure.name, region)

    def _generator(self, z: int, structure: str, region: Region) -> np.random.Generator:
        return np.random.default_rng(seed_from(self.case_id, structure, region.instance, z, self.prompt_id))

    def _box_row(self, z: int, structure: str, region: Region) -> PromptRow:
        rows, columns = region.window
        x, y = (float(columns.start), float(columns.stop)), (float(rows.start), float(rows.stop))
        if self.policy.jitter > 0:
            moves = self._generator(z, structure, region).uniform(-self.policy.jitter, self.policy.jitter, size=4)
            height, width = self.shape_yx
            x = _jittered(x, (float(moves[0]), float(moves[2])), width)
            y = _jittered(y, (float(moves[1]), float(moves[3])), height)
        return PromptRow(
            self.case_id, z, structure, region.instance, RowKind.BOX, x0=x[0], y0=y[0], x1=x[1], y1=y[1], label=1
        )

    def _point_rows(self, z: int, structure: str, region: Region, on_slice: SliceRegions) -> Iterator[PromptRow]:
        generator = self._generator(z, structure, region)
        positives = _positive_points(region, self.policy.pos, generator)
        negatives = _negative_points(region, structure, on_slice, self.policy.neg, self.shape_yx, generator)
        kind = RowKind.POINTS
        for label, points in ((1, positives), (0, negatives)):
            for y, x in points:
                yield PromptRow(self.case_id, z, structure, region.instance, kind, x=float(x), y=float(y), label=label)

    def _mask_row(self, z: int, structure: str, region: Region) -> PromptRow:
        mask = np.zeros(self.shape_yx, dtype=bool)
        mask[region.window] = region.mask
        runs = mask_to_runs(mask)
        return PromptRow(self.case_id, z, structure, region.instance, RowKind.MASK, mask_rle=runs)


def _jittered(edges: tuple[float, float], moves: tuple[float, float], size: int) -> tuple[float, float]:
    """Move both edges by shares of the side, clip to [0, size], keep at least one pixel around the middle."""
    side = edges[1] - edges[0]
    start, stop = (min(max(edge + move * side, 0.0), float(size)) for edge, move in zip(edges, moves, strict=True))
    if stop - start >= 1.0:
        return start, stop
    start = min(max((start + stop) / 2 - 0.5, 0.0), size - 1.0)
    return start, start + 1.0


def _positive_points(region: Region, count: int, generator: np.random.Generator) -> list[tuple[int, int]]:
    """Pixels (y, x) of the slice: the innermost one, then distinct ones drawn uniformly from the rest.

    The innermost pixel is the first maximum, in row-major order, of the Euclidean distance to the outside in pixels;
    beyond the edge of the slice counts as outside. A region with fewer pixels than `count` gives them all.
    """
    distance = ndimage.distance_transform_edt(np.pad(region.mask, 1))[1:-1, 1:-1]
    innermost = int(np.argmax(distance))
    others = np.flatnonzero(region.mask)
    drawn = _draw(others[others != innermost], count - 1, generator)
    return _on_slice(np.array([innermost, *drawn]), region.window)


def _negative_points(
    region: Region,
    structure: str,
    on_slice: SliceRegions,
    count: int,
    shape_yx: tuple[int, int],
    generator: np.random.Generator,
) -> list[tuple[int, int]]:
    """Distinct pixels (y, x) outside the structure (all its instances), uniform in the enlarged box.

    If the structure fills the enlarged box, they come from the whole slice; if it fills the slice, there are none.
    """
    if count == 0:
        return []
    whole_slice = (slice(0, shape_yx[0]), slice(0, shape_yx[1]))
    for window in (_grown(region.window, shape_yx), whole_slice):
        outside = np.flatnonzero(~on_slice.inside(structure, window))
        if outside.size:
            return _on_slice(_draw(outside, count, generator), window)
    return []


def _grown(window: Window, shape_yx: tuple[int, int]) -> Window:
    """Window with sides 25 % longer, rounded outwards to whole pixels and clipped to the slice."""
    rows, columns = (
        slice(
            max(0, math.floor(extent.start - NEGATIVE_MARGIN / 2 * (extent.stop - extent.start))),
            min(size, math.ceil(extent.stop + NEGATIVE_MARGIN / 2 * (extent.stop - extent.start))),
        )
        for extent, size in zip(window, shape_yx, strict=True)
    )
    return rows, columns


def _draw(pixels: NDArray[np.intp], count: int, generator: np.random.Generator) -> NDArray[np.intp]:
    """Distinct pixels, uniformly; all of them if there are too few."""
    return generator.choice(pixels, size=min(count, pixels.size), replace=False)


def _on_slice(pixels: NDArray[np.intp], window: Window) -> list[tuple[int, int]]:
    """Row-major indices within a window as (y, x) of the slice."""
    rows, columns = window
    y, x = np.divmod(pixels, columns.stop - columns.start)
    return list(zip((y + rows.start).tolist(), (x + columns.start).tolist(), strict=True))
