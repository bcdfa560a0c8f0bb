import numpy as np
import pytest

from medsam3_core.agent.measuring import half_masks, intensity_facts, object_facts
from medsam3_core.agent.rules import RuleAgent
from medsam3_core.agent.session import EncodeOnce
from medsam3_core.agent.strategy import AgentRun, answer_requests
from medsam3_core.agent.trace import EventKind, Trace
from medsam3_core.agent.vocabulary.vocabulary import Side
from medsam3_core.errors import UsageError
from medsam3_core.settings.inference import InferenceSettings
from tests.core.agent.parrot import SHAPE, Parrot, block, geometry, session, slice_of

RIGHT, LEFT = block(5, 20), block(40, 55)  # columns run from the patient's right to the left


def ask(parrot, words, **requests):
    case = answer_requests(session(parrot), {"it": words, **requests}, AgentRun())
    return case.answers["it"], case.events


def test_a_plain_name_is_taken_as_drawn_and_nothing_else_is_asked():
    parrot = Parrot({"left kidney": LEFT, "left renal parenchyma": RIGHT})
    answer, events = ask(parrot, "left kidney")
    np.testing.assert_array_equal(answer.labels > 0, LEFT)
    assert set(parrot.asked) == {"left kidney"}
    assert [event.kind for event in events] == [EventKind.REQUEST, EventKind.TOOL, EventKind.ANSWER]


@pytest.mark.parametrize("words", ["the organ that filters blood", "Ren", "Niere", "kidneys"])
def test_other_names_become_the_plain_name(words):
    answer, events = ask(Parrot({"kidney": LEFT | RIGHT}), words)
    np.testing.assert_array_equal(answer.labels > 0, LEFT | RIGHT)
    assert "understood as 'kidney'" in events[0].text


def test_words_that_weights_answer_wrongly_cannot_overrule_the_plain_name():
    wrong = block(25, 35)
    answer, _ = ask(Parrot({"kidney": LEFT, "renal parenchyma": wrong, "renal organ": wrong}), "ren")
    np.testing.assert_array_equal(answer.labels > 0, LEFT)


def test_where_the_plain_name_draws_nothing_two_other_names_that_agree_answer():
    answer, _ = ask(Parrot({"renal parenchyma": LEFT, "renal organ": LEFT}), "ren")
    np.testing.assert_array_equal(answer.labels > 0, LEFT)
    assert "agree" in answer.reason
    lonely, _ = ask(Parrot({"renal parenchyma": LEFT, "renal organ": RIGHT}), "ren")
    assert lonely.absent
    assert "no two other names agree" in lonely.reason


@pytest.mark.parametrize("words", ["肝脏", "печень", "gizmo"])
def test_words_that_the_vocabulary_does_not_know_are_asked_as_they_stand_and_it_says_so(words):
    answer, _ = ask(Parrot({words: LEFT}), words)
    np.testing.assert_array_equal(answer.labels > 0, LEFT)
    assert answer.reason == f"the vocabulary does not know these words; taken as drawn for {words!r}"


def test_weights_without_sides_get_the_pair_cut_to_the_side():
    answer, _ = ask(Parrot({"kidney": LEFT | RIGHT}), "kidney on the left")
    np.testing.assert_array_equal(answer.labels > 0, LEFT)
    assert len(answer.scores) == 1


def test_a_lesion_is_kept_where_it_lies_inside_the_place():
    lesions = block(8, 12, 12, 16) | block(45, 49, 12, 16)
    answer, _ = ask(Parrot({"lesion": lesions, "right lobe of the liver": RIGHT}), "lesion in the right lobe, if any")
    np.testing.assert_array_equal(answer.labels > 0, lesions & RIGHT)
    none, events = ask(
        Parrot({"lesion": block(45, 49), "right lobe of the liver": RIGHT}), "lesion in the right lobe, if any"
    )
    assert none.absent
    assert events[-1].text == "absent: 0 of 1 objects lie in text 'right lobe of the liver'"


def test_a_place_that_is_not_found_is_its_parent_and_else_not_checked():
    answer, _ = ask(Parrot({"lesion": LEFT, "liver": RIGHT}), "lesion in the right lobe")
    assert answer.absent
    kept, events = ask(Parrot({"lesion": LEFT}), "lesion in the right lobe")
    assert not kept.absent
    assert any("cannot be checked" in event.text for event in events)


def test_every_slice_is_encoded_once_for_all_requests_and_names():
    parrot = Parrot({"kidney": LEFT | RIGHT, "liver": RIGHT})
    ask(parrot, "renal organ on the left", other="hepar", third="striped gizmo")
    assert sorted(parrot.encoded) == list(range(SHAPE[0]))


def test_an_empty_request_is_refused():
    with pytest.raises(UsageError, match="is empty"):
        ask(Parrot({}), " ")


def test_facts_are_arithmetic():
    facts = object_facts(LEFT, geometry())
    assert facts == {
        "voxels": 4 * 20 * 15, "volume_ml": 6.0, "slices": [0, 3], "box_xyxy": [40, 10, 55, 30], "side": "left",
    }  # fmt: skip
    assert intensity_facts(LEFT, lambda z: np.full(SHAPE[1:], 100 * z))["mean"] == 150
    halves = half_masks(geometry())
    assert halves[Side.LEFT][0, 0].sum() == SHAPE[2] / 2
    np.testing.assert_array_equal(halves[Side.LEFT], ~halves[Side.RIGHT])


def test_more_second_opinions_are_asked_where_the_policy_wants_them():
    parrot = Parrot({})
    trace = Trace()
    RuleAgent(session(parrot), trace, synonyms=0).answer({"it": "ren"})
    assert set(parrot.asked) == {"kidney"}
    assert slice_of(2)[0, 0, 0] == 2


def test_of_a_volume_too_large_to_keep_most_encodings_are_reused():
    class Sized(int):
        nbytes = 10

    class Encoder(Parrot):
        def encode(self, images, settings):
            return [Sized(z) for z in super().encode(images, settings)]

    parrot = Encoder({})
    once = EncodeOnce(parrot, keep_bytes=30)
    for _ in range(3):
        for z in range(SHAPE[0]):
            assert once.encode([slice_of(z)], InferenceSettings()) == [z]
    assert parrot.encoded == [0, 1, 2, 3, 2, 1]
