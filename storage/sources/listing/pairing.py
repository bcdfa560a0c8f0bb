"""Pair images with references by path patterns; guess the patterns if no recipe gives them."""

import re
from collections import defaultdict
from collections.abc import Iterable

from medsam3_core.cases.findings import FindingKind
from medsam3_core.errors import UsageError
from storage.sources.listing.cases import FoundCase
from storage.sources.listing.parameters import PairParameters, RaterPattern

_IMAGE_FOLDERS = "images?|imgs?|originals?|imagesTr"
_MASK_FOLDERS = "masks?|labels?|labelsTr|segmentations?|annotations?|references?|ground[ _-]?truth|gt"
_MASK_ENDINGS = "[_-](?:mask|masks|seg|segmentation|label|labels|gt|groundtruth|reference|annotation)"
_IMAGE_ENDINGS = "_0000|[_-](?:image|img)"
_LOOKS_LIKE_REFERENCE = re.compile(rf"(?:^|/)(?:{_MASK_FOLDERS})[/.]", re.IGNORECASE)
_SPLIT = "(?:(?P<split>train|training|test|testing|val|valid|validation)/)?"
_SPLIT_NAMES = {"training": "train", "trainval": "train", "testing": "test", "valid": "val", "validation": "val"}

_Key = tuple[str | None, str]


def pair_files(files: Iterable[str], parameters: PairParameters) -> list[FoundCase]:
    """Match every path against the patterns; one case per image, and one per reference without image.

    A file that matches the pattern of a rater is never an image. Rejected with a reason: an image without reference of
    the primary rater or with several of one rater, and a reference without image.
    """
    image_pattern = re.compile(parameters.image, re.IGNORECASE)
    raters = [(item.rater, re.compile(item.pattern, re.IGNORECASE)) for item in parameters.references]
    images: list[tuple[_Key, str]] = []
    references: dict[_Key, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in files:
        for rater, pattern in raters:
            if match := pattern.fullmatch(path):
                references[_key(match)][rater].append(path)
                break
        else:
            if match := image_pattern.fullmatch(path):
                images.append((_key(match), path))
    found = [_paired(key, path, references.get(key, {}), parameters) for key, path in images]
    orphans = references.keys() - {key for key, _ in images}
    return found + [_orphan(key, references[key]) for key in orphans]


def raters_in_order(parameters: PairParameters, raters: Iterable[str]) -> list[str]:
    """Raters of a case in the order of the recipe, primary first."""
    present = set(raters)
    return [item.rater for item in parameters.references if item.rater in present]


def guess_patterns(files: list[str], suffixes: tuple[str, ...]) -> dict[str, object] | None:
    """Parameters for a source without recipe: the known rule that pairs the most images.

    Rules: two folders (`images/` and `masks/`, with or without split folders above or below), masks named like their
    image or with an ending (`_mask`, `-seg`, ...), or both in one folder and distinguished by that ending. If no file
    looks like a reference, all files are images without reference. None if there is no file, or if some look like
    references but no rule explains them.
    """
    best: tuple[int, dict[str, object]] | None = None
    for image, reference in _rules(suffixes):
        rule = PairParameters(image=image, references=[RaterPattern(pattern=reference)])
        found = pair_files(files, rule)
        with_reference = sum(bool(item.references) for item in found)
        complete = sum(bool(item.references) and bool(item.image) for item in found)
        score = complete * len(files) + with_reference
        if with_reference and (best is None or score > best[0]):
            best = (score, rule.model_dump(include={"image", "references"}))
        if 2 * complete == len(files):
            break
    if best is not None:
        return best[1]
    if not files or any(_LOOKS_LIKE_REFERENCE.search(path) for path in files):
        return None
    return {"image": f"{_SPLIT}(?P<key>.+){_ending(suffixes)}", "references": []}


def _rules(suffixes: tuple[str, ...]) -> list[tuple[str, str]]:
    end = _ending(suffixes)
    images, masks = f"(?:{_IMAGE_FOLDERS})/", f"(?:{_MASK_FOLDERS})/"
    plain, marked = f"(?P<key>.+){end}", f"(?P<key>.+?)(?:{_MASK_ENDINGS})?{end}"
    image = f"(?P<key>.+?)(?:{_IMAGE_ENDINGS})?{end}"
    return [
        (f"{images}{_SPLIT}{plain}", f"{masks}{_SPLIT}{plain}"),
        (f"{images}{_SPLIT}{image}", f"{masks}{_SPLIT}{marked}"),
        (f"{_SPLIT}{images}{plain}", f"{_SPLIT}{masks}{plain}"),
        (f"{_SPLIT}{images}{image}", f"{_SPLIT}{masks}{marked}"),
        (f"{_SPLIT}{image}", f"{_SPLIT}(?P<key>.+?){_MASK_ENDINGS}{end}"),
        (f"(?P<key>[^/]+?)(?:{_IMAGE_ENDINGS})?{end}", f"{masks}{marked}"),
    ]


def _ending(suffixes: tuple[str, ...]) -> str:
    return f"(?:{'|'.join(re.escape(suffix) for suffix in suffixes)})"


def _key(match: re.Match[str]) -> _Key:
    groups = match.groupdict()
    split = groups.get("split")
    return (_SPLIT_NAMES.get(split.lower(), split.lower()) if split else None), groups["key"]


def _case_key(key: _Key) -> str:
    split, name = key
    return f"{split}/{name}" if split else name


def _paired(key: _Key, path: str, references: dict[str, list[str]], parameters: PairParameters) -> FoundCase:
    reason, kind = None, FindingKind.REJECTED
    for rater, files in references.items():
        if len(files) > 1:
            kind = FindingKind.DOUBLED_REFERENCE
            reason = f"{path}: rater {rater!r} has {len(files)} references: {', '.join(files)}; keep one"
    if parameters.references and (primary := parameters.references[0]).rater not in references:
        kind = FindingKind.MISSING_REFERENCE
        reason = (
            f"{path}: no reference of rater {primary.rater!r} (a file that matches {primary.pattern!r} with the key "
            f"{key[1]!r}); add it or remove the image"
        )
    drawn = {rater: tuple(files) for rater, files in references.items()}
    return FoundCase(_case_key(key), (path,), drawn, key[0], reason, reject_kind=kind)


def _orphan(key: _Key, references: dict[str, list[str]]) -> FoundCase:
    drawn = {rater: tuple(files) for rater, files in references.items()}
    first = next(iter(drawn.values()))[0]
    reason = f"{first}: no image has the key {key[1]!r} of this reference; add the image or remove the reference"
    return FoundCase(_case_key(key), (), drawn, key[0], reason, reject_kind=FindingKind.MISSING_IMAGE)


def require_cases(found: list[FoundCase], source: object, expected: str) -> list[FoundCase]:
    """The same cases, if any has an image.

    Raises:
        UsageError: If none has an image; names the folder and the expected files.
    """
    if not any(item.image for item in found):
        msg = f"{source} holds no case; expected {expected}"
        raise UsageError(msg)
    return found
