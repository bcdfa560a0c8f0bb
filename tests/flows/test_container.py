"""The container files name what exists: packages, commands, options, ports, and a user that is not root."""

import json
import re
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from prefect.settings import get_current_settings

from flows.service.server import POOL
from tests import ROOT
from tests.flows.test_documented_commands import parse
from tests.test_architecture import MAY_IMPORT

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def instructions() -> list[tuple[str, str]]:
    """Keyword and rest of every instruction of the Dockerfile."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [
        (keyword, rest.strip()) for keyword, _, rest in (line.partition(" ") for line in whole.splitlines()) if rest
    ]


def last_stage() -> list[tuple[str, str]]:
    all_of_them = instructions()
    return all_of_them[max(place for place, (keyword, _) in enumerate(all_of_them) if keyword == "FROM") :]


def words_of(service: str) -> list[list[str]]:
    """The commands that a service runs, one after the other."""
    command: list[str] = SERVICES[service]["command"]
    return [shlex.split(one) for one in command[2].split("&&")] if command[:2] == ["sh", "-c"] else [command]


def test_the_image_runs_as_a_user_of_its_own() -> None:
    users = [rest for keyword, rest in last_stage() if keyword == "USER"]
    assert users == ["medsam3"]
    assert any(re.search(r"useradd --uid [1-9]\d* .*medsam3", rest) for _, rest in last_stage())
    assert not any({"user", "privileged"} & service.keys() for service in SERVICES.values())


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    wanted = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert "*" in ignored, "all that is not named stays out of the image"
    copied = [rest.split()[:-1] for keyword, rest in instructions() if keyword == "COPY" and "--from" not in rest]
    names = {name for one in copied for name in one}
    assert all((ROOT / name).exists() for name in names)
    assert names == wanted
    assert MAY_IMPORT.keys() <= names, "every package is in the image"


def test_every_extra_is_installed_as_pinned_on_cpu_or_cuda() -> None:
    (install,) = (rest for keyword, rest in instructions() if keyword == "RUN" and '".[all]"' in rest)
    assert "--constraint constraints.txt" in install
    assert ("ARG", "DEVICE=cpu") in instructions()
    assert re.findall(r"(\w+)\) index=", install) == ["cpu", "cuda"]


def test_store_sources_and_home_are_volumes() -> None:
    (volumes,) = (json.loads(rest) for keyword, rest in last_stage() if keyword == "VOLUME")
    assert set(volumes) == {"/store", "/sources", "/home/medsam3"}
    for service in SERVICES.values():
        mounts = [re.sub(r"\$\{.*?\}", "HOST", one).split(":") for one in service["volumes"]]
        assert {place for _, place, *_ in mounts} >= set(volumes)
        assert {name for name, *_ in mounts} - {"HOST"} == COMPOSE["volumes"].keys()
        assert all(rest == ["ro"] for name, _, *rest in mounts if name == "HOST"), "folders of the host are read only"


def test_the_health_check_asks_where_the_service_answers() -> None:
    (check,) = (rest for keyword, rest in last_stage() if keyword == "HEALTHCHECK")
    words = json.loads(check.partition("CMD")[2])
    assert words[:2] == ["python3", "-c"]
    compile(words[2], "health check", "exec")
    asked = {name: urlsplit(one["environment"].get("HEALTH_URL", "")) for name, one in SERVICES.items()}
    assert {name: url.port for name, url in asked.items()} == {
        **{"server": 4200, "deploy": None, "worker": 8080, "dashboard": 8501}
    }
    for name in ("server", "dashboard"):
        (words,) = words_of(name)
        assert str(asked[name].port) in words


@pytest.mark.parametrize(("url", "code"), [(None, 0), ("http://127.0.0.1:9/health", 1)])
def test_a_single_command_is_healthy_and_a_silent_service_is_not(url: str | None, code: int) -> None:
    (check,) = (rest for keyword, rest in last_stage() if keyword == "HEALTHCHECK")
    words = json.loads(check.partition("CMD")[2])
    environment = {} if url is None else {"HEALTH_URL": url}
    done = subprocess.run([sys.executable, *words[1:]], env=environment, capture_output=True, check=False)
    assert done.returncode == code


@pytest.mark.parametrize("service", SERVICES)
def test_services_run_commands_that_exist(service: str) -> None:
    for words in words_of(service):
        if words[0] == "medsam3":
            parse(shlex.join(words))
            continue
        assert words[0] == "prefect"
        options = [word for word in words if word.startswith("--")]
        names = words[1 : words.index(options[0])]
        asked = [name for name in names if re.fullmatch(r"[a-z]+(-[a-z]+)*", name) and name != POOL]
        help_text = subprocess.run(
            [sys.executable, "-m", "prefect", *asked, "--help"], capture_output=True, text=True, check=True
        ).stdout
        assert all(re.search(rf"{option}\b", help_text) for option in options), words


def test_server_worker_and_deployments_are_of_one_pool() -> None:
    (made, _), (worker,) = words_of("deploy"), words_of("worker")
    assert made[1:4] == ["work-pool", "create", POOL]
    assert worker[worker.index("--pool") + 1] == POOL
    assert "prefect.yaml" in {rest.split()[0] for keyword, rest in last_stage() if keyword == "COPY"}
    assert [name for name, one in SERVICES.items() if "PREFECT_API_URL" in one["environment"]] == [
        *("server", "deploy", "worker")
    ]


def test_variables_of_compose_are_settings_of_prefect() -> None:
    known = get_current_settings().to_environment_variables(exclude_unset=False, include_secrets=True)
    used = {name for service in SERVICES.values() for name in service["environment"]} - {"HEALTH_URL"}
    without_default = {"PREFECT_API_URL", "PREFECT_SERVER_UI_STATIC_DIRECTORY"}
    assert used - known.keys() == without_default
    # The user of the image cannot unpack the pages of the server into the folder of its package.
    assert SERVICES["server"]["environment"]["PREFECT_SERVER_UI_STATIC_DIRECTORY"].startswith("/tmp/")


def test_services_listen_beyond_loopback_only_where_the_host_publishes_them_on_its_own() -> None:
    for name, service in SERVICES.items():
        ports = service.get("ports", [])
        assert all(fnmatch(port, "127.0.0.1:*:*") for port in ports), name
        beyond = "0.0.0.0" in service["command"]
        assert beyond == bool(ports), name
        assert not (beyond and service.get("network_mode") == "host"), name
