"""Slices of a stored volume as input of a segmenter."""

import numpy as np
from numpy.typing import NDArray

from medsam3_core.cases.intensity import IntensityPolicy, as_rgb, to_uint8
from storage.cohorts.volumes import StoredVolume


class SliceReader:
    """Gives slices as input of a segmenter: stored intensities through a window to uint8 RGB."""

    def __init__(self, volume: StoredVolume, recipe_window: str) -> None:
        self._volume, self._recipe_window = volume, recipe_window
        self._ranges: dict[str, tuple[float, float]] = {}

    def __call__(self, z: int, window: str) -> NDArray[np.uint8]:
        """Slice z, uint8 of shape (y, x, 3); `recipe` is the window of the recipe."""
        name = self._recipe_window if window == "recipe" else window
        if name not in self._ranges:
            policy = IntensityPolicy.parse(name).resolved(self._volume.modality, self._volume.dtype)
            needs_voxels = policy.kind in ("percentile", "minmax")
            self._ranges[name] = policy.value_range(self._volume.voxels() if needs_voxels else np.zeros(1))
        return as_rgb(to_uint8(self._volume.slice(z), self._ranges[name]))
