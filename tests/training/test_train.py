"""Training end to end on a tiny architecture and a handful of phantoms."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from medsam3_core.errors import UsageError
from medsam3_core.inference_settings import InferenceSettings
from medsam3_core.prompts import SlicePrompt
from medsam3_core.sam3.architecture import architecture_from
from medsam3_core.sam3.narrow_tracker import narrow_tracker_config
from medsam3_core.sam3.small import fresh_weights
from medsam3_core.sam3.tiny import tiny_config
from medsam3_core.training.fit_plan import LoopPlan
from medsam3_core.training.lora import LoraPlan
from medsam3_core.training.optimiser import OptimiserPlan
from medsam3_core.training.plans import CohortPlan, QuestionPlan, TrainingPlan, ValidationPlan
from storage.checkpoints import open_segmenter, write_hugging_face
from storage.cohorts import case_refs, latest_cases
from storage.parquet_tables import read_table
from storage.store_layout import StoreLayout, open_store
from storage.table_schemas import TRAINING
from storage.training_manifest import balance_report, build_manifest, select_cases
from storage.weights_registry import find_weights
from tasks import train_weights as unit
from tests.small_store import ingest_here


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
    with pytest.raises(UsageError, match="may not be learned from: the benchmark split holds it"):
        select_cases(store, plan_for(store, cohorts=(CohortPlan("cells", splits=("train", "test")),)))


def test_the_same_case_under_another_name_is_refused_too(store):
    ingest_here(store, "phantom:nuclei,cases=8,size=48x48", "more")  # its train cases are the test cases of `cells`
    with pytest.raises(UsageError, match="may not be learned from: the benchmark split holds it as cells/"):
        select_cases(store, plan_for(store, cohorts=(CohortPlan("more"),)))


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
    from storage.checkpoints import read_weights

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
loop: {{steps: 2, batch: 1, workers: 0, log_every: 1, save_every: 2}}
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
    assert find_weights(store, "together").version == 1


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
