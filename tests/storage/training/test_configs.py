from pathlib import Path

import pytest
import torch
from torch import nn

from medsam3_core.errors import UsageError
from medsam3_core.training.data.concept_prompts import texts_of_nothing
from medsam3_core.training.trainees.optimiser import (
    OptimiserPlan,
    Schedule,
    fan_in_factor,
    parameter_groups,
    rate_factor,
    rate_of,
)
from storage.training.configs import SHIPPED_CONFIGS, find_training_config, read_training_config

GOOD = "name: mine\nbase: tiny-untrained\ncohorts: [{cohort: eyes}]\n"


def config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text(text)
    return path


def test_what_a_file_leaves_out_has_the_official_values(tmp_path):
    plan = read_training_config(config(tmp_path, GOOD + "optimiser: {rate: 1e-4}\n"))
    assert (plan.optimiser.rate, plan.optimiser.layer_decay, plan.losses.mask) == (1e-4, 0.9, 200.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "leraning: 1\n", "unknown key leraning; known are: name, cohorts"),
        (GOOD + "loop: {steps: many}\n", r"key loop.steps takes a whole number, got 'many' \(str\)"),
        (GOOD + "loop: {steps: 0}\n", "loop: steps, batch, .* must be at least 1"),
        (GOOD + "optimiser: {schedule: linear}\n", "optimiser.schedule takes one of inverse-sqrt, constant, cosine"),
        (GOOD + "lora: {rank: 0}\n", "LoRA needs rank >= 1"),
        ("name: mine\n", "key cohorts is missing"),
        ("name: mine\ncohorts: []\n", "cohorts is empty"),
        ("name: mine\ncohorts: [{cohort: a, share: x}]\n", r"key cohorts\[0\].share takes a number"),
        ("- a list\n", "the file holds .* keys are expected"),
        ("a: [\n", "cannot be read"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, text, message):
    with pytest.raises(UsageError, match=message) as caught:
        read_training_config(config(tmp_path, text))
    assert "train.yaml" in str(caught.value)


def test_a_file_that_extends_another_says_what_differs(tmp_path):
    config(tmp_path, "name: first\nbase: tiny-untrained\nloop: {steps: 7, batch: 3}\n"
                     "cohorts: [{cohort: eyes, share: 2.0, validation: 1}, {cohort: cells}]\n"
                     "questions: {foreign: [cat, dog]}\n")  # fmt: skip
    other = tmp_path / "other.yaml"
    other.write_text(
        "extends: train.yaml\nname: second\nloop: {steps: 9}\nquestions: {foreign: [cow]}\n"
        "cohorts: [{cohort: eyes, share: 1.0}, {cohort: organs}]\n"
    )
    plan = read_training_config(other)
    assert (plan.name, plan.base, plan.loop.steps, plan.loop.batch) == ("second", "tiny-untrained", 9, 3)
    assert [(one.cohort, one.share, one.validation) for one in plan.cohorts[:1]] == [("eyes", 1.0, 1)]
    assert [one.cohort for one in plan.cohorts] == ["eyes", "cells", "organs"]
    assert plan.questions.foreign == ("cow",)
    other.write_text("extends: hippocampus-lora\nname: third\n")
    assert (read_training_config(other).name, read_training_config(other).base) == ("third", "tiny-base")


@pytest.mark.parametrize(
    ("extends", "message"),
    [("nowhere", "nowhere cannot be read"), ("train.yaml", "train.yaml extends train.yaml, which extends it in turn")],
)
def test_what_cannot_be_extended_is_named(tmp_path, extends, message):
    with pytest.raises(UsageError, match=message):
        read_training_config(config(tmp_path, f"extends: {extends}\n{GOOD}"))


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED_CONFIGS.glob("*.yaml")))
def test_configurations_that_come_with_the_product_are_valid(name):
    assert read_training_config(find_training_config(name)).name.removeprefix("retrained-") == name


