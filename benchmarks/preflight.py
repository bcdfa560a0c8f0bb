"""Speed of `ingest --check`: files per second for many small files in one folder.

    python -m benchmarks.preflight [--files 100000] [--side 64]

Half of the files are PNG images, half their masks, all different. Times the whole command: start, listing, reading on
all cores, hashes, duplicates.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image


def main() -> None:
    """Write the files, run the check, print the rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        source.mkdir()
        write_pairs(source, arguments.files // 2, arguments.side)
        words = ["ingest", str(source), "--check", "--store", str(Path(folder) / "store")]
        started = time.perf_counter()
        finished = subprocess.run([sys.executable, "-m", "flows", *words], capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
    print(finished.stderr.strip().splitlines()[-1])
    print(
        f"{arguments.files} files of {arguments.side} x {arguments.side} in {seconds:.1f} s, exit code "
        f"{finished.returncode}: {arguments.files / seconds:.0f} files/s, target 1500"
    )


def write_pairs(folder: Path, pairs: int, side: int) -> None:
    """Write images `N.png` and masks `N_mask.png` into one folder, no two alike."""
    random = np.random.default_rng(0)
    for number in range(pairs):
        coarse = Image.fromarray(random.integers(30, 220, (8, 8), dtype=np.uint8))
        grey = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
        Image.fromarray(grey).save(folder / f"{number:06d}.png", compress_level=1)
        mask = np.zeros((side, side), np.uint8)
        top, left = random.integers(0, side // 2, 2)
        mask[top : top + side // 3, left : left + side // 3] = 255
        Image.fromarray(mask).save(folder / f"{number:06d}_mask.png", compress_level=1)


if __name__ == "__main__":
    main()
