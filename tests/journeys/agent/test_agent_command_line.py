"""The agent through the real command line: predict, replay, refusals; and the proof that nothing leaves loopback."""

import json
import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from medsam3_core.errors import UsageError
from storage.catalog.catalog import connect
from storage.exports.segment_plan import SegmentRequest
from storage.runs.requests import BenchmarkRequest
from storage.store.layout import open_store
from tests import ROOT
from tests.command_line import command_line
from tests.core.agent.scripted_server import call, scripted
from tests.core.sam3.segmenters import phantom
from tests.journeys.agent.test_agent_runs import PATIENCE
from tests.journeys.archives.segmented_here import segment_here
from tests.stores.small import benchmark_here, ingest_here

GUARD = """
import os, socket
_connect, _connect_ex = socket.socket.connect, socket.socket.connect_ex
def _note(address):
    with open(os.environ["CONNECTIONS"], "a") as file:
        file.write(repr(address[0] if isinstance(address, tuple) else "unix") + "\\n")
def connect(self, address):
    _note(address); return _connect(self, address)
def connect_ex(self, address):
    _note(address); return _connect_ex(self, address)
socket.socket.connect, socket.socket.connect_ex = connect, connect_ex
"""


@pytest.fixture
def medsam3(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("MEDSAM3_AGENT_URL", raising=False)
    return command_line(tmp_path / "store", monkeypatch, capsys)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "fundus.png"
    Image.fromarray(phantom(1)).save(path)
    return path


def test_predict_by_rules_writes_the_answer_and_its_trace(medsam3, picture, tmp_path):
    out = tmp_path / "answer.npz"
    medsam3(
        "predict",
        picture,
        "--weights",
        "tiny-untrained",
        "--prompt",
        "agent",
        "--text",
        "vessels of the retina",
        "--out",
        out,
    )
    medsam3(
        "predict", picture, "--weights", "tiny-untrained", "--text", "retinal blood vessel", "--out", tmp_path / "b.npz"
    )
    trace = pq.read_table(f"{out}.trace.parquet").to_pylist()
    assert trace[0]["text"] == "asked for 'vessels of the retina', understood as 'retinal blood vessel'"
    assert trace[-1]["kind"] == "answer"


def test_predict_by_a_model_is_replayed_from_its_trace(medsam3, tmp_path, monkeypatch):
    volume = tmp_path / "volume.nii.gz"
    nib.save(
        nib.Nifti1Image(np.stack([phantom(2, (40, 48))[..., 0]] * 3).T.astype(np.int16), np.diag([-1.0, 1, 3, 1])),
        volume,
    )
    asked = (
        "predict",
        volume,
        "--weights",
        "tiny-untrained",
        "--prompt",
        "agent",
        "--text",
        "the liver, if any",
        "--set",
        "agent_model=m",
    )
    script = [call("segment_text", text="liver"), call("accept", masks=[{"mask": 1}], reason="right place")]
    with scripted(*script) as server:
        monkeypatch.setenv("MEDSAM3_AGENT_URL", server.url)
        first = medsam3(*asked, "--out", tmp_path / "a.nii.gz")
    assert "right place" in first.err
    medsam3(*asked, "--out", tmp_path / "b.nii.gz", "--replay", tmp_path / "a.nii.gz.trace.parquet")
    masks = [np.asarray(nib.load(tmp_path / name).dataobj) for name in ("a.nii.gz", "b.nii.gz")]
    np.testing.assert_array_equal(*masks)
    assert len(server.seen) == 2

    trace = tmp_path / "a.nii.gz.trace.parquet"
    before = trace.read_bytes()
    monkeypatch.delenv("MEDSAM3_AGENT_URL")
    bare = ("predict", volume, "--weights", "tiny-untrained", "--replay", trace, "--out", tmp_path / "a.nii.gz")
    assert "right place" in medsam3(*bare).err  # the trace alone says what was asked, and of whom
    assert trace.read_bytes() == before
    assert "the trace was recorded for 'the liver, if any'" in medsam3(*bare, "--text", "spleen", code=2).err
    assert "not agent_model=other" in medsam3(*bare, "--set", "agent_model=other", code=2).err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--set", "agent_model=m"], "needs an endpoint"),
        (["--set", "agent_model=m", "--set", "share_pixels=elsewhere.org"], "needs an endpoint"),
        (["--set", "agent_turns=0"], "agent_turns=0 is outside 1..100"),
        (["--box", "1,2,3,4"], "accepts requests by --text only"),
        (["--text", "  "], "is empty; say in words what to segment"),
    ],
)
def test_wrong_words_are_refused_with_code_2(medsam3, picture, tmp_path, words, complaint):
    asked = ("predict", picture, "--weights", "tiny-untrained", "--prompt", "agent", "--out", tmp_path / "a.png")
    done = medsam3(*asked, *([] if "--text" in words else ["--text", "vessel"]), *words, code=2)
    assert complaint in done.err


