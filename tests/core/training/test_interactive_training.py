from dataclasses import replace

import numpy as np
import pytest
import torch

from medsam3_core.errors import UsageError, WeightsError
from medsam3_core.prompts.prompts import BoxPrompt, PointPrompt, SlicePrompt
from medsam3_core.sam3.network.architecture import architecture_from
from medsam3_core.sam3.network.encoder import encode_slices, tracker_features
from medsam3_core.sam3.network.interactive import answer_clicks, object_clicks
from medsam3_core.sam3.network.network import build_network
from medsam3_core.sam3.network.small import narrow_tracker_config
from medsam3_core.sam3.network.tiny import seeded_weights, tiny_config
from medsam3_core.sam3.tensors.precision import Precision
from medsam3_core.training.data.interactive_prompts import (
    PromptMix,
    box_points,
    centre_of,
    draw_interactive_prompts,
    objects_of,
    rough_mask,
)
from medsam3_core.training.data.samples import InteractivePrompt, TrainingConcept, TrainingSlice
from medsam3_core.training.losses.interactive_objective import (
    InteractiveObjective,
    InteractiveWeights,
    dice_per_mask,
    focal_per_mask,
    object_losses,
)

SIDE = 112
STILL = InteractiveWeights(p_correct=0, p_candidates=0)


def square(y=40, x=30, size=32):
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[y : y + size, x : x + size] = True
    return mask


def picture(mask):
    return np.where(mask, 200, 60).astype(np.uint8)[..., None].repeat(3, axis=2)


def network(seed=0):
    weights = seeded_weights(architecture_from(tiny_config(SIDE), narrow_tracker_config()), seed)
    fp32 = Precision("fp32", torch.float32, torch.float32)
    built = build_network(weights, fp32, "cpu")
    tracker = built.tracker
    tracker.shared_image_embedding.positional_embedding.normal_(generator=torch.Generator().manual_seed(seed))
    table = tracker.shared_image_embedding.positional_embedding
    tracker.prompt_encoder.shared_embedding.positional_embedding.copy_(table)
    return built


@pytest.fixture(scope="module")
def built():
    return network()


def trunk_of(built, images):
    with torch.no_grad():
        return torch.stack([one.trunk for one in encode_slices(built, images)])


def point_at(mask):
    x, y = centre_of(mask)
    return InteractivePrompt(0, mask, np.array([[x, y]], dtype=np.float32), np.array([1]))


def slice_with(*concepts):
    return TrainingSlice(np.zeros((SIDE, SIDE, 3), np.uint8), concepts)


def nuclei(count):
    labels = np.zeros((SIDE, SIDE), np.uint16)
    for number in range(count):
        labels[10 * number : 10 * number + 6, 5:11] = number + 1
    return TrainingConcept("nucleus", ("nucleus",), labels, countable=True)


def test_centre_is_where_the_mask_is_widest():
    mask = square(10, 20, 21)
    mask[30:32, 20:100] = True
    assert centre_of(mask) == (30, 20)


def test_box_without_jitter_is_half_open_and_jitter_stays_on_the_slice():
    mask = square(40, 30, 32)
    rng = np.random.default_rng(0)
    assert box_points(mask, 0.0, rng) == [(30, 40), (62, 72)]
    edge = square(0, 80, 32)
    for _ in range(30):
        (x0, y0), (x1, y1) = box_points(edge, 0.5, rng)
        assert 0 <= x0 < x1 <= SIDE
        assert 0 <= y0 < y1 <= SIDE


def test_a_pixel_shown_by_a_box_still_has_a_width():
    mask = square(50, 50, 1)
    (x0, _), (x1, _) = box_points(mask, 0.9, np.random.default_rng(1))
    assert x1 - x0 >= 1


def test_concepts_take_turns_so_that_many_instances_do_not_push_out_one_organ():
    organ = TrainingConcept("organ", ("organ",), square().astype(np.uint16))
    absent = TrainingConcept("absent", ("absent",), np.zeros((SIDE, SIDE), np.uint16))
    masks = objects_of(slice_with(nuclei(8), organ, absent), 2, np.random.default_rng(0))
    assert sorted(int(mask.sum()) for mask in masks) == [36, 32 * 32]
    assert len(objects_of(slice_with(nuclei(8), organ), 20, np.random.default_rng(0))) == 9


def test_an_uncountable_concept_is_one_object_whatever_its_labels():
    whole = replace(nuclei(3), countable=False)
    (mask,) = objects_of(slice_with(whole), 5, np.random.default_rng(0))
    assert mask.sum() == 3 * 36


def test_prompts_of_every_kind_point_at_their_object():
    seen = slice_with(nuclei(8), TrainingConcept("organ", ("organ",), square(30, 60, 40).astype(np.uint16)))
    kinds = set()
    for seed in range(40):
        for prompt in draw_interactive_prompts(seen, 3, 4, np.random.default_rng(seed)):
            assert prompt.slice_index == 3
            assert len(prompt.points_xy) == len(prompt.point_labels)
            kinds.add((tuple(sorted(set(prompt.point_labels.tolist()))), prompt.mask_input is not None))
            for (x, y), label in zip(prompt.points_xy, prompt.point_labels, strict=True):
                near = prompt.mask[int(y) : int(y) + 6, int(x) : int(x) + 6]
                if label == 1:
                    assert near.any()
                if label == 0:
                    assert not near.all()
    assert {((), True), ((1,), False), ((0, 1), False), ((2, 3), False)} <= kinds


def test_no_object_no_prompt():
    empty = TrainingConcept("organ", ("organ",), np.zeros((SIDE, SIDE), np.uint16))
    assert draw_interactive_prompts(slice_with(empty), 0, 5, np.random.default_rng(0)) == []


