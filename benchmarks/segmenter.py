"""Gains by encoding once, precision and attention, and cost of the system around a segmenter.

    python -m benchmarks.segmenter [--part NAME] [--resolution 504] [--tiny] [--folder DIR] [--rounds N]

Uses the full-size architecture with seeded, untrained weights. `--tiny` is for a quick run; its ratios mean nothing.
Compared variants run in turns. Checkpoints and store in the folder are reused, so that the parts can run one by one:
`system`, `cache`, `once`, `precision`, `golden`, `encoder`, `gpu`. At half the resolution the encoder has a quarter of
the tokens, which takes minutes on a shared machine.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.costs import interleaved, report_costs
from benchmarks.full_weights import BARE
from flows.settings.environment import prepare_environment
from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.inference.volumes import VolumeRequest, segment_volumes
from medsam3_core.phantoms import PhantomKind, phantom_case
from medsam3_core.prompts.generation import generate_prompts
from medsam3_core.prompts.prompts import SlicePrompt
from medsam3_core.prompts.rows import slice_prompts
from medsam3_core.sam3.network import network
from medsam3_core.sam3.network.concept import TextEncoder, concept_query, detect
from medsam3_core.sam3.network.encoder import detector_features, encode_prepared, prepare_slice
from medsam3_core.sam3.segmenter import Sam3Segmenter
from medsam3_core.sam3.tensors.tokenizer import TextTokenizer
from medsam3_core.settings.inference import Dtype, InferenceSettings
from storage.catalog.guard import run_sql
from storage.cohorts.volumes import open_case_volume
from storage.runs.plan import WorkGroup, pending
from storage.runs.requests import BenchmarkRequest, runs_of
from storage.store.layout import StoreLayout, open_store
from storage.weights.checkpoints import open_segmenter
from storage.weights.registry import add_weights

WORDS = ("vessel", "optic disc", "polyp", "liver", "kidney", "spleen", "tumour", "nucleus")
GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "bare" / "checkpoint.safetensors"
IMAGES, SIDE = 4, 512
PARTS = ("system", "cache", "once", "precision", "golden", "encoder", "gpu")
_STARTED_AGAIN = "MEDSAM3_BENCHMARK_STARTED_AGAIN"
TEXTS = [SlicePrompt("structure", text=word) for word in WORDS]

Rgb = NDArray[np.uint8]


def main() -> None:
    """Write the weights, then measure part by part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS, help="only this; repeat for several")
    parser.add_argument("--resolution", type=int, default=0, help="side in pixels  [default: that of the weights]")
    parser.add_argument("--tiny", action="store_true", help="small weights, for a quick run")
    parser.add_argument("--folder", type=Path, help="folder of checkpoints and store  [default: a temporary one]")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of each comparison")
    arguments = parser.parse_args()
    _restart_with_worker_environment()
    with tempfile.TemporaryDirectory(prefix="medsam3-segmenter-") as temporary:
        bench = Bench(
            arguments.folder or Path(temporary), InferenceSettings(resolution=arguments.resolution), arguments.rounds
        )
        parts = arguments.part or PARTS
        if parts != ["golden"]:
            bench.write_weights(tiny=arguments.tiny)
        for part in PARTS:
            if part in parts:
                getattr(bench, part)()


