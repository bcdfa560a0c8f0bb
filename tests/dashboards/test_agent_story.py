import pandas as pd
import pytest

from dashboards.views.agent_story import cost_line, ending, story
from medsam3_core.agent.strategy import AgentRun, answer_requests
from storage.runs.traces import trace_rows
from tests.core.agent.parrot import Parrot, block, session
from tests.core.agent.scripted_server import call, calls, scripted
from tests.core.agent.test_conversation import talk

LEFT, RIGHT = block(40, 55), block(5, 20)


def told(case):
    return trace_rows("run", "case", "attempt", case.events)


def test_rules_read_like_a_story():
    case = answer_requests(
        session(Parrot({"lesion": LEFT, "right lobe of the liver": RIGHT})),
        {"lesion": "lesion in the right lobe, if any"}, AgentRun(synonyms=0),
    )  # fmt: skip
    events = told(case)
    assert story(events) == [
        "The request asked for 'lesion in the right lobe, if any', understood as 'lesion', "
        "inside 'right lobe of the liver', if there is any.",
        "Prompted the segmenter with “lesion”: 1 object, 6.0 ml (mask 1).",
        "Prompted the segmenter with “right lobe of the liver”: 1 object, 6.0 ml (mask 2).",
        "Prompted the segmenter with “liver”: nothing was drawn.",
        "Decision: 0 of 1 objects lie in text 'right lobe of the liver'.",
        "Answer: absent: 0 of 1 objects lie in text 'right lobe of the liver'.",
    ]
    assert ending(events) == "absent: 0 of 1 objects lie in text 'right lobe of the liver'"
    assert cost_line(events) == ""


def test_a_conversation_reads_like_a_story_with_its_cost():
    script = [calls(("fly", "{}")), call("segment_text", text="kidney"), call("measure", mask=1, object=2),
              call("look", slice=2, mask=1, box=[0, 0, 9, 9]),
              call("accept", masks=[{"mask": 1, "objects": [1, 2]}], reason="both are there")]  # fmt: skip
    with scripted(*script) as server:
        events = told(talk(server, "share_pixels=on"))
    lines = story(events)
    assert lines[1] == "Turn 1: the model called fly."
    assert lines[2].startswith("Fault: fly: there is no tool 'fly'")
    assert lines[4] == "Prompted the segmenter with “kidney”: 2 objects, 12.0 ml (mask 1)."
    assert lines[6] == "Measured mask 1, object 2: 1 object, 6.0 ml, side left, mean intensity 150."
    assert lines[8] == "Looked at slice 2, mask 1 outlined, cropped."
    assert lines[10:] == ["Accepted mask 1 (objects 1, 2) as the answer.", "Answer: 2 objects: both are there."]
    assert cost_line(events).startswith("5 responses of m at 127.0.0.1: 550 tokens, ")
    assert cost_line(events).endswith("cost 0, 1 images sent.")


def test_a_reported_absence_reads_like_one():
    with scripted(call("report_absent", reason="no horn")) as server:
        lines = story(told(talk(server)))
    assert lines[-2:] == ["Reported the structure as absent.", "Answer: absent: no horn."]


def test_a_cost_that_is_not_known_is_said():
    event = {"kind": "model", "model": "m", "endpoint": "h", "tokens_in": 1, "tokens_out": 2, "seconds": 0.5}
    assert cost_line([event | {"cost": pd.NA, "images": ["a", "b"]}]) == (
        "1 responses of m at h: 3 tokens, 0.5 s, cost unknown, 2 images sent."
    )


@pytest.mark.parametrize("kind", ["cap", "fault"])
def test_a_story_without_an_answer_says_so(kind):
    assert ending([{"kind": kind, "text": "stopped"}]) == "no answer: stopped"
