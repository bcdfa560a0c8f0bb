import pandas as pd
import pytest

from dashboards.figures.failure_kinds import kind_of_reason, with_kinds


@pytest.mark.parametrize(
    ("reasons", "kind"),
    [
        (("cannot open /data/a/c1.ozx: No such file", "cannot open /data/b/c2.ozx: No such file"),
         "cannot open …: No such file"),
        (("case id 'c1' exists in this cohort", "case id 'c2' exists in this cohort"),
         "case id … exists in this cohort"),
        (("c1 has shape (3, 40, 48), not (3, 40, 47)", "c2 has shape (5, 41, 48), not (1, 2, 3)"),
         "… has shape (…), not (…)"),
        (("killed its worker twice", "killed its worker twice"), "killed its worker twice"),
        (("slices lie 2.5 mm apart, one 5 mm", "slices lie 3 mm apart, one 6e-1 mm"),
         "slices lie … mm apart, one … mm"),
    ],
)  # fmt: skip
def test_reasons_that_differ_in_what_they_name_are_of_one_kind(reasons, kind):
    assert [kind_of_reason(reason, f"c{number}") for number, reason in enumerate(reasons, 1)] == [kind, kind]


def test_words_with_digits_and_formats_stay():
    assert kind_of_reason("int16 voxels cannot be shown in RGB24", "x") == "int16 voxels cannot be shown in RGB24"


def test_rejected_cases_are_counted_under_ingest_and_a_missing_reason_is_said():
    rows = pd.DataFrame({"reason": ["no mask", None], "case_id": ["a", "b"], "label": [None, "net"]})
    found = with_kinds(rows)
    assert list(found["kind"]) == ["no mask", "no reason was recorded"]
    assert list(found["label"]) == ["ingest", "net"]
