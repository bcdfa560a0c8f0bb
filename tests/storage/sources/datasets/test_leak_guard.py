"""Weights that have seen a case: noted by recipes, marked by our own manifests, said on the leaderboard."""

import io
import shutil
from dataclasses import replace

import pytest
import yaml
from rich.console import Console

from flows.cli.answers.leaderboard import inter_rater_rows, leaderboard_rows, print_leaderboard
from medsam3_core.errors import UsageError
from medsam3_core.prompts.policies import PromptPolicy
from medsam3_core.public_weights import public_names
from medsam3_core.settings.inference import InferenceSettings
from storage.catalog.guard import run_sql
from storage.cohorts.cohorts import case_refs, latest_cases
from storage.ingest.plan import IngestRequest, plan_ingest
from storage.runs.ledger import Run, score_row, write_run
from storage.runs.requests import BenchmarkRequest
from storage.sources.listing.recipes import builtin_files, load_recipe
from storage.sources.registry import find_reader
from storage.store.layout import open_store
from storage.training.marks import mark_training_cases
from storage.weights.registry import find_weights
from tasks.ingest import IngestBatch, PendingCase
from tasks.stream.breadcrumbs import BreadcrumbFolder
from tasks.stream.work import run_batch
from tests.storage.sources.datasets import published_2d
from tests.storage.sources.datasets.drawn import blobs, textured
from tests.stores.small import benchmark_here, ingest_here


@pytest.mark.parametrize(
    ("sha256", "source", "name", "expected"),
    [
        ("ab" * 32, "hf://chongcong/Medical-SAM3/checkpoint.pt", "mine", {"medical-sam3"}),
        ("6e40bbaa" + "0" * 56, "/data/checkpoint_3D.pt", "mine", {"medical-sam3-3d"}),
        ("ab" * 32, "/data/sam3.pt", "sam3", {"sam3"}),
        ("ab" * 32, "hf://chongcong/Medical-SAM3-fork", "mine", set()),
    ],
)
def test_public_weights_are_known_by_digest_repository_or_name(sha256, source, name, expected) -> None:
    assert public_names(sha256, source, name) == expected


def test_a_recipe_notes_the_weights_on_the_splits_that_they_saw(field_tables) -> None:
    noted = {row["case_id"]: row["in_training"] for row in field_tables["cases"] if row["cohort"] == "cvpr_biomedsegfm"}
    assert sorted(noted.values()) == [[], [], ["medical-sam3-3d"]]
    assert next(case_id for case_id, weights in noted.items() if weights).startswith("train-")


def test_another_split_at_ingest_hides_no_training_case(every_dataset, tmp_path) -> None:
    source = str(every_dataset["cvpr_biomedsegfm"].folder)
    plan = plan_ingest(open_store(tmp_path / "store"), IngestRequest(source, "cvpr", split="test"))
    assert sorted(case.seen_by for case, _ in plan.pending) == [(), (), ("medical-sam3-3d",)]


def test_a_recipe_that_notes_unknown_weights_is_refused(tmp_path) -> None:
    content = yaml.safe_load(builtin_files()["tn3k"].read_text())
    content["trained_weights"] = [{"weights": "medsam9", "evidence": "a paper"}]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match="unknown public weights 'medsam9'; choose one of sam3, medical-sam3"):
        load_recipe(path)


def cases_named(store, cohort, *case_ids):
    return [case for case in case_refs(latest_cases(store, cohort)) if case.case_id in case_ids]


def box_sha256(store):
    return find_weights(store, "baseline:box").sha256


@pytest.fixture
def marked(tmp_path):
    """TN3K with one training case marked as seen by the box baseline, benchmarked."""
    dataset, store = published_2d.tn3k(tmp_path / "tn3k"), open_store(tmp_path / "store")
    ingest_here(store, str(dataset.folder), "tn3k")
    seen = sorted(case_id for case_id, drawn in dataset.cases.items() if drawn.split == "train")[0]
    assert mark_training_cases(store, cases_named(store, "tn3k", seen), box_sha256(store)) == 1
    assert mark_training_cases(store, cases_named(store, "tn3k", seen), box_sha256(store)) == 0
    benchmark_here(store, BenchmarkRequest(("tn3k",), ("baseline:box",), ("box",), split="all"))
    return dataset, store, seen


