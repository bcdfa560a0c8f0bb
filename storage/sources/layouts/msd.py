"""Layout `msd`: a `dataset.json` of the Medical Segmentation Decathlon or of nnU-Net (raw) with volumes or images.

Labelled cases are listed: those of `training`, and those in `imagesTs` that have a file in `labelsTs`. Published test
images without labels are left out, because they cannot be scored.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from medsam3_core.cases.cases import CaseSource, CaseVolume
from medsam3_core.cases.findings import FindingKind
from medsam3_core.cases.recipes import Recipe
from medsam3_core.errors import CaseDataError, UsageError
from storage.sources.formats.label_maps import as_label_map
from storage.sources.formats.pixels import read_label_values
from storage.sources.formats.references import check_same_size
from storage.sources.formats.volumes.registry import VOLUME_SUFFIXES
from storage.sources.layouts.image_pairs import read_for_recipe
from storage.sources.layouts.nifti_pairs import read_volume_case
from storage.sources.listing.cases import FoundCase, to_case_sources
from storage.sources.listing.files import IMAGE_SUFFIXES, naming, visible_files, without_suffix
from storage.sources.listing.guesses import normal_modality, window_for
from storage.sources.listing.labels import parse_labels, read_index, structure_slug
from storage.sources.listing.pairing import require_cases
from storage.sources.listing.parameters import MsdParameters, parameters_of
from storage.sources.listing.recipes import builtin_recipes

INDEX_FILE = "dataset.json"

_RATER = "reference"
_ENDINGS = (*VOLUME_SUFFIXES, ".png", ".bmp", ".tif", ".tiff")
_FOLDERS = (("imagesTr", "labelsTr", "train"), ("imagesTs", "labelsTs", "test"))


class Msd:
    """Engine of the layout `msd`."""

    name = "msd"
    beside = (INDEX_FILE,)

    def recognise(self, source: Path) -> Recipe | None:
        """The built-in recipe for the name in `dataset.json`, else one derived from it; None if it has no labels.

        Raises:
            UsageError: If a `dataset.json` exists and is broken; no other layout is tried instead.
        """
        path = source / INDEX_FILE
        if not path.is_file():
            return None
        index = read_index(path)
        if "labels" not in index:
            return None
        labels = parse_labels(index["labels"], {}, path)
        name = str(index.get("name", source.resolve().name))
        for recipe in builtin_recipes().values():
            if recipe.layout == self.name and recipe.parameters.get("dataset_name") == name:
                return recipe
        names = _channel_names(index)
        modality = normal_modality(names[0] if names else "unknown")
        channel = {"channel": names[0] or 0} if len(names) > 1 else {}
        traps = [f"Derived from {INDEX_FILE}; texts are the names of the labels."]
        if len(names) > 1:
            traps.append(
                f"The first of the channels {', '.join(names)} is read; choose another with channel in a recipe."
            )
        return Recipe(
            name=structure_slug(name),
            layout=self.name,
            structures=labels.structures,
            modality=modality,
            window=window_for(modality) if index.get("file_ending", ".nii.gz") in VOLUME_SUFFIXES else "identity",
            parameters={**labels.parameters(), **channel},
            licence=str(index.get("licence", index.get("license", "unknown"))),
            citation=str(index.get("reference", "")),
            traps=tuple(traps),
            companions=(r"imagesTs/.*",),
        )

    def list_cases(self, source: Path, recipe: Recipe) -> list[CaseSource]:
        """All labelled cases; the split is `train` or `test` if `labelsTs` exists, else None.

        Raises:
            UsageError: If `dataset.json` is missing or broken, is for another dataset than the recipe, or has an
                unsupported `file_ending`.
        """
        index = read_index(source / INDEX_FILE)
        expected = parameters_of(recipe, MsdParameters).dataset_name
        if expected is not None and index.get("name") != expected:
            msg = (
                f"{source / INDEX_FILE} has the name {index.get('name')!r}, recipe {recipe.name!r} is for {expected!r}"
            )
            raise UsageError(f"{msg}; choose --reader msd")
        ending = index.get("file_ending", ".nii.gz")
        if ending not in _ENDINGS:
            msg = f"{source / INDEX_FILE} has the file_ending {ending!r}; supported are {', '.join(_ENDINGS)}"
            raise UsageError(msg)
        if index.get("training"):
            found = [*_named_cases(source, index), *_cases_in_folders(source, only="test")]
        else:
            found = list(_cases_in_folders(source))
        if not any(item.split == "test" for item in found):
            found = [replace(item, split=None) for item in found]
        return to_case_sources(require_cases(found, source, "volumes or images in imagesTr and labelsTr"), recipe)

    def read_case(self, source: Path, case: CaseSource, recipe: Recipe) -> CaseVolume:
        """Image (the chosen channel, if there are several) and its label map."""
        parameters = parameters_of(recipe, MsdParameters)
        path, channel = _channel_file(source, case, _channel_number(source, parameters.channel))
        if path.name.lower().endswith(IMAGE_SUFFIXES):
            return _image_case(source, path, case, recipe, parameters)
        return read_volume_case(path, source, case, recipe, parameters, case.references, channel)


def _channel_names(index: dict[str, Any]) -> list[str]:
    """Names of the channels in order, from `channel_names` (nnU-Net) or `modality` (Decathlon, nnU-Net v1)."""
    channels = index.get("channel_names", index.get("modality", {}))
    if isinstance(channels, list):
        return [str(name) for name in channels]
    if not isinstance(channels, dict):
        return []
    numbered = {int(key): str(name) for key, name in channels.items() if str(key).isdecimal()}
    return [numbered[number] for number in sorted(numbered)]


def _channel_number(source: Path, channel: int | str | None) -> int | None:
    if not isinstance(channel, str):
        return channel
    names = _channel_names(read_index(source / INDEX_FILE))
    if channel not in names:
        msg = f"{source / INDEX_FILE} has no channel {channel!r}; its channels are: {', '.join(names) or 'none'}"
        raise UsageError(msg)
    return names.index(channel)


def _image_case(source: Path, path: Path, case: CaseSource, recipe: Recipe, parameters: MsdParameters) -> CaseVolume:
    """A 2D case of nnU-Net: PNG, BMP or TIFF."""
    pixels, geometry = read_for_recipe(path, recipe)
    references = []
    for rater, files in case.references.items():
        mask = source / files[0]
        values = read_label_values(mask)
        check_same_size(values.shape, geometry, mask, path)
        with naming(mask):
            references.append(as_label_map(values, geometry, recipe, parameters, rater))
    return CaseVolume(pixels.voxels, geometry, tuple(references), recipe.modality, attributes=pixels.attributes)


def _channel_file(source: Path, case: CaseSource, channel: int | None) -> tuple[Path, int | None]:
    """The file to read and the channel in it."""
    if len(case.image) == 1:
        return source / case.image[0], channel
    if channel is None or channel >= len(case.image):
        msg = (
            f"{source / case.image[0]}: the case has {len(case.image)} channels and the recipe chooses {channel}; "
            f"set channel to 0..{len(case.image) - 1} in the recipe"
        )
        raise CaseDataError(msg)
    return source / case.image[channel], None


def _named_cases(source: Path, index: dict[str, Any]) -> Iterator[FoundCase]:
    """Cases of the `training` list; a missing file rejects its case."""
    path = source / INDEX_FILE
    entries = index["training"]
    if not isinstance(entries, list):
        msg = f"{path}: training must be a list, got {type(entries).__name__}"
        raise UsageError(msg)
    present = frozenset(visible_files(source, _ENDINGS))
    channels = _channels_by_stem(sorted(present))
    for entry in entries:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("image", "label")):
            msg = f"{path}: entry {entry!r} of training needs an image and a label"
            raise UsageError(msg)
        image, label = (PurePosixPath(entry[key]).as_posix() for key in ("image", "label"))
        stem = without_suffix(image, _ENDINGS)
        images = (image,) if image in present else channels.get(stem, ())
        missing = [name for name, there in ((image, bool(images)), (label, label in present)) if not there]
        reason = f"{source / missing[0]} is listed in {INDEX_FILE} but missing; restore it" if missing else None
        kind = FindingKind.MISSING_IMAGE if image in missing else FindingKind.MISSING_REFERENCE
        yield FoundCase(
            PurePosixPath(stem).name, images or (image,), {_RATER: (label,)}, "train", reason, reject_kind=kind
        )


def _cases_in_folders(source: Path, only: str | None = None) -> Iterator[FoundCase]:
    """Cases of `imagesTr`, and those of `imagesTs` that have a label in `labelsTs`."""
    present = visible_files(source, _ENDINGS)
    labels = {without_suffix(name, _ENDINGS): name for name in present if name.startswith("labels")}
    for stem, images in _channels_by_stem(present).items():
        folder, _, key = stem.partition("/")
        for image_folder, label_folder, split in _FOLDERS:
            label = labels.get(f"{label_folder}/{key}")
            if folder != image_folder or only not in (None, split) or (split == "test" and label is None):
                continue
            missing = f"{key}{images[0].removeprefix(without_suffix(images[0], _ENDINGS))}"
            reason = None if label else f"{source / images[0]}: {label_folder} has no {missing}; add the label map"
            drawn = {_RATER: (label,)} if label else {}
            yield FoundCase(key, images, drawn, split, reason, reject_kind=FindingKind.MISSING_REFERENCE)


def _channels_by_stem(files: list[str]) -> dict[str, tuple[str, ...]]:
    """Channel files in order, by image stem without the `_0000` of nnU-Net."""
    channels: dict[str, list[str]] = {}
    for name in files:
        if name.startswith("images"):
            stem = without_suffix(name, _ENDINGS)
            head, _, number = stem.rpartition("_")
            is_channel = len(number) == 4 and number.isdecimal() and bool(head)
            channels.setdefault(head if is_channel else stem, []).append(name)
    return {stem: tuple(names) for stem, names in channels.items()}
