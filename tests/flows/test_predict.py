"""`medsam3 predict` through the real command line, on small untrained weights and on the golden checkpoints."""

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.command_line import Medsam3, command_line
from tests.core.sam3.golden import GOLDEN, LAYOUTS, ROUNDING, detector_io, tracker_io
from tests.core.sam3.segmenters import phantom

AFFINE = np.array([[-1.5, 0.1, 0, 20], [0.1, 1.5, 0, -30], [0, 0, 3, 5], [0, 0, 0, 1]], dtype=float)
FP32 = ("--set", "dtype=fp32")


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("predict") / "store"


@pytest.fixture
def medsam3(shared_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Medsam3:
    torch.set_num_threads(1)
    return command_line(shared_store, monkeypatch, capsys)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "phantom.png"
    Image.fromarray(phantom(1)).save(path)
    return path


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five slices of 40 x 48 pixels, 12 bits, oblique."""
    path = tmp_path_factory.mktemp("volume") / "volume.nii.gz"
    slices = np.stack([phantom(2, (40, 48))[..., 0] for _ in range(5)]).astype(np.int16) * 8
    nib.save(nib.Nifti1Image(slices.transpose(2, 1, 0), AFFINE), path)
    return path


def arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    with np.load(path) as content:
        return dict(content)


# ---- What is written ----


def test_a_text_gives_all_instances_as_arrays(medsam3: Medsam3, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.npz"
    done = medsam3("predict", picture, "--weights", "tiny-untrained", "--text", "liver", "--out", out)
    assert done.out.strip() == str(out)
    found = arrays(out)
    count = len(found["scores"])
    assert count > 1
    assert (found["masks"].shape, found["masks"].dtype) == ((count, 120, 160), bool)
    assert found["boxes"].shape == (count, 4)
    assert (found["boxes"][:, 2:] >= found["boxes"][:, :2]).all()
    assert (found["scores"] > 0.5).all()
    assert f"{count} instances" in done.err


def test_a_merge_that_is_asked_for_decides_what_is_written(medsam3: Medsam3, picture: Path, tmp_path: Path) -> None:
    scores = {}
    for merge in ("union", "top"):
        out = tmp_path / f"{merge}.npz"
        words = ("--text", "liver", "--set", f"merge={merge}")
        medsam3("predict", picture, "--weights", "tiny-untrained", *words, "--out", out)
        scores[merge] = arrays(out)["scores"].tolist()
    assert len(scores["union"]) > 1
    assert scores["top"] == [max(scores["union"])]


def test_a_threshold_of_one_side_of_all_scores_keeps_more_or_nothing(
    medsam3: Medsam3, picture: Path, tmp_path: Path
) -> None:
    counts = []
    for threshold in (0.05, 0.5, 0.999):
        out = tmp_path / f"{threshold}.npz"
        medsam3(
            "predict", picture, "--weights", "tiny-untrained", "--text", "liver", "--threshold", threshold, "--out", out
        )
        counts.append(len(arrays(out)["scores"]))
    assert counts[0] >= counts[1] > counts[2] == 0


def test_every_text_is_a_prompt_of_its_own(medsam3: Medsam3, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "both.npz"
    medsam3("predict", picture, "--weights", "tiny-untrained", "--text", "liver", "--text", "polyp", "--out", out)
    found = arrays(out)
    assert found["prompts"].tolist() == ["liver", "polyp"]
    assert set(found["prompt"].tolist()) == {0, 1}


def test_counter_examples_change_the_answer(medsam3: Medsam3, picture: Path, tmp_path: Path) -> None:
    scores = []
    for extra in ((), ("--box", "100,10,150,60,-")):
        out = tmp_path / f"{len(extra)}.npz"
        medsam3("predict", picture, "--weights", "tiny-untrained", "--box", "40,30,110,90", *extra, "--out", out)
        scores.append(arrays(out)["scores"])
    assert len(scores[0]) != len(scores[1]) or not np.allclose(scores[0], scores[1], atol=1e-4)


def test_a_picture_shows_instances_and_prompts_in_their_colours(
    medsam3: Medsam3, picture: Path, tmp_path: Path
) -> None:
    out = tmp_path / "shown.png"
    medsam3("predict", picture, "--weights", "baseline:box", "--box", "40,30,110,90", "--out", out)
    shown = np.asarray(Image.open(out))
    assert shown.shape[1] > 700
    assert (shown.reshape(-1, 3) == (0, 200, 255)).all(axis=1).any()  # outline and legend of the first instance
    assert (shown.reshape(-1, 3) == (255, 255, 255)).all(axis=1).any()  # the prompt's box


def test_a_slice_of_a_volume_becomes_a_label_map_with_the_affine_of_the_input(
    medsam3: Medsam3, volume: Path, tmp_path: Path
) -> None:
    out = tmp_path / "labels.nii.gz"
    words = ("--box", "4,6,20,30", "--box", "30,6,40,12", "--slice", "3")
    done = medsam3("predict", volume, "--weights", "baseline:box", *words, "--out", out)
    written = nib.load(out)
    np.testing.assert_array_equal(written.affine, nib.load(volume).affine)
    labels = np.asarray(written.dataobj).transpose(2, 1, 0)
    assert np.flatnonzero(labels.any(axis=(1, 2))).tolist() == [3]
    assert (labels == 1).sum() == 16 * 24
    assert (labels[3, 6:30, 4:20] == 1).all()
    assert (labels == 2).sum() == 10 * 6
    assert "segmenting only slice 3, the other slices stay 0: baseline:box has neither a tracker nor" in done.err
    assert "window percentile:0.5,99.5" in done.err


def test_a_label_map_of_a_volume_in_micrometres_is_in_micrometres(medsam3: Medsam3, tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((40, 36, 4), np.int16), np.diag([500.0, 500, 2000, 1]))
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "volume.nii")
    words = ("--weights", "baseline:box", "--box", "4,6,20,30", "--slice", "3")
    medsam3("predict", tmp_path / "volume.nii", *words, "--out", tmp_path / "labels.nii.gz")
    written = nib.load(tmp_path / "labels.nii.gz")
    assert written.header.get_xyzt_units()[0] == "micron"
    np.testing.assert_array_equal(written.affine, image.affine)


def test_numbers_of_instances_on_the_same_place_stand_side_by_side() -> None:
    from storage.exports.instance_overlays import _beside

    taken: list[tuple[float, float]] = []
    for wanted in ((50.0, 50.0), (49.0, 51.0), (90.0, 50.0), (50.0, 90.0)):
        taken.append(_beside(wanted, taken))
    assert taken == [(50.0, 50.0), (72.0, 51.0), (94.0, 50.0), (50.0, 90.0)]


def test_a_picture_becomes_a_label_map_too(medsam3: Medsam3, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.nii.gz"
    medsam3("predict", picture, "--weights", "baseline:box", "--box", "4,6,20,30", "--out", out)
    assert np.asarray(nib.load(out).dataobj).sum() == 16 * 24


def test_an_image_of_one_pixel_is_answered(medsam3: Medsam3, tmp_path: Path) -> None:
    Image.fromarray(np.full((1, 1, 3), 90, np.uint8)).save(tmp_path / "one.png")
    out = tmp_path / "one.npz"
    medsam3("predict", tmp_path / "one.png", "--weights", "tiny-untrained", "--box", "0,0,1,1", "--out", out)
    assert arrays(out)["masks"].shape[1:] == (1, 1)


def test_long_texts_are_reported_as_cut(medsam3: Medsam3, picture: Path, tmp_path: Path) -> None:
    words = ("--text", "tumour " * 43, "--out", tmp_path / "a.npz")
    assert "text-truncated:45>32" in medsam3("predict", picture, "--weights", "tiny-untrained", *words).err


def test_the_command_works_as_a_process_of_its_own(picture: Path, tmp_path: Path) -> None:
    words = ["predict", str(picture), "--weights", "baseline:otsu", "--box", "40,30,110,90", "--out", "a.npz"]
    done = subprocess.run(
        [sys.executable, "-m", "flows", *words], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "a.npz\n"), done.stderr
    assert not (tmp_path / "medsam3-store").exists()


# ---- The golden checkpoints ----


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_a_text_on_golden_weights_gives_the_official_instances(medsam3: Medsam3, layout: str, tmp_path: Path) -> None:
    words = ("--text", "liver tumor", "--threshold", 0.3, *FP32, "--out", tmp_path / "a.npz")
    medsam3("predict", GOLDEN / "image.png", "--weights", LAYOUTS[layout], *words)
    found, io = arrays(tmp_path / "a.npz"), detector_io()
    order = np.argsort(-io["proc_text.scores"].numpy(), kind="stable")
    np.testing.assert_allclose(found["scores"], io["proc_text.scores"].numpy()[order], atol=5e-6)
    np.testing.assert_allclose(found["boxes"], io["proc_text.boxes"].numpy()[order], atol=1e-3)
    assert (found["masks"] == (io["proc_text.masks"].numpy()[order][:, 0] > 0)).all()


def test_points_are_one_object_of_the_interactive_head(medsam3: Medsam3, tmp_path: Path) -> None:
    words = ("--point", "40,50", "--point", "10,10,-", "--box", "20,20,70,80", "--out", tmp_path / "a.npz")
    medsam3("predict", GOLDEN / "image.png", "--weights", LAYOUTS["released"], *words)
    assert len(arrays(tmp_path / "a.npz")["scores"]) == 1


@pytest.mark.parametrize("words", [("--point", "20,20"), ("--text", "liver", "--threshold", "0.3")])
def test_a_volume_is_followed_with_the_tracker_from_the_slice_that_is_prompted(
    medsam3: Medsam3, volume: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    out = tmp_path / "all.nii.gz"
    done = medsam3("predict", volume, "--weights", LAYOUTS["released"], "--slice", 2, *words, *FP32, "--out", out)
    assert "the tracker follows the objects through all 5 slices" in done.err
    labels = np.asarray(nib.load(out).dataobj)
    assert labels.any(axis=(0, 1)).sum() > 1
    np.testing.assert_array_equal(nib.load(out).affine, nib.load(volume).affine)


def test_without_tracker_a_volume_is_followed_by_detection_and_that_is_said(
    medsam3: Medsam3, volume: Path, tmp_path: Path
) -> None:
    """All slices are alike, so that what is found on one is found on its neighbours, under the same number."""
    words = ("predict", volume, "--weights", "tiny-untrained", "--text", "liver", "--slice", 2, "--threshold", "0.2")
    done = medsam3(*words, "--out", tmp_path / "all.nii.gz")
    assert "has no tracker, so objects are detected on each of 5 slices" in done.err
    assert "note: slices=key without tracker: per-slice detection linked by overlap" in done.err
    labels = np.asarray(nib.load(tmp_path / "all.nii.gz").dataobj)
    assert labels.any()
    assert all(np.array_equal(labels[..., z], labels[..., 2]) for z in range(5))
    done = medsam3(*words, "--slice-only", "--out", tmp_path / "one.nii.gz")
    assert "segmenting only slice 2, the other slices stay 0: --slice-only is set" in done.err
    alone = np.asarray(nib.load(tmp_path / "one.nii.gz").dataobj)
    assert np.flatnonzero(alone.any(axis=(0, 1))).tolist() == [2]


def test_a_text_without_slice_is_asked_on_all_slices(medsam3: Medsam3, volume: Path, tmp_path: Path) -> None:
    words = ("--weights", "tiny-untrained", "--text", "liver", "--out", tmp_path / "all.nii.gz", *FP32)
    done = medsam3("predict", volume, *words)
    assert "prompting all 5 slices; objects are linked by overlap" in done.err
    labels = np.asarray(nib.load(tmp_path / "all.nii.gz").dataobj)
    assert np.flatnonzero(labels.any(axis=(0, 1))).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("ending", [".png", ".npy", ".nii.gz"])
def test_a_drawn_mask_is_one_object_of_the_interactive_head(medsam3: Medsam3, tmp_path: Path, ending: str) -> None:
    height, width = np.asarray(Image.open(GOLDEN / "image.png")).shape[:2]
    drawn = np.zeros((height, width), dtype=np.uint8)
    drawn[20:70, 30:90] = 1
    mask = tmp_path / f"mask{ending}"
    if ending == ".png":
        Image.fromarray(drawn * 255).save(mask)
    elif ending == ".npy":
        np.save(mask, drawn)
    else:
        nib.save(nib.Nifti1Image(drawn.T[..., None], np.eye(4)), mask)
    words = ("predict", GOLDEN / "image.png", "--weights", LAYOUTS["released"], "--mask", mask)
    medsam3(*words, "--out", tmp_path / "a.npz")
    medsam3(*words, "--point", "60,45", "--out", tmp_path / "b.npz")
    one, both = arrays(tmp_path / "a.npz"), arrays(tmp_path / "b.npz")
    assert one["masks"].shape == both["masks"].shape == (1, height, width)
    assert not np.array_equal(one["scores"], both["scores"])


def test_clicks_on_golden_weights_give_the_official_masks(medsam3: Medsam3, tmp_path: Path) -> None:
    """The video of the golden files has the size of the model, so that pixels are its pixels."""
    io = tracker_io()
    Image.fromarray(io["video_uint8"][0].permute(1, 2, 0).contiguous().numpy()).save(tmp_path / "frame.png")
    points = zip(io["points"][0].tolist(), io["labels"][0].tolist(), strict=True)
    clicked = [f"{x},{y},{'+' if label == 1 else '-'}" for (x, y), label in points]
    words = [word for one in clicked for word in ("--point", one)]
    cases = {
        "img_points": words,
        "img_point_single": words[:2],
        "img_box": ["--box", ",".join(map(str, io["box_xyxy"].reshape(-1).tolist())), "--set", "mode=interactive"],
    }
    for case, asked in cases.items():
        out = tmp_path / f"{case}.npz"
        medsam3("predict", tmp_path / "frame.png", "--weights", LAYOUTS["released"], *asked, *FP32, "--out", out)
        best = int(io[f"{case}.iou"][0].argmax())
        side = io["video_uint8"].shape[-1]
        official = torch.nn.functional.interpolate(
            io[f"{case}.masks"][:, best : best + 1], size=(side, side), mode="bilinear", align_corners=False
        )
        differs = arrays(out)["masks"][0] != (official[0, 0] > 0).numpy()
        assert not (differs & (official[0, 0].abs() > ROUNDING).numpy()).any(), case
        assert differs.sum() <= 2, case
        np.testing.assert_allclose(arrays(out)["scores"], [io[f"{case}.iou"][0, best].item()], atol=5e-6)


# ---- A prompts file ----


def written(path: Path, *rows: dict[str, object]) -> Path:
    """A prompts file in CSV, a column for every key that any row has."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(str(row.get(name, "")) for name in columns) for row in rows]
    path.write_text("\n".join([",".join(columns), *lines]) + "\n")
    return path


def click(structure: str, instance: int, x: float, y: float, label: int = 1, **more: object) -> dict[str, object]:
    return {"structure": structure, "instance": instance, "kind": "points", "x": x, "y": y, "label": label, **more}


def test_a_file_holds_several_objects_by_points_and_each_is_answered_as_if_alone(
    medsam3: Medsam3, tmp_path: Path
) -> None:
    words = ("predict", GOLDEN / "image.png", "--weights", LAYOUTS["released"], *FP32)
    rows = [click("nucleus", 1, 40, 50), click("nucleus", 2, 100, 70), click("nucleus", 1, 10, 10, 0)]
    file = written(tmp_path / "clicks.csv", *rows)
    medsam3(*words, "--prompts", file, "--out", tmp_path / "both.npz")
    medsam3(*words, "--point", "40,50", "--point", "10,10,-", "--out", tmp_path / "one.npz")
    medsam3(*words, "--point", "100,70", "--out", tmp_path / "other.npz")
    both, alone = arrays(tmp_path / "both.npz"), [arrays(tmp_path / f"{name}.npz") for name in ("one", "other")]
    assert both["prompts"].tolist() == ["nucleus 1", "nucleus 2"]
    assert both["prompt"].tolist() == [0, 1]
    np.testing.assert_array_equal(both["masks"], np.concatenate([one["masks"] for one in alone]))
    np.testing.assert_allclose(both["scores"], np.concatenate([one["scores"] for one in alone]), atol=1e-6)


def test_a_file_may_ask_one_image_in_every_way(medsam3: Medsam3, tmp_path: Path) -> None:
    rows = [
        {"structure": "tumor", "kind": "text", "text": "liver tumor"},
        {"structure": "tumor", "kind": "box", "x0": 20, "y0": 20, "x1": 70, "y1": 80, "label": 1},
        {"structure": "tumor", "kind": "box", "x0": 90, "y0": 20, "x1": 120, "y1": 60, "label": 0},
        {"structure": "cyst", "kind": "box", "x0": 5, "y0": 5, "x1": 40, "y1": 40},
        click("vessel", 1, 100, 70),
    ]
    words = ("predict", GOLDEN / "image.png", "--weights", LAYOUTS["released"], *FP32, "--threshold", "0.3")
    medsam3(*words, "--prompts", written(tmp_path / "all.csv", *rows), "--out", tmp_path / "all.npz")
    found = arrays(tmp_path / "all.npz")
    assert found["prompts"].tolist() == ["tumor", "cyst", "vessel 1"]
    boxes = ("--box", "20,20,70,80", "--box", "90,20,120,60,-")
    asked = {
        "tumor": ("--text", "liver tumor", *boxes),
        "cyst": ("--box", "5,5,40,40"),
        "vessel": ("--point", "100,70"),
    }
    for number, one in enumerate(asked.values()):
        medsam3(*words, *one, "--out", tmp_path / "one.npz")
        alone = arrays(tmp_path / "one.npz")
        np.testing.assert_array_equal(found["masks"][found["prompt"] == number], alone["masks"])


def test_a_file_of_a_volume_asks_on_the_slices_that_it_names(medsam3: Medsam3, volume: Path, tmp_path: Path) -> None:
    box = {"structure": "liver", "kind": "box", "x0": 4, "y0": 6, "x1": 20, "y1": 30}
    file = written(tmp_path / "boxes.csv", *({"case_id": "volume", "slice": z, **box} for z in (1, 3)))
    words = ("predict", volume, "--weights", "baseline:box", "--prompts", file)
    done = medsam3(*words, "--out", tmp_path / "labels.nii.gz")
    assert "segmenting only slices 1, 3, the other slices stay 0: a structure with prompts on several" in done.err
    labels = np.asarray(nib.load(tmp_path / "labels.nii.gz").dataobj)
    assert np.flatnonzero(labels.any(axis=(0, 1))).tolist() == [1, 3]
    assert (labels > 0).sum() == 2 * 16 * 24
    assert "holds one; choose it with --slice" in medsam3(*words, "--out", tmp_path / "a.npz", code=2).err
    medsam3(*words, "--slice", 3, "--out", tmp_path / "a.npz")
    assert arrays(tmp_path / "a.npz")["masks"].sum() == 16 * 24
    assert "has no prompts on slice 2; it has prompts on: 1, 3" in medsam3(
        *words, "--slice", 2, "--out", tmp_path / "a.npz", code=2
    ).err  # fmt: skip


def test_structures_of_a_file_that_stand_on_one_slice_each_are_followed_from_there(
    medsam3: Medsam3, volume: Path, tmp_path: Path
) -> None:
    rows = [{"structure": name, "slice": z, "kind": "text", "text": name} for z, name in ((1, "liver"), (3, "polyp"))]
    words = ("predict", volume, "--weights", "tiny-untrained", "--threshold", "0.2")
    file = written(tmp_path / "texts.csv", *rows)
    done = medsam3(*words, "--prompts", file, "--out", tmp_path / "all.nii.gz")
    assert "prompting slices 1, 3; tiny-untrained has no tracker, so objects are detected" in done.err
    labels = np.asarray(nib.load(tmp_path / "all.nii.gz").dataobj)
    assert labels[..., 1].any()
    assert labels[..., 3].any()


@pytest.mark.parametrize(
    ("rows", "words", "message"),
    [
        ([{"kind": "box", "x0": 1, "y0": 1, "x1": 161, "y1": 9}], (), "row 1 of the prompts: box 1,1,161,9 leaves"),
        (
            [{"kind": "box", "x0": 9, "y0": 1, "x1": 9, "y1": 9}],
            (),
            "row 1 of the prompts: box 9,1,9,9 is empty or inve",
        ),
        ([{"kind": "points", "x": 160, "y": 9}], (), "row 1 of the prompts: point 160,9 lies outside"),
        ([{"kind": "points", "x": 16, "y": 9}], (), "tiny-untrained has no interactive head"),
        ([{"kind": "text"}], (), "row 1 of the prompts: text is missing"),
        ([{"kind": "text", "text": "a <|endoftext|>"}], (), "contains the special token <|endoftext|>"),
        ([{"kind": "text", "text": "a", "slice": 1}], (), "row 1 of the prompts: slice=1 does not exist"),
        ([{"kind": "request", "text": "a"}], (), "unknown kind 'request'; the kinds are: text, box, points, mask"),
        ([{"kind": "text", "text": "a", "case_id": name} for name in "xy"], (), "none of them 'phantom': x, y"),
        ([{"kind": "text", "text": "a"}], ("--text", "b"), "--prompts FILE replaces --text, --box"),
    ],
)
def test_prompts_files_that_do_not_fit_are_refused(
    medsam3: Medsam3,
    picture: Path,
    tmp_path: Path,
    rows: list[dict[str, object]],
    words: tuple[str, ...],
    message: str,
) -> None:
    file = written(tmp_path / "bad.csv", *({"structure": "liver", **row} for row in rows))
    asked = ("--weights", "tiny-untrained", "--prompts", file, *words, "--out", tmp_path / "a.npz")
    assert message in medsam3("predict", picture, *asked, code=2).err
    assert not (tmp_path / "a.npz").exists()


# ---- Refusals: exit code 2, one message, nothing written ----


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no prompt is given; give at least one --text, --box, --point or --mask"),
        (("--text", " "), "text prompt for ' ' is empty"),
        (("--text", "a <|endoftext|> b"), "contains the special token <|endoftext|>"),
        (("--box", "1,2,3"), "box '1,2,3' is not x0,y0,x1,y1"),
        (("--box", "1,2,3,nan"), "box '1,2,3,nan' is not x0,y0,x1,y1"),
        (("--box", "50,20,10,60"), "is empty or inverted"),
        (("--box", "10,20,10,60"), "is empty or inverted"),
        (("--box", "10,20,161,60"), "box 10,20,161,60 leaves the slice of 160 x 120 pixels"),
        (("--box", "10,20,60,60,-"), "has only negative boxes"),
        (("--point", "5"), "point '5' is not x,y"),
        (("--point", "160,5"), "point 160,5 lies outside the slice of 160 x 120 pixels"),
        (("--point", "5,5"), "tiny-untrained has no interactive head"),
        (("--box", "1,1,9,9", "--set", "mode=interactive"), "tiny-untrained has no interactive head"),
        (("--text", "a", "--point", "5,5"), "cannot be combined with a text"),
        (("--text", "a", "--text", "b", "--box", "1,1,9,9"), "unclear which belong together"),
        (("--box", "1,1,9,9", "--box", "1,1,8,8", "--point", "5,5"), "all points are one object"),
        (("--mask", "absent.png"), "no mask at absent.png; give a file that ends in .png"),
        (("--text", "a", "--threshold", "1.5"), "threshold=1.5 is outside"),
        (("--text", "a", "--threshold", "0.4", "--set", "threshold=0.3"), "setting 'threshold' is given twice"),
        (("--text", "a", "--slice", "1"), "has no slice 1; choose one of"),
        (("--text", "a", "--set", "resolution=300"), "resolution=300 does not fit these weights"),
    ],
)
def test_bad_prompts_are_refused_with_one_message(
    medsam3: Medsam3, picture: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    done = medsam3("predict", picture, "--weights", "tiny-untrained", *words, "--out", tmp_path / "a.npz", code=2)
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_interactive_prompts_name_registered_weights_that_would_do(
    tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from storage.weights.checkpoints import write_untrained

    run = command_line(tmp_path / "store", monkeypatch, capsys)
    write_untrained(tmp_path / "clickable", tracker=True)
    run("weights", "add", "clickable", tmp_path / "clickable")
    words = ("--weights", "tiny-untrained", "--point", "5,5", "--out", tmp_path / "a.npz")
    assert "registered weights that have one: clickable@1" in run("predict", picture, *words, code=2).err


@pytest.mark.parametrize(
    ("name", "message"), [("a.jpg", "cannot write a.jpg: unknown format"), ("none/a.png", "there is no folder")]
)
def test_files_that_cannot_be_written_are_refused_first(
    medsam3: Medsam3, picture: Path, tmp_path: Path, name: str, message: str
) -> None:
    done = medsam3("predict", picture, "--weights", "tiny-untrained", "--text", "a", "--out", tmp_path / name, code=2)
    assert message in done.err


def test_images_that_cannot_be_read_are_refused(medsam3: Medsam3, volume: Path, tmp_path: Path) -> None:
    out = ("--weights", "tiny-untrained", "--text", "a", "--out", tmp_path / "a.npz")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    assert "no image at" in medsam3("predict", tmp_path / "absent.png", *out, code=2).err
    assert "unknown file type" in medsam3("predict", tmp_path / "notes.txt", *out, code=2).err
    assert "cannot be read as an image" in medsam3("predict", tmp_path / "cut.png", *out, code=2).err
    assert "has 5 slices; name one with --slice, 0..4" in medsam3("predict", volume, *out, code=2).err


def test_an_image_over_the_limit_is_refused_before_it_is_decoded(medsam3: Medsam3, tmp_path: Path) -> None:
    words = ("--weights", "tiny-untrained", "--text", "a", "--out", tmp_path / "a.npz")
    for side, said in ((9_000, "9000 x 9000 pixels"), (20_000, "400000000 pixels")):
        Image.new("1", (side, side)).save(tmp_path / "huge.png")
        refused = medsam3("predict", tmp_path / "huge.png", *words, code=2).err
        assert f"huge.png: {said} are over the limit of 67108864 pixels a slice; cut it into pieces" in refused
    header = nib.Nifti1Image(np.zeros((1, 1, 1), np.uint8), np.eye(4)).header
    header.set_data_shape((20_000, 20_000, 3))
    (tmp_path / "huge.nii").write_bytes(header.binaryblock + bytes(4))  # no voxels: the header is all that is read
    assert "huge.nii: 20000 x 20000 pixels are" in medsam3("predict", tmp_path / "huge.nii", *words, code=2).err


def test_unknown_weights_are_refused_with_what_exists(medsam3: Medsam3, picture: Path, tmp_path: Path) -> None:
    words = ("--text", "a", "--out", tmp_path / "a.npz", "--weights")
    assert "unknown weights 'sam9'; known: baseline:box" in medsam3("predict", picture, *words, "sam9", code=2).err
    assert "no such checkpoint" in medsam3("predict", picture, *words, "none/sam3.pt", code=2).err
    assert "baseline:box has no text encoder" in medsam3("predict", picture, *words, "baseline:box", code=2).err


def test_a_followed_volume_is_a_label_map_or_nothing(medsam3: Medsam3, volume: Path, tmp_path: Path) -> None:
    words = ("--slice", 2, "--point", "20,20", "--out", tmp_path / "a.npz")
    medsam3("predict", volume, "--weights", LAYOUTS["released"], *words)
    assert arrays(tmp_path / "a.npz")["masks"].shape == (1, 40, 48)  # one slice is all that arrays hold