class Bench:
    """The parts, on one folder of weights and store.

    Args:
        folder: Folder of checkpoints and store.
        settings: Settings of every part: default precision, and the resolution of the command line.
        rounds: Rounds of each comparison.
    """

    def __init__(self, folder: Path, settings: InferenceSettings, rounds: int) -> None:
        self.weights, self.store = folder / BARE, folder / "segmenter-store"
        self.folder, self.settings, self.rounds = folder, settings, rounds

    def write_weights(self, *, tiny: bool) -> None:
        """Write the checkpoints unless they exist, and print facts of the machine."""
        if not self.weights.is_file():
            size = ["--tiny"] if tiny else []
            subprocess.run([sys.executable, "-m", "benchmarks.full_weights", str(self.folder), *size], check=True)
        segmenter = open_segmenter(self.weights)
        side = segmenter.weights.architecture.at(self.settings.resolution).resolution
        print(
            f"{torch.get_num_threads()} threads, torch {torch.__version__}, default precision "
            f"{segmenter.precision(self.settings)}, {side} x {side} pixels",
            flush=True,
        )

    def segmenter(self, settings: InferenceSettings | None = None, device: str = "cpu") -> Sam3Segmenter:
        """Open the weights and run one pass, so that the network is built."""
        segmenter = open_segmenter(self.weights, device)
        answer(segmenter, picture(1), settings or self.settings)
        return segmenter

    def system(self) -> None:
        """Four images through flow, Dask, scores and store, against encode and segment only; both build a network."""
        store = self._filled_store()
        request = BenchmarkRequest(("small",), ("seeded",), ("box",), self._settings(), split="all")
        group = pending(store, runs_of(store, [request])).groups[0]
        if not group.pending:
            print(f"{IMAGES} images are in the store already; remove {self.store} to measure again")
            return
        work = _work_of(store, group)
        before = self._bare_loop(work)
        system, startup = self._timed_flow("box")
        bare = (before + self._bare_loop(work)) / 2  # one loop before and one after, so that other load affects both
        inside = sum(self._seconds_of_images())
        print(
            f"{IMAGES} images: system {system:.2f} s, bare loop {bare:.2f} s: {system / bare:.3f} (at most 1.05); "
            f"start-up {startup:.1f} s; in the same process, over encode and segment only ({inside:.2f} s): "
            f"{system / inside:.3f}",
            flush=True,
        )

    def cache(self) -> None:
        """One more prompt policy on an empty cache of encodings, and another on the cache that it filled."""
        for cohort, kind, count in (("small", "fundus", "two structures"), ("lesions", "dermoscopy", "one structure")):
            shutil.rmtree(self._filled_store(cohort, kind).encodings(), ignore_errors=True)
            jitter = time.time() % 0.1  # policies without earlier runs
            seconds, images = [], []
            for policy in (f"box:jitter={jitter:.6f}", f"box:jitter={jitter + 0.1:.6f}"):
                seconds.append(self._timed_flow(policy, cohort, cache="4GB")[0])
                images.append(sum(self._seconds_of_images()[1:]))
            (cold, warm), (cold_images, warm_images) = seconds, images
            print(
                f"one more policy, {count} per image: warm cache of encodings {warm:.2f} s, cold one {cold:.2f} s: "
                f"{cold / warm:.2f} times faster; without the first image, which builds the network: "
                f"{cold_images / warm_images:.2f} times, {cold_images:.2f} s and {warm_images:.2f} s (at least 4)",
                flush=True,
            )

    def once(self) -> None:
        """One image with eight prompts: encoded once, and once per prompt."""
        segmenter, image, settings = self.segmenter(), picture(0), self.settings
        once, each = interleaved(
            self.rounds,
            lambda: segmenter.segment(segmenter.encode([image], settings)[0], TEXTS, settings),
            lambda: [segmenter.segment(segmenter.encode([image], settings)[0], [one], settings) for one in TEXTS],
        )
        report_costs("8 prompts: encode once over once per prompt", once, each, "at least 3.5")

    def precision(self) -> None:
        """One prompt in the default precision and in fp32."""
        exact = replace(self.settings, dtype=Dtype.FP32)
        if Sam3Segmenter.precision(open_segmenter(self.weights), self.settings) == str(Dtype.FP32):
            print(
                "1 prompt: the default precision of this machine is fp32 (no bf16 instructions): ratio 1 by definition"
            )
            return
        one, other, image = self.segmenter(), self.segmenter(exact), picture(0)
        found = interleaved(self.rounds, lambda: answer(one, image, self.settings), lambda: answer(other, image, exact))
        report_costs("1 prompt: default precision over fp32", *found, "at least 1.7")

    def golden(self) -> None:
        """IoU of masks in mixed precision with those in fp32 on the golden model."""
        if not GOLDEN.is_file():
            print("mask IoU against fp32: no golden model beside the repository")
            return
        segmenter = open_segmenter(GOLDEN)
        ious: list[float] = []
        for number in range(4):
            # All queries, so that the masks of both precisions correspond.
            one, other = (
                _all_masks(segmenter, picture(number), InferenceSettings(dtype=dtype, threshold=0.0))
                for dtype in (Dtype.MIXED, Dtype.FP32)
            )
            ious += [float((a & b).sum() / max(1, (a | b).sum())) for a, b in zip(one, other, strict=True)]
        print(f"mask IoU of mixed against fp32 on the golden model: mean {np.mean(ious):.3f} (at least 0.97)")

    def encoder(self) -> None:
        """Encoder in the default precision with our attention and with that of transformers, both against fp32."""
        image, ours = picture(0), network.use_rotary_attention
        rotary = self.segmenter()
        network.use_rotary_attention = lambda _trunk: None
        plain = self.segmenter()
        network.use_rotary_attention = ours
        one, other = (segmenter.encode([image], self.settings)[0].trunk for segmenter in (rotary, plain))
        found = interleaved(
            self.rounds, lambda: rotary.encode([image], self.settings), lambda: plain.encode([image], self.settings)
        )
        report_costs("encoder: our attention over that of transformers", *found, "at least 1.2")
        exact = self.segmenter(replace(self.settings, dtype=Dtype.FP32))
        maps = exact.encode([image], replace(self.settings, dtype=Dtype.FP32))[0].trunk
        ours_off, theirs_off = (
            float((trunk.float() - maps).abs().mean() / maps.abs().mean()) for trunk in (one, other)
        )
        print(f"mean difference from fp32, of its mean: ours {ours_off:.4f}, that of transformers {theirs_off:.4f}")

    def gpu(self) -> None:
        """Images per second through encode and segment in batches, against a bare loop over tensors on the device."""
        if not torch.cuda.is_available():
            print("images per second on a GPU: this machine has none")
            return
        segmenter = self.segmenter(device="cuda:0")
        images, built = [picture(number) for number in range(32)], segmenter._loaded.network_for(self.settings)
        heads = TextEncoder(built, TextTokenizer())
        query = [concept_query(TEXTS[0], (SIDE, SIDE))]
        pixels = [prepare_slice(image, built.architecture.resolution) for image in images]
        on_device = [replace(one, pixels=one.pixels.to(built.device, built.precision.encoder)) for one in pixels]

        def bare() -> None:
            with torch.no_grad():
                for start in range(0, len(images), 8):
                    for encoding in encode_prepared(built, on_device[start : start + 8]):
                        detect(built, detector_features(built, encoding), query, heads)
            torch.cuda.synchronize()

        def system() -> None:
            geometry = VolumeGeometry.pixel_grid((len(images), SIDE, SIDE))
            prompts = {"run": dict.fromkeys(range(len(images)), TEXTS[:1])}
            settings = {"run": self.settings}
            request = VolumeRequest(lambda z, _window: images[z], geometry, prompts, settings, ["structure"])
            segment_volumes(segmenter, [request])

        ours, loop = (found.wall for found in interleaved(3, system, bare))
        print(f"GPU: {32 / ours:.1f} images/s, bare loop {32 / loop:.1f}: {loop / ours:.2f} (at least 0.9)")

    def _filled_store(self, cohort: str = "small", kind: str = "fundus") -> StoreLayout:
        """Ingest the images and register the weights."""
        store = open_store(self.store)
        source = f"phantom:{kind},cases={IMAGES},size=1x{SIDE}x{SIDE}"
        words = ["-m", "flows", "ingest", source, "--cohort", cohort, "--store", str(self.store)]
        subprocess.run([sys.executable, *words], check=True)
        add_weights(store, "seeded", self.weights)
        return store

    def _settings(self) -> tuple[str, ...]:
        return (f"resolution={self.settings.resolution}",) if self.settings.resolution else ()

    def _bare_loop(self, work: list[tuple[Rgb, list[SlicePrompt]]]) -> float:
        segmenter = open_segmenter(self.weights)
        started = time.perf_counter()
        for image, prompts in work:
            segmenter.segment(segmenter.encode([image], self.settings)[0], prompts, self.settings)
        return time.perf_counter() - started

    def _seconds_of_images(self) -> list[float]:
        """Seconds of encoding and segmentation per image of the last run, from its outcomes."""
        query = f"SELECT seconds_segment AS seconds FROM outcomes ORDER BY finished_at DESC LIMIT {IMAGES}"
        return [float(row["seconds"]) for row in run_sql(open_store(self.store), query).to_pylist()][::-1]

    def _timed_flow(self, policy: str, cohort: str = "small", cache: str = "") -> tuple[float, float]:
        """Seconds of the streams of a benchmark with one worker, and of everything else."""
        given = [str(self.store), "seeded", "1", policy, cache, cohort, *self._settings()]
        words = ["-m", "benchmarks.timed_flow", *given]
        answered = subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True)
        stream, startup = (float(word) for word in answered.stdout.split()[-4:-2])
        return stream, startup


