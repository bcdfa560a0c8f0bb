"""Cost of an ingest over bare decode and encode: volumes and pictures, two processes.

    python -m benchmarks.ingest [--source FOLDER] [--rounds 3]

Bare: the same reader and the same Zarr calls (image and label arrays with their levels, no other metadata) in two plain
processes. System: the stream of the product on two Dask workers, which are running before the clock starts. FOLDER is a
Decathlon folder; by default, phantoms of the same number and size are written to a temporary folder.

Volumes: 160 small ones and one CT of 512 x 512 x 200. Pictures: 1,000 pairs of a JPEG image and a PNG mask, 512 x 384;
their bare side decodes with Pillow and packs the same arrays into the same kind of zip, without checks, digests,
fingerprints or tables.
"""

import argparse
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from flows.settings.environment import prepare_environment

prepare_environment()

import zarr  # noqa: E402 - the environment comes first
from zarr.storage import MemoryStore  # noqa: E402

from flows.clusters.clusters import dask_workers  # noqa: E402
from flows.settings.clusters import parse_cluster  # noqa: E402
from medsam3_core.cases.cases import CaseVolume  # noqa: E402
from medsam3_core.cases.geometry import VolumeGeometry  # noqa: E402
from medsam3_core.cases.structures import LabelEntry, LabelMap  # noqa: E402
from storage.ingest.plan import IngestPlan, IngestRequest, plan_ingest  # noqa: E402
from storage.sources.layouts.phantom import PhantomSource  # noqa: E402
from storage.sources.registry import layout_of  # noqa: E402
from storage.store.arrays import level_factors, write_image_levels, write_label_levels, write_zip  # noqa: E402
from storage.store.layout import open_store  # noqa: E402
from tasks.ingest import IngestBatch, PendingCase  # noqa: E402
from tasks.stream.breadcrumbs import BreadcrumbFolder  # noqa: E402
from tasks.stream.sizing import BatchSizer  # noqa: E402
from tasks.stream.stream import Stream, StreamHooks  # noqa: E402
from tests.phantom_files import write_nifti, write_phantom_dataset  # noqa: E402

WORKERS = 2


