"""Memory of a volume beside the model: a CT of 512 x 512 x 600 against one of two slices.

    python -m benchmarks.volume_memory [--slices N] [--side N] [--way NAME] [--folder DIR]

Runs each command with two slices and with all: `ingest` of a NIfTI file (a phantom, repeated along z), `benchmark`
with a text on every slice and with a box on one slice that the tracker follows, and `predict`. The memory of the
largest process for two slices is that of libraries, model and one slice; the difference is that of the volume. Uses
the small, untrained architecture: the size of the model cancels out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from benchmarks.watching import Watch
from medsam3_core.phantoms import PhantomKind, phantom_case
from storage.weights.checkpoints import write_untrained

LIMIT_BYTES = 4e9
WAYS = ("ingest", "text", "key", "predict")
_FEW = 2
_DRAWN = 12


def main() -> None:
    """Measure both sizes and print the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=600)
    parser.add_argument("--side", type=int, default=512, help="rows and columns of a slice")
    parser.add_argument("--way", action="append", choices=WAYS, help="only this; repeat for several")
    parser.add_argument("--folder", type=Path, help="for the stores; kept  [default: a temporary one]")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medsam3-memory-") as temporary:
        folder = arguments.folder or Path(temporary)
        weights = folder / "weights"
        if not weights.is_dir():
            write_untrained(weights, tracker=True)
        few = _peaks(folder, weights, _FEW, arguments.side, arguments.way or WAYS)
        many = _peaks(folder, weights, arguments.slices, arguments.side, arguments.way or WAYS)
    for way, peak in many.items():
        volume = peak - few[way]
        print(
            f"{way}: {few[way] / 1e9:.2f} GB with {_FEW} slices, {peak / 1e9:.2f} GB with {arguments.slices}: "
            f"{volume / 1e9:.2f} GB for the volume ({'within' if volume <= LIMIT_BYTES else 'OVER'} 4 GB)"
        )


def _peaks(folder: Path, weights: Path, depth: int, side: int, ways: Sequence[str]) -> dict[str, int]:
    """Peak resident memory of the largest process of each command, in bytes."""
    store, source = folder / f"store-{depth}", folder / f"source-{depth}"
    _write_source(source, depth, side)
    peaks = {"ingest": _peak(store, "ingest", str(source), "--cohort", "ct")}
    _peak(store, "weights", "add", "small", str(weights))
    benchmark = ("benchmark", "--cohort", "ct", "--weights", "small", "--split", "all", "--structure", "liver")
    one_worker = ("--cluster", "local:1")
    if "text" in ways:
        peaks["text"] = _peak(store, *benchmark, "--prompt", "text", *one_worker)
    if "key" in ways:
        peaks["key"] = _peak(store, *benchmark, "--prompt", "box:slices=key", *one_worker)
    if "predict" in ways:
        image, out = source / "images" / "ct.nii", folder / f"labels-{depth}.nii.gz"
        peaks["predict"] = _peak(store, "predict", str(image), "--weights", "small", "--text", "a", "--out", str(out))
    return {way: peak for way, peak in peaks.items() if way in ways}


def _write_source(source: Path, depth: int, side: int) -> None:
    """Write a volume of `depth` slices, repeated from a phantom, with its reference."""
    drawn = phantom_case(PhantomKind.CT, 0, shape_zyx=(_DRAWN, side, side))
    repeats = -(-depth // _DRAWN)
    for name, voxels in (("images", drawn.voxels), ("masks", drawn.references[0].voxels)):
        (source / name).mkdir(parents=True, exist_ok=True)
        stacked = np.tile(voxels, (repeats, 1, 1))[:depth]
        nib.save(nib.Nifti1Image(np.ascontiguousarray(stacked.T), np.eye(4)), source / name / "ct.nii")
    names = {str(entry.value): entry.structure for entry in drawn.references[0].entries}
    (source / "labels.json").write_text(json.dumps({"labels": names}))


def _peak(store: Path, *words: str) -> int:
    environment = {**os.environ, "MEDSAM3_STORE": str(store)}
    process = subprocess.Popen([sys.executable, "-m", "flows", *words], env=environment, stdout=subprocess.DEVNULL)
    watch = Watch(process.pid)
    while process.poll() is None:
        watch.look()
    if process.returncode != 0:
        sys.exit(f"medsam3 {' '.join(words)}: exit code {process.returncode}")
    print(f"    medsam3 {words[0]}, {watch.seconds:.0f} s", flush=True)
    return watch.largest


if __name__ == "__main__":
    main()
