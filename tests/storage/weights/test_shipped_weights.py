"""The weights that come with the product: whole, small, what their card says, and better than chance."""

import numpy as np
import pytest

from medsam3_core.capabilities import Capabilities
from medsam3_core.cases.intensity import as_rgb
from medsam3_core.phantoms import PhantomKind, phantom_case, phantom_recipe
from medsam3_core.prompts.prompts import SlicePrompt
from medsam3_core.settings.inference import InferenceSettings
from storage.store.atomic import read_json
from storage.weights.checkpoints.identity import weights_sha256
from storage.weights.registry import find_weights, load_segmenter
from storage.weights.shipped import (
    MAX_BYTES,
    TRAINED_ON,
    shipped_checkpoint,
    shipped_folder,
    shipped_names,
    shipped_training_digests,
)

NAMES = ("tiny-base", "tiny-medical")
SURE_OF_LITTLE = InferenceSettings.parse(["threshold=0.05"])


def test_both_come_with_the_product():
    assert shipped_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_file_is_small_and_the_one_that_its_facts_describe(name, store):
    folder, checkpoint = shipped_folder(name), shipped_checkpoint(name)
    facts = find_weights(store, name)
    assert (checkpoint / "model.safetensors").stat().st_size <= MAX_BYTES
    assert facts.sha256 == weights_sha256(checkpoint)
    assert facts.capabilities == Capabilities(text=True, box=True, interactive=True, propagation=False)
    assert read_json(checkpoint / "config.json")["detector_config"]["detr_decoder_config"]["num_queries"] >= 100
    assert shipped_training_digests()[facts.sha256] >= set(read_json(folder / TRAINED_ON)["case_digests"]) != set()
    assert "Not for patients" in " ".join((folder / "README.md").read_text().split())


def vessel_dice(name, store):
    """Mean Dice of the vessels of fundus phantoms that nobody trained on, by text."""
    segmenter = load_segmenter(find_weights(store, name), "cpu")
    (vessel, *_) = phantom_recipe(PhantomKind.FUNDUS).structures
    found = []
    for seed in (990_001, 990_002, 990_003):
        case = phantom_case(PhantomKind.FUNDUS, seed)
        (encoding,) = segmenter.encode([as_rgb(case.voxels[..., 0, :, :])], SURE_OF_LITTLE)
        (answer,) = segmenter.segment(encoding, [SlicePrompt(vessel.name, text=vessel.text)], SURE_OF_LITTLE)
        mask, drawn = case.references[0].mask(vessel.name)[0], answer.masks.any(axis=0)
        found.append(2 * np.sum(mask & drawn) / (np.sum(mask) + np.sum(drawn)))
    return float(np.mean(found))


def test_training_on_medical_images_is_worth_something(store):
    base, medical = (vessel_dice(name, store) for name in NAMES)
    assert medical > 0.4
    assert medical > base + 0.2
