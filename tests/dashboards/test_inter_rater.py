"""Two people who drew the same structure, scored against each other."""

import numpy as np
import pandas as pd
import pytest

from dashboards.figures.inter_rater import inter_rater_scores
from medsam3_core.cases.cases import CaseVolume
from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.cases.recipes import Recipe
from medsam3_core.cases.structures import LabelEntry, LabelMap, Structure
from storage.cohorts.cohorts import Cohort, write_cohort
from storage.cohorts.volumes import write_case_volume


def columns(start, stop, geometry, rater):
    voxels = np.zeros(geometry.shape_zyx, dtype=np.uint8)
    voxels[:, :, start:stop] = 1
    return LabelMap(voxels, geometry, (LabelEntry(1, "vessel"),), rater)


def test_the_second_rater_is_scored_against_the_first(store):
    recipe = Recipe("eyes", "phantom", (Structure("vessel", "vessel"),), "fundus", "identity")
    write_cohort(store, Cohort("eyes", recipe, ("x",)))
    geometry = VolumeGeometry.pixel_grid((1, 8, 20))
    voxels = np.zeros((1, 8, 20), dtype=np.uint8)
    maps = (columns(0, 10, geometry, "first"), columns(5, 15, geometry, "second"))
    write_case_volume(store.volume("eyes", "a", zipped=True), "a", CaseVolume(voxels, geometry, maps, "fundus"))
    cases = pd.DataFrame(
        [
            {"cohort": "eyes", "case_id": "a", "ndim": 2, "raters": ["first", "second"]},
            {"cohort": "eyes", "case_id": "b", "ndim": 2, "raters": ["first"]},
        ]
    )
    found = inter_rater_scores(store, cases)
    assert found[["structure", "cases"]].to_numpy().tolist() == [["vessel", 1]]
    assert found["dice"].tolist() == pytest.approx([0.5])


def test_a_cohort_with_one_rater_has_no_line(store):
    cases = pd.DataFrame([{"cohort": "eyes", "case_id": "b", "ndim": 2, "raters": ["first"]}])
    assert inter_rater_scores(store, cases).empty
