"""Layout `nifti-pairs`: volumes and label maps of any volume format, paired by two folders or by an ending."""

from collections.abc import Iterable
from pathlib import Path

from medsam3_core.cases.cases import CaseSource, CaseVolume
from medsam3_core.cases.recipes import Recipe
from medsam3_core.cases.structures import LabelMap
from medsam3_core.errors import ShapeMismatchError
from storage.sources.formats.label_maps import as_label_map
from storage.sources.formats.volumes.format import Volume
from storage.sources.formats.volumes.registry import VOLUME_SUFFIXES, read_volume, suffixes_in
from storage.sources.listing.cases import to_case_sources
from storage.sources.listing.files import naming, visible_files, without_companions
from storage.sources.listing.guesses import pair_recipe
from storage.sources.listing.pairing import guess_patterns, pair_files, raters_in_order, require_cases
from storage.sources.listing.parameters import LabelParameters, NiftiPairParameters, parameters_of
from storage.sources.listing.recognition import explaining_recipes
from storage.sources.listing.tables import with_splits_and_patients


class NiftiPairs:
    """Engine of the layout `nifti-pairs`."""

    name = "nifti-pairs"

    def recognise(self, source: Path) -> Recipe | None:
        """A built-in recipe that explains most files, else one with guessed patterns and the names of `labels.json`.

        Raises:
            UsageError: If a `labels.json` lies in the source and is broken.
        """
        files = visible_files(source, VOLUME_SUFFIXES)
        for recipe in explaining_recipes(self.name, files, source.resolve().name):
            return recipe
        patterns = guess_patterns(files, suffixes_in(files))
        if patterns is None:
            return None
        return pair_recipe(self.name, source, patterns)

    def list_cases(self, source: Path, recipe: Recipe) -> list[CaseSource]:
        """One case per image; see `pair_files` for what is rejected."""
        parameters = parameters_of(recipe, NiftiPairParameters)
        found = pair_files(without_companions(visible_files(source, VOLUME_SUFFIXES), recipe.companions), parameters)
        found = require_cases(found, source, f"volumes that match {parameters.image!r}")
        return to_case_sources(with_splits_and_patients(source, found, parameters), recipe)

    def read_case(self, source: Path, case: CaseSource, recipe: Recipe) -> CaseVolume:
        """Image and one label map per rater, primary rater first."""
        parameters = parameters_of(recipe, NiftiPairParameters)
        raters = raters_in_order(parameters, case.references)
        return read_volume_case(source / case.image[0], source, case, recipe, parameters, raters, parameters.channel)


def read_volume_case(
    path: Path,
    source: Path,
    case: CaseSource,
    recipe: Recipe,
    parameters: LabelParameters,
    raters: Iterable[str],
    channel: int | None = None,
) -> CaseVolume:
    """The volume at `path` with one label map per rater, in this order.

    Raises:
        CaseDataError: If a file is unreadable, a label map has another grid than its image, or values are invalid.
    """
    image = read_volume(path, channel=channel)
    references = tuple(
        _read_reference(source / case.references[rater][0], image, recipe, parameters, rater) for rater in raters
    )
    return volume_case(path, image, references, recipe)


def volume_case(path: Path, image: Volume, references: tuple[LabelMap, ...], recipe: Recipe) -> CaseVolume:
    """The case of a volume read from `path`.

    Raises:
        CaseDataError: If the image holds NaN or infinite voxels; names the file.
    """
    with naming(path):
        return CaseVolume(
            image.voxels, image.geometry, references, recipe.modality, image.affine, image.attributes, image.unit
        )


def _read_reference(path: Path, image: Volume, recipe: Recipe, parameters: LabelParameters, rater: str) -> LabelMap:
    reference = read_volume(path)
    if not reference.geometry.matches(image.geometry):
        name, found, expected = "affine", reference.affine.tolist(), image.affine.tolist()
        if reference.geometry.shape_zyx != image.geometry.shape_zyx:
            name, found, expected = "shape (z, y, x)", reference.geometry.shape_zyx, image.geometry.shape_zyx
        msg = f"{path} has the {name} {found}, its image {expected}; resample it onto the image"
        raise ShapeMismatchError(msg)
    with naming(path):
        return as_label_map(reference.voxels, image.geometry, recipe, parameters, rater)
