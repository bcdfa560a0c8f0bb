import subprocess
import sys
from pathlib import Path

import pytest

from medsam3_core.cases.cases import CaseStatus
from medsam3_core.errors import StoreError
from medsam3_core.prompts.policies import PromptPolicy
from medsam3_core.settings.inference import InferenceSettings
from storage.cohorts.cohorts import CaseRef
from storage.runs.ledger import Run, unscored_rows, write_outcomes, write_plan, write_run
from storage.store.atomic import read_json
from storage.store.layout import StoreLayout
from storage.store.schemas import OUTCOMES, PLAN, SCORES
from storage.store.tables import read_table, table_files
from storage.store.writers import writing
from storage.weights.registry import find_weights

HOLD_LOCK = """
import sys, time
from pathlib import Path
from storage.store.writers import writing
from storage.store.layout import StoreLayout
with writing(StoreLayout(Path(sys.argv[1])), ["abc"]):
    print("held", flush=True)
    time.sleep(60)
"""
CASE = CaseRef("ct", "a", "digest", "p", "test", "CT", 3, CaseStatus.ACCEPTED, None, ("anna", "bert"))


def run_on(store: StoreLayout, *, setting: str = "threshold=0.5") -> Run:
    policy = PromptPolicy.parse("box")
    weights = find_weights(store, "baseline:box")
    settings = InferenceSettings.parse([setting])
    return Run(weights, "ct", policy, policy.prompt_id({}), settings, ("liver", "spleen"))


def holder(root: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", HOLD_LOCK, str(root)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_run_that_another_process_writes_is_refused_with_its_number_and_free_after_its_death(
    store: StoreLayout,
) -> None:
    with holder(store.root) as other:
        with (
            pytest.raises(StoreError, match=f"run abc is being written by process {other.pid}; wait for it or stop it"),
            writing(store, ["other", "abc"]),
        ):
            pass
        with writing(store, ["other"]):  # the refusal let go of what it had taken
            pass
        other.kill()  # SIGKILL: nobody cleans up
        other.wait()
        with writing(store, ["abc"]):
            pass


def test_a_lock_is_free_again_after_its_block(store: StoreLayout) -> None:
    for _ in range(2):
        with writing(store, ["abc", "abc"]):
            pass


def test_a_run_is_recorded_once_with_versions_and_machine(store: StoreLayout) -> None:
    run = run_on(store)
    write_run(store, run)
    first = store.run_json(run.run_id).read_bytes()
    write_run(store, run)
    assert store.run_json(run.run_id).read_bytes() == first
    facts = read_json(store.run_json(run.run_id))
    assert facts["prompt"] == "box:jitter=0,per=auto,slices=all"
    assert "torch" in facts["versions"]
    assert facts["privileged"] is True


def test_the_name_of_a_run_follows_from_what_can_change_a_number(store: StoreLayout) -> None:
    assert run_on(store).run_id == run_on(store).run_id
    assert run_on(store).run_id != run_on(store, setting="threshold=0.4").run_id


def test_a_case_without_score_ends_as_a_row_per_rater_and_structure_and_one_outcome(store: StoreLayout) -> None:
    run = run_on(store)
    scores, outcome = unscored_rows(run, CASE, "attempt", CaseStatus.CRASHED, "killed its worker twice")
    assert [(row["rater"], row["structure"]) for row in scores] == [
        ("anna", "liver"), ("anna", "spleen"), ("bert", "liver"), ("bert", "spleen"),
    ]  # fmt: skip
    assert {row["status"] for row in (*scores, outcome)} == {"crashed"}
    assert {row["reason"] for row in (*scores, outcome)} == {"killed its worker twice"}


def test_committing_an_attempt_twice_gives_the_same_rows(store: StoreLayout) -> None:
    run = run_on(store)
    scores, outcome = unscored_rows(run, CASE, "attempt", CaseStatus.FAILED, "x")
    for _ in range(2):
        write_outcomes(store, run.run_id, "attempt", scores, [outcome])
    assert read_table(store.scores(run.run_id), SCORES).num_rows == 4
    assert read_table(store.outcomes(run.run_id), OUTCOMES).num_rows == 1


def test_scores_without_outcome_leave_the_ledger_as_it_was(store: StoreLayout) -> None:
    run = run_on(store)
    scores, _ = unscored_rows(run, CASE, "attempt", CaseStatus.FAILED, "x")
    write_outcomes(store, run.run_id, "rescored", scores, [])
    assert table_files(store.outcomes(run.run_id)) == []


def test_the_plan_grows_by_files(store: StoreLayout) -> None:
    run = run_on(store)
    write_plan(store, run, [("a", "anna", "liver")])
    write_plan(store, run, [("b", "anna", "liver")])
    assert sorted(read_table(store.plan(run.run_id), PLAN)["case_id"].to_pylist()) == ["a", "b"]
