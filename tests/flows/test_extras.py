"""Optional dependencies: commands that need none work without them, the others name the extra before they begin."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

from medsam3_core.settings.extras import Extra, lacking
from tests import ROOT

OPTIONAL = {
    Extra.AGENT: {"openai"},
    Extra.TRAIN: {"accelerate", "peft"},
    Extra.DASHBOARD: {"plotly", "streamlit"},
}
AGENT = ("--weights", "tiny-medical", "--prompt", "agent", "--set", "agent_model=model-7b")


@pytest.fixture(scope="module")
def hiding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for `PYTHONPATH` that hides the optional dependencies from a new Python and from its workers."""
    folder = tmp_path_factory.mktemp("without-extras")
    names = sorted(set().union(*OPTIONAL.values()))
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({names}))\n")
    return folder


def run_without_extras(hiding: Path, store: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows", *map(str, words), "--store", store],
        env=os.environ | {"PYTHONPATH": f"{hiding}{os.pathsep}{ROOT}"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "asker", "missing", "extra"),
    [
        (["dashboard"], "medsam3 dashboard", "plotly and streamlit", "dashboard"),
        (["report"], "medsam3 report", "plotly", "dashboard"),
        (["train", "hippocampus-lora"], "medsam3 train", "accelerate and peft", "train"),
        (["train", "hippocampus-lora", "--plan"], "medsam3 train", "accelerate and peft", "train"),
        (["benchmark", "--cohort", "ct", *AGENT], "agent_model=model-7b", "openai", "agent"),
        (["segment", "scans", *AGENT, "--text", "liver", "--out", "masks"], "agent_model=model-7b", "openai", "agent"),
        (
            ["predict", "no.png", *AGENT, "--text", "liver", "--out", "masks.npz"],
            "agent_model=model-7b",
            "openai",
            "agent",
        ),
    ],
)
def test_a_command_without_its_extra_names_it_before_it_begins(
    hiding: Path, tmp_path: Path, words: list[str], asker: str, missing: str, extra: str
) -> None:
    ended = run_without_extras(hiding, tmp_path / "store", *words)
    verb = "are" if " and " in missing else "is"
    sentence = f'{asker} needs {missing}, which {verb} not installed; run: pip install "medsam3[{extra}]"'
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"medsam3: {sentence}\n"
    assert not (tmp_path / "store").exists()


def test_other_commands_work_without_any_extra(hiding: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(image)
    for words in (
        ["ingest", "phantom:nuclei,cases=4", "--cohort", "nuclei"],
        [
            "benchmark",
            "--cohort",
            "nuclei",
            "--weights",
            "tiny-medical",
            "--prompt",
            "agent",
            "--limit",
            "1",
        ],  # by rules
        ["predict", image, "--weights", "tiny-medical", "--text", "nucleus", "--out", tmp_path / "out.npz"],
        ["sql", "SELECT count(*) FROM scores"],
    ):
        ended = run_without_extras(hiding, tmp_path / "store", *words)
        assert ended.returncode == 0, ended.stderr


def test_extras_of_the_package_bring_what_is_looked_for() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    brought = {extra: {Requirement(text).name for text in extras[extra]} for extra in OPTIONAL}
    assert brought == OPTIONAL
    (everything,) = map(Requirement, extras["all"])
    assert everything.extras == set(OPTIONAL)
    assert "medsam3[all]" in extras["test"]


def test_nothing_is_lacking_where_all_is_installed() -> None:
    assert [lacking(extra, "a test", *names) for extra, names in OPTIONAL.items()] == ["", "", ""]


def test_make_demo_installs_all_extras() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r'^\$\(VENV\)/\.installed:.*\n.*\n\t\$\(INSTALL\) --editable "\.\[all\]"$', makefile, re.MULTILINE)
