import numpy as np
import pytest
from click.testing import CliRunner

from flows.cli.answers.compare import parse_margins
from flows.cli.entry import cli
from medsam3_core.errors import UsageError
from storage.comparisons.comparison import ComparisonRequest, Verdict, compare_weights
from storage.comparisons.words import comparison_notes, comparison_sentences
from storage.store.layout import StoreLayout
from tests.stores.planted import plant_cohort, plant_run

STRUCTURES = ("aorta", "liver", "spleen")


def scores_around(mean, cases, seed):
    return mean + np.random.default_rng(seed).normal(0, 0.02, cases)


def store_with_planted_regression(root, patients=30):
    store = StoreLayout(root)
    cases = plant_cohort(store, "abdomen", patients, STRUCTURES)
    base = {name: scores_around(0.8, patients, seed) for seed, name in enumerate(STRUCTURES)}
    noise = {name: scores_around(0.0, patients, 10 + seed) for seed, name in enumerate(STRUCTURES)}
    plant_run(store, cases, "old", lambda name: base[name])
    plant_run(store, cases, "new", lambda name: base[name] + noise[name] - (0.05 if name == "spleen" else 0.0))
    return store


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return store_with_planted_regression(tmp_path_factory.mktemp("planted"))


def compare_in_shell(store, *arguments):
    return CliRunner().invoke(cli, ["compare", *arguments, "--store", str(store.root)], env={"COLUMNS": "100"})


def test_a_structure_made_worse_by_five_hundredths_is_found_and_named(planted):
    found = compare_weights(planted, ComparisonRequest("old", "new"))
    assert [item.structure for item in found.regressions] == ["spleen"]
    assert found.regressions[0].numbers.difference == pytest.approx(-0.05, abs=0.01)
    assert "REGRESSION: new is worse than old on spleen (abdomen, box: dice -0.0" in comparison_sentences(found)[0]


def test_the_shell_exits_with_3_on_a_regression_only_if_asked(planted):
    assert compare_in_shell(planted, "old", "new").exit_code == 0
    answer = compare_in_shell(planted, "old", "new", "--fail-on-regression")
    assert answer.exit_code == 3
    assert "REGRESSION" in answer.stdout
    assert max(map(len, answer.stdout.splitlines())) <= 100


def test_a_margin_tolerates_a_regression_that_is_smaller(planted):
    assert compare_in_shell(planted, "old", "new", "--fail-on-regression", "--margin", "dice=0.1").exit_code == 0
    assert compare_in_shell(planted, "old", "new", "--fail-on-regression", "--margin", "dice=0.01").exit_code == 3


def test_improvement_is_not_a_regression(planted):
    found = compare_weights(planted, ComparisonRequest("new", "old"))
    assert not found.regressions
    assert {item.structure: item.verdict for item in found.structures}["spleen"] is Verdict.BETTER


def test_a_run_does_not_differ_from_itself(planted):
    found = compare_weights(planted, ComparisonRequest("old", "old", metrics=("dice", "hd95")))
    assert {item.verdict for item in found.structures} == {Verdict.IDENTICAL}
    assert found.worst.empty


@pytest.mark.parametrize("metric", ["dice", "hd95"])
@pytest.mark.parametrize(("base", "new"), [("old", "new"), ("new", "old")])
def test_nothing_is_shown_where_most_patients_and_the_mean_disagree(tmp_path, base, new, metric):
    store = StoreLayout(tmp_path)
    cases = plant_cohort(store, "abdomen", 22, ("liver",))
    changed = 0.3 + np.array([-0.01 - 0.001 * patient for patient in range(20)] + [0.5, 0.6])
    plant_run(store, cases, "old", lambda _: 0.3)
    plant_run(store, cases, "new", lambda _: changed)
    (item,) = compare_weights(store, ComparisonRequest(base, new, metrics=(metric,))).structures
    assert item.adjusted_p < 0.01
    assert item.verdict is Verdict.NOT_SHOWN
    said = comparison_sentences(compare_weights(store, ComparisonRequest(base, new, metrics=(metric,))))
    assert said[1].startswith("Most patients and the mean disagree, so neither is shown: liver (abdomen, box:")


def test_pairs_that_differ_are_not_identical_although_every_patient_is_equal(tmp_path):
    store = StoreLayout(tmp_path)
    cases = plant_cohort(store, "eyes", 8, ("disc",), per_patient=2)
    plant_run(store, cases, "old", lambda _: 0.5)
    plant_run(store, cases, "new", lambda _: 0.5 + np.tile([0.1, -0.1], 8))
    (item,) = compare_weights(store, ComparisonRequest("old", "new")).structures
    assert (item.numbers.ties, item.verdict) == (8, Verdict.TOO_FEW)


def test_distances_get_worse_upwards(planted):
    found = compare_weights(planted, ComparisonRequest("old", "new", metrics=("hd95",)))
    assert [item.structure for item in found.regressions] == ["spleen"]
    assert found.regressions[0].unit == "mm"
    assert found.regressions[0].numbers.difference > 0


@pytest.mark.parametrize("failed_in", ["old", "new"])
def test_distances_have_their_unit_although_the_first_case_failed(tmp_path, failed_in):
    store = StoreLayout(tmp_path)
    cases = plant_cohort(store, "abdomen", 12, ("liver",))
    failed = {failed_in: {"case_0000_0"}}
    for weights, dice in (("old", 0.8), ("new", 0.7)):
        plant_run(store, cases, weights, lambda _, dice=dice: dice, failed=failed.get(weights, ()))
    found = compare_weights(store, ComparisonRequest("old", "new", metrics=("hd95",)))
    assert (found.structures[0].unit, found.structures[0].numbers.undefined) == ("mm", 1)
    assert set(found.pairs["distance_unit"]) == {"mm"}
    assert "hd95 +1.000 mm" in comparison_sentences(found)[0]


