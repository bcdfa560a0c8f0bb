"""The self-check of `doctor` passes on what is installed, and sees the ways in which `transformers` could drift."""

import torch
from transformers import Sam3TrackerVideoModel

from medsam3_core.sam3.network import concept
from medsam3_core.sam3.network.propagation_tracker import PropagationTracker
from medsam3_core.sam3.self_check import EXPECTED, drifted


def test_the_installed_versions_answer_as_expected():
    assert drifted() == []
    assert set(EXPECTED) == {"text", "box", "text and boxes", "point", "clicked box", "propagation"}


def test_a_missing_geometry_token_is_seen(monkeypatch):
    padded, nothing = concept.padded_boxes, (torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.long))
    monkeypatch.setattr(concept, "padded_boxes", lambda given: padded(given) if len(given[0][1]) else nothing)
    assert [line.split(":")[0] for line in drifted()] == ["text"]


def test_another_memory_is_seen(monkeypatch):
    monkeypatch.setattr(PropagationTracker, "_encode_new_memory", Sam3TrackerVideoModel._encode_new_memory)
    assert [line.split(":")[0] for line in drifted()] == ["propagation"]
