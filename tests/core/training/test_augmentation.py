from dataclasses import replace

import numpy as np
import pytest

from medsam3_core.errors import UsageError
from medsam3_core.phantoms import PhantomKind, phantom_case, phantom_structures
from medsam3_core.sam3.tensors.preprocess import pixel_values
from medsam3_core.training.data.augmentation import augment, augmented_slice
from medsam3_core.training.data.augmentation_plan import Augmentation, augmentation_for, handedness
from medsam3_core.training.data.samples import TrainingConcept, TrainingSlice

SIDE = 64
STILL = Augmentation(
    side=SIDE, p_whole=1, p_turn=0, p_elastic=0, p_tone=0, p_colour=0, p_blur=0, p_noise=0, p_low_resolution=0
)
"""Changes nothing; tests switch on what they look at."""


def plain_view(image, labels):
    return augment(image, labels, STILL, np.random.default_rng(0))


def disc(shape=(96, 80), centre=(40, 30), radius=14):
    y, x = np.ogrid[: shape[0], : shape[1]]
    inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2
    image = np.where(inside, 220, 40).astype(np.uint8)[..., None].repeat(3, axis=2)
    return image, inside.astype(np.uint16)[None]


def agreement(image, labels):
    bright = image[..., 0] > 130
    drawn = labels[0] > 0
    return (bright & drawn).sum() / (bright | drawn).sum()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"p_turn": 1, "degrees": 40},
        {"p_elastic": 1, "elastic": 0.06},
        {"p_whole": 0, "scale": (0.5, 1.4)},
        {"mirror_x": True, "mirror_y": True},
        {"p_whole": 0, "p_turn": 1, "p_elastic": 1, "mirror_x": True},
    ],
)
def test_labels_stay_on_what_they_label(change):
    image, labels = disc()
    plan = replace(STILL, **change)
    scores = [agreement(*augment(image, labels, plan, np.random.default_rng(seed))) for seed in range(12)]
    assert min(scores) > 0.85, scores


def test_nothing_switched_on_is_what_inference_sees():
    image, labels = disc()
    seen, drawn = plain_view(image, labels)
    expected = (127.5 * pixel_values([image], SIDE)[0] + 127.5).round().numpy()
    np.testing.assert_array_equal(seen.transpose(2, 0, 1), expected)
    rows, columns = ((np.arange(SIDE) + 0.5) * size // SIDE for size in labels.shape[1:])
    np.testing.assert_array_equal(drawn, labels[:, rows.astype(int)[:, None], columns.astype(int)])


def test_the_same_random_state_gives_the_same_view_and_another_state_another():
    image, labels = disc()
    first, again, other = (augment(image, labels, Augmentation(SIDE), np.random.default_rng(s))[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_window_of_a_quarter_of_the_side_shows_things_sixteen_times_as_large():
    image, labels = disc((128, 128), (64, 64), 8)
    close = replace(STILL, p_whole=0, p_keep=1, scale=(0.25, 0.25), stretch=1.0)
    areas = [(augment(image, labels, close, np.random.default_rng(s))[1] > 0).sum() for s in range(20)]
    whole = (plain_view(image, labels)[1] > 0).sum()
    assert min(areas) > 0
    assert max(areas) == pytest.approx(16 * whole, rel=0.15)


def test_window_larger_than_the_slice_leaves_an_empty_margin():
    image, labels = np.full((40, 40, 3), 200, np.uint8), np.ones((1, 40, 40), np.uint16)
    wide = replace(STILL, p_whole=0, p_keep=0, scale=(2, 2), stretch=1.0)
    seen, drawn = augment(image, labels, wide, np.random.default_rng(3))
    assert (seen[..., 0] > 0).mean() == pytest.approx(0.25, abs=0.02)
    np.testing.assert_array_equal(seen[..., 0] > 0, drawn[0] > 0)


def test_grey_slices_stay_grey_and_colour_slices_get_other_colours():
    image, labels = disc()
    loud = replace(STILL, p_tone=1, p_colour=1, p_noise=1, p_blur=1, p_low_resolution=1)
    grey, _ = augment(image, labels, loud, np.random.default_rng(0))
    assert (grey[..., 0] == grey[..., 1]).all()
    assert (grey[..., 0] == grey[..., 2]).all()
    image[..., 2] = 10
    plain, _ = plain_view(image, labels)
    hues = [augment(image, labels, loud, np.random.default_rng(seed))[0].mean(axis=(0, 1)) for seed in range(6)]
    assert np.std([hue[0] - hue[2] for hue in hues]) > 5
    assert plain[..., 2].max() == 10


def test_inversion_exchanges_bright_and_dark():
    image, labels = disc()
    seen, _ = augment(image, labels, replace(STILL, p_invert=1), np.random.default_rng(0))
    np.testing.assert_allclose(seen, 255 - plain_view(image, labels)[0].astype(int), atol=1)


@pytest.mark.parametrize(("allowed", "sides"), [(False, {"left"}), (True, {"left", "right"})])
def test_left_and_right_change_places_only_where_that_is_allowed(allowed, sides):
    image, labels = disc(centre=(48, 20))
    plan = replace(STILL, mirror_x=allowed)
    seen = set()
    for seed in range(20):
        drawn = augment(image, labels, plan, np.random.default_rng(seed))[1][0]
        seen.add("left" if np.nonzero(drawn)[1].mean() < SIDE / 2 else "right")
    assert seen == sides


@pytest.mark.parametrize(
    ("names", "modality", "expected"),
    [
        (["kidney_left", "kidney_right"], "CT", (False, True)),
        (["liver"], "CT", (False, True)),
        (["lung_L"], "X-ray", (False, True)),
        (["anterior", "posterior"], "MR", (True, True)),
        (["tumour"], "MR", (True, True)),
        (["vessel"], "fundus", (True, True)),
        (["nucleus"], "microscopy", (True, False)),
        (["lesion"], "dermoscopy", (True, False)),
        (["cleft"], "dermoscopy", (True, False)),
        (["upper_edge"], "microscopy", (True, True)),
    ],
)
def test_handedness_follows_from_structures_and_modality(names, modality, expected):
    assert handedness([*names, *(name.replace("_", " ") for name in names)], modality) == expected


@pytest.mark.parametrize("word", ["left kidney", "kidney (right)", "the left-sided kidney"])
def test_a_side_counts_in_the_text_as_in_the_name(word):
    assert handedness(["kidney", word], "CT") == (False, True)


def test_plan_of_a_cohort_takes_what_its_slices_allow():
    nuclei = augmentation_for("microscopy", side=112, mirror=True, upright=False, fine=True)
    assert (nuclei.side, nuclei.mirror_x, nuclei.mirror_y, nuclei.degrees) == (112, True, True, 180.0)
    assert nuclei.scale[0] < 0.2
    assert nuclei.p_invert > 0
    abdomen = augmentation_for("CT", side=224, mirror=False, upright=True)
    assert (abdomen.mirror_x, abdomen.mirror_y, abdomen.p_invert) == (False, False, 0.0)


def test_mirrors_of_phantoms_with_sides_are_refused():
    assert handedness([one.text for one in phantom_structures(PhantomKind.CT)], "CT")[0] is False
    assert handedness([one.text for one in phantom_structures(PhantomKind.NUCLEI)], "microscopy") == (True, False)


def test_what_a_configuration_says_of_augmentation_wins():
    asked = Augmentation(scale=(0.5, 0.9), degrees=5.0, mirror_x=False, p_invert=0.0)
    found = augmentation_for("microscopy", side=112, mirror=True, upright=False, fine=True, base=asked)
    assert (found.scale, found.degrees, found.p_invert) == ((0.5, 0.9), 5.0, 0.0)
    assert (found.mirror_x, found.mirror_y, found.side) == (False, True, 112)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Augmentation(mirror_x=True), r"augmentation.mirror_x: true would teach a wrong anatomy"),
        (Augmentation(mirror_y=True), r"augmentation.mirror_y: true would teach a wrong anatomy"),
        (Augmentation(side=64), r"augmentation.side is that of the weights, 112"),
    ],
)
def test_an_augmentation_that_would_teach_what_is_wrong_is_refused(asked, message):
    with pytest.raises(UsageError, match=message):
        augmentation_for("CT", side=112, mirror=False, upright=True, base=asked)


