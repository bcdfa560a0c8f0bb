"""Speed of our overlap and surface metrics against MONAI's, with a check that all values agree.

    python -m benchmarks.metrics [--quick] [--hippocampus DIR]

Two workloads: one CT-sized case with 20 structures (512 x 512 x 200, anisotropic; 256 x 256 x 100 with `--quick`), and
60 cases of the size of a hippocampus (the real Task04 if found, else synthetic). MONAI is called in two ways: on
cropped masks, and on the whole volume as one-hot, as in its documentation. Both sides compute Dice, IoU, HD95, ASSD and
NSD in one process on one thread, and every value must agree to 1e-6. Seconds are medians of three runs; MONAI runs once
on the large case.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
    compute_surface_dice,
)
from numpy.typing import NDArray

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.cases.structures import Structure
from medsam3_core.metrics import nearest, overlap, surface
from medsam3_core.metrics.mask_pairs import crop_to_union
from medsam3_core.metrics.scoring import score_structure

N_STRUCTURES = 20
TOLERANCE = 2.0
HIPPOCAMPUS = Path(__file__).resolve().parents[2] / "shared" / "data" / "Task04_Hippocampus"

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LabelledCase:
    """Two label maps (z, y, x) with the values 1..n_structures, and their spacing in mm."""

    reference: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    n_structures: int
    spacing_zyx: tuple[float, float, float]

    def masks(self) -> Iterator[tuple[Mask, Mask]]:
        """Whole-volume masks of reference and prediction, per structure."""
        for value in range(1, self.n_structures + 1):
            yield self.reference == value, self.prediction == value


def main() -> None:
    """Print one table per workload."""
    parser = argparse.ArgumentParser(description="speed of our metrics against MONAI's")
    parser.add_argument("--quick", action="store_true", help="a CT of 256 x 256 x 100 instead of 512 x 512 x 200")
    parser.add_argument("--hippocampus", type=Path, default=HIPPOCAMPUS, help="folder of Task04_Hippocampus")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", module="monai")
    torch.set_num_threads(1)
    shape = (100, 256, 256) if arguments.quick else (200, 512, 512)
    compare(f"1 case {shape}, {N_STRUCTURES} structures", [ellipsoids(shape, N_STRUCTURES, seed=0)])
    name, cases = hippocampi(arguments.hippocampus)
    compare(f"{len(cases)} cases, 2 structures, {name}", cases)


def compare(title: str, cases: list[LabelledCase]) -> None:
    """Time both sides on the same masks and print if their values agree."""
    monai_repeats = 1 if len(cases) == 1 else 3
    cropped = [(*crop_to_union(*pair), case.spacing_zyx) for case in cases for pair in case.masks()]
    ours_seconds, ours = timed(lambda: np.array([ours_on_masks(*item) for item in cropped]), 3)
    theirs_seconds, theirs = timed(lambda: np.array([monai_on_masks(*item) for item in cropped]), monai_repeats)
    whole_seconds, whole = timed(lambda: np.concatenate([ours_on_case(case) for case in cases]), 3)
    onehot_seconds, onehot = timed(lambda: np.concatenate([monai_on_case(case) for case in cases]), monai_repeats)
    difference = max(
        float(np.abs(other - ours).max(initial=0.0, where=~(np.isnan(other) & np.isnan(ours))))
        for other in (theirs, whole, onehot)
    )
    print(f"\n{title}: {len(cropped)} pairs of masks")
    print(f"  pre-cropped masks: ours {ours_seconds:8.3f} s   MONAI {theirs_seconds:8.3f} s   ratio ", end="")
    print(f"{theirs_seconds / ours_seconds:6.1f}   (target 7)")
    print(f"  from label maps:   ours {whole_seconds:8.3f} s   MONAI {onehot_seconds:8.3f} s   ratio ", end="")
    print(f"{onehot_seconds / whole_seconds:6.1f}   (target 30)")
    print(f"  largest difference of a value: {difference:.1e}{'' if difference < 1e-6 else '  DIFFERENT'}")


def timed(compute: Callable[[], NDArray[np.float64]], repeats: int) -> tuple[float, NDArray[np.float64]]:
    """Median seconds of a computation, and its result."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        answer = compute()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)), answer


def ours_on_masks(reference: Mask, prediction: Mask, spacing_zyx: tuple[float, float, float]) -> list[float]:
    """Dice, IoU, HD95, ASSD, NSD of one pair of masks."""
    counts = overlap.count_masks(reference, prediction)
    distances = nearest.surface_distances(reference, prediction, spacing_zyx)
    return [
        overlap.dice(counts),
        overlap.iou(counts),
        surface.hd95(distances),
        surface.assd(distances),
        surface.nsd(distances, TOLERANCE),
    ]


