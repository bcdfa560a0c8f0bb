"""What goes to an endpoint and what is believed of what comes back, byte by byte, over HTTP on loopback."""

import json
import time

import pytest

from medsam3_core.agent.chat import Price
from medsam3_core.agent.strategy import AgentInterrupted
from medsam3_core.agent.trace import EventKind
from medsam3_core.errors import UsageError
from storage.runs.traces import read_trace_file, trace_rows, write_trace_file
from tasks.agent.endpoint import EndpointSettings, open_access, require_allowed
from tasks.agent.replies import MAX_ANSWER_BYTES
from tests.core.agent.parrot import Parrot, session
from tests.core.agent.scripted_server import call, calls, drip, scripted, status, words
from tests.core.agent.test_conversation import DONE, talk

SECRET = "sk-0123456789abcdef"
ABSENT = call("report_absent", reason="none")


def answers(case):
    return [event for event in case.events if event.kind is EventKind.MODEL]


def test_no_key_of_the_environment_is_sent_but_ours(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-somebody")
    monkeypatch.setenv("MEDSAM3_AGENT_KEY", "ours")
    with scripted(call("report_absent", reason="none")) as server:
        talk(server)
    sent = {name.lower(): value for name, value in server.headers[0].items()}
    assert sent["authorization"] == "Bearer ours"
    assert "openai-organization" not in sent


def test_a_proxy_of_the_environment_does_not_see_what_stays_on_this_machine(monkeypatch):
    with scripted(status(500)) as proxy, scripted(call("report_absent", reason="none")) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        talk(server)
    assert (len(proxy.seen), len(server.seen)) == (0, 1)


def test_the_headers_say_nothing_of_the_machine():
    with scripted(ABSENT) as server:
        talk(server)
    sent = {name.lower() for name in server.headers[0]}
    assert sent <= {
        "host", "accept", "accept-encoding", "connection", "user-agent", "authorization", "content-type",
        "content-length",
    }  # fmt: skip


def test_white_space_around_a_key_is_no_part_of_it(monkeypatch):
    monkeypatch.setenv("MEDSAM3_AGENT_KEY", f" {SECRET}\r\n")
    with scripted(ABSENT) as server:
        talk(server)
    sent = {name.lower(): value for name, value in server.headers[0].items()}
    assert sent["authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("key", [f"{SECRET}\nX-Evil: 1", f"{SECRET}\u20ac"])
def test_a_key_that_no_header_holds_is_refused_and_not_shown(monkeypatch, key):
    monkeypatch.setenv("MEDSAM3_AGENT_KEY", key)
    parsed = session(Parrot({}), "agent_model=m").settings.agent
    with pytest.raises(UsageError, match="the key in MEDSAM3_AGENT_KEY contains characters not allowed") as refused:
        require_allowed(parsed, EndpointSettings("http://127.0.0.1:9/v1"))
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("url", [f"http://user:{SECRET}@127.0.0.1:9/v1", f"https://evil.org\\@127.0.0.1/{SECRET}"])
def test_a_url_with_a_password_is_refused_and_not_shown(url):
    parsed = session(Parrot({}), "agent_model=m").settings.agent
    with pytest.raises(UsageError, match="contains a user or a password") as refused:
        open_access(parsed, EndpointSettings(url))
    assert SECRET not in str(refused.value)


def test_a_key_that_the_endpoint_repeats_is_not_written_down(monkeypatch, tmp_path):
    monkeypatch.setenv("MEDSAM3_AGENT_KEY", SECRET)
    echo = calls(("segment_text", json.dumps({"text": SECRET})), (SECRET, SECRET))
    echo["message"]["content"] = f"your key is {SECRET}"
    with scripted(echo, call("report_absent", reason=f"{SECRET} is no organ")) as server:
        case = talk(server)
    write_trace_file(tmp_path / "a.trace.parquet", trace_rows("r", "c", "a", case.events))
    assert SECRET not in str(read_trace_file(tmp_path / "a.trace.parquet"))
    assert "your key is ***" in case.events[1].text


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": -5, "completion_tokens": 1}, {"prompt_tokens": "many"},
                                   {"prompt_tokens": 1e999, "completion_tokens": 1},
                                   {"prompt_tokens": 0, "completion_tokens": 0}])  # fmt: skip
