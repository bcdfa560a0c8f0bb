import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cli.upkeep.doctor import run_doctor
from flows.service import checks
from flows.service.checks import CHECKS, Finding, Grade, findings_of
from storage.store.atomic import write_json
from storage.store.layout import StoreLayout
from tests.stores.small import ingest_here


def grades(name: str, root: Path) -> list[Grade]:
    return [finding.grade for finding in findings_of(name, CHECKS[name], root)]


@pytest.mark.parametrize("name", sorted(CHECKS.keys() - {"SAM3"}))
def test_every_check_has_something_to_say_about_a_store_that_is_not_there_yet(name: str, tmp_path: Path) -> None:
    assert grades(name, tmp_path / "absent")[0] is not Grade.FAILED
    assert not (tmp_path / "absent").exists()


def failing(root: Path) -> Iterator[Finding]:
    yield Finding("x", Grade.FAILED, "broken", "mend it")


def breaking(root: Path) -> Iterator[Finding]:
    raise RuntimeError("the check itself is broken")
    yield


def test_one_failed_check_makes_the_exit_code_1_and_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checks, "CHECKS", {"memory": CHECKS["memory"], "x": failing})
    assert run_doctor(tmp_path) == 1
    out = capsys.readouterr().out
    assert "failed   x          broken" in out
    assert "mend it" in out


def test_without_a_failed_check_the_exit_code_is_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CHECKS", {"store": CHECKS["store"]})
    assert run_doctor(tmp_path) == 0


def test_a_check_that_breaks_is_a_finding_and_not_a_traceback(tmp_path: Path) -> None:
    (finding,) = findings_of("x", breaking, tmp_path)
    assert finding.grade is Grade.FAILED
    assert "the check itself is broken" in finding.facts


def test_a_store_that_cannot_be_written_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert grades("store", tmp_path / "file") == [Grade.FAILED]


def test_a_package_outside_its_range_fails_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.requires", lambda _: ["numpy<1", "absent-package>=2", "x; extra == 'test'"])
    (finding,) = findings_of("packages", CHECKS["packages"], tmp_path)
    assert finding.grade is Grade.FAILED
    assert "numpy" in finding.facts
    assert "absent-package not installed, needed >=2" in finding.facts


def test_a_transformers_that_drifted_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medsam3_core.sam3 import self_check

    # tests/core/sam3 runs the real check; here only what the doctor says about its answer is of interest
    monkeypatch.setattr(self_check, "measured", lambda: self_check.EXPECTED | {"text": (0.0, 0.0, 0.0, 0.0)})
    (finding,) = findings_of("SAM3", CHECKS["SAM3"], tmp_path)
    assert finding.grade is Grade.FAILED
    assert "gives different outputs: text:" in finding.facts


def test_weights_that_vanished_or_changed_fail(store: StoreLayout, tmp_path: Path) -> None:
    file = tmp_path / "sam3.safetensors"
    capabilities = {"text": True, "box": True, "interactive": False, "propagation": False}
    entry = {"name": "sam", "version": 1, "sha256": "0" * 64, "path": str(file), "layout": "bare"}
    write_json(store.registry_json(), {"weights": [entry | {"capabilities": capabilities}]})
    (gone,) = findings_of("weights", CHECKS["weights"], store.root)
    assert (gone.grade, "is missing" in gone.facts) == (Grade.FAILED, True)
    file.write_bytes(b"other")
    (changed,) = findings_of("weights", CHECKS["weights"], store.root)
    assert (changed.grade, "has changed since sam@1" in changed.facts) == (Grade.FAILED, True)


def test_a_prefect_server_that_does_not_answer_fails(tmp_path: Path) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        (finding,) = findings_of("Prefect", CHECKS["Prefect"], tmp_path)
    assert finding.grade is Grade.FAILED
    assert "unset PREFECT_API_URL" in finding.remedy


def test_data_of_unknown_licence_are_a_warning(store: StoreLayout) -> None:
    ingest_here(store, "phantom:ct,cases=1,size=6x32x32", "ct")
    assert grades("licences", store.root) == [Grade.OK]
    path = store.cohort_json("ct")
    content = json.loads(path.read_text())
    content["recipe"]["licence"] = "unknown"
    write_json(path, content)
    assert grades("licences", store.root) == [Grade.WARNING]