def _restart_with_worker_environment() -> None:
    """Restart this process with the environment of workers, which glibc reads when a process starts."""
    if _STARTED_AGAIN not in os.environ:
        prepare_environment()
        os.environ[_STARTED_AGAIN] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.segmenter", *sys.argv[1:]])


def _work_of(store: StoreLayout, group: WorkGroup) -> list[tuple[Rgb, list[SlicePrompt]]]:
    """Images and prompts of a planned benchmark, for a bare loop."""
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
    return work


def picture(seed: int) -> Rgb:
    """A fundus phantom, shape (y, x, 3)."""
    voxels = phantom_case(PhantomKind.FUNDUS, seed, shape_zyx=(1, SIDE, SIDE)).voxels
    return np.ascontiguousarray(np.moveaxis(voxels[:, 0], 0, 2))


def answer(segmenter: Sam3Segmenter, image: Rgb, settings: InferenceSettings) -> None:
    """Segment one image with one prompt."""
    segmenter.segment(segmenter.encode([image], settings)[0], TEXTS[:1], settings)


def _all_masks(segmenter: Sam3Segmenter, image: Rgb, settings: InferenceSettings) -> NDArray[np.bool_]:
    """Masks of all queries, in order, at the size of the slice."""
    encoding = segmenter.encode([image], settings)[0]
    heads = segmenter._loaded.heads_on(encoding, settings)
    with torch.no_grad():
        return np.asarray((heads.detect(TEXTS[:1])[0].mask_logits > 0).cpu())


if __name__ == "__main__":
    main()