def test_what_is_in_mm_and_in_px_is_not_compared_and_dice_is(tmp_path):
    store = StoreLayout(tmp_path)
    cases = plant_cohort(store, "abdomen", 12, ("liver", "spleen"))
    for weights, dice in (("old", 0.8), ("new", 0.7)):
        plant_run(store, cases, weights, lambda _, dice=dice: dice, px={"case_0003_0"})
    found = compare_weights(store, ComparisonRequest("old", "new", metrics=("dice", "nsd", "hd95")))
    verdicts = {(item.metric, item.unit, item.verdict) for item in found.structures}
    assert verdicts == {("dice", "", Verdict.WORSE), ("nsd", "", Verdict.NO_PAIRS), ("hd95", "", Verdict.NO_PAIRS)}
    notes = comparison_notes(found)
    listed = "liver (abdomen, box), spleen (abdomen, box)"
    assert f"No nsd and no hd95 of {listed}: some cases are in mm and others in px." in notes
    assert not any("nothing drawn" in note for note in notes)


def test_the_ten_worst_regressions_come_worst_first_with_their_cases(planted):
    worst = compare_weights(planted, ComparisonRequest("old", "new")).worst
    assert len(worst) == 10
    assert worst["loss"].is_monotonic_decreasing
    assert worst["case_id"].str.startswith("case_").all()


def test_failures_of_new_count_as_zero_and_are_told(tmp_path):
    store = StoreLayout(tmp_path)
    cases = plant_cohort(store, "abdomen", 12, ("liver",))
    plant_run(store, cases, "old", lambda _: 0.8)
    plant_run(store, cases, "new", lambda _: 0.8, failed={case["case_id"] for case in cases[:8]})
    found = compare_weights(store, ComparisonRequest("old", "new"))
    assert found.structures[0].new_failed == 8
    assert found.structures[0].numbers.new_mean == pytest.approx(0.8 * 4 / 12)
    assert found.structures[0].verdict is Verdict.WORSE
    assert any("BASE 0, NEW 8" in note for note in comparison_notes(found))


def test_cases_without_the_structure_are_counted_and_left_out_of_means(tmp_path):
    store = StoreLayout(tmp_path)
    cases = plant_cohort(store, "abdomen", 8, ("liver",))
    plant_run(store, cases, "old", lambda _: 0.0, empty="reference")
    plant_run(store, cases, "new", lambda _: 0.0, empty="reference")
    found = compare_weights(store, ComparisonRequest("old", "new")).structures[0]
    assert (found.absent, found.base_false_alarms, found.verdict) == (8, 8, Verdict.NO_PAIRS)


def test_too_few_patients_are_said_instead_of_a_p_value(tmp_path):
    store = StoreLayout(tmp_path)
    cases = plant_cohort(store, "eyes", 3, ("disc",), per_patient=2)
    plant_run(store, cases, "old", lambda _: np.linspace(0.80, 0.85, 6))
    plant_run(store, cases, "new", lambda _: np.linspace(0.70, 0.76, 6))
    answer = compare_in_shell(store, "old", "new", "--fail-on-regression")
    assert answer.exit_code == 0
    said = " ".join(answer.stdout.split())
    assert said.startswith("Nothing can be said about a regression of new against old: no structure was tested.")
    assert "Too few patients to test disc" in answer.stdout
    assert "the test needs 6" in said


def test_weights_without_a_common_run_list_what_could_be_compared(planted):
    with pytest.raises(UsageError, match=r"no scored run in common.*\n  new@1 old@1  \(abdomen\)"):
        compare_weights(planted, ComparisonRequest("old", "other"))
    with pytest.raises(UsageError, match="on brain"):
        compare_weights(planted, ComparisonRequest("old", "new", cohorts=("brain",)))


def test_unknown_metrics_margins_and_versions_are_refused(planted):
    with pytest.raises(UsageError, match="unknown metric 'psnr'; choose among: dice"):
        ComparisonRequest("old", "new", metrics=("psnr",))
    with pytest.raises(UsageError, match="margin for nsd, which is not compared"):
        ComparisonRequest("old", "new", margins={"nsd": 0.1})
    with pytest.raises(UsageError, match="'dice' is not METRIC=NUMBER"):
        parse_margins(["dice"])
    with pytest.raises(UsageError, match="NAME@N with a whole number"):
        compare_weights(planted, ComparisonRequest("old@one", "new"))


def test_equal_random_runs_are_called_a_regression_at_most_one_time_in_twenty(tmp_path, monkeypatch):
    monkeypatch.setattr("storage.comparisons.comparison.compare_pairs", _without_many_resamples)
    store = StoreLayout(tmp_path)
    rounds = 40
    for number in range(rounds):
        cases = plant_cohort(store, f"c{number}", 20, STRUCTURES)
        for weights in ("a", "b"):
            seeds = {name: [number, place, ord(weights)] for place, name in enumerate(STRUCTURES)}
            plant_run(store, cases, weights, lambda name, seeds=seeds: scores_around(0.8, 20, seeds[name]))
    found = compare_weights(store, ComparisonRequest("a", "b"))
    alarms = len({item.cohort for item in found.regressions})
    assert alarms / rounds <= 0.05


def _without_many_resamples(*arguments, **options):
    from medsam3_core.metrics.statistics import compare_pairs

    return compare_pairs(*arguments, **options, resamples=10)
