"""Prices and names of models, and the names of recordings."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigurationError, InvalidInputError
from infra.models import Usage, check_model, model_table
from infra.settings import Settings

TABLE = model_table(None)
counts = st.integers(0, 300_000)


def settings(**values: object) -> Settings:
    return Settings.model_validate({"anthropic_api_key": "k", **values})


def test_the_table_says_where_it_is_from_and_when() -> None:
    assert TABLE.source
    assert TABLE.date
    assert set(TABLE.aliases.values()) <= set(TABLE.models)
    assert TABLE.resolve(settings().model)


def test_a_cost_by_hand() -> None:
    usage = Usage(
        input_tokens=1_000_000,
        output_tokens=100_000,
        cache_creation_input_tokens=10_000,
        cache_read_input_tokens=1_000,
    )
    assert TABLE.rates("claude-opus-5-5").cost(usage) == Decimal("6.0502")


def test_a_long_prompt_has_rates_of_its_own() -> None:
    rates = TABLE.rates("claude-haiku")
    assert rates.cost(Usage(input_tokens=100_000)) == Decimal("0.01")
    assert rates.cost(Usage(input_tokens=100_001)) == Decimal("0.050001")


@given(st.sampled_from(sorted(TABLE.models)), counts, counts, counts, counts)
def test_no_call_costs_more_than_its_bound(name: str, fresh: int, output: int, written: int, read: int) -> None:
    usage = Usage(
        input_tokens=fresh,
        output_tokens=output,
        cache_creation_input_tokens=written,
        cache_read_input_tokens=read,
    )
    rates = TABLE.rates(name)
    assert rates.cost(usage) <= rates.bound(prompt_tokens=usage.prompt_tokens, max_tokens=output)


def test_prices_can_be_overridden(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    entry = {"input": "1", "output": "1", "cache_write": "1", "cache_read": "1"}
    file.write_text(json.dumps({"models": {"my-model": entry}, "aliases": {"mine": "my-model"}}))
    assert check_model("mine", settings(model_prices=file)) == "my-model"
    file.write_text("{")
    model_table.cache_clear()
    with pytest.raises(ConfigurationError):
        model_table(file)


def test_an_unknown_model_is_told_the_known_ones() -> None:
    with pytest.raises(InvalidInputError) as refused:
        check_model("gpt-x", settings())
    assert refused.value.code == "unknown_model"
    assert "claude-sonnet" in refused.value.hint


def test_a_real_model_needs_a_key() -> None:
    with pytest.raises(InvalidInputError) as refused:
        check_model("claude-sonnet", settings(anthropic_api_key=""))
    assert refused.value.code == "model_key_missing"


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x\0", "-x", "missing", "a" * 200])
def test_a_recordings_name_never_leaves_its_directory(tmp_path: Path, name: str) -> None:
    (tmp_path.parent / "x.json").write_text("{}")
    with pytest.raises(InvalidInputError) as refused:
        check_model(f"replay:{name}", settings(recordings=tmp_path))
    assert refused.value.code == "unknown_recording"


def test_an_unknown_recording_is_told_what_to_do(tmp_path: Path) -> None:
    def hint(recordings: Path | None) -> str:
        with pytest.raises(InvalidInputError) as refused:
            check_model("replay:demo", settings(recordings=recordings))
        return refused.value.hint

    assert "set FARHAND_RECORDINGS to a directory" in hint(None)
    assert "there is none yet" in hint(tmp_path)
    assert "there is none yet" in hint(tmp_path / "missing")
    (tmp_path / "mine.json").write_text("{}")
    assert "there is mine;" in hint(tmp_path)
