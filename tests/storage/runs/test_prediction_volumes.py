from pathlib import Path

import numpy as np
import pytest
from ome_zarr_models.v05.image_label import ImageLabel

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.errors import StoreError
from storage.runs.predictions import PredictionWriter, open_prediction

SHAPE = (3, 10, 12)
GEOMETRY = VolumeGeometry.from_nifti(SHAPE, np.diag([0.7, 0.7, 3.0, 1.0]))


def two_tumours() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint16)
    labels[0, :2, :2] = 1
    labels[2, 5:, 5:] = 2
    return labels


def written(path: Path, shape: tuple[int, int, int] = SHAPE) -> Path:
    writer = PredictionWriter(GEOMETRY, ("liver", "tumour"), {"run_id": "r", "attempt": "a"})
    writer.add("liver", np.zeros(shape, np.uint16), ())
    writer.add("tumour", two_tumours(), (0.9, 0.123456789))
    writer.write(path)
    return path


def test_labels_scores_geometry_and_provenance_come_back(tmp_path: Path) -> None:
    stored = open_prediction(written(tmp_path / "case.ozx"))
    assert stored.structures == ("liver", "tumour")
    assert list(stored) == ["liver", "tumour"]
    np.testing.assert_array_equal(stored.labels("tumour"), two_tumours())
    assert stored.labels("tumour").dtype == np.uint16
    assert stored.scores("tumour") == (0.9, 0.123457)
    assert stored.geometry() == GEOMETRY
    assert stored.provenance == {"run_id": "r", "attempt": "a"}


def test_a_structure_that_was_asked_for_and_not_found_is_empty(tmp_path: Path) -> None:
    stored = open_prediction(written(tmp_path / "case.ozx"))
    assert not stored.labels("liver").any()
    assert stored.scores("liver") == ()


def test_every_label_image_is_valid_for_foreign_models_of_the_format(tmp_path: Path) -> None:
    stored = open_prediction(written(tmp_path / "case.ozx"))
    for structure in stored:
        ImageLabel.from_zarr(stored.group[f"labels/{structure}"])


def test_a_structure_that_was_not_asked_for_is_a_key_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="spleen"):
        open_prediction(written(tmp_path / "case.ozx")).labels("spleen")


def test_a_newer_prediction_replaces_the_older_one(tmp_path: Path) -> None:
    path = written(tmp_path / "case.ozx")
    writer = PredictionWriter(GEOMETRY, ("liver",), {"attempt": "b"})
    writer.add("liver", np.ones(SHAPE, np.uint16), (0.5,))
    writer.write(path)
    stored = open_prediction(path)
    assert (stored.structures, stored.provenance) == (("liver",), {"attempt": "b"})
    assert list(tmp_path.iterdir()) == [path]


def test_a_prediction_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot open .*absent\.ozx.*segment the case again"):
        open_prediction(tmp_path / "absent.ozx")
