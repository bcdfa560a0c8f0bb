from pathlib import Path

import pytest

from flows.settings.settings import Settings, read_settings
from medsam3_core.errors import UsageError


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDSAM3_SETTINGS", raising=False)


def write(folder: Path, text: str) -> Path:
    (folder / "medsam3.toml").write_text(text)
    return folder / "store"


def test_without_a_file_everything_is_default_and_nobody_is_notified(tmp_path: Path) -> None:
    found = read_settings(tmp_path / "store")
    assert found == Settings()
    assert not found.notify.command
    assert not found.notify.webhook


def test_the_file_beside_the_store_is_read(tmp_path: Path) -> None:
    store = write(tmp_path, '[compare]\nmargins = { dice = 0.02 }\n[clusters.big]\nkind = "address"\n')
    found = read_settings(store)
    assert found.compare.margins == {"dice": 0.02}
    assert found.clusters == {"big": {"kind": "address"}}


def test_the_variable_goes_before_the_file_beside_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = write(tmp_path, "[watch]\nevery_seconds = 7\n")
    other = tmp_path / "other.toml"
    other.write_text("[watch]\nevery_seconds = 9\n")
    monkeypatch.setenv("MEDSAM3_SETTINGS", str(other))
    assert read_settings(store).watch.every_seconds == 9
    monkeypatch.setenv("MEDSAM3_SETTINGS", str(tmp_path / "gone.toml"))
    with pytest.raises(UsageError, match=r"gone\.toml, which does not exist"):
        read_settings(store)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[wach]\n", r"wach: Unexpected keyword"),
        ("[watch]\nevery = 3\n", r"watch\.every: Unexpected keyword"),
        ("[watch]\nevery_seconds = 'often'\n", r"watch\.every_seconds: Input should be a valid number"),
        ("[notify]\nwebhook = 'ftp://x'\n", r"notify\.webhook: String should match"),
        ("[notify]\ncommand = 'tell me'\n", r"notify\.command: Input should be a valid tuple"),
        ("[notify\n", r"medsam3\.toml cannot be read"),
    ],
)
def test_what_nobody_would_read_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_settings(write(tmp_path, text))
