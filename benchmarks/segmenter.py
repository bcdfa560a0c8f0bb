"""What encode-once, precision and blocked attention are worth, and what the system costs around a segmenter.

    python -m benchmarks.segmenter [--tiny] [--folder DIR]

Full-size architecture, seeded untrained weights, this machine. `--tiny` shows that it runs; its ratios mean nothing.
Nothing else should run meanwhile.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.full_weights import BARE
from medsam3_core.inference_settings import Dtype, InferenceSettings
from medsam3_core.phantoms import PhantomKind, phantom_case
from medsam3_core.prompt_generation import generate_prompts
from medsam3_core.prompt_rows import slice_prompts
from medsam3_core.prompts import SlicePrompt
from medsam3_core.sam3 import network
from medsam3_core.sam3.segmenter import Sam3Segmenter
from storage.case_volumes import open_case_volume
from storage.checkpoints import open_segmenter
from storage.run_planning import BenchmarkRequest, plan_benchmark
from storage.store_layout import open_store
from storage.weights_registry import add_weights

WORDS = ("vessel", "optic disc", "polyp", "liver", "kidney", "spleen", "tumour", "nucleus")
GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "bare" / "checkpoint.safetensors"
IMAGES, SIDE = 4, 512
AUTO = InferenceSettings()
FP32 = InferenceSettings(dtype=Dtype.FP32)
TEXTS = [SlicePrompt("structure", text=word) for word in WORDS]

Rgb = NDArray[np.uint8]


def main() -> None:
    """Write the weights, then measure part by part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small weights, for a quick run")
    parser.add_argument("--folder", type=Path, help="where checkpoints and store go  [default: a temporary folder]")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medsam3-segmenter-") as temporary:
        folder = arguments.folder or Path(temporary)
        size = ["--tiny"] if arguments.tiny else []
        subprocess.run([sys.executable, "-m", "benchmarks.full_weights", str(folder), *size], check=True)
        weights = folder / BARE
        precision = Sam3Segmenter.precision(open_segmenter(weights), AUTO)
        print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, default precision {precision}")
        encode_once(weights)
        default_precision(weights)
        blocked_attention(weights)
        system_over_bare(folder / "store", weights)


def encode_once(weights: Path) -> None:
    """One image with eight prompts: encoded once, and once per prompt."""
    segmenter, image = warm(open_segmenter(weights), AUTO), picture(0)
    once = seconds(lambda: segmenter.segment(segmenter.encode([image], AUTO)[0], TEXTS, AUTO))
    each = seconds(lambda: [segmenter.segment(segmenter.encode([image], AUTO)[0], [one], AUTO) for one in TEXTS])
    print(
        f"8 prompts: encode once {once:.2f} s, per prompt {each:.2f} s: {each / once:.2f} times faster (at least 3.5)"
    )


def default_precision(weights: Path) -> None:
    """One prompt in the default precision and in fp32, and how far the masks differ on the golden model."""
    found = {}
    for settings in (AUTO, FP32):
        segmenter, image = warm(open_segmenter(weights), settings), picture(0)
        found[settings.dtype] = seconds(lambda: answer(segmenter, image, settings))  # noqa: B023 - called at once
        del segmenter
    ratio = found[Dtype.FP32] / found[Dtype.AUTO]
    print(
        f"1 prompt: {found[Dtype.AUTO]:.2f} s, fp32 {found[Dtype.FP32]:.2f} s: {ratio:.2f} times faster (at least 1.7)"
    )
    if not GOLDEN.is_file():
        print("mask IoU against fp32: no golden model beside the repository")
        return
    segmenter = open_segmenter(GOLDEN)
    ious: list[float] = []
    for number in range(4):
        # All queries, so that both precisions speak of the same masks.
        one, other = (
            _all_masks(segmenter, picture(number), InferenceSettings(dtype=dtype, threshold=0.0))
            for dtype in (Dtype.MIXED, Dtype.FP32)
        )
        ious += [float((a & b).sum() / max(1, (a | b).sum())) for a, b in zip(one, other, strict=True)]
    print(f"mask IoU of mixed against fp32 on the golden model: mean {np.mean(ious):.3f} (at least 0.97)")


