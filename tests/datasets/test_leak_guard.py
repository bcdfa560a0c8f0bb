"""Weights that have seen a case: noted by recipes, marked by our own manifests, said on the leaderboard."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

from flows.leaderboard import inter_rater_rows, leaderboard_rows, print_leaderboard
from medsam3_core.errors import UsageError
from medsam3_core.public_weights import public_names
from storage.ingest_planning import plan_ingest
from storage.leak_guard import mark_manifest, mark_trained_cases
from storage.recipe_files import BUILTIN_FOLDER, load_recipe
from storage.run_planning import BenchmarkRequest
from storage.sql_guard import run_sql
from storage.store_layout import open_store
from storage.weights_registry import find_weights
from tests.datasets import published_2d
from tests.datasets.drawn import blobs
from tests.small_store import benchmark_here, ingest_here


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
    plan = plan_ingest(open_store(tmp_path / "store"), source, "cvpr", "auto", None, "test", 0)
    assert sorted(case.seen_by for case, _ in plan.pending) == [(), (), ("medical-sam3-3d",)]


def test_a_recipe_that_notes_unknown_weights_is_refused(tmp_path) -> None:
    content = yaml.safe_load((BUILTIN_FOLDER / "tn3k.yaml").read_text())
    content["trained_weights"] = [{"weights": "medsam9", "evidence": "a paper"}]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match="no such public weights 'medsam9'; known: sam3, medical-sam3"):
        load_recipe(path)


@pytest.fixture
def marked(tmp_path):
    """TN3K with one training case marked as seen by the box baseline, benchmarked."""
    dataset, store = published_2d.tn3k(tmp_path / "tn3k"), open_store(tmp_path / "store")
    ingest_here(store, str(dataset.folder), "tn3k")
    seen = sorted(case_id for case_id, drawn in dataset.cases.items() if drawn.split == "train")[0]
    manifest = tmp_path / "manifest"
    manifest.mkdir()
    rows = pa.table({"cohort": ["tn3k"] * 2, "case_id": [seen] * 2, "slice": [0, 0]})
    pq.write_table(rows, manifest / "tn3k-train.parquet")
    assert mark_manifest(store, find_weights(store, "baseline:box").sha256, manifest) == 1
    assert mark_manifest(store, find_weights(store, "baseline:box").sha256, manifest) == 0
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
    assert "in the training data of the weights and are left out of all means" in out.getvalue()


def test_a_mark_outlives_a_change_of_the_source(marked) -> None:
    dataset, store, seen = marked
    for path in (dataset.folder / "tn3k" / "trainval-mask").iterdir():
        published_2d.save(path, blobs(77, 1)[0][0].astype("uint8") * 255, quality=98)
    ingest_here(store, str(dataset.folder), "tn3k")
    rows = run_sql(store, "SELECT case_id, in_training FROM cases").to_pylist()
    assert [row["case_id"] for row in rows if row["in_training"]] == [seen]
    assert mark_trained_cases(store, "f" * 64, {"tn3k": [seen]}) == 1


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
