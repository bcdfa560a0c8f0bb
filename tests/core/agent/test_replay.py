"""A conversation is repeated from its trace, asking nobody, and gives the same masks."""

import numpy as np
import pytest

from medsam3_core.agent.chat import ModelAccess
from medsam3_core.agent.replay import ReplayEndpoint, model_of, requests_of
from medsam3_core.agent.strategy import AgentInterrupted, AgentRun, Spent, answer_requests
from tests.core.agent.parrot import Parrot, session
from tests.core.agent.scripted_server import call, calls, scripted, status
from tests.core.agent.test_conversation import DONE, KNOWS, LEFT, kinds, talk


def again(case, parrot=None):
    """The repetition of a case by what its trace says alone; caps are not given."""
    at_hand = session(parrot or Parrot(KNOWS), f"agent_model={model_of(case.events)}")
    access = ModelAccess(ReplayEndpoint(case.events))
    return answer_requests(at_hand, requests_of(case.events), AgentRun(access=access))


def test_replay_gives_the_same_masks_without_the_endpoint():
    script = [calls(("fly", "{}")), call("segment_text", text="kidney"),
              call("accept", masks=[{"mask": 1, "objects": [2]}], reason="the right one")]  # fmt: skip
    with scripted(*script) as server:
        case = talk(server)
    repeated = again(case)
    np.testing.assert_array_equal(repeated.answers["kidney"].labels, case.answers["kidney"].labels)
    assert kinds(repeated) == kinds(case)


@pytest.mark.parametrize("setting", ["agent_tokens=200", "agent_turns=2"])
def test_replay_stops_where_the_record_stopped_for_every_request(setting):
    script = [call("segment_text", text="kidney"), call("measure", mask=1)]
    with scripted(*script) as server:
        case = talk(server, setting, others={"spleen": "spleen", "liver": "liver"})
    repeated = again(case)
    assert [one.notes for one in repeated.answers.values()] == [one.notes for one in case.answers.values()]
    assert all(one.notes for one in case.answers.values())
    for name, answer in case.answers.items():
        np.testing.assert_array_equal(repeated.answers[name].labels, answer.labels)


def test_replay_stops_where_a_failing_endpoint_had_used_up_the_time():
    with scripted(call("segment_text", text="kidney"), status(503)) as server:
        case = talk(server, "agent_seconds=0.5", tries=20, backoff_seconds=0.1)
    assert kinds(case)[-3:] == ["fault", "cap", "answer"]
    assert again(case).answers["kidney"].notes == case.answers["kidney"].notes


def test_replay_on_another_image_is_refused():
    with scripted(call("segment_text", text="kidney"), DONE) as server:
        case = talk(server)
    with pytest.raises(AgentInterrupted, match="reply 2 of the trace belongs to another request"):
        again(case, Parrot({"kidney": LEFT}))


def test_a_trace_names_its_model_even_where_nothing_was_answered():
    with scripted(DONE) as server:
        case = talk(server, "agent_run_tokens=10", spent=lambda: Spent(tokens=10))
    assert (len(server.seen), model_of(case.events)) == (0, "m")
    assert again(case).answers["kidney"].notes == case.answers["kidney"].notes
