"""docs/asyncapi.yaml describes exactly the frames and close codes that there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from pydantic import BaseModel
from wsproto.frame_protocol import CloseReason

from api.gateway.close_codes import Close
from api.gateway.frames import CLIENT_FRAMES, SERVER_FRAMES, EventBody, Part

DOCUMENT: dict[str, Any] = yaml.safe_load((Path(__file__).parents[3] / "docs" / "asyncapi.yaml").read_text())
SCHEMAS = DOCUMENT["components"]["schemas"]
FRAMES: list[type[BaseModel]] = [*CLIENT_FRAMES, *SERVER_FRAMES]
SHARED_PARTS: list[type[BaseModel]] = [EventBody, Part]


def name_of(model: type[BaseModel]) -> str:
    return model.__name__


def type_of(model: type[BaseModel]) -> str:
    name: str = model.model_json_schema()["properties"]["type"]["const"]
    return name


@pytest.mark.parametrize("model", FRAMES + SHARED_PARTS, ids=name_of)
def test_a_frame_has_the_documented_fields(model: type[BaseModel]) -> None:
    documented, actual = SCHEMAS[model.__name__], model.model_json_schema()
    assert documented["properties"].keys() == actual["properties"].keys()
    assert set(documented["required"]) == set(actual["required"])


@pytest.mark.parametrize("model", FRAMES, ids=name_of)
def test_a_frame_is_a_message_of_the_channel(model: type[BaseModel]) -> None:
    name = type_of(model)
    assert SCHEMAS[model.__name__]["properties"]["type"] == {"const": name}
    assert DOCUMENT["components"]["messages"][name]["payload"] == {"$ref": f"#/components/schemas/{model.__name__}"}
    assert name in DOCUMENT["channels"]["stream"]["messages"]


def test_nothing_else_is_documented() -> None:
    assert SCHEMAS.keys() == {model.__name__ for model in FRAMES + SHARED_PARTS} | {"RequestId"}
    sides: dict[str, tuple[type[BaseModel], ...]] = {"fromClient": CLIENT_FRAMES, "toClient": SERVER_FRAMES}
    for operation, models in sides.items():
        listed = {message["$ref"].rpartition("/")[2] for message in DOCUMENT["operations"][operation]["messages"]}
        assert listed == {type_of(model) for model in models}


def test_every_reference_leads_somewhere() -> None:
    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if "$ref" in node else []
            return own + [found for value in node.values() for found in references(value)]
        return [found for value in node for found in references(value)] if isinstance(node, list) else []

    for reference in references(DOCUMENT):
        target = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]


def test_close_codes() -> None:
    ours = {value[0]: name for name, value in vars(Close).items() if not name.startswith("_")}
    standard = {code.value: code.name for code in (CloseReason.UNSUPPORTED_DATA, CloseReason.MESSAGE_TOO_BIG)}
    assert {code: entry["name"] for code, entry in DOCUMENT["x-close-codes"].items()} == ours | standard
    verdicts = {40: "do not come back", 41: "back off", 42: "come back now"}
    for code, entry in DOCUMENT["x-close-codes"].items():
        assert code < 4000 or entry["then"] == verdicts[code // 100]
