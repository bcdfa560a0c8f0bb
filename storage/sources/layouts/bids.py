"""Layout `bids`: a BIDS dataset whose derivatives hold discrete segmentations (`_dseg.nii.gz`) with their label table.

Raters are the pipelines that made the segmentations (the folders of `derivatives/`), with their `desc` if a pipeline
has several.
"""

from dataclasses import replace
from pathlib import Path

from medsam3_core.cases.cases import CaseSource, CaseVolume
from medsam3_core.cases.findings import FindingKind
from medsam3_core.cases.recipes import Recipe
from medsam3_core.cases.structures import Structure
from medsam3_core.errors import UsageError
from storage.sources.formats.volumes.registry import VOLUME_SUFFIXES
from storage.sources.layouts.bids_names import BidsFile, label_table_for, parse_bids, subject_splits
from storage.sources.layouts.nifti_pairs import read_volume_case
from storage.sources.listing.cases import FoundCase, to_case_sources
from storage.sources.listing.files import visible_files
from storage.sources.listing.guesses import normal_modality, window_for
from storage.sources.listing.labels import read_index, structure_slug
from storage.sources.listing.pairing import require_cases
from storage.sources.listing.parameters import BidsParameters, parameters_of

_REFERENCE = "dseg"


class Bids:
    """Engine of the layout `bids`."""

    name = "bids"

    def recognise(self, source: Path) -> Recipe | None:
        """A recipe from the label tables, if there is a `_dseg` file with a BIDS name.

        Raises:
            UsageError: If the description or a label table is broken.
        """
        files = _files(source)
        if not any(item.suffix == _REFERENCE for item in files):
            return None
        path = source / "dataset_description.json"
        description = read_index(path) if path.is_file() else {}
        modality = _modality(files)
        recipe = Recipe(
            name=structure_slug(str(description.get("Name", source.resolve().name))),
            layout=self.name,
            structures=(),
            modality=modality,
            window=window_for(modality),
            licence=str(description.get("License", "unknown")),
            citation=str(description.get("HowToAcknowledge", description.get("DatasetDOI", ""))),
            traps=("Derived from the label tables; texts are the names of the labels.",),
            companions=(r".*\.nii(?:\.gz)?",),
        )
        return self.complete(source, recipe)

    def complete(self, source: Path, recipe: Recipe) -> Recipe:
        """The recipe with the structures of all label tables, in order of their first value."""
        if recipe.structures:
            return recipe
        values: dict[str, list[int]] = {}
        texts: dict[str, str] = {}
        for reference in (item for item in _files(source) if item.suffix == _REFERENCE):
            for value, name in label_table_for(source, reference).items():
                slug = structure_slug(name)
                texts.setdefault(slug, name.replace("_", " ").lower())
                if value not in values.setdefault(slug, []):
                    values[slug].append(value)
        if not values:
            msg = f"{source} has no label table (_dseg.tsv with the columns index and name); add it or give --recipe"
            raise UsageError(msg)
        ordered = sorted(values, key=lambda name: min(values[name]))
        structures = tuple(Structure(name, texts[name]) for name in ordered)
        found = {name: sorted(values[name]) for name in ordered}
        return replace(recipe, structures=structures, parameters={**recipe.parameters, "label_values": found})

    def list_cases(self, source: Path, recipe: Recipe) -> list[CaseSource]:
        """One case per image with a `_dseg`; a `_dseg` without image is listed as rejected."""
        parameters = parameters_of(recipe, BidsParameters)
        files = _files(source)
        images = [item for item in files if item.suffix in parameters.suffixes]
        references = [item for item in files if item.suffix == _REFERENCE]
        splits = subject_splits(source)
        found: dict[str, FoundCase] = {}
        for reference in references:
            image = _image_of(reference, images, parameters)
            key = image.key if image else reference.key
            known = found.get(key) or FoundCase(
                key,
                (image.path,) if image else (),
                {},
                splits.get(reference.subject),
                None if image else f"{reference.path}: no image of {reference.subject} matches it; add the image",
                reference.subject,
                reject_kind=FindingKind.MISSING_IMAGE,
            )
            rater = _rater(reference, references)
            drawn = {**known.references, rater: (*known.references.get(rater, ()), reference.path)}
            found[key] = replace(known, references=drawn)
        checked = [_with_one_file_per_rater(item) for item in found.values()]
        checked += _without_segmentation(images, {reference.subject for reference in references}, parameters, splits)
        expected = "images sub-*/**/*.nii.gz and derivatives/*/sub-*/**/*_dseg.nii.gz"
        return to_case_sources(require_cases(checked, source, expected), recipe)

    def read_case(self, source: Path, case: CaseSource, recipe: Recipe) -> CaseVolume:
        """Image and one label map per rater, in the order of the recipe, others by name."""
        parameters = parameters_of(recipe, BidsParameters)
        order = {rater: number for number, rater in enumerate(parameters.raters)}
        raters = sorted(case.references, key=lambda rater: (order.get(rater, len(order)), rater))
        return read_volume_case(source / case.image[0], source, case, recipe, parameters, raters)


def _files(source: Path) -> list[BidsFile]:
    parsed = (parse_bids(name) for name in visible_files(source, VOLUME_SUFFIXES))
    return [item for item in parsed if item is not None]


def _image_of(reference: BidsFile, images: list[BidsFile], parameters: BidsParameters) -> BidsFile | None:
    """The image with the same subject, session and acquisition, in the same space, with the preferred suffix."""
    fitting = [item for item in images if item.fits(reference)]
    space = reference.entities.get("space", "")
    fitting = [item for item in fitting if item.suffix == space] or fitting
    order = parameters.suffixes.index
    return min(fitting, key=lambda item: (order(item.suffix), item.is_derived, item.path), default=None)


def _without_segmentation(
    images: list[BidsFile], segmented: set[str], parameters: BidsParameters, splits: dict[str, str]
) -> list[FoundCase]:
    """The preferred image of each subject without segmentation, rejected."""
    first: dict[str, BidsFile] = {}
    for item in sorted(images, key=lambda item: (parameters.suffixes.index(item.suffix), item.path)):
        if item.subject not in segmented and not item.is_derived:
            first.setdefault(item.subject, item)
    return [
        FoundCase(
            item.key,
            (item.path,),
            split=splits.get(subject),
            reject_reason=f"{item.path}: no _dseg of {subject} in derivatives; add it or remove the subject",
            patient=subject,
            reject_kind=FindingKind.MISSING_REFERENCE,
        )
        for subject, item in first.items()
    ]


def _rater(reference: BidsFile, references: list[BidsFile]) -> str:
    """The pipeline, with its `desc` if the segmentations of the pipeline have several."""
    pipeline = reference.pipeline or "raw"
    descriptions = {item.entities.get("desc", "") for item in references if (item.pipeline or "raw") == pipeline}
    desc = reference.entities.get("desc", "")
    return f"{pipeline}-{desc}" if len(descriptions) > 1 and desc else pipeline


def _with_one_file_per_rater(item: FoundCase) -> FoundCase:
    for rater, files in item.references.items():
        if len(files) > 1:
            reason = f"{item.origin}: rater {rater!r} has {len(files)} segmentations: {', '.join(files)}; keep one"
            return replace(item, reject_reason=item.reject_reason or reason, reject_kind=FindingKind.DOUBLED_REFERENCE)
    return item


def _modality(files: list[BidsFile]) -> str:
    suffixes = {item.suffix for item in files}
    known = [normal_modality(suffix) for suffix in ("ct", "T1w", "T2w", "FLAIR") if suffix in suffixes]
    return known[0] if known else "MR"