def ours_on_case(case: LabelledCase) -> NDArray[np.float64]:
    """The same metrics per structure, through `score_structure`."""
    z, y, x = case.spacing_zyx
    geometry = VolumeGeometry.from_nifti(case.reference.shape, np.diag([x, y, z, 1.0]))
    structure = Structure("structure", "structure", nsd_tolerance=TOLERANCE)
    rows = (score_structure(*pair, geometry, structure=structure) for pair in case.masks())
    return np.array([[row.dice, row.iou, row.hd95, row.assd, row.nsd] for row in rows], dtype=np.float64)


def monai_on_masks(reference: Mask, prediction: Mask, spacing_zyx: tuple[float, float, float]) -> list[float]:
    """The same metrics by MONAI on one pair of masks."""
    one, other = torch.from_numpy(prediction)[None, None], torch.from_numpy(reference)[None, None]
    return monai_metrics(one, other, spacing_zyx, include_background=True)[0].tolist()


def monai_on_case(case: LabelledCase) -> NDArray[np.float64]:
    """The same metrics by MONAI on the whole volume as boolean one-hot (faster than the usual float one-hot)."""
    values = torch.arange(case.n_structures + 1, dtype=torch.uint8)[:, None, None, None]
    prediction, reference = (
        (torch.from_numpy(labels)[None] == values)[None] for labels in (case.prediction, case.reference)
    )
    return monai_metrics(prediction, reference, case.spacing_zyx, include_background=False)


def monai_metrics(
    prediction: torch.Tensor,
    reference: torch.Tensor,
    spacing_zyx: tuple[float, float, float],
    *,
    include_background: bool,
) -> NDArray[np.float64]:
    """Dice, IoU, HD95, ASSD, NSD per structure, shape (structures, 5), of one-hot (1, c, z, y, x)."""
    n_scored = prediction.shape[1] - (not include_background)
    pair, options = (prediction, reference), {"include_background": include_background}
    columns = (
        compute_dice(*pair, **options),
        compute_iou(*pair, **options),
        compute_hausdorff_distance(*pair, percentile=95, spacing=spacing_zyx, **options),
        compute_average_surface_distance(*pair, symmetric=True, spacing=spacing_zyx, **options),
        compute_surface_dice(*pair, class_thresholds=[TOLERANCE] * n_scored, spacing=spacing_zyx, **options),
    )
    return torch.stack([column[0].double() for column in columns], dim=1).numpy()


def ellipsoids(shape_zyx: tuple[int, int, int], n_structures: int, *, seed: int) -> LabelledCase:
    """Ellipsoids of many sizes; the prediction shifts, scales and ripples each by a few voxels."""
    random = np.random.default_rng(seed)
    maps = np.zeros((2, *shape_zyx), dtype=np.uint8)
    for value in range(1, n_structures + 1):
        radius = np.array(shape_zyx) * random.uniform(0.04, 0.16, 3)
        centre = np.array(shape_zyx) * random.uniform(0.2, 0.8, 3)
        moved = centre + random.normal(0, 1.0, 3)
        swollen = radius * random.uniform(0.95, 1.05)
        paint(maps[0], centre, radius, ripple=0.0, value=value)
        paint(maps[1], moved, swollen, ripple=0.1, value=value)
    return LabelledCase(maps[0], maps[1], n_structures, (1.68, 0.715, 0.592))


def paint(
    labels: NDArray[np.uint8], centre: NDArray[np.float64], radius: NDArray[np.float64], *, ripple: float, value: int
) -> None:
    """Write an ellipsoid with a rippled surface into a label map."""
    start = np.maximum(0, np.floor(centre - 1.2 * radius)).astype(int)
    stop = np.minimum(labels.shape, np.ceil(centre + 1.2 * radius)).astype(int)
    z, y, x = np.ogrid[tuple(map(slice, start, stop))]
    depth = ((z - centre[0]) / radius[0]) ** 2 + ((y - centre[1]) / radius[1]) ** 2 + ((x - centre[2]) / radius[2]) ** 2
    inside = depth + ripple * np.sin(0.3 * y) * np.cos(0.3 * x) < 1
    labels[tuple(map(slice, start, stop))][inside] = value


def hippocampi(folder: Path, n_cases: int = 60) -> tuple[str, list[LabelledCase]]:
    """Real references with a prediction shifted by a voxel, or synthetic cases if the folder is missing."""
    files = sorted(folder.glob("labelsTr/hippocampus_*.nii.gz"))[:n_cases]
    if not files:
        return "synthetic", [ellipsoids((36, 50, 35), 2, seed=seed) for seed in range(n_cases)]
    references = [np.asarray(nibabel.load(file).dataobj).astype(np.uint8).T.copy() for file in files]
    return "Task04_Hippocampus", [
        LabelledCase(labels, np.roll(labels, (number % 2, 1), axis=(0, 1)), 2, (1.0, 1.0, 1.0))
        for number, labels in enumerate(references)
    ]


if __name__ == "__main__":
    main()