def test_caps_hold_where_the_endpoint_counts_no_tokens(usage):
    scripted_answer = {**call("segment_text", text="kidney"), "usage": usage}
    with scripted(scripted_answer, {**call("measure", mask=1), "usage": usage}) as server:
        case = talk(server, "agent_tokens=1500", prices={"m": Price(10.0, 10.0)})
    assert case.answers["kidney"].notes[0].startswith("agent-stopped:agent_tokens")
    assert "the endpoint counts no tokens: estimated" in answers(case)[0].text
    assert all(event.tokens_in > 100 and event.tokens_out > 0 and event.cost > 0 for event in answers(case))


def test_a_price_below_zero_is_none():
    with pytest.raises(ValueError, match=r"price of -1\.0 per million tokens must be 0 or above"):
        Price(-1.0, 0.0)


def test_an_answer_that_drips_is_given_up_in_time():
    started = time.monotonic()
    with scripted(drip(0.3, DONE)) as server, pytest.raises(AgentInterrupted, match=r"no answer within 0\.5 s"):
        talk(server, tries=1, timeout_seconds=0.5)
    assert time.monotonic() - started < 5.5  # twenty pieces would have taken 6


def test_an_endless_answer_is_given_up():
    endless = {"raw": "x" * (MAX_ANSWER_BYTES + 100_000)}
    with scripted(endless) as server, pytest.raises(AgentInterrupted, match="after 1 try: the answer exceeds 4 MB"):
        talk(server, tries=1)


@pytest.mark.parametrize(
    "raw", ["[]", "null", "17", "{}", '{"choices": []}', '{"choices": [{"message": null}]}', '{"choices": [1]}',
            '{"choices": [{"message": {"tool_calls": [{"id": 1}]}}]}']
)  # fmt: skip
def test_whatever_is_no_chat_completion_fails_the_case(raw):
    with scripted({"raw": raw}) as server, pytest.raises(AgentInterrupted, match="not a chat completion"):
        talk(server, tries=1)


def test_arguments_may_be_an_object_instead_of_its_text():
    made = calls(("segment_text", ""))
    made["message"]["tool_calls"][0]["function"]["arguments"] = {"text": "kidney"}
    with scripted(made, DONE) as server:
        case = talk(server)
    assert len(case.answers["kidney"].scores) == 2


def test_halves_of_characters_and_zeros_are_written_down_all_the_same(tmp_path):
    odd = calls(("segment_text", json.dumps({"text": "a\ud800"})), ("fl\udfffy", "\ud800"), ("segment_text", "\0"))
    odd["message"]["content"] = "half \ud83d of a smile\0"
    with scripted(odd, {**ABSENT, "message": {**ABSENT["message"], "content": "\udc00"}}) as server:
        case = talk(server)
    assert [str(event.kind) for event in case.events].count("fault") == 3
    write_trace_file(tmp_path / "a.trace.parquet", trace_rows("r", "c", "a", case.events))
    assert read_trace_file(tmp_path / "a.trace.parquet") == list(case.events)


def test_a_flood_of_calls_and_words_is_cut():
    flood = calls(*(("segment_text", json.dumps({"text": f"organ {number}"})) for number in range(100)))
    flood["message"]["content"] = "blah " * 100_000
    with scripted(flood, ABSENT) as server:
        case = talk(server)
    told = server.told(1)
    assert len(told) == 32
    assert sum("too many calls at once" in one for one in told) == 32 - 8
    assert len(json.dumps(server.seen[1])) < 50_000
    assert case.answers["kidney"].absent


@pytest.mark.parametrize("asked", ["Wed, 21 Oct 2015 07:28:00 GMT", "soon", "-1", "nan"])
def test_whatever_retry_after_says_it_is_tried_again(asked):
    with scripted(status(429, retry_after=asked), words("hm"), ABSENT) as server:
        case = talk(server)
    assert len(server.seen) == 3
    assert case.answers["kidney"].absent
