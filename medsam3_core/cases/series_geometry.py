"""Geometry of a DICOM series: verified from the headers of its slices, or refused by a named fault.

Order along the normal, one orientation, one size, one spacing, even gaps, no drift across the slices. The affine comes
from the positions; `SliceThickness` and `SpacingBetweenSlices` are not used (a thickness of 3 mm with a gap of 2 mm is
common).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.errors import CaseDataError

_ORIENTATION_TOLERANCE = 1e-3
"""Maximum difference of a direction cosine inside a series; exporters round to 3 to 6 digits."""
_GAP_TOLERANCE = 0.01
"""Share of the usual gap by which a gap may differ; at least `_GAP_FLOOR_MM`."""
_GAP_FLOOR_MM = 0.01
_DRIFT_TOLERANCE_PX = 0.1
"""Maximum drift across the slices over a whole series, in pixels; at least `_GAP_FLOOR_MM`."""
_MAX_INTRUDERS = 3
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


class SeriesFault(StrEnum):
    """Faults of a series that is not one volume; first word of the reason of its rejection."""

    MISSING_SLICE = "missing-slice"
    DUPLICATE_SLICE = "duplicate-slice"
    SCOUT = "scout"
    TILT = "tilt"
    NO_POSITION = "no-position"
    MIXED_ORIENTATION = "mixed-orientation"
    MIXED_SIZE = "mixed-size"
    MIXED_SPACING = "mixed-spacing"
    MIXED_COLOUR = "mixed-colour"
    UNEVEN_GAP = "uneven-gap"
    TRUNCATED = "truncated-file"
    ODD_HEADER = "odd-header"
    NOT_DICOM = "not-dicom"
    NO_PIXELS = "no-pixels"
    UNREADABLE_PIXELS = "unreadable-pixels"
    TOO_LARGE = "too-large"


class SeriesRejectedError(CaseDataError):
    """A series that is not one volume; the message starts with the fault, followed by finding and remedy."""

    @classmethod
    def of(cls, fault: SeriesFault, detail: str) -> Self:
        """Fault and detail as one message."""
        return cls(f"{fault}: {detail}")

    @property
    def fault(self) -> SeriesFault:
        """Fault that the message names, also behind file names."""
        return next(fault for fault in SeriesFault if f"{fault}: " in str(self))


@dataclass(frozen=True, slots=True)
class SlicePlace:
    """Position of one slice by its header, in DICOM's terms and in LPS millimetres.

    Attributes:
        name: File (and frame) for messages.
        shape_yx: Rows and columns.
        position: ImagePositionPatient, or None.
        orientation: ImageOrientationPatient (row cosines, column cosines), or None.
        spacing_yx: PixelSpacing (between rows, between columns), or None.
        thickness: SliceThickness in mm, the depth of a single slice; 0 if unknown.
        is_localizer: True if ImageType says LOCALIZER.
    """

    name: str
    shape_yx: tuple[int, int]
    position: tuple[float, float, float] | None
    orientation: tuple[float, ...] | None
    spacing_yx: tuple[float, float] | None
    thickness: float = 0.0
    is_localizer: bool = False


@dataclass(frozen=True, slots=True)
class ProvenSeries:
    """A series that is one volume.

    Attributes:
        order: Indices of the slices by rising position along the normal (row cosines x column cosines).
        geometry: Shape and position of the volume in that order.
    """

    order: tuple[int, ...]
    geometry: VolumeGeometry


def prove_series(slices: Sequence[SlicePlace]) -> ProvenSeries:
    """Order the slices and verify that they are one regular grid.

    Raises:
        SeriesRejectedError: If they are not; names fault, file, value and remedy.
    """
    _require_no_scout(slices)
    _require_positions(slices)
    _require_one_orientation(slices)
    _require_one_grid(slices)
    cosines = _cosines(slices[0])
    normal = _normal(slices[0])
    normal /= np.linalg.norm(normal)
    positions = np.asarray([item.position for item in slices], dtype=np.float64)
    order = np.argsort(positions @ normal, kind="stable")
    step = _proven_step(positions[order], normal, [slices[index] for index in order])
    return ProvenSeries(tuple(order.tolist()), _geometry(slices[order[0]], len(slices), cosines, step))


def orientation_key(orientation: Sequence[float]) -> tuple[int, ...]:
    """Equal keys for orientations that differ by less than about the tolerance; for grouping, not for verification."""
    return tuple(round(value * 100) for value in orientation)


def _require_no_scout(slices: Sequence[SlicePlace]) -> None:
    scouts = [item for item in slices if item.is_localizer]
    if scouts and (len(scouts) < len(slices) or len(slices) > 1):
        raise SeriesRejectedError.of(
            SeriesFault.SCOUT,
            f"{scouts[0].name} is a localizer (ImageType) and {len(scouts)} of {len(slices)} slices are; "
            "move scouts out of the series",
        )


def _require_positions(slices: Sequence[SlicePlace]) -> None:
    for item in slices:
        for what, value, size in (
            ("ImagePositionPatient", item.position, 3),
            ("ImageOrientationPatient", item.orientation, 6),
            ("PixelSpacing", item.spacing_yx, 2),
        ):
            if value is None or len(value) != size or not np.isfinite(value).all():
                msg = f"{item.name} has no usable {what} (found {value}); its position is unknown, export it again"
                raise SeriesRejectedError.of(SeriesFault.NO_POSITION, msg)
        cosines = _cosines(item)
        lengths = np.linalg.norm(cosines, axis=1)
        if np.abs(lengths - 1).max() > 0.01 or abs(float(cosines[0] @ cosines[1])) > 0.01:
            msg = (
                f"{item.name} has the ImageOrientationPatient {item.orientation}, which is not two orthogonal unit "
                "vectors; export the series again"
            )
            raise SeriesRejectedError.of(SeriesFault.NO_POSITION, msg)


def _require_one_orientation(slices: Sequence[SlicePlace]) -> None:
    usual = _usual([orientation_key(item.orientation or ()) for item in slices])
    first = np.asarray(slices[usual].orientation)
    deviations = np.array([np.abs(np.asarray(item.orientation) - first).max() for item in slices])
    strangers = [item for item, deviation in zip(slices, deviations, strict=True) if deviation > _ORIENTATION_TOLERANCE]
    if not strangers:
        return
    across = [abs(float(_normal(item) @ _normal(slices[usual]))) < 0.7 for item in strangers]
    detail = (
        f"{strangers[0].name} has the orientation {strangers[0].orientation}, {len(slices) - len(strangers)} of "
        f"{len(slices)} slices have {slices[usual].orientation}"
    )
    if all(across) and len(strangers) <= _MAX_INTRUDERS < len(slices) - len(strangers):
        raise SeriesRejectedError.of(SeriesFault.SCOUT, f"{detail}: it lies across the others; move it elsewhere")
    raise SeriesRejectedError.of(SeriesFault.MIXED_ORIENTATION, f"{detail}; split the series by orientation")


def _require_one_grid(slices: Sequence[SlicePlace]) -> None:
    usual = slices[_usual([item.shape_yx for item in slices])]
    for item in slices:
        if item.shape_yx != usual.shape_yx:
            msg = f"{item.name} has {item.shape_yx} rows and columns, most have {usual.shape_yx}; split the series"
            raise SeriesRejectedError.of(SeriesFault.MIXED_SIZE, msg)
    usual = slices[_usual([item.spacing_yx for item in slices])]
    for item in slices:
        if (
            not np.allclose(item.spacing_yx or (), usual.spacing_yx or (), rtol=1e-3, atol=0)
            or min(item.spacing_yx or (0,)) <= 0
        ):
            msg = f"{item.name} has the PixelSpacing {item.spacing_yx}, most have {usual.spacing_yx}; split the series"
            raise SeriesRejectedError.of(SeriesFault.MIXED_SPACING, msg)


def _proven_step(
    positions: NDArray[np.float64], normal: NDArray[np.float64], slices: Sequence[SlicePlace]
) -> NDArray[np.float64]:
    """Vector from one slice to the next in LPS mm; positions are in order."""
    if len(slices) == 1:
        return normal * (slices[0].thickness if slices[0].thickness > 0 else 1.0)
    along = positions @ normal
    gaps = np.diff(along)
    usual = float(np.median(gaps))
    doubled, same_place = int(gaps.argmin()), max(1e-6, min(_GAP_FLOOR_MM, 0.1 * usual))
    if gaps[doubled] <= same_place:
        msg = (
            f"{slices[doubled].name} and {slices[doubled + 1].name} lie at the same place ({along[doubled]:.3f} mm "
            f"along the normal; {int((gaps <= same_place).sum())} such pairs in {len(slices)} slices); remove the "
            "copies or split the series"
        )
        raise SeriesRejectedError.of(SeriesFault.DUPLICATE_SLICE, msg)
    _require_no_drift(positions, normal, slices)
    if np.abs(gaps - usual).max() > max(_GAP_TOLERANCE * usual, _GAP_FLOOR_MM):
        raise _uneven(gaps, slices)
    step: NDArray[np.float64] = (positions[-1] - positions[0]) / (len(slices) - 1)
    return step


def _uneven(gaps: NDArray[np.float64], slices: Sequence[SlicePlace]) -> SeriesRejectedError:
    """Missing slices if every gap is a multiple of the smallest, else uneven gaps."""
    usual = float(np.median(gaps[gaps <= 1.05 * gaps.min()]))
    worst = int(np.abs(gaps - usual).argmax())
    between = f"between {slices[worst].name} and {slices[worst + 1].name}"
    multiples = gaps / usual
    if np.abs(multiples - np.rint(multiples)).max() <= 0.05:
        missing = int(np.rint(multiples).sum()) - len(gaps)
        msg = (
            f"{missing} of {len(slices) + missing} slices are missing, the largest hole is {between} "
            f"({gaps[worst]:.3f} mm where {usual:.3f} mm is usual); fetch the series again"
        )
        return SeriesRejectedError.of(SeriesFault.MISSING_SLICE, msg)
    msg = f"gaps run from {gaps.min():.3f} to {gaps.max():.3f} mm, the largest {between}; resample or split the series"
    return SeriesRejectedError.of(SeriesFault.UNEVEN_GAP, msg)


def _require_no_drift(
    positions: NDArray[np.float64], normal: NDArray[np.float64], slices: Sequence[SlicePlace]
) -> None:
    offsets = positions - positions[0]
    across = np.linalg.norm(offsets - np.outer(offsets @ normal, normal), axis=1)
    spacing = min(slices[0].spacing_yx or (1.0,))
    if (drift := float(across.max())) > max(_DRIFT_TOLERANCE_PX * spacing, _GAP_FLOOR_MM):
        depth = abs(float(offsets[int(across.argmax())] @ normal))
        angle = np.degrees(np.arctan2(drift, depth))
        msg = (
            f"slices shift by up to {drift:.2f} mm across their normal ({angle:.1f} degrees, as with a tilted gantry), "
            f"farthest in {slices[int(across.argmax())].name}; resample the series to an upright grid"
        )
        raise SeriesRejectedError.of(SeriesFault.TILT, msg)


def _geometry(first: SlicePlace, depth: int, cosines: NDArray[np.float64], step: NDArray[np.float64]) -> VolumeGeometry:
    between_rows, between_columns = first.spacing_yx or (1.0, 1.0)
    affine = np.eye(4)
    affine[:3, 0] = cosines[0] * between_columns
    affine[:3, 1] = cosines[1] * between_rows
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    affine[:3] = _LPS_TO_RAS @ affine[:3]
    return VolumeGeometry.from_nifti((depth, *first.shape_yx), affine + 0.0)


def _cosines(item: SlicePlace) -> NDArray[np.float64]:
    return np.asarray(item.orientation, dtype=np.float64).reshape(2, 3)


def _normal(item: SlicePlace) -> NDArray[np.float64]:
    return np.cross(*_cosines(item))


def _usual(values: Sequence[object]) -> int:
    """Index of the first slice with the most common value."""
    commonest = Counter(values).most_common(1)[0][0]
    return values.index(commonest)
