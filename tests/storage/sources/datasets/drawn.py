"""Small images whose structures are known before any file is written: what readers and scores are compared with."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

Masks = list[np.ndarray]
"""Instances of one structure: boolean masks, shape (z, y, x); one mask where it has no instances."""


@dataclass
class DrawnCase:
    """A case as it was drawn.

    Attributes:
        voxels: Shape (z, y, x), or (3, 1, y, x) for colour.
        references: Rater to structure to its instances; the primary rater first. Absent structures have no masks.
        split: Expected split.
        patient: Expected patient; None: the case itself.
        spacing: Expected spacing (z, y, x) in mm; None: pixels.
    """

    voxels: np.ndarray
    references: dict[str, dict[str, Masks]]
    split: str | None = None
    patient: str | None = None
    spacing: tuple[float, float, float] | None = None

    @property
    def primary(self) -> dict[str, Masks]:
        return next(iter(self.references.values()))

    def mask(self, structure: str, rater: str | None = None) -> np.ndarray:
        """The whole structure."""
        reference = self.references[rater] if rater else self.primary
        masks = reference.get(structure, [])
        return np.logical_or.reduce(masks) if masks else np.zeros(self.voxels.shape[-3:], bool)

    def box_dice(self, structure: str, rater: str, *, per_instance: bool) -> float | None:
        """Dice of the boxes drawn round the primary reference, slice by slice; None where both are empty."""
        filled = np.zeros(self.voxels.shape[-3:], bool)
        masks = self.primary.get(structure, [])
        for mask in masks if per_instance else [self.mask(structure)]:
            for z in range(len(mask)):
                rows, columns = np.nonzero(mask[z])
                if len(rows):
                    filled[z, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
        reference = self.mask(structure, rater)
        both = filled.sum() + reference.sum()
        return 2 * float((filled & reference).sum()) / float(both) if both else None


@dataclass
class Published:
    """A dataset on disk.

    Attributes:
        folder: The source.
        recipe: Name of its recipe.
        cases: Expected cases by case_id.
        structures: Names of its structures in order.
        per_instance: Structures that come in instances.
    """

    folder: Path
    recipe: str
    cases: dict[str, DrawnCase]
    structures: tuple[str, ...]
    per_instance: frozenset[str] = field(default_factory=frozenset)


def textured(seed: int, shape: tuple[int, ...] = (40, 56), channels: int = 3) -> np.ndarray:
    """An 8-bit image that looks like no other: blobs of its own under noise; shape (y, x, channels) or (y, x)."""
    random = np.random.default_rng(seed)
    coarse = random.uniform(40, 200, (5, 6)).astype(np.float32)
    grey = np.asarray(Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC))
    noise = random.normal(0, 6, (*shape, channels))
    pixels = np.clip(grey[..., None] + noise, 0, 255).astype(np.uint8)
    return pixels if channels > 1 else pixels[..., 0]


def blobs(seed: int, count: int, shape: tuple[int, int] = (40, 56)) -> Masks:
    """Instances that touch neither each other nor the edge, in row-major order of their first pixel."""
    random = np.random.default_rng(seed)
    y, x = np.indices(shape)
    taken, masks = np.zeros(shape, bool), []
    while len(masks) < count:
        height, width = random.integers(2, 6, 2)
        row = random.integers(height + 1, shape[0] - height - 1)
        column = random.integers(width + 1, shape[1] - width - 1)
        mask = ((y - row) / height) ** 2 + ((x - column) / width) ** 2 <= 1
        grown = np.zeros(shape, bool)
        grown[max(0, row - height - 2) : row + height + 3, max(0, column - width - 2) : column + width + 3] = True
        if not (grown & taken).any():
            taken |= mask
            masks.append(mask)
    return sorted((mask[None] for mask in masks), key=lambda mask: int(mask.argmax()))


def colour(pixels: np.ndarray) -> np.ndarray:
    """(y, x, 3) as voxels (3, 1, y, x)."""
    return np.moveaxis(pixels, 2, 0)[:, None]


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    """Write an image file, creating its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path