def test_rates_fall_from_the_heads_down_through_the_trunk():
    plan = OptimiserPlan(rate=1.0, trunk=0.5, text=0.1, layer_decay=0.5)
    names = ("detr_decoder.x", "vision_encoder.backbone.layers.3.q", "vision_encoder.backbone.layers.0.q")
    assert [rate_of(f"trainee.detector.{name}", plan, 4) for name in names] == [1.0, 0.25, 0.5**5]
    assert rate_of("detector.vision_encoder.backbone.embeddings.position_embeddings", plan, 4) == 0.5
    assert rate_of("detector.text_encoder.x", plan, 4) == 0.1


def test_a_weight_that_sums_many_inputs_learns_slower_in_proportion():
    model = nn.ModuleDict(
        {"conv": nn.Conv2d(64, 8, 3), "narrow": nn.Linear(16, 4), "query_embed": nn.Embedding(5, 512)}
    )
    plan = OptimiserPlan(rate=1.0, weight_decay=0.0, fan_in=64)
    rates = {id(one): group["lr"] for group in parameter_groups(model, plan, 4) for one in group["params"]}
    assert rates[id(model["conv"].weight)] == pytest.approx(1 / 9)
    assert [rates[id(model[name].weight)] for name in ("narrow", "query_embed")] == [1.0, 1.0]
    assert rates[id(model["conv"].bias)] == 1.0
    assert fan_in_factor("conv.weight", torch.zeros(8, 576), OptimiserPlan()) == 1.0  # the official recipe has one rate


@pytest.mark.parametrize("schedule", Schedule)
def test_every_schedule_warms_up_and_ends_at_nothing(schedule):
    plan = OptimiserPlan(schedule=schedule, warmup=10, cooldown=0.5, timescale=10)
    assert rate_factor(0, plan, 100) == pytest.approx(0.1)
    assert rate_factor(100, plan, 100) == pytest.approx(0.0, abs=1e-12)


def test_texts_of_nothing_are_those_of_others_and_words_but_not_what_slices_show_unlabelled():
    found = texts_of_nothing(
        ["Retinal Blood Vessel"],
        ["retinal blood  vessel", "optic disc", "Optic Nerve Head", "liver", "Liver"],
        ["dog", "cat", "Cat"],
        unlabelled=["Optic"],
        repeat=3,
    )
    assert found == ("cat", "dog", "liver", "liver", "liver")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "questions: {others_repeat: 0}\n", "questions: per_slice, clicks and others_repeat must be at least 1"),
        (GOOD + "questions: {per_slice: 0}\n", "questions: per_slice, clicks and others_repeat must be at least 1"),
        (GOOD + "questions: {mix: {text: 0, box: 0, text_box: 0}}\n", "questions.mix: mix needs text, box"),
        (GOOD + "questions: {mix: {absent: 1.5}}\n", "questions.mix: mix needs text, box"),
        (GOOD + "validation: {every: 5, prompts: []}\n", "validation: validation needs .* at least one prompt"),
        (GOOD + "validation: {prompts: [txt]}\n", "validation: unknown prompt"),
        (GOOD + "validation: {settings: [thrshld=0.3]}\n", "validation: .*thrshld"),
        (GOOD + "architecture: huge\n", "architecture must be 'small', got 'huge'"),
        ("name: a\ncohorts: [{cohort: b, every: 0}]\n", r"cohorts\[0\]: cohort b needs .* every of at least 1"),
        (
            "name: a\ncohorts: [{cohort: b, validation: -1}]\n",
            r"cohorts\[0\]: cohort b needs .* validation of at least",
        ),
        ("name: a\ncohorts: [{cohort: b, share: 0}]\n", r"cohorts\[0\]: cohort b needs a share above 0"),
        ("name: a\ncohorts: [{cohort: b, empty_share: 2}]\n", r"cohorts\[0\]: cohort b needs an empty_share in"),
    ],
)
def test_a_value_out_of_range_is_refused_before_anything_is_learned(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        read_training_config(config(tmp_path, text))