def test_noise_of_large_slices_is_drawn_anew():
    image = np.full((600, 600, 3), 128, dtype=np.uint8)
    image[..., 0] = 120  # a colour picture needs more numbers than are kept
    plan = replace(STILL, side=600, p_noise=1)
    first, second = (
        augment(image, np.ones((1, 600, 600), np.uint16), plan, np.random.default_rng(s))[0] for s in (1, 2)
    )
    parts = [(seen.astype(float) - image).ravel() for seen in (first, second)]
    assert min(part.std() for part in parts) > 1
    assert abs(np.corrcoef(parts)[0, 1]) < 0.05


def test_instances_keep_their_numbers():
    case = phantom_case(PhantomKind.NUCLEI, 0)
    image, labels = np.moveaxis(case.voxels[:, 0], 0, 2), case.references[0].voxels
    _, drawn = augment(image, labels, replace(STILL, side=128, p_turn=1), np.random.default_rng(0))
    assert set(np.unique(drawn)) <= set(np.unique(labels))
    assert len(np.unique(drawn)) > 4


def test_all_concepts_of_a_slice_are_changed_together():
    image, labels = disc()
    ring = TrainingConcept("background", ("background",), 1 - labels[0])
    absent = TrainingConcept("star", ("star",), np.zeros_like(labels[0]))
    seen = TrainingSlice(image, (absent, TrainingConcept("disc", ("bright disc",), labels[0]), ring))
    changed = augmented_slice(seen, replace(STILL, p_turn=1, p_whole=0, scale=(0.5, 0.9)), np.random.default_rng(4))
    none, first, second = (concept.labels for concept in changed.concepts)
    assert none.shape == (SIDE, SIDE)
    assert not none.any()
    assert changed.image.shape == (SIDE, SIDE, 3)
    assert [concept.name for concept in changed.concepts] == ["star", "disc", "background"]
    assert not (first & second).any()
    assert agreement(changed.image, first[None]) > 0.85


def test_what_does_not_fit_is_refused():
    image, labels = disc()
    with pytest.raises(
        UsageError, match=r"slice is uint8 of shape \(96, 80, 3\), its label maps have shape \(1, 9, 80\)"
    ):
        augment(image, labels[:, :9], STILL, np.random.default_rng(0))
    with pytest.raises(UsageError, match="0 < scale low"):
        Augmentation(scale=(0, 1))
