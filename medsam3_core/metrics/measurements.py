"""Measurements of a prediction without reference: size, bounding box, intensities inside, confidence."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.metrics.scoring import VolumeUnit, mean_confidence, volume_scale


@dataclass(frozen=True, slots=True)
class StructureMeasurement:
    """The measured columns of one row of the table `measurements`; None for an empty prediction.

    Attributes:
        volume: Size in `volume_unit`.
        volume_unit: ml, mm2, px or voxel.
        z0: First slice of the bounding box, as `y0` row and `x0` column.
        z1: One past the last slice, as `y1` and `x1`.
        intensity_mean: Mean of the image inside, in its own unit (Hounsfield for CT).
        intensity_p05: 5th percentile, as `p50` and `p95`.
        confidence: Mean score of the instances drawn.
    """

    volume: float
    volume_unit: VolumeUnit
    z0: int | None = None
    y0: int | None = None
    x0: int | None = None
    z1: int | None = None
    y1: int | None = None
    x1: int | None = None
    intensity_mean: float | None = None
    intensity_p05: float | None = None
    intensity_p50: float | None = None
    intensity_p95: float | None = None
    confidence: float | None = None

    def as_columns(self) -> dict[str, Any]:
        """Column to value."""
        return asdict(self) | {"volume_unit": str(self.volume_unit)}


def measure_structure(
    labels: NDArray[np.uint16], confidences: NDArray[np.float32], geometry: VolumeGeometry, image: NDArray[Any]
) -> StructureMeasurement:
    """Measure one structure.

    Args:
        labels: Instances 1..n, 0 outside, shape (z, y, x).
        confidences: Score of instance n at n - 1.
        geometry: Geometry of the volume.
        image: Intensities as stored, shape (z, y, x).
    """
    inside = labels > 0
    voxels = int(np.count_nonzero(inside))
    scale, unit = volume_scale(geometry)
    size = voxels * scale
    if not voxels:
        return StructureMeasurement(size, unit)
    box = [np.flatnonzero(inside.any(axis=other)) for other in ((1, 2), (0, 2), (0, 1))]
    (z0, z1), (y0, y1), (x0, x1) = ((int(hits[0]), int(hits[-1]) + 1) for hits in box)
    values = image[z0:z1, y0:y1, x0:x1][inside[z0:z1, y0:y1, x0:x1]].astype(np.float64)
    low, middle, high = (float(value) for value in np.percentile(values, (5, 50, 95)))
    return StructureMeasurement(
        size,
        unit,
        z0,
        y0,
        x0,
        z1,
        y1,
        x1,
        intensity_mean=float(values.mean()),
        intensity_p05=low,
        intensity_p50=middle,
        intensity_p95=high,
        confidence=mean_confidence(labels, confidences),
    )