def test_scores_on_training_cases_are_marked_and_left_out_of_means(marked) -> None:
    dataset, store, seen = marked
    scores = {row["case_id"]: row for row in run_sql(store, "SELECT * FROM scores").to_pylist()}
    assert [case_id for case_id, row in scores.items() if row["in_training"]] == [seen]
    (row,) = [row for row in leaderboard_rows(store) if row["split"] == "train"]
    assert (row["scored"], row["in_training"], row["present"]) == (2, 1, 1)
    (other,) = [case_id for case_id, drawn in dataset.cases.items() if drawn.split == "train" and case_id != seen]
    assert row["dice_mean"] == pytest.approx(scores[other]["dice"])


def test_the_printed_leaderboard_says_so(marked) -> None:
    _, store, _ = marked
    out = io.StringIO()
    print_leaderboard(leaderboard_rows(store), Console(file=out, width=120))
    assert "t1" in out.getvalue()
    assert "in the training data of the weights and are excluded from all means" in out.getvalue()


def test_a_mark_outlives_a_change_of_the_source(marked) -> None:
    dataset, store, seen = marked
    for path in (dataset.folder / "tn3k" / "trainval-mask").iterdir():
        published_2d.save(path, blobs(77, 1)[0][0].astype("uint8") * 255, quality=98)
    ingest_here(store, str(dataset.folder), "tn3k")
    rows = run_sql(store, "SELECT case_id, in_training FROM cases").to_pylist()
    assert [row["case_id"] for row in rows if row["in_training"]] == [seen]
    assert mark_training_cases(store, cases_named(store, "tn3k", seen), "f" * 64) == 1


def marked_in(store, cohort):
    return {case.case_id for case in case_refs(latest_cases(store, cohort)) if box_sha256(store) in case.in_training}


def test_the_same_image_in_a_cohort_that_comes_later_is_marked_whatever_its_layout(marked, tmp_path) -> None:
    dataset, store, seen = marked
    layout, recipe = find_reader(str(dataset.folder))
    (case,) = [case for case in layout.list_cases(dataset.folder, recipe) if case.case_id == seen]
    published_2d.save(tmp_path / "plain" / "images" / "other.png", textured(78))
    shutil.copyfile(dataset.folder / case.image[0], tmp_path / "plain" / "images" / "copy.jpg")
    for name in ("copy", "other"):
        published_2d.save(tmp_path / "plain" / "masks" / f"{name}.png", blobs(78, 1)[0][0].astype("uint8") * 255)
    ingest_here(store, str(tmp_path / "plain"), "plain")
    assert marked_in(store, "plain") == {"copy"}
    benchmark_here(store, BenchmarkRequest(("plain",), ("baseline:box",), ("box",), split="all"))
    (row,) = [row for row in leaderboard_rows(store) if row["cohort"] == "plain"]
    assert (row["planned"], row["scored"], row["in_training"], row["present"]) == (2, 2, 1, 1)


def test_another_image_of_a_patient_that_was_learned_from_is_marked_when_it_comes(tmp_path) -> None:
    store, dataset = open_store(tmp_path / "store"), published_2d.chase_db1(tmp_path / "chase")
    ingest_here(store, str(dataset.folder), "chase", limit=1)
    assert mark_training_cases(store, cases_named(store, "chase", "Image_01L"), box_sha256(store)) == 1
    ingest_here(store, str(dataset.folder), "chase")
    assert marked_in(store, "chase") == {"Image_01L", "Image_01R"}  # two eyes, one patient; 13L is another
    for path in dataset.folder.glob("Image_01R*"):
        shutil.copyfile(path, dataset.folder / path.name.replace("01R", "14R"))
    ingest_here(store, str(dataset.folder), "again")
    assert marked_in(store, "again") == {"Image_01L", "Image_01R"}  # a copy of 01R was not learned from


