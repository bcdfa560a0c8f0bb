import json

import pytest
import torch

from medsam3_core.training.losses.concept_objective import ConceptBatch, matched_divisors
from medsam3_core.training.losses.losses import LossWeights, box_losses, class_loss, mask_losses, presence_loss
from medsam3_core.training.losses.matching import Matches, corners_of, match_one_to_one, paired_iou
from tests import GOLDEN
from tests.core.sam3.golden import arrays_of

OFFICIAL = LossWeights()


@pytest.fixture(scope="module")
def golden():
    tensors = arrays_of("losses")
    expected = json.loads((GOLDEN / "loss.json").read_text())
    logits, boxes, wanted = tensors["out.pred_logits"][..., 0], tensors["out.pred_boxes"], tensors["tgt.boxes"]
    counts = tensors["tgt.num_boxes"].tolist()
    return tensors, expected, logits, boxes, wanted, counts, match_one_to_one(logits, boxes, wanted, counts)


def test_matches_equal_the_official_ones(golden):
    tensors, *_, matches = golden
    assert matches.prompt.tolist() == tensors["match.batch"].tolist()
    assert matches.query.tolist() == tensors["match.query"].tolist()


def test_losses_equal_the_official_ones(golden):
    tensors, expected, logits, boxes, wanted, counts, matches = golden
    l1, giou = box_losses(boxes, wanted, matches, 3)
    focal, dice = mask_losses(
        tensors["out.pred_masks"][matches.prompt, matches.query], tensors["tgt.masks"][matches.target], 3
    )
    classes = class_loss(logits, boxes, wanted, matches, counts, OFFICIAL)
    presence = presence_loss(tensors["out.presence_logit_dec"], counts)
    found = {
        "Boxes.loss_bbox": l1,
        "Boxes.loss_giou": giou,
        "Boxes.core_loss": OFFICIAL.box * l1 + OFFICIAL.giou * giou,
        "IABCEMdetr.loss_ce": classes,
        "IABCEMdetr.presence_loss": presence,
        "IABCEMdetr.core_loss": OFFICIAL.classes * classes + OFFICIAL.presence * presence,
        "Masks.loss_mask": focal,
        "Masks.loss_dice": dice,
        "Masks.core_loss": OFFICIAL.mask * focal + OFFICIAL.dice * dice,
    }
    for name, value in found.items():
        assert float(value) == pytest.approx(expected[name], abs=1e-5 * max(1.0, expected[name])), name


def test_iou_of_half_overlapping_boxes():
    one, other = torch.tensor([[0.5, 0.5, 1.0, 1.0]]), torch.tensor([[1.0, 0.5, 1.0, 1.0]])
    iou, giou = paired_iou(corners_of(one), corners_of(other))
    assert float(iou) == pytest.approx(1 / 3)
    assert float(giou) == pytest.approx(1 / 3)  # the hull is the union


def test_prompts_without_objects_have_no_pairs_and_no_class_loss():
    logits, boxes = torch.randn(2, 5, requires_grad=True), torch.rand(2, 5, 4)
    nothing = torch.zeros(0, 4)
    matches = match_one_to_one(logits, boxes, nothing, [0, 0])
    assert len(matches.query) == 0
    assert float(class_loss(logits, boxes, nothing, matches, [0, 0], OFFICIAL).detach()) == 0.0


def test_a_perfect_mask_costs_nothing_and_an_inverted_one_costs_all():
    wanted = torch.zeros(1, 8, 8, dtype=torch.bool)
    wanted[:, :4] = True
    sure = torch.where(wanted, 20.0, -20.0)
    assert all(float(loss) < 1e-3 for loss in mask_losses(sure, wanted, 1))
    assert float(mask_losses(-sure, wanted, 1)[1]) > 0.95


def test_with_prompts_alike_a_crowd_counts_as_much_as_one_organ():
    wanted = torch.tensor([[0.5, 0.5, 0.2, 0.2]]).repeat(5, 1)
    found = wanted.repeat(2, 1, 1).clone()
    found[0, 0, 0] += 0.3  # the only object of the first prompt is 0.3 off; the four of the second are right
    counts = [1, 4]
    prompt, query = torch.tensor([0, 1, 1, 1, 1]), torch.tensor([0, 0, 1, 2, 3])
    matches = Matches(prompt, query, torch.arange(5))
    nothing = torch.zeros(0)
    masks = torch.zeros(5, 4, 4), torch.zeros(2, 4, 4)
    batch = ConceptBatch(nothing, nothing, nothing, nothing, nothing, counts, wanted, *masks)
    for alike, expected in ((True, 0.3 / 2), (False, 0.3 / 5)):
        divisors = matched_divisors(matches, batch, LossWeights(prompts_alike=alike))
        assert float(box_losses(found, wanted, matches, divisors)[0]) == pytest.approx(expected)
