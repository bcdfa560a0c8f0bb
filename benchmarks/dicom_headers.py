"""DICOM headers scanned per second: `python -m benchmarks.dicom_headers [--source FOLDER] [--files N]`.

Copies real files until there are N; the scan is that of an ingest, including the start of its processes.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from storage.sources.dicom.scan import scan_headers
from storage.store.pseudonyms import Pseudonyms


def main() -> None:
    """Copy, scan, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=Path("../shared/data/ct_abdomen/dicom"))
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        originals = sorted(arguments.source.iterdir())
        names = [f"{number:06d}" for number in range(arguments.files)]
        for number, name in enumerate(names):
            shutil.copyfile(originals[number % len(originals)], root / name)
        for label in ("first", "second"):
            started = time.perf_counter()
            found = sum(
                header is not None and header.fault is None
                for _, header in scan_headers(root, names, Pseudonyms(b"x" * 32), processes=arguments.processes)
            )
            seconds = time.perf_counter() - started
            print(f"{label} scan: {found} headers in {seconds:.2f} s = {found / seconds:.0f} files/s")


if __name__ == "__main__":
    main()
