"""The watcher's flow and command without a server: what is told to whom, and what ends it."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from flows import watch
from flows.service import checks
from flows.service.checks import Finding, Grade
from flows.service.events import CHANGED, NoServerError
from flows.settings.settings import NotifySettings, Settings, WatchSettings
from flows.watch import watch_pass
from medsam3_core.capabilities import Capabilities
from medsam3_core.errors import StoreError, UsageError
from storage.store.atomic import write_json
from storage.store.layout import StoreLayout
from storage.store.locks import holding
from storage.weights.watch import read_seen
from storage.weights.weights import Weights
from tests.command_line import Medsam3, command_line
from tests.stores.small import ingest_here

TAKES = Capabilities(text=True, box=True, interactive=False)


def register(store: StoreLayout, path: Path, versions: int = 1) -> None:
    known = [
        Weights("mine", version, str(version) * 64, str(path), "bare", TAKES) for version in range(1, versions + 1)
    ]
    write_json(store.registry_json(), {"weights": [asdict(item) for item in known]})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    hook = "import pathlib, sys; pathlib.Path(sys.argv[1]).open('a').write(sys.stdin.read() + chr(10))"
    command = (sys.executable, "-c", hook, str(tmp_path / "told"))
    return Settings(watch=WatchSettings(quiet_seconds=0.01), notify=NotifySettings(command))


def test_gone_weights_are_told_once_and_the_others_are_looked_at(
    store: StoreLayout, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register(store, tmp_path / "gone")
    for _ in range(2):
        summary = watch_pass(store, settings, announce=False)
        assert str(summary) == "1 weights checked, 0 changed; missing or not loadable: mine"
    (told,) = map(json.loads, (tmp_path / "told").read_text().splitlines())
    assert (told["kind"], told["problem"]) == ("alert", "gone")
    assert capsys.readouterr().err.count("is missing") == 1


def test_a_version_that_no_server_took_is_announced_by_the_next_pass(
    store: StoreLayout, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, dict[str, object]]] = []
    broken = Finding("disk", Grade.FAILED, "full")
    monkeypatch.setattr(checks, "CHECKS", {"disk": lambda root: iter([broken])})
    register(store, tmp_path / "gone")

    def refuse(event: str, weights: str, payload: dict[str, object]) -> None:
        msg = "no Prefect server answers"
        raise NoServerError(msg)

    monkeypatch.setattr(watch, "send_event", refuse)
    watch_pass(store, settings, announce=True)
    register(store, tmp_path / "gone", versions=2)  # `medsam3 weights add` by hand: announced as well
    watch_pass(store, settings, announce=True)
    assert read_seen(store)["mine"].announced == 1
    monkeypatch.setattr(watch, "send_event", lambda event, weights, payload: sent.append((event, payload)))
    for _ in range(2):
        watch_pass(store, settings, announce=True)
    assert read_seen(store)["mine"].announced == 2
    ((event, payload),) = sent
    assert event == CHANGED
    assert (payload["name"], payload["old_sha256"], payload["new_sha256"]) == ("mine", "1" * 64, "2" * 64)
    assert payload["doctor"] == ["disk: full"]


def test_settings_that_watch_unknown_weights_are_refused(store: StoreLayout, settings: Settings) -> None:
    with pytest.raises(UsageError, match="the settings watch yours, which is not registered; registered: none yet"):
        watch_pass(store, replace(settings, watch=WatchSettings(("yours",))), announce=False)


def test_a_lock_names_the_process_that_holds_it(store: StoreLayout) -> None:
    with (
        holding(store.watch_lock(), "the weights of this store are watched"),
        pytest.raises(StoreError, match=r"the weights of this store are watched by process \d+; wait for it or stop"),
        holding(store.watch_lock(), "the weights of this store are watched"),
    ):
        pass


@pytest.fixture
def medsam3(store: StoreLayout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Medsam3:
    return command_line(store.root, monkeypatch, capsys)


def test_a_server_that_does_not_answer_ends_the_command_before_it_looks(
    medsam3: Medsam3, store: StoreLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest_here(store, "phantom:fundus,cases=1,size=48x48", "eyes")
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        said = medsam3("watch", "--once", code=2).err
    assert "no Prefect server answers at http://127.0.0.1:9/api" in said
    assert "start it with `make server`" in said
    assert not store.watch_json().exists()
