"""Images that occur twice: in a source, across its splits, and in cohorts of the store."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from medsam3_core.cases.findings import Finding, FindingKind
from medsam3_core.cases.perceptual_hash import PICTURES, VOLUMES, similar_groups
from storage.cohorts.checks import CaseCheck
from storage.cohorts.image_hashes import KnownImage

_SHOWN = 6


def find_duplicates(checks: Sequence[CaseCheck], known: Sequence[KnownImage]) -> list[Finding]:
    """One finding per group of equal images and per group of similar images.

    Groups without a case of this source are left out. Equal images count as one image in the search for similar ones.
    """
    own = [
        KnownImage("", check.case_id, check.split, check.shape_zyx[0] > 1, check.image_digest, check.image_hash)
        for check in checks
        if check.image_digest is not None and check.shape_zyx is not None
    ]
    by_digest: dict[str, list[KnownImage]] = defaultdict(list)
    for item in (*own, *known):
        by_digest[item.image_digest].append(item)
    equal = [group for group in by_digest.values() if len(group) > 1 and any(not item.cohort for item in group)]
    return [
        *(_finding(FindingKind.DUPLICATE_IMAGE, "hold the same image", group) for group in equal),
        *(_finding(FindingKind.SIMILAR_IMAGE, "look alike", group) for group in _similar(by_digest)),
    ]


def _similar(by_digest: dict[str, list[KnownImage]]) -> Iterator[list[KnownImage]]:
    for is_volume, likeness in ((False, PICTURES), (True, VOLUMES)):
        shown = [group[0] for group in by_digest.values() if group[0].image_hash and group[0].is_volume is is_volume]
        if not shown:
            continue
        hashes = np.stack([np.frombuffer(item.image_hash or b"", dtype=np.uint8) for item in shown])
        for rows in similar_groups(hashes, likeness):
            group = [shown[row] for row in rows]
            if any(not item.cohort for item in group):
                yield group


def _finding(kind: FindingKind, relation: str, group: Sequence[KnownImage]) -> Finding:
    names = [f"{item.cohort}:{item.case_id}" if item.cohort else item.case_id for item in group]
    listed = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    message = f"{listed} {relation} ({_where(group)}); keep one of them, or keep them in one split"
    return Finding(kind, message, tuple(names))


def _where(group: Sequence[KnownImage]) -> str:
    if any(item.cohort for item in group):
        return "across cohorts"
    splits = sorted({item.split or "none" for item in group})
    return f"across the splits {', '.join(splits)}" if len(splits) > 1 else "within one split"
