"""NGFF 0.5 metadata of our images and label images: axes, levels, labels. Pure dictionaries, no voxels.

Scale and translation cannot express the orientation of an oblique volume, so they carry only the spacing; the exact
affine is in the attributes beside them (`nifti.affine`, index order x, y, z, in `nifti.unit`, and the derived
`affine_zyx_to_ras_mm`).
"""

import colorsys
from collections.abc import Iterable, Sequence
from typing import Any

from medsam3_core.cases.cases import CaseVolume
from medsam3_core.cases.geometry import LengthUnit, VolumeGeometry
from medsam3_core.cases.structures import LabelMap

NGFF_VERSION = "0.5"
_NGFF_UNIT = {LengthUnit.MILLIMETRE: "millimeter"}


def multiscales(
    name: str, geometry: VolumeGeometry, level_factors: Sequence[tuple[int, int, int]], *, channels: bool, mean: bool
) -> list[dict[str, Any]]:
    """The `multiscales` entry of one image or label image.

    Args:
        name: Name of the image.
        geometry: Geometry of level 0.
        level_factors: Per level, the level-0 voxels that one voxel spans along z, y, x.
        channels: True if the arrays start with a channel axis.
        mean: True if levels are block means (centres shift), False if they are every n-th voxel (they do not).
    """
    axes: list[dict[str, str]] = [{"name": "c", "type": "channel"}] if channels else []
    for axis in "zyx":
        unit = _NGFF_UNIT.get(geometry.unit)
        axes.append({"name": axis, "type": "space"} | ({"unit": unit} if unit else {}))
    lead = [1.0] if channels else []
    datasets = []
    for level, factors in enumerate(level_factors):
        scale = [spacing * factor for spacing, factor in zip(geometry.spacing_zyx, factors, strict=True)]
        shift = [
            spacing * (factor - 1) / 2 if mean else 0.0
            for spacing, factor in zip(geometry.spacing_zyx, factors, strict=True)
        ]
        transformations = [
            {"type": "scale", "scale": [*lead, *scale]},
            {"type": "translation", "translation": [*([0.0] if channels else []), *shift]},
        ]
        datasets.append({"path": str(level), "coordinateTransformations": transformations})
    method = "local mean" if mean else "nearest"
    return [{"name": name, "axes": axes, "datasets": datasets, "type": method, "metadata": {"method": method}}]


def image_attributes(name: str, volume: CaseVolume, level_factors: Sequence[tuple[int, int, int]]) -> dict[str, Any]:
    """Attributes of the root group of a case."""
    rgb = volume.voxels.ndim == 4
    ome: dict[str, Any] = {
        "version": NGFF_VERSION,
        "multiscales": multiscales(name, volume.geometry, level_factors, channels=rgb, mean=True),
    }
    if rgb and volume.voxels.shape[0] == 3:
        ome["omero"] = {"channels": [_channel(label, colour) for label, colour in _RGB]}
    attributes = geometry_attributes(volume.geometry)
    attributes["source"] = dict(volume.attributes)
    attributes["modality"] = volume.modality
    if volume.nifti_affine is not None:
        attributes["nifti"] = {
            "affine": volume.nifti_affine.tolist(),
            "unit": str(volume.nifti_unit),
            "index_order": "xyz",
            "space": "RAS+",
        }
    return {"ome": ome, **attributes}


def geometry_attributes(geometry: VolumeGeometry) -> dict[str, Any]:
    """Attributes beside the `ome` key: affine and unit."""
    return {
        "affine_zyx_to_ras_mm": [list(row) for row in geometry.affine_zyx_to_ras_mm],
        "distance_unit": str(geometry.unit),
    }


def geometry_from_attributes(attributes: dict[str, Any], shape_zyx: tuple[int, int, int]) -> VolumeGeometry:
    """Inverse of `geometry_attributes`."""
    affine = tuple((a, b, c, d) for a, b, c, d in attributes["affine_zyx_to_ras_mm"])
    return VolumeGeometry(shape_zyx, affine, LengthUnit(attributes["distance_unit"]))


def reference_attributes(reference: LabelMap, level_factors: Sequence[tuple[int, int, int]]) -> dict[str, Any]:
    """Attributes of one reference label image: meaning of each value, and the rater."""
    properties = [
        {"label-value": entry.value, "structure": entry.structure, "instance": entry.instance}
        for entry in reference.entries
    ]
    return {
        "ome": _label_ome("reference", reference.geometry, level_factors, properties, image="../../"),
        "rater": reference.rater,
        **geometry_attributes(reference.geometry),
    }


def prediction_attributes(
    structure: str, geometry: VolumeGeometry, level_factors: Sequence[tuple[int, int, int]], scores: Iterable[float]
) -> dict[str, Any]:
    """Attributes of one predicted label image: value n is the instance with the n-th best score."""
    properties = [
        {"label-value": value, "structure": structure, "instance": value, "score": round(float(score), 6)}
        for value, score in enumerate(scores, start=1)
    ]
    return {
        "ome": _label_ome(structure, geometry, level_factors, properties, image=None),
        **geometry_attributes(geometry),
    }


def _label_ome(
    name: str,
    geometry: VolumeGeometry,
    level_factors: Sequence[tuple[int, int, int]],
    properties: list[dict[str, Any]],
    *,
    image: str | None,
) -> dict[str, Any]:
    values = sorted({item["label-value"] for item in properties})
    label: dict[str, Any] = {"colors": [{"label-value": value, "rgba": _colour(value)} for value in values]}
    if properties:
        label["properties"] = _merged_by_value(properties)
    if image:
        label["source"] = {"image": image}
    return {
        "version": NGFF_VERSION,
        "multiscales": multiscales(name, geometry, level_factors, channels=False, mean=False),
        "image-label": label,
    }


def _merged_by_value(properties: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """NGFF wants each label value once; further structures of the same value go into `also`."""
    merged: dict[int, dict[str, Any]] = {}
    for item in properties:
        first = merged.setdefault(item["label-value"], dict(item))
        if first != item:
            first.setdefault("also", []).append({key: item[key] for key in item if key != "label-value"})
    return list(merged.values())


def _colour(value: int) -> list[int]:
    red, green, blue = colorsys.hsv_to_rgb((value * 0.618034) % 1.0, 0.75, 0.95)
    return [round(255 * red), round(255 * green), round(255 * blue), 255]


_RGB = (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))


def _channel(label: str, colour: str) -> dict[str, Any]:
    return {"label": label, "color": colour, "active": True, "window": {"min": 0, "max": 255, "start": 0, "end": 255}}
