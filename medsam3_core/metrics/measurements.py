"""Measurements of a prediction without reference: size, bounding box, intensities inside, confidence."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.metrics.scoring import mean_confidence, volume_scale

_CORNERS = ("z0", "y0", "x0", "z1", "y1", "x1")
_INSIDE = ("intensity_mean", "intensity_p05", "intensity_p50", "intensity_p95", "confidence")


def measure_structure(
    labels: NDArray[np.uint16], confidences: NDArray[np.float32], geometry: VolumeGeometry, image: NDArray[Any]
) -> dict[str, Any]:
    """Measured columns of one row of the table `measurements`.

    The bounding box is half-open: `z1`, `y1` and `x1` are one past the end. Intensities are in the unit of the image
    (Hounsfield for CT). An empty prediction has the volume 0 and None in all other columns.

    Args:
        labels: Instances 1..n, 0 outside, shape (z, y, x).
        confidences: Score of instance n at n - 1.
        geometry: Geometry of the volume.
        image: Intensities as stored, shape (z, y, x).
    """
    inside = labels > 0
    voxels = int(np.count_nonzero(inside))
    scale, unit = volume_scale(geometry)
    size = {"volume": voxels * scale, "volume_unit": str(unit)}
    if not voxels:
        return size | dict.fromkeys((*_CORNERS, *_INSIDE))
    box = [np.flatnonzero(inside.any(axis=other)) for other in ((1, 2), (0, 2), (0, 1))]
    (z0, z1), (y0, y1), (x0, x1) = ((int(hits[0]), int(hits[-1]) + 1) for hits in box)
    values = image[z0:z1, y0:y1, x0:x1][inside[z0:z1, y0:y1, x0:x1]].astype(np.float64)
    mean = float(values.mean())
    measured = (mean, *np.percentile(values, (5, 50, 95)).tolist(), mean_confidence(labels, confidences))
    corners = zip(_CORNERS, (z0, y0, x0, z1, y1, x1), strict=True)
    return size | dict(corners) | dict(zip(_INSIDE, measured, strict=True))