def test_a_remote_endpoint_gets_nothing_that_it_is_not_named_for(medsam3, picture, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSAM3_AGENT_URL", "https://llm.example.org/v1")
    asked = (
        "predict",
        picture,
        "--weights",
        "tiny-untrained",
        "--prompt",
        "agent",
        "--text",
        "vessel",
        "--set",
        "agent_model=m",
    )
    done = medsam3(*asked, "--set", "agent_cost=0", "--set", "share_pixels=on", "--out", tmp_path / "a.png", code=2)
    assert "write share_pixels=llm.example.org to allow it" in done.err


def test_a_run_is_repeated_from_its_trace_without_the_endpoint(medsam3, tmp_path):
    from tasks.agent.endpoint import EndpointSettings

    store = open_store(tmp_path / "store")
    ingest_here(store, "phantom:nuclei,cases=1,size=48x48", "nuclei")
    script = [
        call("segment_text", text="cell nucleus"),
        call("accept", masks=[{"mask": 1, "objects": [1]}], reason="one"),
    ]
    request = BenchmarkRequest(("nuclei",), ("tiny-untrained",), ("agent",), ("agent_model=m",), "all")
    with scripted(*script) as server:
        (group,) = benchmark_here(store, request, EndpointSettings(server.url, **PATIENCE)).groups
    (run_id,) = group.runs
    done = medsam3("replay", run_id)
    assert done.out == "nuclei_000  same masks\n"
    assert "no run 'abc'" in medsam3("replay", "abc", code=2).err


def test_no_connection_leaves_loopback_by_default(tmp_path):
    """A benchmark in a process of their own, workers and servers included, with every connection noted."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    log = tmp_path / "connections"
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "guard"), str(ROOT)]), "CONNECTIONS": str(log),
        "MEDSAM3_STORE": str(tmp_path / "store"), "PREFECT_HOME": str(tmp_path / "prefect"),
        "OPENAI_API_KEY": "sk-of-somebody",
    }  # fmt: skip
    environment.pop("MEDSAM3_AGENT_URL", None)
    ingest_here(open_store(tmp_path / "store"), "phantom:nuclei,cases=1,size=48x48", "nuclei")
    words = ["benchmark", "--cohort", "nuclei", "--weights", "tiny-untrained", "--prompt", "agent", "--split", "all"]
    command = [sys.executable, "-m", "flows", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    reached = set(log.read_text().split())
    assert reached
    assert reached <= {"'127.0.0.1'", "'::1'", "'localhost'", "'unix'", "'0.0.0.0'"}, reached
    with connect(open_store(tmp_path / "store")) as con:
        assert con.execute("SELECT count(*) FROM traces WHERE kind = 'answer'").fetchone() == (1,)
        assert json.loads(con.execute("SELECT result FROM traces WHERE kind = 'request'").fetchone()[0])["plain"]


def test_an_archive_is_segmented_by_request(tmp_path):
    store = open_store(tmp_path / "store")
    source = tmp_path / "archive"
    source.mkdir()
    Image.fromarray(phantom(1)).save(source / "cells.png")
    request = SegmentRequest(str(source), "tiny-untrained", ("nuclei",), policy="agent")
    run, counts, _ = segment_here(store, request, tmp_path / "out")
    assert (run.policy.canonical(), counts["segmented"]) == ("agent:synonyms=3", 1)
    with connect(store) as con:
        found = con.execute("SELECT structure, text FROM traces WHERE kind = 'request'").fetchall()
        assert con.execute("SELECT count(*) FROM measurements").fetchone() == (1,)
    assert found == [("nuclei", "asked for 'nuclei', understood as 'cell nucleus'")]
    with pytest.raises(UsageError, match=r"the request '\?!' is empty; say in words"):
        SegmentRequest("x", "sam3", ("liver", "?!"), policy="agent")
    with pytest.raises(UsageError, match="prompt policy 'box' needs a reference; segment takes text and agent"):
        SegmentRequest("x", "sam3", ("liver",), policy="box")
