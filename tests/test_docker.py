"""What can be said of the container files without an engine: bindings, passwords, health checks, users, versions."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = ROOT / "docker" / "compose.yaml"
ONE_OFF = {"medae"}  # runs a command and ends: it is never up, so never healthy

# ${NAME}, ${NAME:-default}, ${NAME:?message}
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text())["services"]


@pytest.fixture(scope="module")
def variables() -> list[re.Match[str]]:
    settings = "\n".join(line for line in COMPOSE.read_text().splitlines() if not line.lstrip().startswith("#"))
    return list(VARIABLE.finditer(settings))


@pytest.fixture(scope="module")
def stages() -> dict[str, list[str]]:
    """The Dockerfile's instructions by stage, each on one line."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "docker" / "Dockerfile").read_text())
    found: dict[str, list[str]] = {}
    for line in filter(None, text.splitlines()):
        if line.startswith("FROM "):
            found[line.split(" AS ")[1]] = current = []
        if not line.startswith("#") and found:
            current.append(line)
    return found


def test_the_services_are_the_promised_ones(services):
    assert set(services) == {"postgres", "mlflow", "medae"}


def test_every_published_port_is_bound_to_loopback(services):
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports, "the MLflow page is published"
    assert [port for port in ports if not str(port).startswith("127.0.0.1:")] == []


def test_only_mlflow_publishes_a_port_and_no_service_is_on_the_host_network(services):
    assert [name for name, service in services.items() if "ports" in service] == ["mlflow"]
    assert not any("network_mode" in service or service.get("privileged") for service in services.values())


def test_there_is_no_default_password(variables, services):
    secret = [match for match in variables if "PASSWORD" in match["name"]]
    assert secret, "the database has a password"
    assert [match.group() for match in secret if match["kind"] != "?"] == []
    for service in services.values():
        values = {key: str(value) for key, value in service.get("environment", {}).items() if "PASSWORD" in key}
        assert [key for key, value in values.items() if not VARIABLE.fullmatch(value)] == []


def test_no_address_carries_a_password(services):
    addresses = [
        str(value) for service in services.values() for value in service["environment"].values() if "://" in str(value)
    ]
    assert len(addresses) == 2
    assert not any(re.search(r"://[^/@]*:[^/@]*@", address) for address in addresses)


def test_example_env_has_every_variable_and_no_secret(variables):
    lines = (ROOT / "docker" / "example.env").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert set(example) == {match["name"] for match in variables}
    for match in variables:  # what is required is empty, so that a copy that was not filled in does not start
        expected = "" if match["kind"] == "?" else match["rest"]
        assert example[match["name"]] == expected, match["name"]


def test_services_that_stay_up_have_a_health_check_and_are_waited_for(services):
    checks = {name: service.get("healthcheck", {}).get("test", ["NONE"]) for name, service in services.items()}
    assert {name for name, check in checks.items() if check[0] == "NONE"} == ONE_OFF
    assert checks["postgres"][1] == "pg_isready"
    assert "http://127.0.0.1:5000/health" in checks["mlflow"][-1]
    waits = [wait for service in services.values() for wait in service.get("depends_on", {}).values()]
    assert len(waits) == 2
    assert all(wait["condition"] == "service_healthy" for wait in waits)


def test_the_training_container_reaches_the_tracking_server_and_nothing_else(services):
    networks = yaml.safe_load(COMPOSE.read_text())["networks"]
    (network,) = services["medae"]["networks"]
    assert networks[network]["internal"] is True
    assert [name for name, service in services.items() if network in service["networks"]] == ["mlflow", "medae"]
    server = services["medae"]["environment"]["MLFLOW_TRACKING_URI"].removeprefix("http://")
    (hosts,) = [option for option in services["mlflow"]["command"] if option.startswith("--allowed-hosts=")]
    assert server in hosts.partition("=")[2].split(",")


def test_the_training_container_has_the_gpu_and_only_reads_the_scans(services, stages):
    (device,) = services["medae"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]
    mounts = {mount["target"]: mount for mount in services["medae"]["volumes"]}
    assert mounts["/data"]["read_only"] is True
    assert "MEDAE_DATA=/data" in " ".join(stages["medae"])


def test_named_volumes_are_declared_and_belong_to_the_user(services, stages):
    declared = yaml.safe_load(COMPOSE.read_text())["volumes"]
    mounts = [mount.split(":") for name in ("postgres", "mlflow") for mount in services[name]["volumes"]]
    assert {source for source, _ in mounts} == set(declared)
    # An empty named volume takes the owner of the folder that it hides.
    (made,) = [line for line in stages["base"] if "--owner=medae" in line]
    assert "/artifacts" in made


def test_images_are_built_from_stages_that_exist_and_pulled_ones_have_a_version(services, stages):
    for service in services.values():
        if "build" in service:
            assert service["build"]["target"] in stages
            assert (COMPOSE.parent / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        else:
            assert re.search(r":\d", service["image"]), service["image"]


@pytest.mark.parametrize("name", ["mlflow", "medae"])
def test_an_image_ends_as_a_non_root_user(stages, name):
    users = [line.split()[1] for line in stages[name] if line.startswith("USER ")]
    assert users[-1] == "medae"
    instructions = [line.split()[0] for line in stages[name]]
    assert instructions.index("ENTRYPOINT") > instructions.index("USER")


@pytest.mark.parametrize("name", ["mlflow", "medae"])
def test_every_package_is_installed_by_the_user_at_the_tested_version(stages, name):
    lines = stages[name]
    user = next(place for place, line in enumerate(lines) if line.startswith("USER "))
    installs = [
        (place, command) for place, line in enumerate(lines) for command in line.split("&&") if "pip install" in command
    ]
    assert installs
    for place, command in installs:
        assert place > user, command
        assert "--constraint" in command or "--no-deps" in command, command


def test_packages_named_in_the_dockerfile_are_pinned(stages):
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    (command,) = [part for line in stages["mlflow"] for part in line.split("&&") if "pip install" in part]
    named = command.split("constraints.txt")[1].split()
    assert set(named) == {"mlflow", "psycopg2-binary"}
    assert set(named) <= pinned


def test_the_database_driver_is_named(services):
    # SQLAlchemy 2.1 takes psycopg, which is not installed, for an address that names no driver.
    assert services["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"].startswith("postgresql+psycopg2://")


def test_the_build_context_holds_what_is_copied_and_nothing_by_default(stages):
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {name for stage in stages.values() for line in stage if line.startswith("COPY ") for name in line.split()[1:-1]}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {*packages["packages"], *packages["force-include"]} <= copied
