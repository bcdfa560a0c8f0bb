"""Read slices of stored cases as pixels and masks as contours; no plotting."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from skimage.measure import find_contours

from medsam3_core.cases.intensity import IntensityPolicy, as_rgb, to_uint8
from medsam3_core.cases.structures import LabelMap
from storage.cohorts.cohorts import read_cohort
from storage.cohorts.volumes import StoredVolume, open_case_volume
from storage.runs.predictions import StoredPrediction, open_prediction
from storage.store.layout import StoreLayout


@dataclass(frozen=True)
class CasePicture:
    """A case to display: windowed slices and references by rater.

    Attributes:
        volume: The stored volume.
        window: Intensity policy of the cohort's recipe.
        texts: Text of each structure in the order of the recipe.
    """

    volume: StoredVolume
    window: str
    texts: dict[str, str]

    @property
    def colour(self) -> bool:
        """True if the case is an RGB image, which has no window."""
        return self.volume.slice(0).ndim == 3

    @cached_property
    def extremes(self) -> tuple[float, float]:
        """Lowest and highest stored intensity in a sample of up to nine slices."""
        depth = self.volume.geometry.shape_zyx[0]
        planes = [self.volume.slice(z) for z in np.unique(np.linspace(0, depth - 1, 9).astype(int))]
        return float(min(plane.min() for plane in planes)), float(max(plane.max() for plane in planes))

    @cached_property
    def value_range(self) -> tuple[float, float]:
        """Stored intensities that the recipe's window maps to black and white."""
        policy = IntensityPolicy.parse(self.window).resolved(self.volume.modality, self.volume.dtype)
        needs_voxels = policy.kind in ("percentile", "minmax")
        return policy.value_range(self.volume.voxels() if needs_voxels else np.zeros(1))

    def rgb(self, z: int, value_range: tuple[float, float] | None = None) -> NDArray[np.uint8]:
        """Slice z, shape (y, x, 3)."""
        return as_rgb(to_uint8(self.volume.slice(z), value_range or self.value_range))

    def reference(self, rater: str) -> LabelMap | None:
        """Label map of a rater, None if this rater has none."""
        return self.volume.reference(rater) if rater in self.volume.raters else None


def open_case_picture(store: StoreLayout, cohort: str, case_id: str, ndim: int) -> CasePicture:
    """Open a case for display.

    Raises:
        StoreError: If it is absent or damaged.
        UsageError: If the cohort does not exist.
    """
    recipe = read_cohort(store, cohort).recipe
    volume = open_case_volume(store.volume(cohort, case_id, zipped=ndim == 2))
    return CasePicture(volume, recipe.window, {item.name: item.text for item in recipe.structures})


def open_case_prediction(store: StoreLayout, run_id: str, case_id: str) -> StoredPrediction | None:
    """Open the prediction of a case; None if the run wrote none or it was pruned."""
    path: Path = store.prediction(run_id, case_id)
    return open_prediction(path) if path.exists() else None


def predicted_mask(prediction: StoredPrediction | None, structure: str) -> NDArray[np.bool_] | None:
    """Mask (z, y, x) of one structure, None if the prediction does not hold it."""
    if prediction is None or structure not in prediction.structures:
        return None
    mask: NDArray[np.bool_] = prediction.labels(structure) > 0
    return mask


def fullest_slice(masks: Sequence[NDArray[np.bool_] | None]) -> int | None:
    """Index of the slice with the largest area of the first non-empty mask; None if all are empty."""
    for mask in masks:
        if mask is not None and mask.any():
            return int(mask.sum(axis=(1, 2)).argmax())
    return None


def contours(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Outlines of a mask (y, x), closed at the border too: arrays of shape (points, 2) with x and y."""
    if not mask.any():
        return []
    padded = np.pad(mask, 1).astype(np.float32)
    return [line[:, ::-1] - 1.0 for line in find_contours(padded, 0.5)]


def contour_line(mask: NDArray[np.bool_]) -> tuple[list[float | None], list[float | None]]:
    """All outlines of a mask as one line, x and y, with None between the parts."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for line in contours(mask):
        xs += [*np.round(line[:, 0], 2).tolist(), None]
        ys += [*np.round(line[:, 1], 2).tolist(), None]
    return xs, ys
