"""JSON of a sandbox or a model, read so that Postgres can hold it.

Neither its texts nor its JSON take NUL or half of a surrogate pair, and a model does say them, for example when it
writes a test for binary input. An answer that can't be recorded would be asked for, and paid, again and again.
"""

from __future__ import annotations

import json
import re
from typing import Any

_MAYBE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_UNHOLDABLE = re.compile("[\0\ud800-\udfff]")


def read(text: str | bytes) -> Any:
    """The value of a JSON text; characters that can't be held are replaced. Raises ValueError."""
    text = text if isinstance(text, str) else text.decode()
    value = json.loads(text)
    return _holdable(value) if _MAYBE.search(text) else value


def _holdable(value: Any) -> Any:
    match value:
        case str():
            return _UNHOLDABLE.sub("\ufffd", value)
        case list():
            return [_holdable(item) for item in value]
        case dict():
            return {_holdable(key): _holdable(item) for key, item in value.items()}
    return value
