"""The agent as a prompt policy of benchmark: traces in the store, in the catalog, and what faults cost."""

import json

import numpy as np
import pytest

from medsam3_core.errors import UsageError
from medsam3_core.prompts.policies import PromptPolicy
from storage.catalog.catalog import connect
from storage.runs.predictions import open_prediction
from storage.runs.requests import BenchmarkRequest
from storage.store.layout import open_store
from tasks.agent.endpoint import EndpointSettings
from tests.core.agent.scripted_server import call, scripted, status
from tests.stores.small import benchmark_here, ingest_here

PATIENCE = {"tries": 2, "backoff_seconds": 0.01}


@pytest.fixture(scope="module")
def nuclei(tmp_path_factory):
    layout = open_store(tmp_path_factory.mktemp("agent") / "store")
    ingest_here(layout, "phantom:nuclei,cases=2,size=48x48", "nuclei")
    return layout


def run(store, *prompts, settings=(), endpoint=None, retry=False):
    request = BenchmarkRequest(("nuclei",), ("tiny-untrained",), prompts, settings, "all", retry=retry)
    (group,) = benchmark_here(store, request, endpoint).groups
    return {item.policy.kind: item for item in group.runs.values()}


def ask(store, query):
    with connect(store) as con:
        return con.execute(query).fetchall()


def labels(store, run_id, case_id):
    return open_prediction(store.prediction(run_id, case_id)).labels("nucleus")


def test_plain_names_by_rules_are_what_the_policy_text_draws(nuclei):
    runs = run(nuclei, "text", "agent")
    for case_id in ("nuclei_000", "nuclei_001"):
        drawn = [labels(nuclei, runs[kind].run_id, case_id) for kind in ("text", "agent")]
        np.testing.assert_array_equal(*drawn)
    scores = ask(nuclei, "SELECT prompt, dice FROM scores ORDER BY case_id, prompt")
    assert [prompt for prompt, _ in scores] == ["agent:synonyms=3", "text:slices=all"] * 2
    assert scores[0][1] == scores[1][1]


def test_traces_join_scores_by_run_case_and_structure(nuclei):
    found = ask(
        nuclei,
        "SELECT t.kind, t.text, s.dice IS NOT NULL, t.cohort FROM traces AS t "
        "JOIN scores AS s USING (run_id, case_id, structure) WHERE case_id = 'nuclei_000' ORDER BY step",
    )
    assert [row[0] for row in found] == ["request", "tool", "answer"]
    assert found[0][1:] == ("asked for 'cell nucleus', a plain name", True, "nuclei")


def test_the_request_stands_in_the_prompts_and_the_vocabulary_in_the_prompt_id(nuclei):
    assert ask(nuclei, "SELECT DISTINCT kind, text FROM prompts WHERE prompt = 'agent:synonyms=3'") == [
        ("request", "cell nucleus")
    ]
    policy = PromptPolicy.parse("agent")
    assert policy.canonical() == "agent:synonyms=3"
    assert not policy.privileged
    assert policy.prompt_id({"a": "b"}) != PromptPolicy.parse("text").prompt_id({"a": "b"})
    with pytest.raises(UsageError, match="'synonyms' does not apply to prompt policy text"):
        PromptPolicy.parse("text:synonyms=1")
    with pytest.raises(UsageError, match="not a whole number from 0 to 16"):
        PromptPolicy.parse("agent:synonyms=99")


def test_a_model_is_asked_over_http_and_every_answer_is_kept(nuclei):
    script = [call("segment_text", text="cell nucleus"), call("accept", masks=[{"mask": 1}], reason="all of them")] * 2
    with scripted(*script) as server:
        runs = run(nuclei, "agent", settings=("agent_model=m",), endpoint=EndpointSettings(server.url, **PATIENCE))
    (made,) = runs.values()
    found = ask(
        nuclei,
        "SELECT case_id, count(*), sum(tokens_in), sum(tokens_out), min(endpoint), count(reply), sum(cost), "
        f"count(seconds) FROM traces WHERE run_id = '{made.run_id}' AND kind = 'model' GROUP BY 1 ORDER BY 1",
    )
    assert found == [(case, 2, 200, 20, "127.0.0.1", 2, 0.0, 2) for case in ("nuclei_000", "nuclei_001")]
    sent = json.dumps(server.seen)
    assert not any(word in sent for word in ("nuclei_000", "image_url", str(nuclei.root)))
    spent = [json.loads(path.read_text())["tokens"] for path in nuclei.agent_spending(made.run_id).glob("*.json")]
    assert spent == [220, 220]


def test_settings_of_the_agent_name_the_run_and_the_defaults_leave_other_runs_alone(nuclei):
    rows = dict(
        ask(nuclei, "SELECT settings, count(DISTINCT settings_id) FROM runs WHERE prompt LIKE 'agent%' GROUP BY 1")
    )
    assert rows.keys() == {"default", "agent_model=m"}
    text, rules = ask(nuclei, "SELECT settings_id FROM runs WHERE settings = 'default' ORDER BY prompt")
    assert text == rules


def test_an_endpoint_that_is_down_costs_the_agent_its_cases_and_nobody_else(nuclei):
    with scripted(status(500)) as server:
        endpoint = EndpointSettings(server.url, **PATIENCE)
        runs = run(nuclei, "agent", settings=("agent_model=down",), endpoint=endpoint)
    (made,) = runs.values()
    failed = ask(nuclei, f"SELECT status, reason FROM failures WHERE run_id = '{made.run_id}'")
    assert [row[0] for row in failed] == ["failed", "failed"]
    assert "did not answer after 2 tries: status 500" in failed[0][1]
    kinds = ask(
        nuclei, f"SELECT kind FROM traces WHERE run_id = '{made.run_id}' AND case_id = 'nuclei_000' ORDER BY step"
    )
    assert kinds == [("request",), ("fault",)]
    script = [call("report_absent", reason="nothing")]
    with scripted(*script) as server:
        run(nuclei, "agent", settings=("agent_model=down",), endpoint=EndpointSettings(server.url), retry=True)
    assert ask(nuclei, f"SELECT count(*) FROM failures WHERE run_id = '{made.run_id}'") == [(0,)]


def test_caps_of_the_run_hold_over_its_cases(nuclei):
    script = [call("segment_text", text="cell nucleus"), call("measure", mask=1)]
    with scripted(*script) as server:
        endpoint = EndpointSettings(server.url, **PATIENCE)
        runs = run(nuclei, "agent", settings=("agent_model=c", "agent_run_tokens=300"), endpoint=endpoint)
    (made,) = runs.values()
    assert len(server.seen) == 3
    notes = ask(nuclei, f"SELECT fallbacks FROM outcomes WHERE run_id = '{made.run_id}' ORDER BY case_id")
    assert len(notes) == 2
    assert all("agent-stopped:agent_run_tokens: 330 of 300" in note for (note,) in notes)


def test_settings_of_the_agent_without_its_policy_make_no_run(nuclei):
    with pytest.raises(UsageError, match=r"does not accept agent settings \(text"):
        run(nuclei, "text", settings=("agent_turns=3",))
