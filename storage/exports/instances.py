"""What was drawn on one image as a file: all instances (`.npz`), a picture (`.png`) or a label map (`.nii.gz`)."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medsam3_core.errors import UsageError
from medsam3_core.inference.merging import MAX_LABELS
from medsam3_core.inference.predictions import VolumePrediction
from medsam3_core.inference.protocol import SliceInstances
from storage.exports.instance_overlays import PromptedInstances, draw_instances
from storage.sources.formats.single import InputImage
from storage.store.atomic import replacing


class InstanceForm(StrEnum):
    """What is written, by the end of the file's name."""

    NUMPY = ".npz"
    PNG = ".png"
    NIFTI = ".nii.gz"


def form_of(target: Path) -> InstanceForm:
    """The form that the name of a file asks for.

    Raises:
        UsageError: If it asks for none that is known, or its folder does not exist.
    """
    found = next((form for form in InstanceForm if target.name.lower().endswith(form)), None)
    if found is None:
        msg = f"cannot write {target.name}: its kind is not known; end the name in {' '.join(InstanceForm)}"
        raise UsageError(msg)
    if not target.parent.is_dir():
        msg = f"cannot write {target}: there is no folder {target.parent}"
        raise UsageError(msg)
    return found


def write_instances(
    target: Path, image: InputImage, z: int, answers: Sequence[PromptedInstances], caption: str, window: str
) -> None:
    """Write what was drawn on slice z; an older file is replaced.

    `.npz` has `masks` (n, y, x) bool, `scores` (n) float32, `boxes` (n, 4) float32 xyxy in pixels, and per instance
    the number of its prompt (`prompt`), whose names are `prompts`. A label map has the shape and affine of the input;
    its value i is instance i of the `.npz`, except that a pixel claimed twice goes to the higher score.

    Raises:
        StoreError: If the disk refuses.
    """
    form = form_of(target)
    if form is InstanceForm.NUMPY:
        _write_numpy(target, answers)
    elif form is InstanceForm.PNG:
        where = f"{image.path.name}  slice {z}" if image.depth > 1 else image.path.name
        drawn = draw_instances(image.rgb(z, window), image.geometry, answers, where, caption)
        with replacing(target) as scratch:
            drawn.save(scratch, format="PNG")
    else:
        labels = _labels(answers, image.shape_yx)
        volume = np.zeros(image.geometry.shape_zyx, dtype=labels.dtype)
        volume[z] = labels
        write_label_map(target, image, volume)


def write_label_map(target: Path, image: InputImage, labels: NDArray[np.integer[Any]]) -> None:
    """Write labels, shape (z, y, x), as NIfTI exactly where the input is; pictures get an identity affine.

    Raises:
        StoreError: If the disk refuses.
    """
    affine = np.eye(4) if image.affine is None else image.affine
    written: Any = nib.Nifti1Image(np.ascontiguousarray(labels.transpose(2, 1, 0)), affine)
    written.set_sform(affine, code=1)
    written.set_qform(affine, code=1)
    tolerance = 1e-3 / image.unit.millimetres
    if not np.allclose(written.get_qform(), affine, atol=tolerance):  # a qform cannot say shear
        written.header["qform_code"] = 0
    if image.affine is not None:
        written.header.set_xyzt_units(xyz=str(image.unit))
    with replacing(target) as scratch:
        nib.save(written, scratch)


def write_structures(target: Path, image: InputImage, prediction: VolumePrediction) -> int:
    """Write a whole volume as a label map: objects are numbered on, structure after structure.

    A voxel that two structures claim goes to the object with the higher score.

    Returns:
        How many slices hold anything.

    Raises:
        StoreError: If the disk refuses.
    """
    count = sum(len(prediction.confidence(name)) for name in prediction.structures)
    volume = np.zeros(image.geometry.shape_zyx, dtype=_label_type(count))
    scores = np.zeros(1, dtype=np.float32)
    for name in prediction.structures:
        labels, own = prediction.labels(name), prediction.confidence(name)
        offset = len(scores) - 1
        scores = np.concatenate([scores, own])
        for drawn, before in zip(labels, volume, strict=True):  # by slice: numbers and scores take more than labels
            numbers = np.where(drawn > 0, drawn.astype(np.int32) + offset, 0)
            taken = (drawn > 0) & ((before == 0) | (scores[numbers] > scores[before]))
            before[taken] = numbers[taken]
    write_label_map(target, image, volume)
    return int(volume.any(axis=(1, 2)).sum())


def joined(answers: Sequence[PromptedInstances], shape_yx: tuple[int, int]) -> SliceInstances:
    """All instances of all prompts, in the order of the prompts."""
    parts = [SliceInstances.nothing(shape_yx), *(answer.instances for answer in answers)]
    return SliceInstances(
        np.concatenate([part.masks for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.boxes_xyxy for part in parts]),
    )


def _write_numpy(target: Path, answers: Sequence[PromptedInstances]) -> None:
    shape_yx = answers[0].instances.masks.shape[1:]
    found = joined(answers, (shape_yx[0], shape_yx[1]))
    numbers = [index for index, answer in enumerate(answers) for _ in answer.instances.scores]
    with replacing(target) as scratch, scratch.open("wb") as file:
        np.savez_compressed(
            file,
            masks=found.masks,
            scores=found.scores,
            boxes=found.boxes_xyxy,
            prompt=np.array(numbers, dtype=np.int32),
            prompts=np.array([answer.prompt.structure for answer in answers]),
        )


def _label_type(count: int) -> type[np.integer[Any]]:
    """The smallest type of NIfTI labels that holds so many objects."""
    return np.uint16 if count <= MAX_LABELS else np.int32


def _labels(answers: Sequence[PromptedInstances], shape_yx: tuple[int, int]) -> NDArray[np.integer[Any]]:
    """Value i for instance i in the order of `joined`; a pixel claimed twice goes to the higher score."""
    found = joined(answers, shape_yx)
    labels = np.zeros(shape_yx, dtype=_label_type(len(found.scores)))
    for index in reversed(np.argsort(-found.scores, kind="stable")):
        labels[found.masks[index]] = index + 1
    return labels
