"""Fixtures of the SAM3 tests.

| fixture | what it is |
|---|---|
| `tiny` | a segmenter on the untrained small weights (text and boxes) |
| `released` | a segmenter on the golden weights in the released layout (all prompts) |
| `tiny_folder`, `tiny_bare` | the untrained small weights on disk, as a Hugging Face folder and in the bare layout |
| `official` | the tensors of `tiny_bare` under their official names |
"""

import pytest
import torch
from safetensors.torch import load_file

from storage.weights.checkpoints import open_segmenter, read_weights, write_bare, write_untrained
from tests.core.sam3.golden import LAYOUTS
from tests.core.sam3.segmenters import untrained


@pytest.fixture(autouse=True)
def _one_thread():
    """So small a network gains nothing from more threads, which wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny():
    return untrained()


@pytest.fixture(scope="session")
def released():
    return open_segmenter(LAYOUTS["released"])


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    write_untrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bare(tiny_folder, tmp_path_factory):
    file = tmp_path_factory.mktemp("bare") / "checkpoint.safetensors"
    write_bare(file, read_weights(tiny_folder))
    return file


@pytest.fixture(scope="session")
def official(tiny_bare):
    return load_file(tiny_bare)