def test_cases_that_an_ingest_left_when_it_died_are_marked_by_the_next_one(tmp_path) -> None:
    store, dataset = open_store(tmp_path / "store"), published_2d.chase_db1(tmp_path / "chase")
    ingest_here(store, str(dataset.folder), "chase", limit=1)
    mark_training_cases(store, cases_named(store, "chase", "Image_01L"), box_sha256(store))
    plan = plan_ingest(store, IngestRequest(str(dataset.folder), "chase"))
    work = IngestBatch(store, "chase", plan.cohort.recipe, plan.source_root)
    run_batch(
        work, "died", BreadcrumbFolder(store.breadcrumbs() / "ingest"), [PendingCase(*one) for one in plan.pending]
    )
    assert marked_in(store, "chase") == {"Image_01L"}
    assert not ingest_here(store, str(dataset.folder), "chase").pending
    assert marked_in(store, "chase") == {"Image_01L", "Image_01R"}


def test_a_case_that_is_learned_from_after_it_was_scored_leaves_the_means(marked) -> None:
    dataset, store, seen = marked
    (later,) = [case_id for case_id, drawn in dataset.cases.items() if drawn.split == "train" and case_id != seen]
    mark_training_cases(store, cases_named(store, "tn3k", later), box_sha256(store))
    (row,) = [row for row in leaderboard_rows(store) if row["split"] == "train"]
    assert (row["scored"], row["in_training"], row["present"], row["dice_mean"]) == (2, 2, 0, None)


def test_a_run_records_all_marks_that_mean_its_weights(marked) -> None:
    _, store, _ = marked
    weights = replace(find_weights(store, "baseline:box"), parents=("mine@2:" + "1" * 64, "sam3@1:" + "2" * 64))
    policy = PromptPolicy.parse("box")
    write_run(store, Run(weights, "tn3k", policy, "other", InferenceSettings.parse([]), ("nodule",)))
    rows = run_sql(store, "SELECT weights_identities FROM runs WHERE prompt_id = 'other'").to_pylist()
    assert rows == [{"weights_identities": sorted(weights.identities)}]
    assert {"mine", "sam3", "1" * 64, "2" * 64, weights.sha256} < weights.identities


def test_marks_reach_cohorts_that_are_in_the_store_already(marked) -> None:
    dataset, store, seen = marked
    ingest_here(store, str(dataset.folder), "twin")
    assert mark_training_cases(store, cases_named(store, "tn3k", seen), "e" * 64) == 2
    (twin,) = cases_named(store, "twin", seen)
    assert set(twin.in_training) == {box_sha256(store), "e" * 64}


@pytest.mark.parametrize(
    ("about", "seen"),
    [
        ({"name": "medical-sam3-3d"}, True),
        ({"sha256": "6e40bbaa" + "0" * 56}, True),
        ({"name": "medical-sam3"}, False),
        ({"parents": ("mine@2:" + "1" * 64, "medical-sam3-3d@1:" + "2" * 64)}, True),
        ({"parents": ("medical-sam3@1:" + "2" * 64,)}, False),
    ],
)
def test_scores_of_public_weights_and_their_descendants_are_marked_on_noted_cases(field_store, about, seen) -> None:
    (case,) = [case for case in case_refs(latest_cases(field_store, "cvpr_biomedsegfm")) if case.split == "train"]
    weights = replace(find_weights(field_store, "baseline:box"), **about)
    policy = PromptPolicy.parse("box")
    run = Run(weights, case.cohort, policy, policy.prompt_id({}), InferenceSettings.parse([]), ("liver",))
    assert score_row(run, case, "attempt", "reference", "liver")["in_training"] is seen


def test_the_inter_rater_line_is_the_dice_of_the_two_drawn_references(field_store, every_dataset) -> None:
    found = inter_rater_rows(field_store)
    lines = {(row["cohort"], row["split"]): row for row in found if row["structure"] == "vessel"}
    drawn = every_dataset["stare"].cases.values()
    masks = [(case.mask("vessel", "ah"), case.mask("vessel", "vk")) for case in drawn]
    dice = [2 * float((a & b).sum()) / float(a.sum() + b.sum()) for a, b in masks]
    row = lines["stare", None]
    assert (row["rater"], row["other_rater"], row["cases"]) == ("ah", "vk", 2)
    assert (row["dice_mean"], row["dice_max"]) == pytest.approx((sum(dice) / 2, max(dice)))
    assert lines["chase_db1", "train"]["cases"] == 2
    out = io.StringIO()
    print_leaderboard(leaderboard_rows(field_store), Console(file=out, width=120), inter_rater_rows(field_store))
    assert f"inter-rater, vessel: vk against ah, Dice {row['dice_mean']:.3f}" in out.getvalue()