def test_a_mix_without_any_share_is_refused():
    with pytest.raises(UsageError, match="not all shares 0"):
        PromptMix(0, 0, 0, 0, 0)
    with pytest.raises(UsageError, match="at least 0"):
        PromptMix(jitter=-1)


def test_rough_mask_is_near_the_mask_and_never_empty():
    rng = np.random.default_rng(0)
    mask = square()
    drawn = [rough_mask(mask, rng) for _ in range(20)]
    assert all((one & mask).sum() / (one | mask).sum() > 0.5 for one in drawn)
    assert rough_mask(square(5, 5, 1), rng).any()


def test_dice_and_focal_of_a_sure_answer():
    wanted = torch.from_numpy(square())[None]
    right = torch.where(wanted, 40.0, -40.0)
    assert dice_per_mask(right, wanted).item() == pytest.approx(0, abs=1e-6)
    assert focal_per_mask(right, wanted).item() == pytest.approx(0, abs=1e-6)
    # All foreground: overlap 1024 of 1024 + 12544 pixels.
    everything = torch.full_like(right, 40.0)
    assert dice_per_mask(everything, wanted).item() == pytest.approx(1 - 2049 / 13569, abs=1e-4)
    # At 0 each pixel costs alpha * 0.25 * ln 2.
    share = 1024 / SIDE**2
    expected = (0.25 * share + 0.75 * (1 - share)) * 0.25 * np.log(2)
    assert focal_per_mask(torch.zeros_like(right), wanted).item() == pytest.approx(expected, rel=1e-4)


def test_only_the_best_candidate_learns_the_mask_but_all_learn_their_iou():
    wanted = torch.from_numpy(square())[None]
    right, wrong = torch.where(wanted, 5.0, -5.0), torch.where(wanted, -5.0, 5.0)
    masks = torch.stack([wrong, right, wrong], dim=1).requires_grad_()
    iou = torch.tensor([[0.9, 0.5, 0.1]], requires_grad=True)
    losses = object_losses(masks, iou, torch.zeros(1), wanted)
    (losses.focal + losses.dice + losses.iou).sum().backward()
    assert [bool(masks.grad[0, one].any()) for one in range(3)] == [False, True, False]
    assert iou.grad.sign().tolist() == [[1, -1, 1]]
    assert losses.iou.item() == pytest.approx((0.9 + 0.5 + 0.1) / 3)
    assert losses.true_iou.item() == 0  # inference would choose the first, by its estimate
    assert losses.presence.item() == pytest.approx(np.log(2))


def test_an_object_that_is_not_there_costs_its_presence_alone():
    gone = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    losses = object_losses(torch.randn(1, 3, 32, 32), torch.full((1, 3), 0.7), torch.tensor([2.0]), gone)
    assert losses.weighted(InteractiveWeights()).item() == pytest.approx(np.log1p(np.exp(2.0)), rel=1e-5)


def test_training_sees_what_inference_answers(built):
    mask = square()
    prompts = [
        SlicePrompt("a", points=((PointPrompt(40, 50), PointPrompt(5, 5, positive=False)),)),
        SlicePrompt("a", boxes=(BoxPrompt(30, 40, 62, 72),)),
    ]
    (encoding,) = encode_slices(built, [picture(mask)])
    features = tracker_features(built, encoding)
    for prompt in prompts:
        (clicks,) = object_clicks(prompt, (SIDE, SIDE), built.architecture)
        answer = answer_clicks(built.tracker, features, clicks)
        asked = InteractivePrompt(0, mask, clicks.coordinates.numpy(), clicks.labels.numpy())
        wanted = torch.from_numpy(mask)[None]
        here = object_losses(answer.mask_logits[None], answer.iou[None], answer.object_logit[None], wanted)
        loss = InteractiveObjective(built.tracker, built.tracker_neck, STILL)(
            encoding.trunk[None], [asked], np.random.default_rng(0)
        )
        assert loss.total.item() == pytest.approx(here.weighted(STILL).item(), rel=1e-5)


def test_second_round_clicks_on_what_was_wrong(built):
    mask = square()
    loss = InteractiveObjective(built.tracker, built.tracker_neck, replace(STILL, p_correct=1))(
        trunk_of(built, [picture(mask)]), [point_at(mask)], np.random.default_rng(0)
    )
    assert loss.objects == 2


def test_slices_without_objects_cost_nothing(built):
    loss = InteractiveObjective(built.tracker, built.tracker_neck)(
        torch.zeros(1, 96, 8, 8), [], np.random.default_rng(0)
    )
    assert (loss.total.item(), loss.objects) == (0, 0)
    loss.total.backward()


def test_tables_of_positions_that_differ_are_refused():
    other = network()
    other.tracker.prompt_encoder.shared_embedding.positional_embedding.add_(1)
    with pytest.raises(WeightsError, match="draw it once and use it for both"):
        InteractiveObjective(other.tracker, other.tracker_neck)


def test_interactive_head_learns_squares():
    built = network(3)
    for module in (built.tracker, built.tracker_neck):
        module.requires_grad_().train()
    masks = [square(20, 20, 40), square(50, 60, 30), square(10, 70, 24)]
    trunk = trunk_of(built, [picture(mask) for mask in masks])
    prompts = [replace(point_at(mask), slice_index=index) for index, mask in enumerate(masks)]
    objective = InteractiveObjective(built.tracker, built.tracker_neck, STILL)
    parameters = [*built.tracker.parameters(), *built.tracker_neck.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=2e-3)
    quality = []
    for _ in range(20):
        loss = objective(trunk, prompts, np.random.default_rng(0))
        optimiser.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        quality.append(loss.parts["true_iou"])
    assert quality[-1] > 0.6 > quality[0], quality
