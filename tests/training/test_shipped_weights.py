"""The weights that come with the product: whole, small, what their card says, and better than chance."""

import numpy as np
import pytest

from medsam3_core.inference_settings import InferenceSettings
from medsam3_core.intensity import IntensityPolicy, as_rgb, to_uint8
from medsam3_core.phantoms import PhantomKind, phantom_case, phantom_recipe
from medsam3_core.prompts import BoxPrompt, PointPrompt, SlicePrompt
from medsam3_core.segmenters.protocol import Capabilities
from storage.atomic_write import read_json
from storage.checkpoints.identity import weights_sha256
from storage.shipped_weights import (
    MOST_BYTES,
    TRAINED_ON,
    shipped_checkpoint,
    shipped_folder,
    shipped_names,
    shipped_training_digests,
)
from storage.store_layout import open_store
from storage.weights_registry import find_weights, load_segmenter

NAMES = ("tiny-base", "tiny-medical")
SETTINGS, CLICKED = InferenceSettings(), InferenceSettings.parse(["mode=interactive"])
BARS = {"text": 0.5, "box": 0.6, "point": 0.5}


def test_both_come_with_the_product():
    assert shipped_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_file_is_small_and_the_one_that_its_facts_describe(name, store):
    folder, checkpoint = shipped_folder(name), shipped_checkpoint(name)
    facts = find_weights(store, name)
    assert (checkpoint / "model.safetensors").stat().st_size <= MOST_BYTES
    assert facts.sha256 == weights_sha256(checkpoint)
    assert facts.capabilities == Capabilities(text=True, box=True, interactive=True, propagation=False)
    assert read_json(checkpoint / "config.json")["detector_config"]["detr_decoder_config"]["num_queries"] >= 100
    assert shipped_training_digests()[facts.sha256] >= set(read_json(folder / TRAINED_ON)["case_digests"]) != set()
    assert "not for patients" in (folder / "README.md").read_text()


@pytest.fixture(scope="module")
def medical(tmp_path_factory):
    store = open_store(tmp_path_factory.mktemp("shipped") / "store")
    return load_segmenter(find_weights(store, "tiny-medical"), "cpu")


@pytest.mark.parametrize("kind", [PhantomKind.CT, PhantomKind.MR])
def test_the_medical_ones_find_organs_they_never_saw_by_text_box_and_point(medical, kind):
    """Seeds that training did not use; the figures of docs/small_weights.md are far above these bars."""
    recipe = phantom_recipe(kind)
    found = {"text": [], "box": [], "point": []}
    for seed in (990_001, 990_002):
        case = phantom_case(kind, seed)
        reference = case.references[0]
        value_range = IntensityPolicy.parse(recipe.window).value_range(case.voxels)
        z = int(np.argmax((reference.voxels > 0).sum(axis=(1, 2))))
        image = as_rgb(to_uint8(case.voxels[..., z, :, :], value_range))
        (encoding,) = medical.encode([image], SETTINGS)
        for structure in recipe.structures:
            mask = reference.mask(structure.name)[z]
            if np.count_nonzero(mask) < 50:
                continue
            y, x = np.nonzero(mask)
            box = BoxPrompt(float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1))
            nearest = int(np.argmin((y - y.mean()) ** 2 + (x - x.mean()) ** 2))
            point = PointPrompt(float(x[nearest]) + 0.5, float(y[nearest]) + 0.5)
            for how, prompt in (
                ("text", SlicePrompt(structure.name, text=structure.text)),
                ("box", SlicePrompt(structure.name, boxes=(box,))),
                ("point", SlicePrompt(structure.name, points=((point,),))),
            ):
                (answer,) = medical.segment(encoding, [prompt], SETTINGS if how != "point" else CLICKED)
                drawn = answer.masks.any(axis=0)
                found[how].append(
                    2 * np.count_nonzero(drawn & mask) / (np.count_nonzero(drawn) + np.count_nonzero(mask))
                )
    assert {how: float(np.mean(dice)) > BARS[how] for how, dice in found.items()} == dict.fromkeys(found, True), found
