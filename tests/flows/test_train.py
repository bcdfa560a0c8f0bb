"""Training end to end on a tiny architecture and a handful of phantoms."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from medsam3_core.cases.cases import CaseSource
from medsam3_core.errors import TrainingError, UsageError
from medsam3_core.prompts.prompts import SlicePrompt
from medsam3_core.sam3.network.architecture import architecture_from
from medsam3_core.sam3.network.small import fresh_weights, narrow_tracker_config
from medsam3_core.sam3.network.tiny import tiny_config
from medsam3_core.settings.inference import InferenceSettings
from medsam3_core.training.plans import CohortPlan, LoopPlan, QuestionPlan, TrainingPlan, ValidationPlan
from medsam3_core.training.trainees.lora import LoraPlan
from medsam3_core.training.trainees.optimiser import OptimiserPlan, Schedule
from storage.cohorts.cohorts import case_refs, latest_cases, read_cohort
from storage.cohorts.image_hashes import IMAGE_HASHES, newest_image_digests, write_image_hashes
from storage.cohorts.volumes import open_case_volume
from storage.ingest.journal import is_ingested, note_listed
from storage.store.layout import StoreLayout, open_store, utc_now
from storage.store.schemas import TRAINING
from storage.store.tables import read_table
from storage.training.manifest import balance_report, build_manifest, select_cases
from storage.training.runs import last_checkpoint, open_run, training_id
from storage.training.slices import read_training_slices, recipe_concepts, validation_case
from storage.weights.checkpoints import open_segmenter, read_weights, write_hugging_face
from storage.weights.registry import find_weights
from tasks import train as unit
from tasks.agent.slices import SliceReader
from tests.stores.small import ingest_here


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    store = open_store(tmp_path_factory.mktemp("training") / "store")
    ingest_here(store, "phantom:nuclei,cases=4,size=48x48", "cells")
    architecture = architecture_from(tiny_config(112), narrow_tracker_config())
    write_hugging_face(store.root / "base", fresh_weights(architecture, 0), torch.float32)
    return store.root


@pytest.fixture
def store(template, tmp_path):
    return StoreLayout(Path(shutil.copytree(template, tmp_path / "store")))


def plan_for(store, **changes):
    plan = TrainingPlan(
        "learned",
        (CohortPlan("cells", validation=1),),
        base=str(store.root / "base"),
        loop=LoopPlan(steps=2, batch=1, workers=0, log_every=1, save_every=1, keep=4),
        questions=QuestionPlan(per_slice=1, click_share=1.0, clicks=1),
    )
    return replace(plan, half=False, **changes)


def test_the_manifest_holds_boxes_and_negatives_but_no_pixels(store):
    cohorts = select_cases(store, plan_for(store))
    manifest = build_manifest(store, cohorts)
    rows = [row for found in manifest.rows.values() for row in found]
    assert {row["split"] for row in rows} == {"train", "validation"}
    assert {row["patient_id"] for row in rows if row["split"] == "train"}.isdisjoint(
        row["patient_id"] for row in rows if row["split"] == "validation"
    )
    first = rows[0]["instances"][0]
    assert first["x1"] > first["x0"]
    assert first["area"] <= (first["x1"] - first["x0"]) * (first["y1"] - first["y0"])
    assert manifest.digest == build_manifest(store, cohorts).digest
    report = balance_report(rows)
    assert sum(row["instances"] for row in report) == sum(len(row["instances"]) for row in rows)


def test_a_case_of_a_benchmark_split_is_refused(store):
    with pytest.raises(UsageError, match="may not be used for training: the benchmark split holds it"):
        select_cases(store, plan_for(store, cohorts=(CohortPlan("cells", splits=("train", "test")),)))


def test_the_same_case_under_another_name_is_refused_too(store):
    ingest_here(store, "phantom:nuclei,cases=8,size=48x48", "more")  # its train cases are the test cases of `cells`
    with pytest.raises(UsageError, match="may not be used for training: the benchmark split holds it as cells/"):
        select_cases(store, plan_for(store, cohorts=(CohortPlan("more"),)))


def test_voxels_of_a_benchmark_split_are_refused_whatever_recipe_read_them(store):
    ingest_here(store, "phantom:nuclei,cases=4,size=48x48,seed=5", "more")
    select_cases(store, plan_for(store, cohorts=(CohortPlan("more"),)))
    (test_case,) = [case for case in case_refs(latest_cases(store, "cells")) if case.split == "test"]
    voxels = newest_image_digests(store, "cells")[test_case.case_id]
    row = read_table(store.image_hashes("more"), IMAGE_HASHES).to_pylist()[0]
    write_image_hashes(
        store, "more", [row | {"case_id": "nuclei_000", "image_digest": voxels, "ingested_at": utc_now()}]
    )
    with pytest.raises(
        UsageError, match="more/nuclei_000 may not be used for training: the benchmark split holds it as cells/"
    ):
        select_cases(store, plan_for(store, cohorts=(CohortPlan("more"),)))


def test_a_cohort_that_stands_twice_is_refused(store):
    with pytest.raises(UsageError, match="cohort 'cells' has several entries"):
        select_cases(store, plan_for(store, cohorts=(CohortPlan("cells"), CohortPlan("cells", validation=1))))


def test_slices_are_seen_through_the_windows_of_inference(store):
    ingest_here(store, "phantom:ct,cases=1,size=6x32x32", "organs")
    (case,) = case_refs(latest_cases(store, "organs"))
    volume = open_case_volume(store.volume("organs", case.case_id, zipped=False))
    own = "ct:100,50"
    recipe = read_cohort(store, "organs").recipe
    liver, *others = recipe.structures
    recipe = replace(recipe, window="auto", structures=(replace(liver, window=own), *others))
    slices = read_training_slices(store, case, recipe, recipe_concepts(recipe, {}))
    as_inferred = SliceReader(volume, "auto")
    shown = {tuple(one.name for one in seen.concepts): seen for seen in slices if seen.source.endswith(":2")}
    assert set(shown) == {("liver",), tuple(one.name for one in others)}
    np.testing.assert_array_equal(shown[("liver",)].image, as_inferred(2, own))
    np.testing.assert_array_equal(shown[tuple(one.name for one in others)].image, as_inferred(2, "recipe"))
    np.testing.assert_array_equal(validation_case(store, case, recipe).slices(2, "recipe"), as_inferred(2, "recipe"))


def test_a_killed_run_ends_with_the_same_weights(store, tmp_path, monkeypatch):
    whole = unit.train_weights(store, plan_for(store), lambda _: None)
    again = StoreLayout(Path(shutil.copytree(store.root, tmp_path / "again")))
    folder = again.root / Path(whole["folder"]).relative_to(store.root)
    shutil.rmtree(folder / "weights")
    (folder / "run.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "checkpoint-2")
    resumed = unit.train_weights(again, plan_for(store), lambda _: None)
    assert resumed["steps"] == 2
    assert resumed["sha256"] == whole["sha256"]


def test_the_best_validation_is_kept_whatever_the_rhythm_of_checkpoints(store, monkeypatch):
    seen = []

    def falling(_plan, _cases, model):
        parts = model.trainee.weights().parts
        seen.append({(part, name): tensor.clone() for part in parts for name, tensor in parts[part].items()})
        return {"dice": (0.9, 0.1, 0.2)[len(seen) - 1]}

    monkeypatch.setattr(unit, "_validated", falling)
    loop = replace(plan_for(store).loop, steps=3, save_every=2, keep=1)
    optimiser = OptimiserPlan(rate=1e-3, warmup=0, schedule=Schedule.CONSTANT, cooldown=0)
    plan = plan_for(store, loop=loop, optimiser=optimiser, validation=ValidationPlan(every=1))
    record = unit.train_weights(store, plan, lambda _: None)
    assert (record["best"], record["best_checkpoint"], record["steps"]) == (0.9, "checkpoint-1", 3)
    written = read_weights(Path(record["folder"]) / "weights").parts
    assert len(seen[0]) > 600
    assert all(torch.equal(written[part][name], tensor) for (part, name), tensor in seen[0].items())
    assert not all(torch.equal(written[part][name], tensor) for (part, name), tensor in seen[2].items())


def test_training_that_diverges_says_so_at_once(store):
    plan = plan_for(store, optimiser=OptimiserPlan(rate=1e30, warmup=0, clip=1e30))
    with pytest.raises(TrainingError, match=r"the loss of step 2 is not finite \(.*training has diverged"):
        unit.train_weights(store, plan, lambda _: None)


def test_a_checkpoint_is_whole_when_every_process_has_left_its_state(store):
    run = open_run(store, plan_for(store), "data", None)
    for step, names in (
        (1, ("rng_state_0.pth", "rng_state_1.pth")),
        (2, ("rng_state_0.pth",)),
        (3, ("rng_state.pth",)),
    ):
        folder = run.checkpoints / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        for name in ("trainer_state.json", *names):
            (folder / name).touch()
    assert last_checkpoint(run).name == "checkpoint-3"
    assert last_checkpoint(run, 2).name == "checkpoint-1"
    assert last_checkpoint(run, 3) is None


def test_several_processes_are_another_run(store):
    plan = plan_for(store)
    assert training_id(plan, "data", None) == training_id(plan, "data", None, 1)
    assert training_id(plan, "data", None, 2) not in (
        training_id(plan, "data", None),
        training_id(plan, "data", None, 3),
    )


def test_cases_are_marked_before_anybody_can_see_the_weights(store, monkeypatch):
    def dies(*_):
        raise OSError("disk full")

    monkeypatch.setattr(unit, "register_weights", dies)
    with pytest.raises(OSError, match="disk full"):
        unit.train_weights(store, plan_for(store), lambda _: None)
    assert sum(bool(case.in_training) for case in case_refs(latest_cases(store, "cells"))) == 3


def test_what_cannot_be_trained_is_refused_before_anything_is_learned(store):
    for changes, message in (
        ({"base": "baseline:box"}, "base 'baseline:box' has no tensors to start from"),
        ({"name": "tiny-medical"}, "weights name 'tiny-medical' is built in"),
    ):
        with pytest.raises(UsageError, match=message):
            unit.train_weights(store, replace(plan_for(store), **changes), lambda _: None)
    assert not list(store.root.glob("training/*"))


def test_the_bare_layout_can_be_asked_for_afterwards(store):
    record = unit.train_weights(store, plan_for(store), lambda _: None)
    bare = Path(record["folder"]) / "bare" / "model.safetensors"
    assert not bare.exists()
    assert unit.train_weights(store, plan_for(store, bare=True), lambda _: None)["sha256"] == record["sha256"]
    assert bare.is_file()


def test_a_cohort_whose_ingest_was_interrupted_is_not_ingested(store):
    assert is_ingested(store, "cells")
    note_listed(store, "cells", "phantom:nuclei", [CaseSource("nuclei_009", "nuclei_009", None, ("9",))])
    assert not is_ingested(store, "cells")
    assert not is_ingested(store, "elsewhere")


def test_training_registers_weights_that_load_in_both_layouts_and_marks_its_cases(store):
    record = unit.train_weights(
        store, plan_for(store, bare=True, validation=ValidationPlan(every=2, prompts=("text",))), lambda _: None
    )
    folder = Path(record["folder"])
    found = find_weights(store, "learned")
    assert found.parents[0].startswith("base@1:")
    assert found.training == record["training_id"]
    assert record["validations"][0]["step"] == 2
    assert (folder / "curves.png").stat().st_size > 1000
    marked = {case.case_id for case in case_refs(latest_cases(store, "cells")) if found.sha256 in case.in_training}
    assert marked == {"nuclei_000", "nuclei_001", "nuclei_002"}
    assert read_table(folder / "manifest", TRAINING).num_rows == 3
    image = torch.zeros(48, 48, 3, dtype=torch.uint8).numpy()
    answers = []
    for path in (folder / "weights", folder / "bare"):
        segmenter = open_segmenter(path)
        settings = InferenceSettings(threshold=0.0)
        encoding = segmenter.encode([image], settings)[0]
        answers.append(segmenter.segment(encoding, [SlicePrompt("nucleus", text="cell nucleus")], settings)[0])
    assert answers[0].scores.tolist() == answers[1].scores.tolist()
    assert (
        unit.train_weights(
            store, plan_for(store, bare=True, validation=ValidationPlan(every=2, prompts=("text",))), lambda _: None
        )["sha256"]
        == record["sha256"]
    )  # done is done


def test_lora_trains_adapters_alone_and_is_merged_into_the_result(store):
    before = open_segmenter(store.root / "base").weights
    record = unit.train_weights(store, plan_for(store, name="adapted", lora=LoraPlan(rank=2)), lambda _: None)
    old, new = read_weights(store.root / "base"), read_weights(Path(record["folder"]) / "weights")
    assert before.interactive
    changed = {
        name
        for part, tensors in old.parts.items()
        for name, tensor in tensors.items()
        if not torch.equal(tensor, new.parts[part][name])
    }
    assert changed
    assert all(name.endswith(("proj.weight", "fc1.weight", "fc2.weight")) for name in changed)


def test_activations_computed_twice_give_the_same_weights(store):
    loop = replace(plan_for(store).loop, steps=1)
    kept = unit.train_weights(store, plan_for(store, loop=loop), lambda _: None)
    loop = replace(loop, gradient_checkpointing=True)
    twice = unit.train_weights(store, plan_for(store, name="twice", loop=loop), lambda _: None)
    assert twice["sha256"] == kept["sha256"]


def test_training_stops_when_validation_finds_nothing_better(store):
    loop = replace(plan_for(store).loop, steps=6)
    plan = plan_for(
        store,
        loop=loop,
        optimiser=OptimiserPlan(rate=0.0),  # nothing is learned, so nothing gets better
        validation=ValidationPlan(every=1, prompts=("text",), patience=2),
    )
    record = unit.train_weights(store, plan, lambda _: None)
    assert record["steps"] == 3
    assert record["best_checkpoint"] == "checkpoint-1"
    folder = Path(record["folder"])
    for gone in ((), ("checkpoint-3",)):  # killed after it had stopped, and a step before
        shutil.rmtree(folder / "weights")
        (folder / "run.json").unlink()
        for name in gone:
            shutil.rmtree(folder / "checkpoints" / name)
        again = unit.train_weights(store, plan, lambda _: None)
        assert [again[key] for key in ("steps", "best_checkpoint", "sha256")] == [
            record[key] for key in ("steps", "best_checkpoint", "sha256")
        ]


def test_passes_in_bf16_learn_fp32_weights(store):
    loop = replace(plan_for(store).loop, steps=1, bf16=True)
    record = unit.train_weights(store, plan_for(store, loop=loop), lambda _: None)
    tensors = load_file(Path(record["folder"]) / "weights" / "model.safetensors")
    before = load_file(store.root / "base" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in tensors.items())


@pytest.mark.slow
def test_two_processes_learn_together_and_one_of_them_registers(store, tmp_path):
    config = tmp_path / "together.yaml"
    config.write_text(f"""
