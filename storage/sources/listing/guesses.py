"""Recipes derived from the files of a source that has none."""

from pathlib import Path

from medsam3_core.cases.recipes import Recipe
from medsam3_core.cases.structures import Structure
from medsam3_core.errors import UsageError
from storage.sources.listing.labels import LabelTable, read_index, read_label_table, structure_slug

LABEL_FILE = "labels.json"

_MODALITIES = {"mri": "MR", "mr": "MR", "t1": "MR", "t1w": "MR", "t1gd": "MR", "t2": "MR", "t2w": "MR", "flair": "MR"}


def normal_modality(name: str) -> str:
    """`CT` or `MR` for the names in use (MRI, T1, FLAIR, ...); other names as they are."""
    return _MODALITIES.get(name.strip().lower(), "CT" if name.strip().lower() == "ct" else name.strip() or "unknown")


def window_for(modality: str) -> str:
    """Soft-tissue window for CT, percentiles for volumes of unknown scale."""
    return "ct:40,400" if modality == "CT" else "percentile:0.5,99.5"


def pair_recipe(
    layout: str,
    source: Path,
    patterns: dict[str, object],
    *,
    window: str | None = None,
    fallback: tuple[Structure, ...] = (),
) -> Recipe:
    """Recipe for pairs of files with guessed patterns.

    A `labels.json` in the source names the structures, and may give `texts` and `modality`.

    Args:
        layout: Name of the layout engine.
        source: The folder.
        patterns: `image` and `references` as `guess_patterns` gives them.
        window: Intensity policy; None: by modality.
        fallback: Structures without `labels.json`.

    Raises:
        UsageError: If `labels.json` exists and is broken or names no structure.
    """
    table, label_file, modality = LabelTable(fallback), source / LABEL_FILE, "unknown"
    if label_file.is_file():
        table = read_label_table(label_file)
        if fallback and not table.structures:
            msg = f"{label_file} names no structure; name at least one"
            raise UsageError(msg)
        modality = normal_modality(str(read_index(label_file).get("modality", modality)))
    return Recipe(
        name=structure_slug(source.resolve().name),
        layout=layout,
        structures=table.structures,
        modality=modality,
        window=window or window_for(modality),
        parameters={**patterns, **table.parameters()},
        traps=(f"Derived from file names; name structures and texts in {LABEL_FILE} or give --recipe FILE.",),
    )
