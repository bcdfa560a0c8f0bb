"""Intensity policies: the mapping from stored voxels to the uint8 images of a segmenter.

SAM3 takes 8-bit images. A 12-bit CT slice rescaled by its dtype arrives black, so every cohort has a policy:
`ct:CENTRE,WIDTH` in Hounsfield units, `percentile:LOW,HIGH` for MR and ultrasound of unknown scale, `minmax`, or
`identity` for 8-bit images. `auto`, for mixed archives, chooses case by case. Percentiles are taken over the whole
volume, so that the slices of one case stay comparable.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medsam3_core.errors import UsageError

_KINDS = {"ct": 2, "percentile": 2, "minmax": 0, "identity": 0, "auto": 0}
_MAX_PERCENTILE_SAMPLES = 2_000_000


@dataclass(frozen=True, slots=True)
class IntensityPolicy:
    """A parsed policy.

    Attributes:
        kind: `ct`, `percentile`, `minmax`, `identity` or `auto`.
        parameters: Centre and width in HU for `ct`, lower and upper percentile for `percentile`, else empty.
    """

    kind: str
    parameters: tuple[float, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `kind[:a,b]`.

        Raises:
            UsageError: If the kind is unknown or its numbers are missing, extra or out of range; lists what exists.
        """
        kind, _, numbers = text.partition(":")
        if kind not in _KINDS:
            known = "ct:CENTRE,WIDTH percentile:LOW,HIGH minmax identity or auto"
            msg = f"unknown intensity policy {text!r}; choose {known}"
            raise UsageError(msg)
        try:
            parameters = tuple(float(number) for number in numbers.split(",")) if numbers else ()
        except ValueError:
            parameters = (float("nan"),)
        if len(parameters) != _KINDS[kind] or not np.isfinite(parameters).all():
            msg = f"intensity policy {text!r}: {kind} takes {_KINDS[kind]} numbers"
            raise UsageError(msg)
        if kind == "ct" and parameters[1] <= 0:
            msg = f"intensity policy {text!r}: the window width must be above 0"
            raise UsageError(msg)
        if kind == "percentile" and not 0 <= parameters[0] < parameters[1] <= 100:
            msg = f"intensity policy {text!r}: percentiles need 0 <= LOW < HIGH <= 100"
            raise UsageError(msg)
        return cls(kind, parameters)

    def resolved(self, modality: str, dtype: Any) -> "IntensityPolicy":
        """Itself; for `auto` soft tissue for CT, `identity` for 8 bits, else percentiles."""
        if self.kind != "auto":
            return self
        if modality == "CT":
            return IntensityPolicy("ct", (40.0, 400.0))
        return IntensityPolicy("identity") if dtype == np.uint8 else IntensityPolicy("percentile", (0.5, 99.5))

    def value_range(self, voxels: NDArray[Any]) -> tuple[float, float]:
        """Intensities that become 0 and 255 for this volume (any shape); equal where the volume is constant."""
        if self.kind == "ct":
            centre, width = self.parameters
            return centre - width / 2, centre + width / 2
        if self.kind == "percentile":
            stride = max(1, voxels.size // _MAX_PERCENTILE_SAMPLES)
            low, high = np.percentile(voxels.reshape(-1)[::stride], self.parameters)
            return float(low), float(high)
        if self.kind == "minmax":
            return float(voxels.min()), float(voxels.max())
        return 0.0, 255.0


def to_uint8(voxels: NDArray[Any], value_range: tuple[float, float]) -> NDArray[np.uint8]:
    """Map `value_range` to 0..255, clipped and rounded; a constant volume becomes 0."""
    low, high = value_range
    if voxels.dtype == np.uint8 and (low, high) == (0.0, 255.0):
        return voxels
    scale = 255.0 / (high - low) if high > low else 0.0
    scaled = (voxels.astype(np.float32) - np.float32(low)) * np.float32(scale)
    rounded: NDArray[np.uint8] = np.rint(np.clip(scaled, 0.0, 255.0)).astype(np.uint8)
    return rounded


def as_rgb(slice_uint8: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Shape (y, x) or (c, y, x) with 1 or 3 channels to (y, x, 3).

    Raises:
        UsageError: If the slice has another number of channels.
    """
    if slice_uint8.ndim == 2:
        return np.repeat(slice_uint8[..., None], 3, axis=2)
    if slice_uint8.shape[0] == 1:
        return np.repeat(slice_uint8[0, ..., None], 3, axis=2)
    if slice_uint8.shape[0] == 3:
        return np.ascontiguousarray(np.moveaxis(slice_uint8, 0, 2))
    msg = f"an image with {slice_uint8.shape[0]} channels cannot be shown as RGB; pick one channel in the recipe"
    raise UsageError(msg)
