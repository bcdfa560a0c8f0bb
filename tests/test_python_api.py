"""`import medsam3`: the examples of docs/python.md in their order, and what the public functions refuse."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import medsam3
from tests import ROOT

EXAMPLES = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.splitlines()[-1][:40])
def test_an_example_of_the_page_runs(example: str, folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", example], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr


def test_views_are_data_frames_with_every_planned_row(folder: Path) -> None:
    store = medsam3.open_store(folder / "medsam3-store")
    scores = store.view("scores")
    assert len(scores) == len(store.view("plan"))
    assert set(scores["weights"]) == {"baseline:box", "baseline:otsu"}
    with pytest.raises(medsam3.UsageError, match="unknown view 'score'; choose one of: cases"):
        store.view("score")


def test_a_command_that_refuses_raises_its_own_sentence(folder: Path) -> None:
    store = medsam3.open_store(folder / "medsam3-store")
    with pytest.raises(medsam3.UsageError, match=r"'noses'.*eyes"):
        store.benchmark(["noses"], ["baseline:box"], ["box"])


def test_a_model_answers_a_box_by_its_pixels() -> None:
    pixels = np.zeros((40, 50), dtype=np.uint8)
    found = medsam3.load_weights("baseline:box").predict(pixels, boxes=[(10, 5, 30, 25)])
    assert found.mask.sum() == 20 * 20
    assert found.mask[5:25, 10:30].all()
    assert found.boxes_xyxy.tolist() == [[10, 5, 30, 25]]


def test_pixels_of_another_type_are_refused_with_the_remedy() -> None:
    model = medsam3.load_weights("baseline:box")
    with pytest.raises(medsam3.UsageError, match=r"shape \(4, 4\) and type float64; give uint8 of shape"):
        model.predict(np.zeros((4, 4)), boxes=[(0, 0, 2, 2)])


def test_a_prompt_that_the_weights_do_not_accept_is_refused() -> None:
    with pytest.raises(medsam3.UnsupportedPromptError):
        medsam3.load_weights("baseline:box").predict(np.zeros((8, 8), dtype=np.uint8), text="liver")


def test_everything_public_is_documented() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    for name in medsam3.__all__:
        assert getattr(medsam3, name).__doc__
    assert {"open_store", "load_weights", "Medsam3Error", "StoreError"} <= set(re.findall(r"medsam3\.(\w+)", page))
