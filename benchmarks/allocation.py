"""Effect of the memory allocation variables that workers start with (`flows.settings.environment`).

    python -m benchmarks.allocation FOLDER [--resolution 504] [--rounds 2]

Segments one image with one prompt with the full-size checkpoint of `benchmarks.full_weights` in FOLDER, in a thread as
in a Dask worker. Each setting runs in a process of its own, in turns: defaults of glibc, those of Dask, ours.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.full_weights import BARE
from benchmarks.segmenter import TEXTS, picture
from flows.settings.environment import prepare_environment
from medsam3_core.settings.inference import InferenceSettings
from storage.weights.checkpoints import open_segmenter

_CHILD = "MEDSAM3_BENCHMARK_CHILD"


def main() -> None:
    """Measure in turns and print the best of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resolution", type=int, default=504)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    if _CHILD in os.environ:
        with ThreadPoolExecutor(1) as worker:
            print(json.dumps(worker.submit(_passes, arguments.folder / BARE, arguments.resolution).result()))
        return
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | {_CHILD: "1"}
    prepare_environment()
    ours = {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")}
    ways = {"defaults of glibc": {}, "as Dask sets": {"MALLOC_TRIM_THRESHOLD_": "65536"}, "as we set": ours}
    found: dict[str, list[list[float]]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, variables in ways.items():
            words = [sys.executable, "-m", "benchmarks.allocation", *sys.argv[1:]]
            done = subprocess.run(words, check=True, capture_output=True, text=True, env=plain | variables)
            found[name].append(json.loads(done.stdout))
    for name, rounds in found.items():
        encode, segment, faults = (min(column) for column in zip(*rounds, strict=True))
        print(f"{name:18} encode {encode:6.2f} s, one prompt {segment:5.2f} s, {faults:9,.0f} page faults")


def _passes(weights: Path, resolution: int) -> tuple[float, float, float]:
    """Seconds of encoding and of segmentation, and page faults of both: minima of two passes after a warm-up."""
    segmenter, settings = open_segmenter(weights), InferenceSettings(resolution=resolution)
    passes = []
    for number in range(3):
        image, faults = picture(number), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        started = time.perf_counter()
        encoding = segmenter.encode([image], settings)[0]
        encoded = time.perf_counter()
        segmenter.segment(encoding, TEXTS[:1], settings)
        ended = time.perf_counter()
        passes.append((encoded - started, ended - encoded, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults))
    encode, segment, faults = (min(column) for column in zip(*passes[1:], strict=True))
    return encode, segment, faults


if __name__ == "__main__":
    main()
