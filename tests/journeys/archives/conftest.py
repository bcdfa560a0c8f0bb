"""Fixtures of archives.

| fixture | what it is |
|---|---|
| `key_file` | a patients' key of its own for every test, so that no test touches the user's |
"""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "keys" / "patients.key"
    monkeypatch.setenv("MEDSAM3_KEY_FILE", str(path))
    return path