def blocked_attention(weights: Path) -> None:
    """The encoder in the default precision with our attention and with that of transformers."""
    image, found, ours = picture(0), [], network.use_blocked_attention
    for attention in (ours, lambda _trunk: None):
        network.use_blocked_attention = attention
        segmenter = warm(open_segmenter(weights), AUTO)
        found.append(seconds(lambda: segmenter.encode([image], AUTO)))  # noqa: B023 - called at once
    network.use_blocked_attention = ours
    print(f"encoder: {found[0]:.2f} s, sdpa {found[1]:.2f} s: {found[1] / found[0]:.2f} times faster (at least 1.2)")


def system_over_bare(folder: Path, weights: Path) -> None:
    """Four images through flow, Dask, scores and store, over encode and segment alone; both build the network once."""
    store = open_store(folder)
    source = f"phantom:fundus,cases={IMAGES},size=1x{SIDE}x{SIDE}"
    subprocess.run(
        [sys.executable, "-m", "flows", "ingest", source, "--cohort", "small", "--store", str(folder)], check=True
    )
    add_weights(store, "seeded", weights)
    group = plan_benchmark(store, BenchmarkRequest(("small",), ("seeded",), ("box",), split="all")).groups[0]
    (run,) = group.runs.values()
    work = []
    for planned in group.pending:
        case = planned.case
        volume = open_case_volume(store.volume(case.cohort, case.case_id, zipped=True))
        reference = volume.reference(case.raters[0])
        rows = generate_prompts(
            run.policy, run.prompt_id, case.case_id, reference, volume.geometry, group.cohort.recipe.structures
        ).rows
        image = np.ascontiguousarray(np.moveaxis(volume.slice(0), 0, 2))
        work.append((image, slice_prompts(rows, volume.geometry.shape_zyx[1:])[0]))
    bare = _bare_loop(weights, work)
    answered = subprocess.run(
        [sys.executable, "-m", "benchmarks.timed_flow", str(folder), "seeded", "1"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    system, startup = (float(word) for word in answered.stdout.split()[-4:-2])
    print(
        f"{IMAGES} images: system {system:.2f} s, bare loop {bare:.2f} s: {system / bare:.3f} (at most 1.05); "
        f"start-up {startup:.1f} s apart"
    )


def _bare_loop(weights: Path, work: list[tuple[Rgb, list[SlicePrompt]]]) -> float:
    segmenter = open_segmenter(weights)
    started = time.perf_counter()
    for image, prompts in work:
        segmenter.segment(segmenter.encode([image], AUTO)[0], prompts, AUTO)
    return time.perf_counter() - started


def picture(seed: int) -> Rgb:
    """A fundus phantom, shape (y, x, 3)."""
    voxels = phantom_case(PhantomKind.FUNDUS, seed, shape_zyx=(1, SIDE, SIDE)).voxels
    return np.ascontiguousarray(np.moveaxis(voxels[:, 0], 0, 2))


def warm(segmenter: Sam3Segmenter, settings: InferenceSettings) -> Sam3Segmenter:
    """The same segmenter with its network built and its first pass behind it."""
    answer(segmenter, picture(1), settings)
    return segmenter


def answer(segmenter: Sam3Segmenter, image: Rgb, settings: InferenceSettings) -> None:
    """One image, one prompt."""
    segmenter.segment(segmenter.encode([image], settings)[0], TEXTS[:1], settings)


def seconds(work: Callable[[], object]) -> float:
    """Wall time."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _all_masks(segmenter: Sam3Segmenter, image: Rgb, settings: InferenceSettings) -> NDArray[np.bool_]:
    """Masks of all queries, in the order of the queries, at the size of the slice."""
    encoding = segmenter.encode([image], settings)[0]
    heads = segmenter._loaded.heads_on(encoding, settings)
    with torch.no_grad():
        return np.asarray((heads.detect(TEXTS[:1])[0].mask_logits > 0).cpu())


if __name__ == "__main__":
    main()