name: together
base: {store.root / "base"}
cohorts: [{{cohort: cells, validation: 1}}]
loop: {{steps: 2, batch: 1, workers: 0, log_every: 1, save_every: 1}}
questions: {{per_slice: 1, click_share: 0.5, clicks: 1}}
half: false
""")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, "-m", "flows", "train", str(config), "--store", str(store.root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("weights together@1") == 1
    log = [json.loads(line) for line in next(store.root.glob("training/together-*/log.jsonl")).read_text().splitlines()]
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2]
    found = find_weights(store, "together")
    assert found.version == 1
    (folder,) = store.root.glob("training/together-*")
    shutil.rmtree(folder / "weights")
    (folder / "run.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "checkpoint-2")
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2, 2]  # it went on from the first step
    assert find_weights(store, "together") == found


def test_what_the_flow_refuses_is_one_line(store, tmp_path):
    config = tmp_path / "astray.yaml"
    config.write_text("name: mine\nbase: nowhere\ncohorts: [{cohort: cells}]\n")
    command = [sys.executable, "-m", "flows", "train", str(config), "--store", str(store.root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("medsam3: unknown weights 'nowhere'; known: ")


def test_a_process_that_reads_slices_ends_well_beside_a_running_service_of_prefect():
    program = """
import multiprocessing, os
import flows.train
from prefect.logging.handlers import APILogWorker

APILogWorker.instance()
child = multiprocessing.get_context("fork").Process(target=int)
child.start()
child.join(60)
print("ended with", child.exitcode, flush=True)
os._exit(0)  # no server is there that the service could send its logs to
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert "ended with 0" in done.stdout, done.stderr[-2000:]
