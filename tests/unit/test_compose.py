"""compose.yaml names only what there is, gives each service what is its own, and .env.example explains every value."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml  # type: ignore[import-untyped]

from infra.cli import main
from infra.cli.up import WORKER_STOP_S
from infra.settings import Settings
from workers.departure import DRAIN_S

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "compose.yaml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
FARHAND = {name: service for name, service in OURS.items() if service["command"][0] == "farhand"}
LONG_RUNNING = sorted(set(OURS) - {"migrate"})
DATABASES = ("postgres", "redis")
SPARE_S = 2.0
"""A worker that has to be killed by `up` or compose gives nothing away: it gets more time than it takes at most."""

EXAMPLE = (ROOT / ".env.example").read_text()
MUST_BE_SET = dict(re.findall(r"^([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE))
OPTIONAL = set(re.findall(r"^#([A-Z_]+)=", EXAMPLE, re.MULTILINE))
SECRETS = {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "FARHAND_SECRET_KEYS", "FLOWER_PASSWORD", "FARHAND_ANTHROPIC_API_KEY"}


def environment(name: str) -> dict[str, str | None]:
    given: dict[str, str | None] = SERVICES[name].get("environment", {})
    return given


def seconds(duration: str) -> int:
    assert re.fullmatch(r"\d+s", duration), duration
    return int(duration[:-1])


def test_the_services_are_these() -> None:
    assert set(OURS) == {"migrate", "api", "gateway", "worker", "flower"}
    assert set(SERVICES) == {*OURS, *DATABASES}


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting(name: str) -> None:
    known = {f"FARHAND_{field.upper()}" for field in Settings.model_fields}
    named = {variable for variable in environment(name) if variable.startswith("FARHAND_")}
    assert named - known == set()


@pytest.mark.parametrize("name", FARHAND)
def test_the_command_exists_and_takes_its_options(name: str) -> None:
    _, command, *options = SERVICES[name]["command"]
    found = main.get_command(click.Context(main), command)
    assert found is not None, command
    found.make_context(command, options)


def test_one_image_from_one_dockerfile() -> None:
    assert {service["image"] for service in OURS.values()} == {"farhand-service:1"}
    (dockerfile,) = {service["build"]["dockerfile"] for service in OURS.values()}
    assert (ROOT / dockerfile).is_file()
    sent = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert sent == {package.removesuffix("*") for package in packages} | {"requirements.lock"}


def test_up_lets_a_worker_give_its_tasks_away() -> None:
    assert WORKER_STOP_S >= DRAIN_S + SPARE_S


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_services_have_time_to_stop_an_init_and_a_health_check(name: str) -> None:
    service = SERVICES[name]
    assert seconds(service["stop_grace_period"]) >= (DRAIN_S + SPARE_S if name == "worker" else 10)
    assert service["init"] is True
    assert service["healthcheck"]["test"]
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", OURS)
def test_services_can_change_nothing_of_their_container(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    assert ("user" in service, "cap_add" in service) == (name == "worker", name == "worker")


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_is_published_beyond_this_host(name: str) -> None:
    ports = SERVICES[name].get("ports", [])
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert bool(ports) == (name in ("api", "gateway"))


def test_databases_have_no_way_out_and_keep_what_they_are_given() -> None:
    assert yaml.safe_load(TEXT)["networks"]["data"] == {"internal": True}
    for name in DATABASES:
        assert SERVICES[name]["networks"] == ["data"]
        assert SERVICES[name]["volumes"][0].startswith(f"{name}:")
    redis = SERVICES["redis"]["command"][-1]
    assert "--appendonly yes" in redis
    assert "--maxmemory-policy noeviction" in redis
    assert "requirepass $$REDIS_PASSWORD" in redis


def test_services_wait_for_the_migration() -> None:
    for name in ("api", "gateway", "worker"):
        assert SERVICES[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert SERVICES["migrate"]["restart"] == "no"


def test_only_workers_have_the_engine_and_the_model_key() -> None:
    for name, service in SERVICES.items():
        assert ("docker.sock" in str(service.get("volumes"))) == (name == "worker"), name
        assert ("FARHAND_ANTHROPIC_API_KEY" in environment(name)) == (name == "worker"), name
        has_no_key_but_takes_tasks = "FARHAND_WORKERS_HAVE_MODEL_KEY" in environment(name)
        assert has_no_key_but_takes_tasks == (name in ("api", "gateway")), name
        assert ("FARHAND_SECRET_KEYS" in environment(name)) == (name in ("api", "gateway", "worker")), name


def test_the_run_directory_has_one_path_inside_and_outside() -> None:
    path = environment("worker")["FARHAND_RUN_DIR"]
    assert f"{path}:{path}" in SERVICES["worker"]["volumes"]
    assert environment("worker")["FARHAND_SANDBOX"] == "docker"


def test_flower_only_shows_and_asks_who_it_is() -> None:
    assert environment("flower")["FLOWER_READ_ONLY"] == "true"
    assert str(environment("flower")["FLOWER_BASIC_AUTH"]).startswith("flower:${FLOWER_PASSWORD:?")
    assert "FLOWER_UNAUTHENTICATED_API" not in environment("flower")


def test_every_value_is_explained_and_no_other() -> None:
    interpolated = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", TEXT))
    passed_on = {variable for name in SERVICES for variable, value in environment(name).items() if value is None}
    assert set(MUST_BE_SET) | OPTIONAL == interpolated | passed_on


def test_secrets_have_no_default_and_must_be_given() -> None:
    assert dict.fromkeys(SECRETS, "") == MUST_BE_SET
    for secret in SECRETS:
        assert set(re.findall(rf"\$\{{{secret}([^}}]*)\}}", TEXT)) == {":?see .env.example"}, secret