def main() -> None:
    """Run both sides in turn on both sources and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="Decathlon folder with small volumes")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, dask_workers(parse_cluster(f"local:{WORKERS}"), []) as workers:
        small = arguments.source or _phantoms(Path(folder) / "small")
        large = _large_ct(Path(folder) / "large")
        pictures = _picture_pairs(Path(folder) / "pictures")
        sources = (("small volumes", small), ("one CT 512 x 512 x 200", large), ("pictures", pictures))
        for name, source in sources:
            pairs = []
            for round_number in range(arguments.rounds):
                root = Path(folder) / f"round-{round_number}"
                plan = plan_ingest(open_store(root / "system"), IngestRequest(str(source), "cohort"))
                system = _system(root / "system", plan, workers.client)
                work = _bare_pictures if source is pictures else _bare_volumes
                pairs.append((system, _bare(root / "bare", plan, work)))
                shutil.rmtree(root)
            _report(name, len(plan.pending), pairs)


def _system(root: Path, plan: IngestPlan, client: object) -> float:
    store = open_store(root)
    counts = Stream(
        client,  # type: ignore[arg-type]
        IngestBatch(store, plan.cohort.name, plan.cohort.recipe, plan.source_root),
        [PendingCase(source, fingerprint) for source, fingerprint in plan.pending],
        sizer=BatchSizer(WORKERS, target_seconds=5.0),
        max_inflight=2 * WORKERS,
        crumbs=BreadcrumbFolder(store.breadcrumbs() / "benchmark"),
        hooks=StreamHooks(lambda case, reason: print(case.case_id, reason)),
    ).run()
    return counts.seconds


def _bare(root: Path, plan: IngestPlan, work: Callable[[Path, IngestPlan, int, object], None]) -> float:
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(WORKERS + 1)
    processes = [context.Process(target=work, args=(root, plan, share, ready)) for share in range(WORKERS)]
    for process in processes:
        process.start()
    ready.wait()
    started = time.perf_counter()
    for process in processes:
        process.join()
    return time.perf_counter() - started


def _bare_volumes(root: Path, plan: IngestPlan, share: int, ready: object) -> None:
    layout = layout_of(plan.cohort.recipe)
    ready.wait()  # type: ignore[attr-defined]
    for source, _ in plan.pending[share::WORKERS]:
        volume = layout.read_case(Path(plan.source_root), source, plan.cohort.recipe)
        factors = level_factors(volume.geometry.shape_zyx)
        group = zarr.create_group(root / f"{source.case_id}.zarr")
        write_image_levels(group, volume.voxels, factors)
        for index, reference in enumerate(volume.references):
            write_label_levels(group.create_group(f"labels-{index}"), reference.voxels, factors)


def _bare_pictures(root: Path, plan: IngestPlan, share: int, ready: object) -> None:
    source = Path(plan.source_root)
    ready.wait()  # type: ignore[attr-defined]
    for case, _ in plan.pending[share::WORKERS]:
        image = np.moveaxis(np.asarray(Image.open(source / case.image[0])), 2, 0)[:, None]
        mask = (np.asarray(Image.open(source / case.references["reference"][0])) > 0).astype(np.uint8)[None]
        factors = level_factors(mask.shape)
        memory = MemoryStore()
        group = zarr.create_group(memory)
        write_image_levels(group, np.ascontiguousarray(image), factors)
        write_label_levels(group.create_group("labels").create_group("reference"), mask, factors)
        write_zip(memory, root / f"{case.case_id}.ozx")


def _picture_pairs(folder: Path, count: int = 1000) -> Path:
    """Write JPEG images with the texture of tissue and PNG masks of one lesion each."""
    random = np.random.default_rng(0)
    y, x = np.ogrid[:384, :512]
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        coarse = Image.fromarray(random.integers(60, 200, (12, 16, 3), dtype=np.uint8))
        tissue = np.asarray(coarse.resize((512, 384), Image.Resampling.BICUBIC)).astype(np.int16)
        noise = random.integers(-12, 13, (384, 512, 1), dtype=np.int16)
        pixels = (tissue + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{number:04d}.jpg", quality=92)
        row, column, radius = random.integers(100, 280), random.integers(120, 390), random.integers(20, 90)
        lesion = ((y - row) ** 2 + (x - column) ** 2 < radius**2).astype(np.uint8) * 255
        Image.fromarray(lesion).save(folder / f"masks/{number:04d}.png")
    return folder


def _phantoms(folder: Path) -> Path:
    write_phantom_dataset(folder, PhantomSource.parse("phantom:mr,cases=160,size=36x50x36"), "msd")
    return folder


def _large_ct(folder: Path) -> Path:
    """Write a CT of smooth structures and noise, which compresses like a real one."""
    shape = (200, 512, 512)
    generator = np.random.default_rng(0)
    z, y, x = np.ogrid[:200, :512, :512]
    inside = ((y - 256) / 180) ** 2 + ((x - 256) / 230) ** 2 < 1
    organ = ((z - 100) / 60) ** 2 + ((y - 230) / 70) ** 2 + ((x - 200) / 90) ** 2 < 1
    voxels = np.where(inside, 40, -1000) + np.where(organ, 60, 0) + generator.normal(0, 12, shape).astype(np.int16)
    geometry = VolumeGeometry.from_nifti(shape, np.diag([0.8, 0.8, 1.5, 1.0]))
    reference = LabelMap(organ.astype(np.uint8), geometry, (LabelEntry(1, "liver"),))
    volume = CaseVolume(voxels.astype(np.int16), geometry, (reference,), "CT", geometry.affine_nifti)
    for name, array in (("imagesTr", volume.voxels), ("labelsTr", reference.voxels)):
        write_nifti(folder / name / "ct.nii.gz", array, geometry.affine_nifti)
    (folder / "dataset.json").write_text(
        '{"name": "CT", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"}, '
        '"training": [{"image": "./imagesTr/ct.nii.gz", "label": "./labelsTr/ct.nii.gz"}]}'
    )
    return folder


def _report(name: str, cases: int, pairs: list[tuple[float, float]]) -> None:
    ratios = sorted(system / bare for system, bare in pairs)
    system, bare = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    print(
        f"{name}: {cases} cases, system {system:.2f} s, bare {bare:.2f} s, ratio {statistics.median(ratios):.3f} "
        f"(min {ratios[0]:.3f} max {ratios[-1]:.3f}), target 1.3"
    )


if __name__ == "__main__":
    main()
