"""Which models there are and what they cost. The table is data: `models.json`, with its source and date.

`FARHAND_MODEL_PRICES` names a file of the same form whose entries replace or extend the built-in ones.
"""

from __future__ import annotations

import re
from decimal import ROUND_UP, Decimal
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from infra.errors import ConfigurationError, InvalidInputError
from infra.settings import Settings

REPLAY_PREFIX = "replay:"
_REPLAY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NAMED_RECORDINGS = 10
_MILLION = Decimal(1_000_000)
_MICRO = Decimal("0.000001")


class Usage(BaseModel):
    """Tokens of one model call, as the Messages API counts them: the four kinds don't overlap."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0

    @property
    def prompt_tokens(self) -> int:
        return self.input_tokens + self.cache_creation_input_tokens + self.cache_read_input_tokens


class Rates(BaseModel):
    """US dollars per million tokens."""

    model_config = ConfigDict(frozen=True)

    input: Decimal
    output: Decimal
    cache_write: Decimal
    cache_read: Decimal

    def cost(self, usage: Usage) -> Decimal:
        """US dollars for `usage`, rounded up to a millionth."""
        total = (
            self.input * usage.input_tokens
            + self.output * usage.output_tokens
            + self.cache_write * usage.cache_creation_input_tokens
            + self.cache_read * usage.cache_read_input_tokens
        )
        return (total / _MILLION).quantize(_MICRO, rounding=ROUND_UP)


class LongPrompt(Rates):
    """Rates for every token of a call whose prompt has more than `over_tokens` tokens."""

    over_tokens: int


class Model(Rates):
    """A model's rates, and whether it is asked for (adaptive) thinking."""

    thinking: bool = False
    long_prompt: LongPrompt | None = None

    def cost(self, usage: Usage) -> Decimal:
        tier = self.long_prompt
        if tier is not None and usage.prompt_tokens > tier.over_tokens:
            return tier.cost(usage)
        return super().cost(usage)

    def bound(self, *, prompt_tokens: int, max_tokens: int) -> Decimal:
        """What a call can cost at most: its whole prompt written to the cache, its whole answer used."""
        return self.cost(Usage(cache_creation_input_tokens=prompt_tokens, output_tokens=max_tokens))


class ModelTable(BaseModel):
    source: str = ""
    date: str = ""
    unit: str = ""
    aliases: dict[str, str] = {}
    models: dict[str, Model] = {}

    def resolve(self, name: str) -> str:
        """The full name behind an alias. Raises InvalidInputError (`unknown_model`) for what is not in the table."""
        full = self.aliases.get(name, name)
        if full not in self.models:
            known = ", ".join(sorted({*self.aliases, *self.models}))
            raise InvalidInputError(
                f"unknown model {name[:100]!r}",
                hint=f"Use one of: {known}; or replay:<name> for a recording.",
                code="unknown_model",
            )
        return full

    def rates(self, name: str) -> Model:
        return self.models[self.resolve(name)]


@lru_cache(maxsize=4)
def model_table(override: Path | None) -> ModelTable:
    """The built-in table with the entries of `override` on top. Raises ConfigurationError for a bad file."""
    table = ModelTable.model_validate_json((Path(__file__).parent / "models.json").read_bytes())
    if override is None:
        return table
    try:
        extra = ModelTable.model_validate_json(override.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"FARHAND_MODEL_PRICES: {override}: {error}") from None
    return table.model_copy(
        update={"aliases": {**table.aliases, **extra.aliases}, "models": {**table.models, **extra.models}}
    )


def check_model(name: str, settings: Settings) -> str:
    """The model name that a task stores: an alias resolved, a replay checked to exist.

    Raises:
        InvalidInputError: `unknown_model`, `unknown_recording`; `model_key_missing`: a real model is asked for, and
            the deployment has no key for it.
    """
    if name.startswith(REPLAY_PREFIX):
        recording_path(name, settings)
        return name
    full = model_table(settings.model_prices).resolve(name)
    if not settings.anthropic_api_key.get_secret_value() and not settings.workers_have_model_key:
        raise InvalidInputError(
            "this deployment has no model key",
            hint="Set FARHAND_ANTHROPIC_API_KEY (or, where only the workers have it, FARHAND_WORKERS_HAVE_MODEL_KEY)"
            " and restart, or use model replay:<name>.",
            code="model_key_missing",
        )
    return full


def recording_path(name: str, settings: Settings) -> Path:
    """The file of `replay:<name>`. A name is letters, digits, `.`, `_`, `-`, so it never leaves its directory."""
    short = name.removeprefix(REPLAY_PREFIX)
    found = settings.recordings and settings.recordings / f"{short}.json"
    if not _REPLAY_NAME.fullmatch(short) or not found or not found.is_file():
        raise InvalidInputError(
            f"there is no recording {short[:100]!r}", hint=_recordings_hint(settings), code="unknown_recording"
        )
    return found


def _recordings_hint(settings: Settings) -> str:
    how = "that of an ended task is at /v1/tasks/{id}/recording, and goes there as <name>.json"
    if settings.recordings is None:
        return f"This deployment has no recordings: set FARHAND_RECORDINGS to a directory of them, and restart; {how}."
    there = sorted(file.stem for file in settings.recordings.glob("*.json"))[:_NAMED_RECORDINGS]
    return f"In the directory FARHAND_RECORDINGS there is {', '.join(there) or 'none yet'}; {how}."
