"""Logs: JSON lines for machines, plain ones for people, secrets for nobody."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import anthropic
import pytest
from pydantic import SecretStr

from infra.logs import Mask, configure_logging, log_context
from infra.settings import Settings
from tests.services import make_settings
from tests.standin.model import ModelStandIn

KEY = "an-old-key-" + "k" * 32


@pytest.fixture
def settings() -> Settings:
    return make_settings(
        database_url="postgresql://farhand:db-pass%2Fword@db.example/farhand",
        redis_url="redis://:redis-password@redis.example/0",
        run_dir=Path("/run/farhand"),
        secret_keys=(SecretStr(KEY),),
        anthropic_api_key=SecretStr("the-model-key"),
    )


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_json_lines_carry_the_fields(settings: Settings) -> None:
    out = io.StringIO()
    configure_logging(settings, "worker", stream=out)
    with log_context(task_id="t-1", attempt=2):
        logging.getLogger("x").info("hello %s", "there", extra={"action": "greeted"})
    logging.getLogger("x").info("outside")
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert first.pop("at").endswith("+00:00")
    assert first == {
        "level": "INFO",
        "service": "worker",
        "logger": "x",
        "message": "hello there",
        "task_id": "t-1",
        "attempt": "2",
        "action": "greeted",
    }
    assert "task_id" not in second


def test_an_exception_is_one_line(settings: Settings) -> None:
    out = io.StringIO()
    configure_logging(settings, stream=out)
    try:
        raise ValueError("the-model-key is wrong")
    except ValueError:
        logging.getLogger("x").exception("it broke")
    (line,) = out.getvalue().splitlines()
    assert "ValueError: *** is wrong" in json.loads(line)["exception"]


def test_plain_on_a_terminal(settings: Settings) -> None:
    out = Terminal()
    configure_logging(settings, stream=out)
    logging.getLogger("x").warning("careful with the-model-key", extra={"action": "warned", "task_id": "t-1"})
    assert out.getvalue()[8:] == " WARNING x: careful with ***  [action=warned task_id=t-1]\n"


def test_the_level_of_the_settings_holds(settings: Settings) -> None:
    out = io.StringIO()
    configure_logging(settings.model_copy(update={"log_level": "WARNING"}), stream=out)
    logging.getLogger("x").info("not this")
    assert out.getvalue() == ""


def test_a_model_call_says_nothing_of_its_own(settings: Settings) -> None:
    """The SDK's HTTP library tells of every request, under a name that has changed before."""
    out = io.StringIO()
    model = ModelStandIn({"default": [{"content": [{"type": "text", "text": "done"}]}]})
    model.start()
    configure_logging(settings, stream=out)
    try:
        with anthropic.Anthropic(base_url=model.base_url, api_key="k") as client:
            client.messages.create(
                model="claude-test-1", max_tokens=10, messages=[{"role": "user", "content": "hello"}]
            )
    finally:
        model.stop()
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    "secret",
    [KEY, "the-model-key", "redis-password", "db-pass%2Fword", "db-pass/word"],
)
def test_secrets_of_the_deployment_are_masked(settings: Settings, secret: str) -> None:
    assert Mask.from_settings(settings)(f"before {secret} after") == "before *** after"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://user:pass@git.example/r", "https://***@git.example/r"),
        ("redis://:pass@host", "redis://***@host"),
        ("Authorization: Bearer abcdef123456", "Authorization: Bearer ***"),
        ("x-api-key sk-ant-api03-abc_DEF", "x-api-key ***"),
        ("token fh_" + "a" * 43, "token ***"),
        ("ghp_" + "a" * 36, "***"),
        ("https://git.example/user:name/r", "https://git.example/user:name/r"),
        ("the bearer of bad news", "the bearer of bad news"),
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str, masked: str) -> None:
    assert Mask()(text) == masked
